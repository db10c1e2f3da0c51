//! Requests to the process that writes the state file. They come from the command, and from
//! processes that share the file and in which an operator has set something.
//!
//! There is room for one request. A process takes the lock of that room, writes its request, and
//! keeps the lock until a content answers its number. The kernel releases the lock of a process
//! that dies, whose request is then not carried out any more: nobody waits for it, and the next
//! engine may find it much later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::container::{PAGE, REQUEST_MAX, REQUESTS_AT};
use super::text::hex_sum;
use crate::sys::clock;
use crate::sys::fork_mark::pid;
use crate::sys::state_file::{Part, StateFile};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    /// Higher than the number of the request before.
    pub number: u64,
    /// One or more lines; there is one answer for all of them.
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

    /// `None` where there is no request, or where it is being written.
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

    /// The bytes of a request that asks for nothing, with the number of the one that it replaces:
    /// no other request may have that number.
    fn empty(number: u64) -> Vec<u8> {
        let empty = Self {
            number,
            body: String::new(),
        };
        let mut bytes = empty.encode().into_bytes();
        bytes.resize(REQUEST_MAX, 0);
        bytes
    }

    /// Whether it means the same whenever it is carried out: settings that were made in another
    /// process have their own times.
    fn is_timeless(&self) -> bool {
        self.body.lines().all(|line| line.starts_with("operator "))
    }
}

/// The request of this process that is not answered yet: its number and the process that wrote it.
/// A child inherits these words but not the lock, so the process id has to match.
#[derive(Default)]
pub(super) struct CommandRequests {
    asked: AtomicU64,
    asker: AtomicU64,
    /// When it was written, in `CLOCK_MONOTONIC` nanoseconds.
    asked_ns: AtomicU64,
}

/// The longest body of a request, in bytes.
pub const BODY_MAX: usize = REQUEST_MAX - 128;

/// The time within which the file's writer answers, unless the machine is overloaded.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// A request that has no answer after this time is written again: the file's writer may be of an
/// earlier version, which knows no requests and overwrites it.
const ASK_AGAIN: Duration = ANSWERED_WITHIN;

impl CommandRequests {
    pub(super) fn read(&self, file: &StateFile, answered: u64) -> Option<CommandRequest> {
        // A short read first: mostly there is no new request.
        let start = file.read_at(REQUESTS_AT, 32).ok()?;
        let number = std::str::from_utf8(&start).ok()?.strip_prefix("request ")?;
        let number: u64 = number.split(' ').next()?.parse().ok()?;
        if number <= answered {
            return None;
        }
        // Before the request is read: an asker that ends in between has left nothing, or its whole
        // request. The kernel does not report a lock of this process itself.
        let has_asker = self.is_asking(number) || file.holder(Part::Requests).is_some();
        let request = CommandRequest::decode(&file.read_at(REQUESTS_AT, REQUEST_MAX).ok()?)?;
        if has_asker || request.is_timeless() {
            return Some(request);
        }
        remove_abandoned(file, request.number);
        None
    }

    /// Whether this process waits for the answer to the request with this number.
    pub(super) fn is_asking(&self, number: u64) -> bool {
        self.asker.load(Ordering::Acquire) == pid() && self.asked() == number
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
        // Zeroes up to the end of the page end the request: the rest of a longer one before it is
        // not read.
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

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn leave(&self, file: &StateFile) {
        if self.asker.swap(0, Ordering::AcqRel) == pid() {
            // The request may name a user. Where it cannot be removed, the file's writer tries to.
            let _ = file.write_at(REQUESTS_AT, &CommandRequest::empty(self.asked()));
        }
        file.unlock(Part::Requests);
    }
}

/// Removes the request of a process that has ended without doing it: the request may name a user.
fn remove_abandoned(file: &StateFile, number: u64) {
    if !file.try_lock(Part::Requests).unwrap_or(false) {
        return;
    }
    let left = file.read_at(REQUESTS_AT, REQUEST_MAX).ok();
    let left = left.as_deref().and_then(CommandRequest::decode);
    if left.is_some_and(|request| request.number == number) {
        // Where this fails, the next poll tries again.
        let _ = file.write_at(REQUESTS_AT, &CommandRequest::empty(number));
    }
    file.unlock(Part::Requests);
}
