//! The bytes under a dialogue: a TCP connection, TLS over one, or a test's memory.

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::ProbeError;

/// A connected byte stream in either direction.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Turns a clear transport into one under TLS, verified as the target asks and bounded by
/// its `tls_timeout`. Its errors are of stage `tls`.
pub type Upgrade<'a> = dyn Fn(Box<dyn Transport>) -> BoxFuture<'a, Result<Box<dyn Transport>, ProbeError>>
    + Send
    + Sync
    + 'a;
