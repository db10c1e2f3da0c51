//! What scripts decide during one request, and the response headers it becomes.
//!
//! | file | what it is |
//! |---|---|
//! | `context.rs`, `context/` | the request context: selection, attributes, and which headers changed |
//! | `result.rs`, `text.rs` | the backend result that scripts apply, and its texts |
//! | `header_name.rs` | the name of an attribute's header |
//! | `headers.rs` | the value of a header, and which attributes cannot become one |
//! | `secret_names.rs` | which attributes are withheld |
//! | `attribute_name.rs`, `name_cache.rs` | the name of an attribute with its header, worked out once |
//! | `server_address.rs` | the address that a script selects |
//! | `shared.rs` | a result or a context with several owners |

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
