//! Requests to the process that writes the file: by the command, and by processes that share the
//! file and were told something that all of them must know.
//!
//! There is room for one. Whoever asks takes the lock of that room, writes, and keeps the lock
//! until a content says that its number is answered: a process that dies gives it back so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::container::{PAGE, REQUEST_MAX, REQUESTS_AT};
use super::text::hex_sum;
use crate::sys::clock;
use crate::sys::fork_mark::pid;
use crate::sys::state_file::{Part, StateFile};

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    /// Higher than that of the one before.
    pub number: u64,
    /// Lines; each is answered together with all others.
    pub body: String,
}

impl CommandRequest {
    fn encode(&self) -> String {
        let sum = hex_sum(self.body.as_bytes());
        format!(
            "request {} {} {sum}\n{}",
            self.number,
            self.body.len(),
            self.body
        )
    }

    /// None where there is none, or it is being written.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = bytes.split(|&byte| byte == 0).next()?;
        let text = std::str::from_utf8(text).ok()?;
        let (head, rest) = text.split_once('\n')?;
        let fields: Vec<&str> = head.split(' ').collect();
        let ["request", number, length, sum] = fields.as_slice() else {
            return None;
        };
        let body = rest.get(..length.parse().ok()?)?;
        (hex_sum(body.as_bytes()) == *sum).then_some(Self {
            number: number.parse().ok()?,
            body: body.to_owned(),
        })
    }
}

/// The request of this process that is under way: its number, and whose it is, since a child
/// inherits the word but not the lock.
#[derive(Default)]
pub(super) struct CommandRequests {
    asked: AtomicU64,
    asker: AtomicU64,
    /// When, in `CLOCK_MONOTONIC` nanoseconds.
    asked_ns: AtomicU64,
}

/// A request that was not answered for so long is put there again: its writer may have been one
/// of an earlier version, which knows of none and writes over it.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl CommandRequests {
    pub(super) fn read(&self, file: &StateFile, answered: u64) -> Option<CommandRequest> {
        // A short read first: most of the time there is nothing new.
        let start = file.read_at(REQUESTS_AT, 32).ok()?;
        let number = std::str::from_utf8(&start).ok()?.strip_prefix("request ")?;
        let number: u64 = number.split(' ').next()?.parse().ok()?;
        if number <= answered {
            return None;
        }
        CommandRequest::decode(&file.read_at(REQUESTS_AT, REQUEST_MAX).ok()?)
    }

    pub(super) fn ask(&self, file: &StateFile, body: &str, answered: u64) -> bool {
        let is_waiting = self.asker.load(Ordering::Acquire) == pid()
            && self.asked.load(Ordering::Acquire) > answered;
        let waited = clock::monotonic_ns().saturating_sub(self.asked_ns.load(Ordering::Acquire));
        if is_waiting && waited < clock::ns(ASK_AGAIN) {
            return true;
        }
        if !file.try_lock(Part::Requests).unwrap_or(false) {
            return false;
        }
        let before = file.read_at(REQUESTS_AT, REQUEST_MAX).ok();
        let before = before
            .as_deref()
            .and_then(CommandRequest::decode)
            .map_or(0, |request| request.number);
        let request = CommandRequest {
            number: before.max(answered).saturating_add(1),
            body: body.to_owned(),
        };
        let mut bytes = request.encode().into_bytes();
        if bytes.len() >= REQUEST_MAX {
            self.leave(file);
            return false;
        }
        // Up to the end of a page: what was there before it ends here.
        bytes.resize(bytes.len().next_multiple_of(PAGE).min(REQUEST_MAX), 0);
        let done = file.write_at(REQUESTS_AT, &bytes).is_ok();
        if done {
            self.asked.store(request.number, Ordering::Release);
            self.asked_ns
                .store(clock::monotonic_ns(), Ordering::Release);
            self.asker.store(pid(), Ordering::Release);
        } else {
            self.leave(file);
        }
        done
    }

    pub(super) fn leave(&self, file: &StateFile) {
        self.asker.store(0, Ordering::Release);
        file.unlock(Part::Requests);
    }
}
