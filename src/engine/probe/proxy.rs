//! The PROXY protocol v2 header of a health check.

use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::error::{ProbeError, Stage, io_text};

/// `LOCAL`, unspecified family, no addresses, no TLVs (PROXY protocol §2.2): the connection
/// is the sender's own. Some servers refuse `LOCAL` with anything more.
fn local_header() -> std::io::Result<Vec<u8>> {
    Builder::new(
        Version::Two | Command::Local,
        AddressFamily::Unspecified | Protocol::Unspecified,
    )
    .build()
}

/// Sends the header.
///
/// # Errors
/// Stage `proxy`. The caller bounds the time.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), ProbeError> {
    let failed = |e: std::io::Error| ProbeError::new(Stage::Proxy, io_text(&e));
    stream
        .write_all(&local_header().map_err(failed)?)
        .await
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_sixteen_bytes_of_a_local_connection() {
        assert_eq!(
            local_header().unwrap(),
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x20\x00\x00\x00"
        );
    }
}
