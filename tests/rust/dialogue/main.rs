//! Deep checks against scripted servers: every legal form in memory (`forms`), every hostile
//! one over TCP (`hostile`) and TLS (`tls`), and a short run of the fuzz targets (`fuzz`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod forms;
mod hostile;
mod pki;
mod server;
mod support;
mod tls;
