//! The base of every dialogue: reads lines and sends bytes, within one deadline and one limit.
//!
//! Whatever the peer sends, a [`Session`] ends by the target's `deep_timeout` and reads at most
//! [`READ_LIMIT`] bytes. Its errors say in one line at which stage it failed and why. What the
//! lines mean is left to the dialogue of each protocol.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

use super::conversation::Conversation;
use super::redact::redact;
use crate::engine::probe::deadline::Deadline;
use crate::engine::probe::error::{LATE_ANSWER, ProbeError, Stage, as_own_lack, quote};
use crate::engine::probe::progress::Progress;
use crate::engine::probe::tls::stream_text;
use crate::engine::probe::transport::{READ_LIMIT, READ_LIMIT_TEXT, Transport};
use crate::engine::target::Target;

/// The longest line in bytes, with its end, that is read whole.
pub const LINE_MAX: usize = 8 * 1024;

/// How many bytes are kept of the beginning of a longer line, and how many of its end. Reasons quote
/// fewer bytes of the beginning, and the announcement of a literal at the end is shorter.
const CUT_HEAD: usize = LINE_MAX / 2;
const CUT_TAIL: usize = 64;

/// How long a graceful close may take at most.
pub const END_MAX: Duration = Duration::from_millis(250);

/// One dialogue with one server.
pub struct Session<'a> {
    /// None during a TLS handshake and after one that failed.
    transport: Option<Box<dyn Transport>>,
    about: Conversation<'a>,
    /// Has a fixed size: a reallocation would leave an unwiped copy of what the peer sent, which
    /// may contain our credentials.
    input: Box<[u8]>,
    /// The part of `input` that was read from the peer and not yet consumed.
    unread: Range<usize>,
    /// The part of `input` that is the line last read, without its end.
    line: Range<usize>,
    /// Everything ever written to `input` is before this index; it is wiped on drop.
    touched: usize,
    total: usize,
    deadline: Deadline,
    stage: Stage,
    /// The stage that the observer was told of last.
    reported: Option<Stage>,
    /// Whether every command has had its complete reply, so that the server would read a closing
    /// command as one.
    settled: bool,
    /// Whether a reply showed that the server has understood a command.
    understood: bool,
    /// Whether anything was sent.
    has_sent: bool,
    /// Whether the server has refused the login's mechanism, so that another one may work.
    mechanism_refused: bool,
    /// Whether the server has answered the closing command.
    closed: bool,
}

impl<'a> Session<'a> {
    /// Starts the time of `deep_timeout`.
    pub fn new(transport: Box<dyn Transport>, about: Conversation<'a>) -> Self {
        let deadline = Deadline::new(about.target.deep_timeout);
        Self {
            transport: Some(transport),
            about,
            input: vec![0; LINE_MAX].into_boxed_slice(),
            unread: 0..0,
            line: 0..0,
            touched: 0,
            total: 0,
            deadline,
            stage: Stage::Greeting,
            reported: None,
            settled: false,
            understood: false,
            has_sent: false,
            mechanism_refused: false,
            closed: false,
        }
    }

    pub fn target(&self) -> &'a Target {
        self.about.target
    }

    /// Whether TLS runs, from the first byte or since [`Self::start_tls`].
    pub fn tls(&self) -> bool {
        self.about.tls
    }

    /// Whether credentials may be sent over the connection in its present state.
    pub fn may_send_credentials(&self) -> bool {
        self.about.tls || self.about.loopback || self.about.target.allow_plaintext_auth
    }

    /// The local address of the connection.
    pub fn local_address(&self) -> IpAddr {
        self.about.local
    }

    pub fn is_at(&self, stage: Stage) -> bool {
        self.stage == stage
    }

    /// Sets the stage of failures from now on.
    pub fn enter(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// Records that the reply is complete, and the server waits for the next command.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Records that the server has understood a command.
    pub fn note_understood(&mut self) {
        self.understood = true;
    }

    /// [`Self::note_understood`] and [`Self::settle`].
    pub fn accepted(&mut self) {
        self.note_understood();
        self.settle();
    }

    /// To be called after the dialogue has sent `QUIT` itself and the server has answered:
    /// the end of the session does not send it a second time.
    pub fn note_closed(&mut self) {
        self.closed = true;
        self.accepted();
    }

    /// Whether [`Self::note_closed`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the server has understood any command.
    pub fn is_understood(&self) -> bool {
        self.understood
    }

    /// Whether the peer has sent anything.
    pub fn has_read(&self) -> bool {
        self.total > 0
    }

    /// Whether a failure now cannot come from a command that the server misunderstood: the greeting
    /// was good, and nothing has been sent since.
    pub fn says_of_itself(&self) -> bool {
        !self.has_sent && self.stage != Stage::Greeting
    }

    /// The error for a last line that refuses the login's mechanism, not the user or password.
    pub fn refuse_mechanism(&mut self) -> ProbeError {
        self.mechanism_refused = true;
        self.refused()
    }

    /// Whether [`Self::refuse_mechanism`] was called since the last call of this function.
    pub fn take_mechanism_refused(&mut self) -> bool {
        std::mem::take(&mut self.mechanism_refused)
    }

    /// The line last read, without its end.
    pub fn line(&self) -> &[u8] {
        self.input.get(self.line.clone()).unwrap_or_default()
    }

    // === Reading ===

    /// Reads the next line, which [`Self::line`] then returns. It ends in CRLF, or in a bare LF,
    /// which some servers send. A NUL is an error, since no protocol allows it.
    pub async fn read_line(&mut self) -> Result<(), ProbeError> {
        self.read_line_cut(|_| false).await
    }

    /// As [`Self::read_line`], but the middle of a line longer than [`LINE_MAX`] is left out if
    /// `may_be_cut`, given its beginning, allows that.
    pub async fn read_line_cut(&mut self, may_be_cut: fn(&[u8]) -> bool) -> Result<(), ProbeError> {
        let mut searched = 0;
        loop {
            let unread = &self.input[self.unread.clone()];
            if let Some(at) = unread[searched..].iter().position(|&b| b == b'\n') {
                let start = self.unread.start;
                let mut end = start + searched + at;
                self.unread.start = end + 1;
                if end > start && self.input[end - 1] == b'\r' {
                    end -= 1;
                }
                self.line = start..end;
                return if self.line().contains(&0) {
                    Err(self.fail(format!("NUL in {}", self.quote(self.line()))))
                } else {
                    self.report_line();
                    Ok(())
                };
            }
            searched = unread.len();
            if searched == LINE_MAX {
                if unread.contains(&0) {
                    return Err(self.fail(format!("NUL in {}", self.quote(unread))));
                }
                if !may_be_cut(unread) {
                    let quoted = self.quote(unread);
                    return Err(self.fail(format!("line longer than {LINE_MAX} bytes: {quoted}")));
                }
                self.input
                    .copy_within(LINE_MAX - CUT_TAIL..LINE_MAX, CUT_HEAD);
                searched = CUT_HEAD + CUT_TAIL;
                self.unread = 0..searched;
            }
            if self.fill().await? == 0 {
                return Err(self.fail(match searched {
                    0 => "connection closed",
                    _ => "connection closed in the middle of a line",
                }));
            }
        }
    }

    /// Skips the next line, of any length and content. Returns whether it was not empty.
    pub async fn skip_line(&mut self) -> Result<bool, ProbeError> {
        let mut length = 0;
        let mut first = None;
        loop {
            let unread = &self.input[self.unread.clone()];
            first = first.or(unread.first().copied());
            if let Some(at) = unread.iter().position(|&b| b == b'\n') {
                self.unread.start += at + 1;
                length += at;
                return Ok(length > 1 || (length == 1 && first != Some(b'\r')));
            }
            length += unread.len();
            self.unread.start = self.unread.end;
            if self.fill().await? == 0 {
                return Err(self.fail(match length {
                    0 => "connection closed",
                    _ => "connection closed in the middle of a line",
                }));
            }
        }
    }

    /// Reads `count` bytes that are not lines (a literal), and appends them to `keep`, if given.
    pub async fn read_bytes(
        &mut self,
        count: u64,
        mut keep: Option<&mut Vec<u8>>,
    ) -> Result<(), ProbeError> {
        let left = READ_LIMIT - self.total + self.unread.len();
        let Some(mut count) = usize::try_from(count).ok().filter(|&n| n <= left) else {
            return Err(self.fail(format!(
                "literal of {count} bytes, past the {READ_LIMIT_TEXT} that are read"
            )));
        };
        self.line = 0..0;
        loop {
            let now = self.unread.len().min(count);
            let taken = self.unread.start..self.unread.start + now;
            if let Some(keep) = keep.as_deref_mut() {
                keep.extend_from_slice(&self.input[taken]);
            }
            self.unread.start += now;
            count -= now;
            if count == 0 {
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(self.fail("connection closed in the middle of a literal"));
            }
        }
    }

    /// Tells the clock and the observer of the stage, if it is a new one.
    fn report_stage(&mut self) {
        if self.reported != Some(self.stage) {
            self.reported = Some(self.stage);
            if let Some(clock) = self.about.clock {
                clock.enter(self.stage);
            }
            if let Some(observer) = self.about.observer {
                observer.note(Progress::Stage(self.stage));
            }
        }
    }

    /// Tells the observer what the server says of itself. No other stage's line is told: it could
    /// repeat our credentials.
    fn report_line(&self) {
        if let Some(observer) = self.about.observer
            && matches!(
                self.stage,
                Stage::Greeting | Stage::Capability | Stage::Http
            )
        {
            observer.note(Progress::Line(&redact(self.about.target, self.line())));
        }
    }

    /// Waits for bytes and appends them to the unread ones. Returns their number; 0 is the end of
    /// the stream.
    async fn fill(&mut self) -> Result<usize, ProbeError> {
        self.report_stage();
        // The bytes of the last line are overwritten.
        self.line = 0..0;
        self.input.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();

        if self.total >= READ_LIMIT {
            return Err(self.too_much());
        }
        let from = self.unread.end;
        let to = LINE_MAX.min(from + READ_LIMIT - self.total);
        let Some(transport) = self.transport.as_mut() else {
            return Err(self.fail("connection closed"));
        };
        let (input, deadline) = (&mut self.input[from..to], &mut self.deadline);
        let read = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(input);
            match Pin::new(&mut *transport).poll_read(cx, &mut buffer) {
                Poll::Ready(done) => Poll::Ready(Some(done.map(|()| buffer.filled().len()))),
                Poll::Pending => expired(deadline, cx),
            }
        });
        let count = match read.await {
            Some(done) => done.map_err(|e| self.broken(&e))?,
            None => return Err(self.unanswered()),
        };
        self.unread.end += count;
        self.touched = self.touched.max(self.unread.end);
        self.total += count;
        Ok(count)
    }

    // === Writing ===

    /// Sends all of `bytes`; waits if the peer reads slowly.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ProbeError> {
        self.settled = false;
        self.has_sent = true;
        self.report_stage();
        let Some(transport) = self.transport.as_mut() else {
            return Err(self.fail("connection closed"));
        };
        let deadline = &mut self.deadline;
        let mut rest = bytes;
        let sent = poll_fn(|cx| {
            while !rest.is_empty() {
                match Pin::new(&mut *transport).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(count)) => rest = rest.get(count..).unwrap_or_default(),
                    Poll::Ready(Err(e)) => return Poll::Ready(Some(Err(e))),
                    Poll::Pending => return expired(deadline, cx),
                }
            }
            match Pin::new(&mut *transport).poll_flush(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => expired(deadline, cx),
            }
        });
        match sent.await {
            Some(done) => done.map_err(|e| self.broken(&e)),
            None => Err(self.timed_out()),
        }
    }

    // === TLS and the end ===

    /// Performs the TLS handshake, after the server has agreed to it.
    ///
    /// Bytes that the server sent after its reply and before the handshake fail the probe: they
    /// were not protected by TLS, but would be read as if they were (response injection,
    /// CVE-2011-0411).
    pub async fn start_tls(&mut self) -> Result<(), ProbeError> {
        // If the handshake fails, no closing command is sent: the server may expect TLS or not.
        self.settled = false;
        if self.unread.is_empty() {
            self.read_arrived().await?;
        }
        if !self.unread.is_empty() {
            let count = self.unread.len();
            return Err(self.fail(format!(
                "{count} bytes in the clear between the reply and the TLS handshake"
            )));
        }
        let Some(transport) = self.transport.take() else {
            return Err(self.fail("connection closed"));
        };
        self.stage = Stage::Tls;
        self.report_stage();
        let mut handshake = (self.about.upgrade)(transport);
        let deadline = &mut self.deadline;
        let done = poll_fn(|cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => expired(deadline, cx),
        });
        match done.await {
            Some(upgraded) => self.transport = Some(upgraded?),
            None => return Err(self.timed_out()),
        }
        self.about.tls = true;
        self.stage = Stage::Capability;
        Ok(())
    }

    /// Reads what has already arrived, up to 64 bytes, without waiting. Sets `unread` to their
    /// number, but does not store them.
    async fn read_arrived(&mut self) -> Result<(), ProbeError> {
        let Some(transport) = self.transport.as_mut() else {
            return Ok(());
        };
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let seen = poll_fn(|cx| {
            Poll::Ready(match Pin::new(&mut *transport).poll_read(cx, &mut buffer) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        });
        match seen.await {
            None => return Ok(()),
            Some(done) => done.map_err(|e| self.broken(&e))?,
        }
        match buffer.filled().len() {
            0 => Err(self.fail("connection closed")),
            count => {
                self.total += count;
                self.unread = 0..count;
                Ok(())
            }
        }
    }

    /// Graceful close: sends the closing command, so that the server logs a regular end, and waits
    /// up to [`END_MAX`] for the server to close. Does not change the result. After a failure in
    /// the middle of a command, no closing command is sent.
    pub async fn finish(mut self, closing_command: &[u8], leave: impl FnOnce()) {
        let is_settled = self.settled;
        if self.send_closing_command(closing_command).await {
            while matches!(self.fill().await, Ok(1..)) {
                self.unread = 0..0;
            }
        }
        self.close_tls().await;
        if is_settled {
            leave();
        }
    }

    /// Sends the closing command without waiting for the server to close. `leave` is called before
    /// `close_notify` is written, and makes the connection a lingering one.
    pub async fn leave(mut self, closing_command: &[u8], leave: impl FnOnce()) {
        // A response of HTTP ends the connection without a command, and may still be arriving. Under
        // TLS, writes are held back until the next read: `read_arrived` sends the closing command.
        let ends_by_itself = self.settled && closing_command.is_empty();
        if ends_by_itself
            || self.send_closing_command(closing_command).await && self.read_arrived().await.is_ok()
        {
            leave();
        }
        self.close_tls().await;
    }

    /// Sends the closing command, if the server waits for a command. Returns whether it was sent.
    async fn send_closing_command(&mut self, closing_command: &[u8]) -> bool {
        if !self.settled || closing_command.is_empty() {
            return false;
        }
        self.deadline.shorten(END_MAX);
        self.send(closing_command).await.is_ok()
    }

    /// Sends TLS's `close_notify` (RFC 8446 §6.1), without waiting. A server that has sent its own
    /// may wait for ours; an error means that the server has gone.
    async fn close_tls(&mut self) {
        let Some(transport) = self.transport.as_mut().filter(|_| self.about.tls) else {
            return;
        };
        poll_fn(|cx| {
            let _ = Pin::new(&mut *transport).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    // === Failures ===

    pub fn fail(&self, reason: impl Into<String>) -> ProbeError {
        ProbeError::new(self.stage, reason)
    }

    /// The error for a server that refuses, with the last line.
    pub fn refused(&self) -> ProbeError {
        self.fail(format!("refused: {}", self.quote(self.line())))
    }

    /// The error for a server that refuses the user or the password, with the last line.
    pub fn refused_login(&self) -> ProbeError {
        ProbeError {
            login_refused: true,
            ..self.refused()
        }
    }

    /// The error for a last line that the protocol does not allow here.
    pub fn unexpected(&self) -> ProbeError {
        match self.line() {
            [] => self.fail("unexpected empty line"),
            line => self.fail(format!("unexpected reply: {}", self.quote(line))),
        }
    }

    /// Quotes what the peer sent, without secrets of ours that it may have echoed.
    pub fn quote(&self, peer: &[u8]) -> String {
        quote(&redact(self.about.target, peer))
    }

    fn timed_out(&self) -> ProbeError {
        ProbeError::timeout(self.stage, self.about.target.deep_timeout)
    }

    /// The error where no answer came in time.
    fn unanswered(&self) -> ProbeError {
        let mut error = self.timed_out();
        if self.stage == Stage::Auth {
            error.reason += LATE_ANSWER;
        }
        error
    }

    fn broken(&self, error: &io::Error) -> ProbeError {
        if let Some(ours) = as_own_lack(error) {
            return ours;
        }
        match error.kind() {
            // The transport's limit counts TLS's handshake and records as well.
            io::ErrorKind::FileTooLarge => self.too_much(),
            io::ErrorKind::WriteZero | io::ErrorKind::NotConnected => {
                self.fail("connection closed")
            }
            _ => self.fail(quote(stream_text(error).as_bytes())),
        }
    }

    fn too_much(&self) -> ProbeError {
        self.fail(format!("the server sent more than {READ_LIMIT_TEXT}"))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.input[..self.touched].zeroize();
    }
}

/// Ready with None once the deadline has passed.
fn expired<T>(deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<Option<T>> {
    deadline.poll_passed(cx).map(|()| None)
}

/// The first word of `text` and what follows it, without the spaces between.
pub fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|&b| b == b' ') {
        Some(at) => (&text[..at], text[at..].trim_ascii_start()),
        None => (text, &[]),
    }
}

/// The words of `text`, however many spaces or tabs are between them.
pub fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| matches!(b, b' ' | b'\t'))
        .filter(|word| !word.is_empty())
}
