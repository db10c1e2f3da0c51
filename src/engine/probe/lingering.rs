//! Lingering connections: the probe is complete, and the server has still to close.
//!
//! A server that is asked to end a session answers, sends TLS's `close_notify` and closes. Waking
//! the engine thread for that costs up to a tenth of a whole login. So the socket is removed from
//! the runtime, and checked when the thread is awake for something else. If the server's answer is
//! there at that check, it is read before the socket is closed, since closing a socket with unread
//! bytes sends a reset.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::io::Interest;

use super::deadline::within;
use super::dialogue::END_MAX;
use crate::sys::registered_socket::register;
use crate::sys::relay::{HaltIfLost, halt_if_lost};

/// The age at which a lingering connection is first read: most servers have answered by then.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// Bytes per read, and reads per check: 4 MiB, more than any mail server sends to end a session, and
/// as much of a web page as a socket holds.
const READ: usize = 16 * 1024;
const READS: usize = 256;

/// How long a connection may linger on which data still arrives, such as a large web page.
const ARRIVING_MAX: Duration = Duration::from_secs(5);

/// Shared by a `Stream` and the probe that owns it. Once it is open, the stream
/// does not close its socket when dropped but leaves it here, whatever wraps the stream (TLS, a
/// limit).
#[derive(Debug, Default)]
pub(super) struct LingerHandle {
    is_open: AtomicBool,
    left: Mutex<Option<LingeringConnection>>,
}

impl LingerHandle {
    /// From now on the stream sends nothing. What is written to it (TLS's `close_notify`) becomes
    /// the connection's final bytes, which are sent just before the socket is closed.
    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Takes the socket of a stream that is dropped.
    pub(super) fn leave(&self, socket: Socket, final_bytes: Vec<u8>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *left = Some(LingeringConnection {
            socket: Some(socket),
            final_bytes,
            begun: now,
            since: now,
        });
    }

    pub(super) fn take(&self) -> Option<LingeringConnection> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.take()
    }
}

/// A connection that waits for the server to close. Dropping it sends the final bytes and closes
/// the socket.
#[derive(Debug)]
pub(super) struct LingeringConnection {
    /// None only where [`LingeringConnection::wait_for_end`] has it.
    socket: Option<Socket>,
    final_bytes: Vec<u8>,
    begun: Instant,
    /// When it was last read, or else when it began.
    since: Instant,
}

/// What a read of a lingering connection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The server has closed its side, or the connection is broken.
    Ended,
    /// Nothing has arrived.
    Nothing,
    /// Data has arrived and was read.
    Data,
    /// Data was read, and more has arrived.
    More,
}

/// Reads what has arrived, at most `READS` times `READ` bytes.
fn read_rest(socket: &Socket) -> Rest {
    let mut bytes = [MaybeUninit::uninit(); READ];
    let mut found = Rest::Nothing;
    for _ in 0..READS {
        match socket.recv(&mut bytes) {
            Ok(0) => return Rest::Ended,
            Ok(_) => found = Rest::Data,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return found,
            Err(_) => return Rest::Ended,
        }
    }
    Rest::More
}

impl LingeringConnection {
    fn read_rest(&self) -> Rest {
        self.socket.as_ref().map_or(Rest::Ended, read_rest)
    }

    /// Reads until the server has closed its side, at most for [`END_MAX`], and closes the socket.
    pub(super) async fn wait_for_end(mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let Ok(socket) = register(socket, Interest::READABLE) else {
            return;
        };
        let _before_it_is_closed = HaltIfLost;
        let to_the_end = async {
            while let Ok(mut ready) = socket.readable().await {
                match read_rest(socket.get_ref()) {
                    Rest::Ended => break,
                    Rest::Nothing | Rest::Data => ready.clear_ready(),
                    Rest::More => {}
                }
            }
        };
        let _ = within(END_MAX, to_the_end).await;
    }
}

impl Drop for LingeringConnection {
    fn drop(&mut self) {
        // The socket is closed after this: make sure that the host has not closed it before.
        halt_if_lost();
        // Unread bytes would make the kernel send a reset instead of FIN.
        self.read_rest();
        if let Some(socket) = self
            .socket
            .as_ref()
            .filter(|_| !self.final_bytes.is_empty())
        {
            // An error means that the server has already gone.
            let _ = socket.send_with_flags(&self.final_bytes, libc::MSG_NOSIGNAL);
        }
    }
}

/// The lingering connections of an engine, the oldest first.
#[derive(Default)]
pub struct LingeringConnections(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    fresh: VecDeque<LingeringConnection>,
    /// Those that the server had not closed at the first check.
    late: VecDeque<LingeringConnection>,
    room: usize,
}

impl LingeringConnections {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many connections may linger at the same time. A probe that finds no room waits for
    /// the server itself.
    pub fn set_room(&self, room: usize) {
        self.lock().room = room;
    }

    pub fn count(&self) -> usize {
        let queues = self.lock();
        queues.fresh.len() + queues.late.len()
    }

    pub(super) fn have_room(&self) -> bool {
        self.count() < self.lock().room
    }

    /// Takes the connection that the stream of `linger` has left, if any.
    pub(super) fn take(&self, linger: &LingerHandle) {
        if let Some(connection) = linger.take() {
            self.lock().fresh.push_back(connection);
        }
    }

    /// Closes the connections that the server has closed, and those on which nothing has arrived for
    /// [`END_MAX`]. To be called whenever the engine thread is awake for something else.
    pub fn close_finished(&self) {
        let queues = &mut *self.lock();
        if queues.fresh.is_empty() && queues.late.is_empty() {
            return;
        }
        halt_if_lost();
        let now = Instant::now();
        while let Some(mut connection) = older(&mut queues.fresh, FIRST_LOOK, now) {
            match connection.read_rest() {
                Rest::Ended => {}
                Rest::Nothing => queues.late.push_back(connection),
                Rest::Data | Rest::More => {
                    connection.since = now;
                    queues.fresh.push_back(connection);
                }
            }
        }
        while let Some(mut connection) = older(&mut queues.late, END_MAX, now) {
            if matches!(connection.read_rest(), Rest::Data | Rest::More) {
                connection.since = now;
                queues.fresh.push_back(connection);
            }
        }
        let is_young =
            |c: &LingeringConnection| now.saturating_duration_since(c.begun) < ARRIVING_MAX;
        queues.fresh.retain(is_young);
    }
}

/// Removes the first connection of a queue if it is at least `age` old.
fn older(
    queue: &mut VecDeque<LingeringConnection>,
    age: Duration,
    now: Instant,
) -> Option<LingeringConnection> {
    let first = queue.front()?;
    let is_older = now.saturating_duration_since(first.since) >= age;
    is_older.then(|| queue.pop_front()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Adds a lingering connection; returns the server's side of it.
    fn aside(lingering: &LingeringConnections, final_bytes: &[u8]) -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let linger = LingerHandle::default();
        linger.open();
        linger.leave(near.into(), final_bytes.to_vec());
        lingering.take(&linger);
        listener.accept().unwrap().0
    }

    /// What the server receives until the connection is closed.
    fn heard(mut server: TcpStream) -> Vec<u8> {
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        heard
    }

    #[test]
    fn what_has_ended_is_closed_at_the_first_look_with_its_final_bytes() {
        let lingering = LingeringConnections::default();
        let begun = Instant::now();
        let server = aside(&lingering, b"bye");
        std::io::Write::write_all(&mut &server, b"* BYE\r\n").unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        lingering.close_finished();
        // A busy machine may have taken that long already.
        if begun.elapsed() < FIRST_LOOK {
            assert_eq!(lingering.count(), 1, "too early");
        }
        std::thread::sleep(FIRST_LOOK);
        lingering.close_finished();
        assert_eq!(lingering.count(), 0);
        assert_eq!(heard(server), b"bye");
    }

    #[test]
    fn a_server_that_does_not_close_is_waited_for_a_while() {
        let lingering = LingeringConnections::default();
        let begun = Instant::now();
        let server = aside(&lingering, b"bye");
        while lingering.count() > 0 {
            std::thread::sleep(FIRST_LOOK / 2);
            lingering.close_finished();
        }
        assert!(begun.elapsed() >= END_MAX);
        assert_eq!(heard(server), b"bye");
    }

    /// Closing a socket with unread bytes sends a reset, which the server reads as an error.
    #[test]
    fn what_comes_late_or_in_plenty_is_read_before_the_close() {
        let lingering = LingeringConnections::default();
        for chunk in [b"* BYE late\r\n".to_vec(), vec![b'x'; 100_000]] {
            let begun = Instant::now();
            let mut server = aside(&lingering, b"");
            std::thread::sleep(FIRST_LOOK);
            lingering.close_finished();
            if begun.elapsed() < END_MAX {
                assert_eq!(lingering.count(), 1, "has not ended yet");
            }
            std::io::Write::write_all(&mut server, &chunk).unwrap();
            while lingering.count() > 0 {
                std::thread::sleep(FIRST_LOOK / 2);
                lingering.close_finished();
            }
            assert_eq!(heard(server), b"");
        }
        // The same where the engine ends first.
        let mut server = aside(&lingering, b"bye");
        std::io::Write::write_all(&mut server, b"* BYE\r\n").unwrap();
        drop(lingering);
        assert_eq!(heard(server), b"bye");
    }

    #[test]
    fn nothing_is_left_where_no_exit_is_open_and_all_ends_with_the_queue() {
        let lingering = LingeringConnections::default();
        let linger = LingerHandle::default();
        assert!(!linger.is_open());
        lingering.take(&linger);
        assert_eq!(lingering.count(), 0);
        assert!(!lingering.have_room(), "none was given");
        // Dropping the queue closes its connections.
        let server = aside(&lingering, b"");
        drop(lingering);
        assert_eq!(heard(server), b"");
    }
}
