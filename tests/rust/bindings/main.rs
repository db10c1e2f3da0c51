//! Users' bindings: the scripts that run inside Redis, in a real `redis-server` under a clock that
//! the tests set. It has to be installed: `cargo test --test bindings -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod counts;
mod failures;
mod machines;
mod requests;
mod server;
mod table;
