//! The engine: everything the product does that has nothing to do with Lua or C.

pub mod config;
pub mod context;
pub mod headers;
pub mod health;
pub mod probe;
pub mod result;
pub mod target;
pub mod verdicts;
