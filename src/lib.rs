//! `nauthilus_backend`: which mail and web backends are alive, and where a login goes.
//!
//! One crate, two kinds of artefact: with one Lua feature the Lua module of that Lua,
//! without any the C library.
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | `engine` | configuration, probes, health, published state, request context | `sys` |
//! | `sys` | the process: shared memory, locks, signals, clocks | libc |
//! | `abi` | the C surface, which every build has | `engine`, `sys` |
//! | `lua` | the Lua surface: natives, embedded Lua, one adapter per host | `engine`; its `bridge`, which is C's way into a Lua state, `abi` |
//!
//! Data flows one way: a configuration becomes targets, each target is probed on its own
//! timer, an outcome moves its health gate, a changed verdict is published in memory shared
//! by fork, and readers of every surface look at that memory.

mod abi;
#[forbid(unsafe_code)]
pub mod engine;
#[cfg(feature = "_lua")]
mod lua;
pub mod sys;
