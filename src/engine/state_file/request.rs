//! Requests to the process that writes the state file. They come from the command, and from
//! processes that share the file and in which an operator has set something.
//!
//! There is room for one request. A process takes the lock of that room, writes its request, and
//! keeps the lock until a content answers its number. The kernel releases the lock of a process
//! that dies.

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
            // The request may name a user. What is left of it asks for nothing and keeps the number,
            // which no other request may have.
            let empty = CommandRequest {
                number: self.asked(),
                body: String::new(),
            };
            let mut bytes = empty.encode().into_bytes();
            bytes.resize(REQUEST_MAX, 0);
            // Where it fails, the request is carried out as if nobody had left.
            let _ = file.write_at(REQUESTS_AT, &bytes);
        }
        file.unlock(Part::Requests);
    }
}
