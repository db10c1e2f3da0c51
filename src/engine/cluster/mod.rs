//! Bindings of users to nodes in Redis, which all machines share.
//!
//! | file | what it is |
//! |---|---|
//! | `script`, `scripts/*.lua` | what runs inside Redis: arguments and answers, without any I/O |
//! | `duplex`, `connection` | a byte stream to a server; the login, Sentinels and calls of scripts |
//! | `traffic` | whether a server still answers |
//! | `client` | the connection of this process, kept open |
//! | `redis_clock` | the time of Redis's clock, for deadlines |
//! | `machines` | the registration of this machine, and what other machines have registered |
//! | `visitor` | what a process that probes nothing, such as the command, reads and sets |

mod client;
mod connection;
mod duplex;
mod machines;
mod redis_clock;
pub mod script;
mod traffic;
pub mod visitor;

pub use client::{Client, ClientHandle};
pub use connection::CallError;
