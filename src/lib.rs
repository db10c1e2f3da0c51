//! `nauthilus_backend`: which mail and web backends are alive, and where a login goes.
//!
//! `docs/architecture.md` follows one probe and one request through the rooms. With a Lua feature this crate
//! is the module of that Lua; without one it is the C library.
//!
//! | room | what it does |
//! |---|---|
//! | `engine::config` | reads a Lua table or YAML into a `Config` with its `engine::target`s |
//! | `engine::scheduler` | starts each target's probes in time and applies their outcomes |
//! | `engine::probe` | one probe: resolve, connect, PROXY header, TLS, dialogue |
//! | `engine::verdicts` | when a target is dead (`health.rs`), in a table that processes share |
//! | `engine::state_file` | the file that keeps verdicts over a restart, and who may write it (`file.rs`) |
//! | `engine::active`, `engine::process` | the configuration in force; the engine of this process, and a fork of it |
//! | `engine::routing`, `engine::cluster` | which node a user belongs on; bindings of users to nodes in Redis |
//! | `engine::request` | what scripts decide during one request, and its response headers (`header_name.rs`) |
//! | `engine::log`, `engine::metrics`, `engine::page` | what operators read |
//! | `bin/nauthilus-backend` | the command, a program on the engine alone (feature `command`) |
//! | `sys` | the only place outside the surfaces with `unsafe`: memory, locks, signals, OpenSSL |
//! | `abi`, `lua` | the surfaces: the C header's functions; Lua's natives, glue and host adapters |

mod abi;
#[forbid(unsafe_code)]
pub mod engine;
#[cfg(feature = "_lua")]
mod lua;
pub mod sys;
