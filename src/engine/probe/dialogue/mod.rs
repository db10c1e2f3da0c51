//! Deep checks: the dialogue with a server once the connection is open.
//!
//! There is one file per protocol, each a sequence of steps over [`session`]: greeting,
//! capabilities, STARTTLS and capabilities again if the target is configured so, the login if it
//! has credentials, and the closing command. HTTP is one request and the head of its response.
//!
//! Peers are not trusted: [`session`] bounds what is read, and [`redact`] removes our secrets from
//! what is quoted in a reason.

mod conversation;
mod encode;
mod hello;
mod http;
mod imap;
mod lmtp;
mod mailbox_name;
mod pop3;
mod redact;
mod sasl;
pub mod session;
mod sieve;
mod smtp;
#[cfg(test)]
pub(crate) mod testing;

use super::error::{ProbeError, Stage};
use super::proxy;
use super::transport::Transport;
use crate::engine::target::Protocol;
pub use conversation::Conversation;
pub(super) use session::END_MAX;
use session::Session;

/// A dialogue whose result is known and which has still to be closed.
pub struct UnclosedDialogue<'a> {
    session: Session<'a>,
    closing_command: &'static [u8],
}

impl UnclosedDialogue<'_> {
    /// Graceful close: sends the closing command and waits until the server closes, at most
    /// [`END_MAX`] and what is left of `deep_timeout`. If the time runs out, the server's log may
    /// show a lost connection; the result stays. `leave` is called before the connection is closed,
    /// unless the dialogue has failed in the middle of a command; unread bytes may still arrive.
    pub async fn finish(self, leave: impl FnOnce()) {
        self.session.finish(self.closing_command, leave).await;
    }

    /// Sends the closing command without waiting for the server to close. If the server has not
    /// closed yet, `leave` is called to make the connection a lingering one; `close_notify` is
    /// written after that, so that it is sent just before the socket is closed.
    pub async fn leave(self, leave: impl FnOnce()) {
        self.session.leave(self.closing_command, leave).await;
    }
}

/// Holds the dialogue of the target's protocol, as far as its configuration allows, within
/// `deep_timeout`.
pub async fn until_verdict(
    transport: Box<dyn Transport>,
    about: Conversation<'_>,
) -> (Result<(), ProbeError>, UnclosedDialogue<'_>) {
    let protocol = about.target.protocol;
    let mut session = Session::new(transport, about);
    let (verdict, closing_command): (_, &[u8]) = match protocol {
        Protocol::Imap => (imap::run(&mut session).await, imap::CLOSING_COMMAND),
        Protocol::Pop3 => (pop3::run(&mut session).await, pop3::CLOSING_COMMAND),
        Protocol::Smtp => (smtp::run(&mut session).await, smtp::CLOSING_COMMAND),
        Protocol::Lmtp => (lmtp::run(&mut session).await, smtp::CLOSING_COMMAND),
        Protocol::Sieve => (sieve::run(&mut session).await, sieve::CLOSING_COMMAND),
        Protocol::Http => (http::run(&mut session).await, http::CLOSING_COMMAND),
    };
    let verdict = verdict.map_err(|error| hinted(error, &session));
    let closing_command = if session.is_closed() {
        b""
    } else {
        closing_command
    };
    (
        verdict,
        UnclosedDialogue {
            session,
            closing_command,
        },
    )
}

/// Appends a hint about the PROXY header to an error, if the dialogue failed before the server
/// understood anything. The usual cause of that is a header that the server does not expect, or one
/// that it waits for.
fn hinted(error: ProbeError, session: &Session<'_>) -> ProbeError {
    let is_ours = error.stage == Stage::Internal || session.says_of_itself();
    if session.tls() || session.is_understood() || is_ours {
        return error;
    }
    let is_silent = !session.has_read();
    let hint = if session.target().haproxy_v2 {
        // A server that reads the header as commands answers them. Silence until a timeout has
        // another cause.
        !is_silent || !error.is_timeout
    } else {
        // A server that waits for the header sends nothing, or (Exim) a line that says that the
        // header is missing.
        is_silent || error.reason.to_ascii_lowercase().contains("proxy")
    };
    if !hint {
        return error;
    }
    let reason = error.reason.clone() + proxy::hint(session.target());
    ProbeError { reason, ..error }
}

/// [`until_verdict`], and the graceful close after it.
pub async fn run(transport: Box<dyn Transport>, about: Conversation<'_>) -> Result<(), ProbeError> {
    let (verdict, dialogue) = until_verdict(transport, about).await;
    dialogue.finish(|| ()).await;
    verdict
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    /// Hundreds of probes run at once, each in its own task: its future must be small and `Send`.
    #[tokio::test]
    async fn a_dialogue_is_small_and_can_move() {
        fn movable<F: Send>(future: F) -> F {
            future
        }
        let target = testing::target(Protocol::Imap);
        let about = Conversation {
            target: &target,
            tls: false,
            loopback: true,
            local: IpAddr::from([127, 0, 0, 1]),
            upgrade: &|clear| async move { Ok(clear) }.boxed(),
            observer: None,
            clock: None,
        };
        let future = movable(run(Box::new(tokio::io::empty()), about));
        let size = size_of_val(&future);
        assert!(size <= 2048, "{size} bytes");
        assert_eq!(
            future.await.expect_err("nobody there").to_string(),
            "greeting: connection closed; if the listener expects the PROXY header, set haproxy_v2"
        );
    }
}
