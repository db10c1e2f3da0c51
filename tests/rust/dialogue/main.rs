//! Deep checks against scripted servers: every legal form in memory (`forms`), every hostile
//! one over TCP (`hostile`) and TLS (`tls`); TLS sessions that outlive a probe (`resumption`), and
//! who makes its handshakes (`clients`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod clients;
mod forms;
mod hostile;
mod pki;
mod resumption;
mod server;
mod support;
mod tls;
