//! TCP: connecting to the first of a name's addresses that answers.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FusedFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

use super::error::{ProbeError, Stage, io_text, is_want_of_means};
use super::socket::{Stream, end_abruptly, ended};
use crate::sys::reconnect::disconnect;
use crate::sys::relay::hold_on;
use crate::sys::source_port::choose_on_connect;

/// After which the next address is tried beside the one that has not answered yet
/// (RFC 8305 §5, "Connection Attempt Delay").
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// How a connection is made and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Nothing is read from the server: the third packet of TCP's handshake is held back,
    /// so that a server that is asked for nothing else is not even woken.
    ConnectOnly,
    /// A dialogue follows.
    Dialogue,
}

/// A socket of each family that is connected no more, kept for the next of many connect-only
/// probes in a row: to make one and close it is a third of such a probe's price. For no longer,
/// since a host may close what it does not know and open something else in its place.
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

/// What became of an attempt to connect that was not waited for.
pub(super) enum Dialled {
    Connected(Socket),
    /// The answer has not come yet.
    Underway(Socket),
    Failed(ProbeError),
}

/// Begins to connect and looks once, without waiting, at what came of it: the kernel has
/// the answer of a listener on this machine before it returns.
///
/// A failure is of stage `connect`, or of stage `internal` where this process has no
/// descriptor, port or memory left, which says nothing of the target.
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
        // No target is judged by a failure that a used socket may have brought about.
        if !matches!(dialled, Dialled::Failed(_)) {
            return dialled;
        }
    }
    let socket = match open(address) {
        Ok(socket) => socket,
        Err(e) => return Dialled::Failed(failed(&e, address)),
    };
    if let Some(source) = source {
        // The port is chosen with the connection: it has to be free towards that peer only.
        choose_on_connect(&socket);
        if let Err(e) = socket.bind(&SocketAddr::new(source, 0).into()) {
            // The socket is closed after this.
            hold_on();
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
        // Where the system refuses this, the probe is less discreet but no less right.
        let _ = socket.set_tcp_quickack(false);
    }
    let (address, peer) = (peer.ip(), SockAddr::from(peer));
    let mut answer = socket.connect(&peer);
    if answer.as_ref().is_err_and(is_underway) {
        // Asked again, the kernel says how the first call ended (connect(2)).
        answer = socket.connect(&peer);
    }
    match answer {
        Ok(()) => Dialled::Connected(socket),
        Err(e) if is_underway(&e) => Dialled::Underway(socket),
        Err(e) => {
            // The socket is closed after this.
            hold_on();
            Dialled::Failed(failed(&e, address))
        }
    }
}

fn is_underway(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR)
    )
}

/// How a connection is looked for.
pub(super) struct Destination<'a> {
    /// In the order in which they are tried.
    pub addresses: &'a [IpAddr],
    pub port: u16,
    /// Only addresses of its family are tried.
    pub source: Option<IpAddr>,
    pub manner: Manner,
    /// How much time there is for all of them.
    pub time: Duration,
}

/// Connects to one of the addresses, in their order, the next beside it after 250 ms or in
/// its place when it fails. Where there are many, the time between two is shorter: the last one
/// is begun when half of the time is over. `first` is an attempt at one of them that has begun.
///
/// When the first one fails, or has not answered when the next is due, `again` is asked for
/// addresses that may be newer; those of them that were not tried yet are tried next.
///
/// # Errors
/// As [`dial`] has them: where an address could not be tried, that is the reason, since the
/// others say too little of the target then; if not, the first address's. The caller bounds
/// the time, and finds in `lacked` what an address could not be tried for.
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
    } = wanted;
    let is_reachable =
        |address: &&IpAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
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
        attempt(address, dialled, manner)
    };
    let next_after = interval(time, addresses.len());
    let mut again = pin!(again.fuse());
    // Whether newer addresses are wanted: those that are known have not answered.
    let mut asks_again = false;
    let mut tried: Vec<IpAddr> = Vec::with_capacity(addresses.len());
    let mut waiting: VecDeque<IpAddr> = addresses.iter().filter(is_reachable).copied().collect();
    let mut attempts = FuturesUnordered::new();
    let mut first_error: Option<ProbeError> = None;
    let mut is_next_due = true;
    loop {
        if is_next_due || attempts.is_empty() {
            is_next_due = false;
            if let Some(address) = waiting.pop_front() {
                tried.push(address);
                attempts.push(begin(address));
            }
        }
        if attempts.is_empty() && (!asks_again || again.is_terminated()) {
            let error = lacked.take().or(first_error);
            return Err(error.unwrap_or_else(|| {
                let reason = "the name has no address of source_address's family";
                ProbeError::new(Stage::Connect, reason)
            }));
        }
        let may_begin = !waiting.is_empty() || !asks_again;
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
                for address in newer.iter().flat_map(|newer| newer.iter().rev()).filter(is_reachable) {
                    if !tried.contains(address) {
                        waiting.retain(|known| known != address);
                        waiting.push_front(*address);
                        is_next_due = true;
                    }
                }
            },
            () = sleep(next_after), if may_begin => {
                asks_again = true;
                is_next_due = true;
            }
        }
    }
}

/// The time between the beginnings of two attempts: RFC 8305 §5 recommends 250 ms, and wants no
/// less than 10 ms.
fn interval(time: Duration, addresses: usize) -> Duration {
    const LEAST: Duration = Duration::from_millis(10);
    let addresses = u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
    (time / 2 / addresses).clamp(LEAST, NEXT_AFTER)
}

/// Waits for the end of what `dialled` began.
async fn attempt(
    address: IpAddr,
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
        hold_on();
        if let Some(error) = socket.take_error().map_err(|e| internal(&e))? {
            return Err(failed(&error, address));
        }
        socket
    };
    if manner == Manner::Dialogue {
        // Small writes in turn: waiting to fill a packet would only cost time.
        let _ = socket.set_tcp_nodelay(true);
    }
    let stream = Stream::new(socket).map_err(|e| internal(&e))?;
    Ok((stream, address))
}

fn open(address: IpAddr) -> io::Result<Socket> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)
}

/// Why a connection to `address` could not be made. What this system does not let the process
/// do at all, such as use a family of addresses, puts the target out of its reach for good.
fn failed(error: &io::Error, address: IpAddr) -> ProbeError {
    let is_ours = match error.raw_os_error() {
        // No local port is free, or no local address goes with that one.
        Some(libc::EADDRNOTAVAIL) => has_address_towards(address),
        number => number.is_some_and(is_want_of_means),
    };
    if is_ours {
        return internal(error);
    }
    ProbeError::new(Stage::Connect, io_text(error))
}

/// Whether this machine has an address from which it could reach that one: it has none of IPv6
/// where that is switched off. Asked with a socket of UDP, which sends nothing and whose ports
/// are others.
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

/// Ends a connect-only probe with a reset: nothing stays in TIME_WAIT, and a server that was only
/// connected to has nothing to log.
pub(super) fn abort(socket: Socket, address: IpAddr, reusable: &mut ReusableSockets) {
    hold_on();
    // Such a socket goes on as one of IPv4, also towards an address of IPv6.
    if address.to_canonical() != address {
        return end_abruptly(&socket);
    }
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
        // An address that this machine has no more says nothing of the server.
        let elsewhere = Some(IpAddr::from([192, 0, 2, 1]));
        let Dialled::Failed(error) = dial(HERE, port, elsewhere, Manner::Dialogue, &mut reusable)
        else {
            panic!("connected from an address of another machine");
        };
        assert_eq!(error.stage, Stage::Internal);
    }

    #[test]
    fn many_addresses_are_begun_in_half_of_the_time() {
        let second = Duration::from_secs(1);
        assert_eq!(interval(second * 5, 1), NEXT_AFTER);
        assert_eq!(interval(second * 5, 10), NEXT_AFTER);
        assert_eq!(interval(second * 5, 50), Duration::from_millis(50));
        assert_eq!(interval(second, 1000), Duration::from_millis(10));
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
            // What has ended meanwhile is found out.
            Dialled::Underway(begun()),
        ] {
            let connected = connect_to(&[HERE], port, Some((HERE, first))).await;
            assert_eq!(connected.unwrap().1, HERE);
        }
        // An attempt at an address that is not among them counts for nothing.
        let other = Some((IpAddr::from([127, 0, 0, 2]), Dialled::Connected(begun())));
        drop(listener);
        let error = connect_to(&[HERE], port, other).await.unwrap_err();
        assert_eq!(error.to_string(), "connect: connection refused");
    }
}
