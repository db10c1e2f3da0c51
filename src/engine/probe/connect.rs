//! TCP: connecting to the first of a name's addresses that answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::error::{ProbeError, Stage, io_text};

/// After which the next address is tried beside the one that has not answered yet
/// (RFC 8305 §5, "Connection Attempt Delay").
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// How a connection is made and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Nothing is read from the server: the third packet of TCP's handshake is held back,
    /// so that a server that is asked for nothing else is not even woken.
    Knock,
    /// A conversation follows.
    Talk,
}

/// Connects to one of `addresses`, in their order, the next beside it after 250 ms or in
/// its place when it fails.
///
/// # Errors
/// Stage `connect`, the first address's reason; stage `internal` where this process has no
/// descriptor, port or memory left, which says nothing of the target. The caller bounds
/// the time.
pub(super) async fn connect(
    addresses: &[IpAddr],
    port: u16,
    manner: Manner,
) -> Result<(TcpStream, IpAddr), ProbeError> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut first_error: Option<ProbeError> = None;
    loop {
        if attempts.is_empty() {
            match waiting.next() {
                Some(address) => attempts.push(attempt(address, port, manner)),
                None => {
                    return Err(first_error.unwrap_or_else(|| {
                        ProbeError::new(Stage::Connect, "the name has no address")
                    }));
                }
            }
        }
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    first_error.get_or_insert(error);
                    if let Some(address) = waiting.next() {
                        attempts.push(attempt(address, port, manner));
                    }
                }
            },
            () = sleep(NEXT_AFTER), if waiting.len() > 0 => {
                if let Some(address) = waiting.next() {
                    attempts.push(attempt(address, port, manner));
                }
            }
        }
    }
}

async fn attempt(
    address: IpAddr,
    port: u16,
    manner: Manner,
) -> Result<(TcpStream, IpAddr), ProbeError> {
    let socket = open(address, manner).map_err(|e| internal(&e))?;
    match socket.connect(SocketAddr::new(address, port)).await {
        Ok(stream) => {
            if manner == Manner::Talk {
                // Small writes in turn: waiting to fill a packet would only cost time.
                let _ = stream.set_nodelay(true);
            }
            Ok((stream, address))
        }
        // EADDRNOTAVAIL: no local port is free.
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Err(internal(&e)),
        Err(e) => Err(ProbeError::new(Stage::Connect, io_text(&e))),
    }
}

fn open(address: IpAddr, manner: Manner) -> io::Result<TcpSocket> {
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if manner == Manner::Knock {
        // Where the system refuses this, the probe is less discreet but no less right.
        let _ = SockRef::from(&socket).set_tcp_quickack(false);
    }
    Ok(socket)
}

fn internal(error: &io::Error) -> ProbeError {
    ProbeError::new(
        Stage::Internal,
        format!("no connection to try with: {error}"),
    )
}

/// Ends a connection with a reset when it is dropped: nothing stays in TIME_WAIT, and a
/// server that was only knocked at has nothing to log.
pub(super) fn end_abruptly(stream: &TcpStream) {
    // A closed socket lingers for nobody.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
