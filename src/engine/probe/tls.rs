//! TLS as a client of a target.
