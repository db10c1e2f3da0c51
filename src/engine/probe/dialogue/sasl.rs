//! The login: the choice of a mechanism, and its messages.
//!
//! The mechanisms are the same for all protocols: PLAIN (RFC 4616) and LOGIN
//! (draft-murchison-sasl-login), else the protocol's own command. Each protocol frames the messages
//! in its own way ([`Exchange`]). A refused login is not tried again, because the server would
//! count a second wrong password. If the server refuses a mechanism that it has offered, the next
//! one that it offers is tried. If it refuses all of them, that counts as a refused login: it will
//! refuse the next one as well.

use super::encode::{Wiped, base64, concat, plain};
use super::session::Session;
use crate::engine::probe::error::ProbeError;
use crate::engine::target::AuthMechanism;

/// How many bytes of mechanism names are kept for a reason's text.
const NAMES_MAX: usize = 200;

/// The user and password of a target, checked for characters that must not be sent.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
}

impl<'a> Credentials<'a> {
    /// None if the target has no credentials. CR, LF and NUL are an error, because they would start
    /// another command; the configuration refuses them already.
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

    /// Fails if credentials must not be sent over the connection in its present state.
    pub(super) fn permitted(self, s: &Session<'_>) -> Result<Self, ProbeError> {
        if s.may_send_credentials() {
            Ok(self)
        } else {
            Err(s.fail("credentials are not sent without TLS (allow_plaintext_auth permits it)"))
        }
    }
}

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
    /// The protocol's own command.
    Native,
}

/// The login mechanisms that a server offers.
#[derive(Default)]
pub(super) struct Offer {
    plain: bool,
    login: bool,
    native: bool,
    names: Vec<u8>,
}

impl Offer {
    /// Adds a SASL mechanism; names are case-insensitive.
    pub(super) fn add(&mut self, mechanism: &[u8]) {
        self.plain |= mechanism.eq_ignore_ascii_case(b"PLAIN");
        self.login |= mechanism.eq_ignore_ascii_case(b"LOGIN");
        self.name(mechanism);
    }

    /// Adds the protocol's own command, with the name that a reason shows for it.
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

    /// The offered mechanisms that the target's configuration allows, the best first; at least one.
    /// `native` is the configuration's value for the protocol's own command, if it has one. That
    /// command comes last, or with `native_first` before all others.
    pub(super) fn choices(
        &self,
        s: &Session<'_>,
        native: Option<AuthMechanism>,
        native_first: bool,
    ) -> Result<impl Iterator<Item = Mechanism> + use<>, ProbeError> {
        let wanted = s.target().auth_mechanism;
        let auto = wanted == AuthMechanism::Auto;
        let mut choices = [
            (self.plain && (auto || wanted == AuthMechanism::Plain)).then_some(Mechanism::Plain),
            (self.login && (auto || wanted == AuthMechanism::Login)).then_some(Mechanism::Login),
            (self.native && native.is_some() && (auto || native == Some(wanted)))
                .then_some(Mechanism::Native),
        ];
        if native_first {
            choices.rotate_right(1);
        }
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

/// A server's reply during a login. A refusal is an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SaslAnswer {
    /// The server asks for the next message. The content of the challenge has no meaning in PLAIN
    /// and LOGIN.
    Challenge,
    Success,
}

/// How a protocol frames the messages of a mechanism. All messages are in base64.
pub(super) trait Exchange {
    /// Whether `initial` may be sent within the command that begins the login.
    fn takes_initial(&self, mechanism: &str, initial: &[u8]) -> bool;
    /// Whether the server did not understand a command with an initial message, so that the same
    /// mechanism may work without it; false when asked again.
    fn take_initial_refused(&mut self) -> bool {
        false
    }
    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError>;
    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError>;
    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError>;
    /// The error for a last reply that the protocol does not allow here.
    fn unexpected(&self) -> ProbeError;
    /// Whether the server has refused the mechanism that it had offered; false when asked again.
    fn take_mechanism_refused(&mut self) -> bool;
    /// Logs in by the protocol's own command, [`Mechanism::Native`].
    async fn login_natively(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError>;
}

/// Logs in with the first of the `choices` that the server does not refuse as a mechanism.
pub(super) async fn login(
    x: &mut impl Exchange,
    choices: impl Iterator<Item = Mechanism>,
    credentials: Credentials<'_>,
) -> Result<(), ProbeError> {
    let mut done = Ok(());
    for mechanism in choices {
        done = match mechanism {
            Mechanism::Plain => login_plain(x, credentials).await,
            Mechanism::Login => login_login(x, credentials).await,
            Mechanism::Native => x.login_natively(credentials).await,
        };
        if !x.take_mechanism_refused() {
            return done;
        }
    }
    done.map_err(|error| ProbeError {
        login_refused: true,
        ..error
    })
}

/// The command AUTH of SMTP (RFC 4954 §4) and POP3 (RFC 5034 §4).
pub(super) fn auth_command(mechanism: &str, initial: Option<&[u8]>) -> Wiped {
    let mechanism = mechanism.as_bytes();
    match initial {
        Some(message) => concat(&[b"AUTH ", mechanism, b" ", message, b"\r\n"]),
        None => concat(&[b"AUTH ", mechanism, b"\r\n"]),
    }
}

/// The length of [`auth_command`] with an initial message, in bytes.
pub(super) fn auth_command_length(mechanism: &str, initial: &[u8]) -> usize {
    "AUTH ".len() + mechanism.len() + 1 + initial.len() + 2
}

/// SASL PLAIN (RFC 4616 §2): one message from the client.
async fn login_plain(
    x: &mut impl Exchange,
    credentials: Credentials<'_>,
) -> Result<(), ProbeError> {
    let message = plain(credentials.user, credentials.password);
    if x.takes_initial("PLAIN", &message) {
        x.begin("PLAIN", Some(&message)).await?;
        let done = expect(x, SaslAnswer::Success).await;
        if !x.take_initial_refused() {
            return done;
        }
    }
    x.begin("PLAIN", None).await?;
    expect(x, SaslAnswer::Challenge).await?;
    x.respond(&message).await?;
    expect(x, SaslAnswer::Success).await
}

/// SASL LOGIN: the server asks for the user, then for the password. The texts of its prompts differ
/// between servers and are ignored.
async fn login_login(
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
