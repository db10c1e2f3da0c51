//! What scripts decide during one request, and the response headers it becomes.

pub mod attribute_name;
pub mod context;
pub mod header_name;
pub mod headers;
mod name_cache;
pub mod result;
pub mod secret_names;
pub mod server_address;
pub mod shared;
pub mod text;
