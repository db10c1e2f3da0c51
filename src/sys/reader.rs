//! Whether anybody still reads what this process writes.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

/// Waits until `output`, a pipe, socket or terminal, has no reader any more, or `time` has passed; whether it
/// has none. Such an output cannot be written to. A file never loses its reader. A signal may end the wait early.
pub fn has_left_within(output: BorrowedFd<'_>, time: Duration) -> bool {
    let mut polled = libc::pollfd {
        fd: output.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // Rounded up, so that a time below 1 ms is not a loop without a pause.
    let ms = time.as_nanos().div_ceil(1_000_000);
    let ms = libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX);
    // SAFETY: `polled` is one structure, valid for the call; the descriptor stays open, as it is borrowed.
    let ready = unsafe { libc::poll(&raw mut polled, 1, ms) };
    if ready < 0 && Error::last_os_error().kind() != ErrorKind::Interrupted {
        sleep(time);
    }
    ready > 0 && polled.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

#[cfg(test)]
mod tests {
    use std::io::pipe;
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_pipe_without_reader_is_told_at_once() {
        let (reader, writer) = pipe().unwrap();
        let began = Instant::now();
        let short = Duration::from_millis(20);
        assert!(!has_left_within(writer.as_fd(), short));
        assert!(began.elapsed() >= short);
        drop(reader);
        assert!(has_left_within(writer.as_fd(), LONG));
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn a_file_is_waited_for() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!has_left_within(file.as_fd(), Duration::from_micros(10)));
    }
}
