//! The login: which mechanism, in which encoding, in which order of messages.
//!
//! How a message is framed is each protocol's own ([`Exchange`]); the mechanisms are the same
//! for all: PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login), else the protocol's
//! native command. A rejected login is final, a second attempt would only count as another wrong
//! password. Where a server refuses the mechanism itself, although it offered it, the next one
//! that it offers is tried.

use super::encode::{base64, plain};
use super::session::Session;
use crate::engine::probe::error::ProbeError;
use crate::engine::target::AuthMechanism;

/// Names of mechanisms that are kept for a reason's text, in bytes.
const NAMES_MAX: usize = 200;

/// The user and password of a target, fit to be sent.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
}

impl<'a> Credentials<'a> {
    /// None where the target has none. The configuration refuses CR, LF and NUL; should they
    /// come here all the same, they are not sent: they would start a command of their own.
    pub(super) fn of(s: &Session<'a>) -> Result<Option<Self>, ProbeError> {
        let target = s.target();
        let (Some(user), Some(password)) = (&target.test_username, &target.test_password) else {
            return Ok(None);
        };
        let password = password.expose();
        if [user.as_str(), password]
            .iter()
            .any(|text| text.contains(['\r', '\n', '\0']))
        {
            return Err(s.fail("test_username or test_password contains CR, LF or NUL"));
        }
        Ok(Some(Self { user, password }))
    }

    /// Fails where the connection as it is now must not see them.
    pub(super) fn permitted(self, s: &Session<'_>) -> Result<Self, ProbeError> {
        if s.may_send_credentials() {
            Ok(self)
        } else {
            Err(s.fail("credentials are not sent without TLS (allow_plaintext_auth permits it)"))
        }
    }
}

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
    /// The protocol's own command.
    Native,
}

/// What a server says it accepts.
#[derive(Default)]
pub(super) struct Offer {
    plain: bool,
    login: bool,
    native: bool,
    names: Vec<u8>,
}

impl Offer {
    /// One SASL mechanism; names are case-insensitive on the wire.
    pub(super) fn add(&mut self, mechanism: &[u8]) {
        self.plain |= mechanism.eq_ignore_ascii_case(b"PLAIN");
        self.login |= mechanism.eq_ignore_ascii_case(b"LOGIN");
        self.name(mechanism);
    }

    /// The protocol's own command, under the name it has in a reason.
    pub(super) fn add_native(&mut self, name: &str) {
        self.native = true;
        self.name(name.as_bytes());
    }

    fn name(&mut self, name: &[u8]) {
        if self.names.len() + name.len() < NAMES_MAX {
            if !self.names.is_empty() {
                self.names.extend_from_slice(b", ");
            }
            self.names.extend_from_slice(name);
        }
    }

    /// What the target asks for of what is offered, the best first; at least one. `native` is what
    /// the configuration calls the protocol's own command, where it has one.
    pub(super) fn choices(
        &self,
        s: &Session<'_>,
        native: Option<AuthMechanism>,
    ) -> Result<impl Iterator<Item = Mechanism> + use<>, ProbeError> {
        let wanted = s.target().auth_mechanism;
        let auto = wanted == AuthMechanism::Auto;
        let choices = [
            (self.plain && (auto || wanted == AuthMechanism::Plain)).then_some(Mechanism::Plain),
            (self.login && (auto || wanted == AuthMechanism::Login)).then_some(Mechanism::Login),
            (self.native && native.is_some() && (auto || native == Some(wanted)))
                .then_some(Mechanism::Native),
        ];
        if choices.iter().any(Option::is_some) {
            return Ok(choices.into_iter().flatten());
        }
        let offered = match self.names.as_slice() {
            [] => "none".into(),
            names => s.quote(names),
        };
        Err(s.fail(match wanted {
            AuthMechanism::Auto => {
                format!("no usable login mechanism offered (offered: {offered})")
            }
            _ => format!(
                "mechanism {} not offered (offered: {offered})",
                wanted.name()
            ),
        }))
    }
}

/// What a server answers in the middle of a login. A refusal is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SaslAnswer {
    /// It wants the next message. What it says with it has no meaning in PLAIN and LOGIN.
    Challenge,
    Success,
}

/// A protocol's frame around the messages of a mechanism, which are in base64 throughout.
pub(super) trait Exchange {
    /// Whether `initial` may go with the command that begins the login.
    fn takes_initial(&self, mechanism: &str, initial: &[u8]) -> bool;
    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError>;
    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError>;
    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError>;
    /// The last line is out of turn.
    fn unexpected(&self) -> ProbeError;
}

/// SASL PLAIN (RFC 4616 §2): one message from the client.
pub(super) async fn login_plain(
    x: &mut impl Exchange,
    credentials: Credentials<'_>,
) -> Result<(), ProbeError> {
    let message = plain(credentials.user, credentials.password);
    if x.takes_initial("PLAIN", &message) {
        x.begin("PLAIN", Some(&message)).await?;
    } else {
        x.begin("PLAIN", None).await?;
        expect(x, SaslAnswer::Challenge).await?;
        x.respond(&message).await?;
    }
    expect(x, SaslAnswer::Success).await
}

/// SASL LOGIN: user and password, each asked for. The prompts differ between servers.
pub(super) async fn login_login(
    x: &mut impl Exchange,
    credentials: Credentials<'_>,
) -> Result<(), ProbeError> {
    x.begin("LOGIN", None).await?;
    expect(x, SaslAnswer::Challenge).await?;
    x.respond(&base64(credentials.user.as_bytes())).await?;
    expect(x, SaslAnswer::Challenge).await?;
    x.respond(&base64(credentials.password.as_bytes())).await?;
    expect(x, SaslAnswer::Success).await
}

async fn expect(x: &mut impl Exchange, wanted: SaslAnswer) -> Result<(), ProbeError> {
    if x.answer().await? == wanted {
        Ok(())
    } else {
        Err(x.unexpected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_is_not_kept() {
        let mut offer = Offer::default();
        for i in 0..10_000 {
            offer.add(format!("X-{i}").as_bytes());
        }
        offer.add(b"plain");
        assert!(offer.plain, "recognised however late it comes");
        assert!(offer.names.len() < NAMES_MAX);
    }
}
