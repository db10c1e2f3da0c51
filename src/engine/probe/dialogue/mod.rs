//! Deep checks: what is said to a server after the connection stands.
//!
//! One file per protocol, each one a straight line of steps over [`session`]: greeting,
//! capabilities, STARTTLS and capabilities again where the target asks for it, the login
//! where it has credentials, a polite end. HTTP is one request and the head of its response.
//!
//! Peers are not trusted: see [`session`] for the bounds and [`redact`] for what of their
//! words gets into a reason.

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

/// What is left to do once the verdict is known.
pub struct Parting<'a> {
    session: Session<'a>,
    goodbye: &'static [u8],
}

impl Parting<'_> {
    /// Takes at most a quarter of a second of what is left of `deep_timeout`. Where it is given
    /// up, nothing but the server's log is the poorer for it.
    pub async fn finish(self) {
        self.session.finish(self.goodbye).await;
    }

    /// Does what needs no waiting. Where more is left, `leave` has the connection outlive this
    /// before TLS's goodbye is said.
    pub async fn leave(self, leave: impl FnOnce()) {
        self.session.leave(self.goodbye, leave).await;
    }
}

/// Speaks the target's protocol as far as its configuration allows, within `deep_timeout`.
pub async fn talk(
    transport: Box<dyn Transport>,
    about: Conversation<'_>,
) -> (Result<(), ProbeError>, Parting<'_>) {
    let protocol = about.target.protocol;
    let mut session = Session::new(transport, about);
    let (verdict, goodbye): (_, &[u8]) = match protocol {
        Protocol::Imap => (imap::talk(&mut session).await, imap::GOODBYE),
        Protocol::Pop3 => (pop3::talk(&mut session).await, pop3::GOODBYE),
        Protocol::Smtp => (smtp::talk(&mut session).await, smtp::GOODBYE),
        Protocol::Lmtp => (lmtp::talk(&mut session).await, smtp::GOODBYE),
        Protocol::Sieve => (sieve::talk(&mut session).await, sieve::GOODBYE),
        Protocol::Http => (http::talk(&mut session).await, http::GOODBYE),
    };
    let verdict = verdict.map_err(|error| hinted(error, &session));
    (verdict, Parting { session, goodbye })
}

/// The commonest cause of a dialogue that goes wrong before the server understood anything is the
/// PROXY header: one that it does not expect, or one that it waits for.
fn hinted(error: ProbeError, session: &Session<'_>) -> ProbeError {
    let is_ours = error.stage == Stage::Internal || session.says_of_itself();
    if session.tls() || session.is_understood() || is_ours {
        return error;
    }
    let is_silent = !session.has_read();
    let hint = if session.target().haproxy_v2 {
        // A server that takes the header for commands answers them.
        !is_silent || !error.is_timeout
    } else {
        // One that waits for it says nothing, or (Exim) that it was not there.
        is_silent || error.reason.to_ascii_lowercase().contains("proxy")
    };
    if !hint {
        return error;
    }
    let reason = error.reason.clone() + proxy::hint(session.target());
    ProbeError { reason, ..error }
}

/// [`talk`] and the goodbye after it.
pub async fn run(transport: Box<dyn Transport>, about: Conversation<'_>) -> Result<(), ProbeError> {
    let (verdict, parting) = talk(transport, about).await;
    parting.finish().await;
    verdict
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    /// Hundreds of probes run at once, each in a task of its own that may move.
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
