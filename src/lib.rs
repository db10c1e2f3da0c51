//! `nauthilus_backend`: which mail and web backends are alive, and where a login goes.
//!
//! `docs/architecture.md` walks one probe and one request through the rooms. With one Lua feature this crate is the module of that Lua, without any the C library.
//!
//! | room | what it does |
//! |---|---|
//! | `engine::config` | reads a Lua table or YAML into a `Config` with its targets |
//! | `engine::scheduler` | starts each target's probes in time and applies their outcomes |
//! | `engine::probe` | one probe: resolve, connect, PROXY header, TLS, dialogue |
//! | `engine::verdicts`, `engine::state_file` | rise and fall, the table that processes share, the file that outlives them |
//! | `engine::active`, `engine::process` | the configuration in force; the engine of this process, fork included |
//! | `engine::cluster` | bindings of users to nodes in Redis |
//! | `engine::request` | what scripts decide during one request, and its response headers |
//! | `bin/nauthilus-backend` | the command, a program on the engine alone (feature `command`) |
//! | `sys` | the only place outside the surfaces with `unsafe`: memory, locks, signals, OpenSSL |
//! | `abi`, `lua` | the surfaces: the C header's functions; Lua's natives, glue and host adapters |

mod abi;
#[forbid(unsafe_code)]
pub mod engine;
#[cfg(feature = "_lua")]
mod lua;
pub mod sys;
