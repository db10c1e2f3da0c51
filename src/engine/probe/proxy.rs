//! The PROXY protocol v2 header of a health check.

use std::io;

use once_cell::race::OnceBox;
use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::error::{ProbeError, Stage, as_own_lack, io_text};
use crate::engine::target::Target;

/// `LOCAL`, unspecified family, no addresses, no TLVs (PROXY protocol §2.2): the connection
/// is the sender's own. Some servers refuse `LOCAL` with addresses or TLVs.
fn local_header() -> io::Result<&'static [u8]> {
    static HEADER: OnceBox<Vec<u8>> = OnceBox::new();
    if let Some(header) = HEADER.get() {
        return Ok(header);
    }
    let made = Builder::new(
        Version::Two | Command::Local,
        AddressFamily::Unspecified | Protocol::Unspecified,
    )
    .build()?;
    Ok(HEADER.get_or_init(|| Box::new(made)))
}

/// How many lines a server that does not expect the header reads before the `QUIT` at the end of
/// the header's signature: two empty ones and one with a NUL. It may answer each as a command.
pub(super) const COMMANDS_BEFORE_QUIT: usize = 3;

/// Text to append to a reason if a missing or unexpected header may be the cause.
pub(super) fn hint(target: &Target) -> &'static str {
    if target.haproxy_v2 {
        "; does the listener expect the PROXY header (haproxy_v2 is true)?"
    } else {
        "; if the listener expects the PROXY header, set haproxy_v2"
    }
}

/// Sends the header.
///
/// # Errors
/// Stage `proxy`. The caller bounds the time.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), ProbeError> {
    let header = local_header().map_err(|e| failed(&e))?;
    stream.write_all(header).await.map_err(|e| failed(&e))
}

fn failed(error: &io::Error) -> ProbeError {
    as_own_lack(error).unwrap_or_else(|| ProbeError::new(Stage::Proxy, io_text(error)))
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
