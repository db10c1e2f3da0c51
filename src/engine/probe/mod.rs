//! One probe of one target: resolve, connect, PROXY header, TLS, dialogue.

pub mod dialogue;
pub mod error;
pub mod tls;
pub mod tls_reason;
pub mod transport;
