//! The engine: everything the product does that has nothing to do with Lua or C.

pub mod check;
pub mod config;
pub mod context;
mod digest;
mod follow;
pub mod headers;
pub mod health;
mod lead;
pub mod log;
pub mod monitor;
mod panics;
pub mod probe;
pub mod process;
pub mod result;
mod saving;
mod schedule;
mod seat;
pub mod secret_names;
pub mod server_address;
pub mod service;
pub mod state;
pub mod store;
pub mod target;
pub mod verdicts;
mod waker;
mod watch;
