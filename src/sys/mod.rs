//! Safe interfaces to what the engine needs from the operating system, the C library or OpenSSL
//! and that takes `unsafe` code. Each file covers one such thing.

pub mod access;
pub mod append_lock;
pub mod cancellation;
pub mod clock;
pub mod copies;
pub mod event;
pub mod fork_mark;
pub mod gate;
pub mod host_name;
pub mod names;
pub mod own_descriptor;
pub mod process;
pub mod reader;
pub mod readiness;
pub mod reconnect;
pub mod registered_socket;
pub mod relay;
pub mod shared;
pub mod signals;
pub mod source_port;
pub mod state_file;
pub mod stderr;
pub mod thread;
pub mod timer;
pub mod tls_algorithms;
pub mod tls_certificate_request;
pub mod tls_certificates;
pub mod tls_errors;
pub mod tls_group;
pub mod tls_index;
pub mod tls_library;
pub mod tls_session;
pub mod tls_stream;
pub mod tls_verify;
pub mod user;
