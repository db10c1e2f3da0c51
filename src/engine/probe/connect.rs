//! Opens the TCP connection, to the first of a host name's addresses that answers.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{sleep, timeout};

use super::attempts::Attempts;
use super::connection_limit::ConnectionLimit;
use super::error::{ProbeError, Stage, io_text, is_want_of_means};
use super::socket::{Stream, end_abruptly, ended};
use crate::sys::reconnect::disconnect;
use crate::sys::relay::halt_if_lost;
use crate::sys::source_port::choose_on_connect;

/// How long an address may take to answer before the next one is tried in parallel
/// (RFC 8305 §5, "Connection Attempt Delay").
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// How a connection is made and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Connect and abort. The final ACK of TCP's handshake is delayed (no quick ACK), so the reset
    /// usually reaches the server before `accept` returns there, and its process is not woken.
    ConnectOnly,
    /// Bytes are sent after connecting, so the connection ends gracefully.
    Dialogue,
    /// The same, and reading does not wait for writing.
    BothWays,
}

/// One disconnected socket of each address family, for the next connect-only probe of a batch.
/// Creating and closing a socket is a third of the cost of such a probe. Sockets are not kept
/// beyond a batch, because the host may close descriptors that it does not know and reuse their
/// numbers.
#[derive(Default)]
pub struct ReusableSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl ReusableSockets {
    fn of(&mut self, address: IpAddr) -> &mut Option<Socket> {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

/// The state of a connection attempt right after `connect`, without waiting.
pub(super) enum Dialled {
    Connected(Socket),
    /// The peer has not answered yet.
    Underway(Socket),
    Failed(ProbeError),
}

/// Begins to connect and checks the result once, without waiting: for a listener on this machine,
/// the kernel knows the result before `connect` returns.
///
/// A failure has stage `connect`, or stage `internal` if this process has no descriptor, port or
/// memory left, which says nothing about the target.
pub(super) fn dial(
    address: IpAddr,
    port: u16,
    source: Option<IpAddr>,
    manner: Manner,
    reusable: &mut ReusableSockets,
) -> Dialled {
    let peer = SocketAddr::new(address, port);
    if let Some(spare) = reusable.of(address).take() {
        let dialled = dial_with(spare, peer, manner);
        // The failure may be due to the reused socket, so it is tried again with a new one.
        if !matches!(dialled, Dialled::Failed(_)) {
            return dialled;
        }
    }
    let socket = match open(address) {
        Ok(socket) => socket,
        Err(e) => return Dialled::Failed(failed(&e, address)),
    };
    if let Some(source) = source {
        // The kernel chooses the port in `connect`, so that it needs to be free for this peer
        // only.
        choose_on_connect(&socket);
        if let Err(e) = socket.bind(&SocketAddr::new(source, 0).into()) {
            // The socket is closed on return: make sure that the host has not closed it before.
            halt_if_lost();
            return Dialled::Failed(ProbeError::new(
                Stage::Internal,
                format!("cannot probe from {source}: {e}"),
            ));
        }
    }
    dial_with(socket, peer, manner)
}

fn dial_with(socket: Socket, peer: SocketAddr, manner: Manner) -> Dialled {
    if manner == Manner::ConnectOnly {
        // If the system refuses this, the server may notice the probe; the result is the same.
        let _ = socket.set_tcp_quickack(false);
    }
    let address = SockAddr::from(peer);
    let mut answer = socket.connect(&address);
    if answer.as_ref().is_err_and(is_underway) {
        // A second call returns the result of the first one (connect(2)).
        answer = socket.connect(&address);
    }
    match answer.and_then(|()| refuse_itself(&socket, peer)) {
        Ok(()) => Dialled::Connected(socket),
        Err(e) if is_underway(&e) => Dialled::Underway(socket),
        Err(e) => {
            // The socket is closed on return: make sure that the host has not closed it before.
            halt_if_lost();
            Dialled::Failed(failed(&e, peer.ip()))
        }
    }
}

/// Where nothing listens on a port of this machine, the kernel may choose that very port for the socket that
/// connects to it. The socket is then connected to itself (RFC 9293 §3.5, simultaneous open).
///
/// # Errors
/// "Connection refused" for such a socket, as without this coincidence.
fn refuse_itself(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    let local = socket.local_addr().ok().and_then(|local| local.as_socket());
    // The scope of an IPv6 address is not compared: the two may differ in it.
    let is_itself =
        local.is_some_and(|local| (local.ip(), local.port()) == (peer.ip(), peer.port()));
    if !is_itself {
        return Ok(());
    }
    halt_if_lost();
    // Without a reset it would keep the port of the server, which could then not start.
    end_abruptly(socket);
    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

fn is_underway(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR)
    )
}

/// What [`connect`] connects to, and how.
pub(super) struct Destination<'a> {
    /// In the order in which they are tried. An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is
    /// connected to as IPv4.
    pub addresses: &'a [IpAddr],
    pub port: u16,
    /// The local address to connect from. Only peer addresses of its family are tried.
    pub source: Option<IpAddr>,
    pub manner: Manner,
    /// The time for all addresses together.
    pub time: Duration,
    /// What attempts beside the first one count against.
    pub limit: &'a ConnectionLimit,
}

/// Connects to the first of the addresses that answers. They are tried in order; the next attempt
/// starts when the previous one fails, or in parallel after 250 ms. With many addresses the delay
/// is shorter, so that the last attempt starts when half of the time is over. If no more attempts may
/// be under way, the oldest one is given up for the next. `first` is an attempt to one of the addresses
/// that has already begun.
///
/// When an attempt fails, or the next one is due, `again` is polled for newer addresses of the
/// name. Those not tried yet are tried next. If they do not come in time, because the name server
/// does not answer, the failure of the known addresses is returned.
///
/// # Errors
/// Those of [`dial`]. If our process could not try one of the addresses, the error is that one,
/// since the target might have answered there; otherwise it is the first failure. The caller
/// bounds the time. If it runs out, `lacked` says why an address could not be tried.
pub(super) async fn connect(
    wanted: Destination<'_>,
    again: impl Future<Output = Option<Arc<[IpAddr]>>>,
    first: Option<(IpAddr, Dialled)>,
    lacked: &mut Option<ProbeError>,
) -> Result<(Stream, IpAddr), ProbeError> {
    let Destination {
        addresses,
        port,
        source,
        manner,
        time,
        limit,
    } = wanted;
    let is_reachable =
        |address: &IpAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let mut first = first;
    let mut begin = |address| {
        let begun = first.take_if(|(begun, _)| *begun == address);
        let dialled = begun.map_or_else(
            || {
                let mut none = ReusableSockets::default();
                dial(address, port, source, manner, &mut none)
            },
            |(_, dialled)| dialled,
        );
        attempt(SocketAddr::new(address, port), dialled, manner)
    };
    let next_after = attempt_interval(time, addresses.len());
    let again = timeout(patience_for_newer(time), again).map(|newer| newer.ok().flatten());
    let mut again = pin!(again.fuse());
    let mut tried: Vec<IpAddr> = Vec::with_capacity(addresses.len());
    let addresses = addresses.iter().map(IpAddr::to_canonical);
    let mut waiting: VecDeque<IpAddr> = addresses.filter(is_reachable).collect();
    // Whether to poll `again`: an attempt has failed or is slow, or there is nothing to attempt.
    let mut asks_again = waiting.is_empty();
    let mut attempts = Attempts::new(limit, time, waiting.len());
    let mut first_error: Option<ProbeError> = None;
    let mut is_next_due = true;
    loop {
        if is_next_due || attempts.is_empty() {
            is_next_due = match waiting.front() {
                // It stays due until there is room.
                Some(&address) if !attempts.begin(|| begin(address)) => true,
                begun => {
                    tried.extend(begun);
                    waiting.pop_front();
                    false
                }
            };
        }
        if attempts.is_empty() && (!asks_again || again.is_terminated()) {
            let error = lacked.take().or(first_error);
            return Err(error.unwrap_or_else(|| {
                let reason = "the name has no address of source_address's family";
                ProbeError::new(Stage::Connect, reason)
            }));
        }
        let may_begin = !waiting.is_empty() || !asks_again;
        let pause = match is_next_due {
            true => attempts.until_room(),
            false => next_after,
        };
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    let place = match error.stage {
                        Stage::Internal => &mut *lacked,
                        _ => &mut first_error,
                    };
                    place.get_or_insert(error);
                    asks_again = true;
                    is_next_due = true;
                }
            },
            newer = &mut again, if asks_again && !again.is_terminated() => {
                let newer = newer.iter().flat_map(|newer| newer.iter().rev());
                for address in newer.map(IpAddr::to_canonical).filter(is_reachable) {
                    if !tried.contains(&address) {
                        waiting.retain(|known| *known != address);
                        waiting.push_front(address);
                        is_next_due = true;
                    }
                }
            },
            () = sleep(pause), if may_begin => {
                asks_again = true;
                is_next_due = true;
            }
        }
    }
}

/// Connects to one address, for what is no probe. The caller bounds the time.
///
/// # Errors
/// Why it failed.
pub(in crate::engine) async fn connect_to(peer: SocketAddr) -> Result<Stream, String> {
    let manner = Manner::BothWays;
    let mut none = ReusableSockets::default();
    let dialled = dial(peer.ip(), peer.port(), None, manner, &mut none);
    match attempt(peer, dialled, manner).await {
        Ok((stream, _)) => Ok(stream),
        Err(error) => Err(error.reason),
    }
}

/// How long newer addresses are waited for, of the `time` for all addresses: the rest is for
/// reporting why the known ones failed, before the probe times out.
fn patience_for_newer(time: Duration) -> Duration {
    time - time / 8
}

/// The delay between the starts of two attempts. RFC 8305 §5 recommends 250 ms and demands at least
/// 10 ms.
pub(in crate::engine) fn attempt_interval(time: Duration, addresses: usize) -> Duration {
    const LEAST: Duration = Duration::from_millis(10);
    let addresses = u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
    (time / 2 / addresses).clamp(LEAST, NEXT_AFTER)
}

/// Waits until the attempt `dialled` has completed.
async fn attempt(
    peer: SocketAddr,
    dialled: Dialled,
    manner: Manner,
) -> Result<(Stream, IpAddr), ProbeError> {
    let (socket, is_connected) = match dialled {
        Dialled::Connected(socket) => (socket, true),
        Dialled::Underway(socket) => (socket, false),
        Dialled::Failed(error) => return Err(error),
    };
    let socket = if is_connected {
        socket
    } else {
        let socket = ended(socket).await.map_err(|e| internal(&e))?;
        halt_if_lost();
        let ended = match socket.take_error().map_err(|e| internal(&e))? {
            None => refuse_itself(&socket, peer),
            Some(error) => Err(error),
        };
        ended.map_err(|error| failed(&error, peer.ip()))?;
        socket
    };
    if manner != Manner::ConnectOnly {
        // Small writes are followed by a wait for their answer; Nagle's algorithm would only delay them.
        let _ = socket.set_tcp_nodelay(true);
    }
    let stream = match manner {
        Manner::ConnectOnly | Manner::Dialogue => Stream::new(socket),
        Manner::BothWays => Stream::both_ways(socket),
    };
    Ok((stream.map_err(|e| internal(&e))?, peer.ip()))
}

fn open(address: IpAddr) -> io::Result<Socket> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)
}

/// The error for a failed connection to `address`: stage `internal` for a temporary shortage of our
/// own, stage `connect` for everything else. What this system never permits, such as an address
/// family that is switched off, is stage `connect`, because the target stays out of reach.
fn failed(error: &io::Error, address: IpAddr) -> ProbeError {
    let is_ours = match error.raw_os_error() {
        // Either all local ports are in use, or there is no local address of this family.
        Some(libc::EADDRNOTAVAIL) => has_address_towards(address),
        number => number.is_some_and(is_want_of_means),
    };
    if is_ours {
        return internal(error);
    }
    ProbeError::new(Stage::Connect, io_text(error))
}

/// Whether this machine has a local address from which `address` can be reached; it has none, for
/// example, if IPv6 is switched off. Connecting a UDP socket tells: it sends nothing, and does not
/// need one of the TCP ports that may have run out.
fn has_address_towards(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9)));
    asked.map_or_else(|e| e.raw_os_error() != Some(libc::EADDRNOTAVAIL), |()| true)
}

fn internal(error: &io::Error) -> ProbeError {
    ProbeError::new(
        Stage::Internal,
        format!("no connection to try with: {error}"),
    )
}

/// Ends a connect-only probe with a reset, so that no socket stays in TIME_WAIT and the server
/// usually does not notice the connection.
pub(super) fn abort(socket: Socket, address: IpAddr, reusable: &mut ReusableSockets) {
    halt_if_lost();
    match disconnect(&socket) {
        Ok(()) => *reusable.of(address) = Some(socket),
        Err(_) => end_abruptly(&socket),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn connect_to(
        addresses: &[IpAddr],
        port: u16,
        first: Option<(IpAddr, Dialled)>,
    ) -> Result<(Stream, IpAddr), ProbeError> {
        let wanted = Destination {
            addresses,
            port,
            source: None,
            manner: Manner::Dialogue,
            time: Duration::from_secs(60),
            limit: &ConnectionLimit::default(),
        };
        connect(wanted, std::future::ready(None), first, &mut None).await
    }

    #[test]
    fn a_connection_comes_from_its_source_address() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = Some(IpAddr::from([127, 0, 0, 7]));
        let mut reusable = ReusableSockets::default();
        let dialled = dial(HERE, port, source, Manner::Dialogue, &mut reusable);
        assert!(matches!(dialled, Dialled::Connected(_)));
        assert_eq!(Some(listener.accept().unwrap().1.ip()), source);
        // If this machine does not have the source address, the server is not to blame.
        let elsewhere = Some(IpAddr::from([192, 0, 2, 1]));
        let Dialled::Failed(error) = dial(HERE, port, elsewhere, Manner::Dialogue, &mut reusable)
        else {
            panic!("connected from an address of another machine");
        };
        assert_eq!(error.stage, Stage::Internal);
    }

    #[tokio::test]
    async fn an_ipv4_address_in_the_form_of_ipv6_is_connected_to_as_ipv4() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let wanted = Destination {
            addresses: &["::ffff:127.0.0.1".parse().unwrap()],
            port: listener.local_addr().unwrap().port(),
            source: Some(IpAddr::from([127, 0, 0, 7])),
            manner: Manner::Dialogue,
            time: Duration::from_secs(60),
            limit: &ConnectionLimit::default(),
        };
        let connected = connect(wanted, std::future::ready(None), None, &mut None).await;
        assert_eq!(connected.unwrap().1, HERE);
        let from = listener.accept().unwrap().1.ip();
        assert_eq!(from, IpAddr::from([127, 0, 0, 7]));
    }

    /// A socket and the port it is bound to, where nothing listens.
    fn bound() -> (Socket, u16) {
        let socket = open(HERE).unwrap();
        socket.bind(&SocketAddr::new(HERE, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (socket, port)
    }

    #[test]
    fn a_connection_to_itself_is_refused() {
        let (socket, port) = bound();
        let mut reusable = ReusableSockets {
            v4: Some(socket),
            v6: None,
        };
        let dialled = dial(HERE, port, None, Manner::ConnectOnly, &mut reusable);
        let Dialled::Failed(error) = dialled else {
            panic!("connected to nothing");
        };
        assert_eq!(error.to_string(), "connect: connection refused");
        // The port is free for a server, without SO_REUSEADDR.
        let server = open(HERE).unwrap();
        server.bind(&SocketAddr::new(HERE, port).into()).unwrap();
    }

    #[tokio::test]
    async fn a_connection_to_itself_that_was_underway_is_refused() {
        let (socket, port) = bound();
        let peer = SocketAddr::new(HERE, port);
        let _ = socket.connect(&peer.into());
        let ended = attempt(peer, Dialled::Underway(socket), Manner::Dialogue).await;
        let error = ended.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "connect: connection refused");
    }

    #[test]
    fn many_addresses_are_begun_in_half_of_the_time() {
        let second = Duration::from_secs(1);
        assert_eq!(attempt_interval(second * 5, 1), NEXT_AFTER);
        assert_eq!(attempt_interval(second * 5, 10), NEXT_AFTER);
        assert_eq!(attempt_interval(second * 5, 50), Duration::from_millis(50));
        assert_eq!(attempt_interval(second, 1000), Duration::from_millis(10));
    }

    #[tokio::test]
    async fn addresses_that_fail_are_asked_for_again_at_once() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let old = IpAddr::from([127, 0, 0, 2]);
        let connect_with = |newer: &[IpAddr]| {
            let newer: Arc<[IpAddr]> = newer.into();
            async move {
                let wanted = Destination {
                    addresses: &[old],
                    port,
                    source: None,
                    manner: Manner::ConnectOnly,
                    time: Duration::from_secs(60),
                    limit: &ConnectionLimit::default(),
                };
                let found = connect(wanted, async { Some(newer) }, None, &mut None).await;
                found.map(|(_, address)| address)
            }
        };
        assert_eq!(connect_with(&[HERE]).await, Ok(HERE));
        assert_eq!(connect_with(&[old, HERE]).await, Ok(HERE));
        let refused = connect_with(&[old]).await.unwrap_err();
        assert_eq!(refused.to_string(), "connect: connection refused");
    }

    #[tokio::test]
    async fn a_name_server_that_hangs_does_not_hide_why_the_addresses_failed() {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::new(HERE, 0).into()).unwrap();
        let port = bound.local_addr().unwrap().as_socket().unwrap().port();
        let wanted = Destination {
            addresses: &[HERE],
            port,
            source: None,
            manner: Manner::Dialogue,
            time: Duration::from_millis(200),
            limit: &ConnectionLimit::default(),
        };
        let mut lacked = None;
        let connecting = connect(wanted, std::future::pending(), None, &mut lacked);
        let ended = timeout(Duration::from_secs(60), connecting).await;
        let refused = ended.expect("waits for the name server").unwrap_err();
        assert_eq!(refused.to_string(), "connect: connection refused");
    }

    #[tokio::test]
    async fn a_name_whose_addresses_are_all_of_the_other_family_is_looked_up_again() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = IpAddr::from(Ipv6Addr::LOCALHOST);
        let connect_with = |newer: Option<&[IpAddr]>| {
            let newer = newer.map(Arc::<[IpAddr]>::from);
            async move {
                let wanted = Destination {
                    addresses: &[other],
                    port,
                    source: Some(HERE),
                    manner: Manner::ConnectOnly,
                    time: Duration::from_secs(60),
                    limit: &ConnectionLimit::default(),
                };
                let found = connect(wanted, async { newer }, None, &mut None).await;
                found.map(|(_, address)| address)
            }
        };
        assert_eq!(connect_with(Some(&[other, HERE])).await, Ok(HERE));
        for newer in [None, Some([other].as_slice())] {
            let refused = connect_with(newer).await.unwrap_err();
            assert_eq!(
                refused.to_string(),
                "connect: the name has no address of source_address's family"
            );
        }
    }

    #[test]
    fn connects_in_a_row_share_a_socket_and_no_outcome() {
        let listeners = [(); 3].map(|()| TcpListener::bind((HERE, 0)).unwrap());
        let ports = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().port());
        let [first, closed, last] = listeners;
        drop(closed);
        let mut reusable = ReusableSockets::default();
        let mut connect = |port| match dial(HERE, port, None, Manner::ConnectOnly, &mut reusable) {
            Dialled::Connected(socket) => {
                abort(socket, HERE, &mut reusable);
                assert!(reusable.v4.is_some());
                Ok(())
            }
            Dialled::Underway(_) => panic!("no answer from this machine"),
            Dialled::Failed(error) => Err(error.to_string()),
        };
        let refused = Err("connect: connection refused".to_owned());
        for _ in 0..3 {
            assert_eq!(ports.map(&mut connect), [Ok(()), refused.clone(), Ok(())]);
        }
        drop((first, last));
        assert_eq!(ports.map(connect), [(); 3].map(|()| refused.clone()));
    }

    #[test]
    fn want_of_means_says_nothing_of_a_target() {
        use libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        let stage = |code| failed(&io::Error::from_raw_os_error(code), HERE).stage;
        for code in [EADDRNOTAVAIL, EMFILE, ENFILE, ENOMEM, ENOBUFS] {
            assert_eq!(stage(code), Stage::Internal, "{code}");
        }
        use libc::{EACCES, EAFNOSUPPORT, ECONNREFUSED, EPERM, EPROTONOSUPPORT};
        for code in [ECONNREFUSED, EACCES, EAFNOSUPPORT, EPERM, EPROTONOSUPPORT] {
            assert_eq!(stage(code), Stage::Connect, "{code}");
        }
    }

    #[tokio::test]
    async fn an_address_that_could_not_be_tried_leaves_the_target_unjudged() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let other = IpAddr::from([127, 0, 0, 2]);
        for addresses in [[HERE, other], [other, HERE]] {
            let none_left = internal(&io::Error::from_raw_os_error(libc::EMFILE));
            let first = Some((other, Dialled::Failed(none_left)));
            let error = connect_to(&addresses, port, first).await;
            assert_eq!(error.unwrap_err().stage, Stage::Internal);
        }
    }

    #[tokio::test]
    async fn an_attempt_that_has_begun_is_waited_for() {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let begun = || {
            let Dialled::Connected(socket) = dial(
                HERE,
                port,
                None,
                Manner::Dialogue,
                &mut ReusableSockets::default(),
            ) else {
                panic!("no answer from this machine");
            };
            socket
        };
        for first in [
            Dialled::Connected(begun()),
            // An attempt that has completed meanwhile is noticed.
            Dialled::Underway(begun()),
        ] {
            let connected = connect_to(&[HERE], port, Some((HERE, first))).await;
            assert_eq!(connected.unwrap().1, HERE);
        }
        // An attempt to an address that is not in the list is ignored.
        let other = Some((IpAddr::from([127, 0, 0, 2]), Dialled::Connected(begun())));
        drop(listener);
        let error = connect_to(&[HERE], port, other).await.unwrap_err();
        assert_eq!(error.to_string(), "connect: connection refused");
    }
}
