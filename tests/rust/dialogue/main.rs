//! Deep checks against scripted servers: every legal form in memory (`forms`), every hostile
//! one over TCP (`hostile`) and TLS (`tls`, `certificates`); TLS sessions that outlive a probe
//! (`resumption`, `offered_sessions`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod certificates;
mod forms;
mod hostile;
mod offered_sessions;
mod pki;
mod resumption;
mod server;
mod support;
mod tls;
