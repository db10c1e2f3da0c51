//! POP3 (RFC 1939), with CAPA (RFC 2449), STLS (RFC 2595) and AUTH (RFC 5034).
//!
//! ```text
//! S: +OK ready <1896.697170952@example.com>        RFC 1939 §4
//! C: CAPA                                          RFC 2449 §5
//! S: +OK
//! S: STLS                                          RFC 2595 §4
//! S: .
//! C: STLS                                          tls_mode starttls
//! S: +OK begin TLS
//!    (TLS; what was learned so far is forgotten, RFC 2595 §4)
//! C: CAPA
//! S: +OK
//! S: USER                                          RFC 2449 §6.2
//! S: SASL PLAIN LOGIN                              RFC 2449 §6.3
//! S: .
//! C: AUTH PLAIN AHByb2JlAHNlY3JldA==               RFC 5034 §4
//! S: +OK logged in
//! C: STAT                                          RFC 1939 §5, where there is a test_mailbox
//! S: +OK 2 320
//! C: QUIT                                          RFC 1939 §5
//! S: +OK bye
//! ```
//!
//! If the server offers only USER, or does not know CAPA (RFC 1939 alone):
//!
//! ```text
//! C: USER probe                                    RFC 1939 §7
//! S: +OK
//! C: PASS secret
//! S: +OK logged in
//! ```

use super::encode::concat;
use super::sasl::{self, Credentials, Exchange, Mechanism, Offer, SaslAnswer};
use super::session::{Session, split_word, words};
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::probe::proxy;
use crate::engine::target::{AuthMechanism, TlsMode};

pub(super) const CLOSING_COMMAND: &[u8] = b"QUIT\r\n";

/// The longest command line in bytes, with its end (RFC 2449 §4). A longer initial response is sent
/// after the server's `+` (RFC 5034 §4).
const COMMAND_MAX: usize = 255;

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    let mut pop3 = Pop3 {
        s,
        stls: false,
        by_sasl: false,
        says_why: false,
        offer: Offer::default(),
    };
    pop3.ok().await?;
    pop3.capabilities().await?;
    if pop3.s.target().tls_mode == TlsMode::StartTls {
        pop3.start_tls().await?;
        pop3.capabilities().await?;
    }
    pop3.s.enter(Stage::Auth);
    match Credentials::of(pop3.s)? {
        Some(credentials) => pop3.login(credentials).await?,
        None => return Ok(()),
    }
    if pop3.s.target().test_mailbox.is_some() {
        pop3.s.enter(Stage::Stat);
        pop3.s.send(b"STAT\r\n").await?;
        pop3.ok().await?;
    }
    Ok(())
}

struct Pop3<'s, 'a> {
    s: &'s mut Session<'a>,
    stls: bool,
    /// Whether the present login uses AUTH.
    by_sasl: bool,
    /// Whether the server marks a login that it refuses for its credentials with `[AUTH]` (RFC 3206
    /// §6).
    says_why: bool,
    offer: Offer,
}

/// The status in the first line of a reply (RFC 1939 §3, RFC 5034 §4).
#[derive(PartialEq, Eq)]
enum Status {
    Ok,
    Err,
    Continue,
}

impl Pop3<'_, '_> {
    /// Asks for the capabilities (RFC 2449 §5). A server that refuses CAPA is taken to have USER
    /// and PASS, as in RFC 1939.
    async fn capabilities(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::Capability);
        self.stls = false;
        self.says_why = false;
        self.offer = Offer::default();
        for _ in 0..self.refusals_needed()? {
            self.s.send(b"CAPA\r\n").await?;
            match self.status().await? {
                Status::Ok => return self.list().await,
                Status::Err => self.s.settle(),
                Status::Continue => return Err(self.s.unexpected()),
            }
        }
        self.offer.add_native("USER");
        Ok(())
    }

    /// How often CAPA must be refused before the refusal counts. After a PROXY header, the first
    /// `-ERR`s may be a server's answers to the header, read as commands that end with QUIT; such a
    /// server must not pass. With credentials one refusal is enough, because the login would fail.
    fn refusals_needed(&self) -> Result<usize, ProbeError> {
        let target = self.s.target();
        let is_in_doubt = target.haproxy_v2 && !self.s.tls() && Credentials::of(self.s)?.is_none();
        Ok(if is_in_doubt {
            1 + proxy::COMMANDS_BEFORE_QUIT
        } else {
            1
        })
    }

    /// Reads the list in the reply to CAPA.
    async fn list(&mut self) -> Result<(), ProbeError> {
        loop {
            self.s.read_line().await?;
            // RFC 1939 §3: a line with only a dot ends the list; a line that begins with a dot is
            // sent with another one before it.
            let line = match self.s.line() {
                b"." => break,
                [b'.', line @ ..] | line => line,
            };
            let (name, parameters) = split_word(line);
            if name.eq_ignore_ascii_case(b"STLS") {
                self.stls = true;
            } else if name.eq_ignore_ascii_case(b"USER") {
                self.offer.add_native("USER");
            } else if name.eq_ignore_ascii_case(b"SASL") {
                words(parameters).for_each(|m| self.offer.add(m));
            } else if name.eq_ignore_ascii_case(b"AUTH-RESP-CODE") {
                self.says_why = true;
            }
        }
        self.s.accepted();
        Ok(())
    }

    /// Sends STLS (RFC 2595 §4) and performs the handshake.
    async fn start_tls(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::StartTls);
        if !self.stls {
            return Err(self.s.fail("server does not offer STLS"));
        }
        self.s.send(b"STLS\r\n").await?;
        self.ok().await?;
        self.s.start_tls().await
    }

    async fn login(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        let choices = self.offer.choices(self.s, Some(AuthMechanism::UserPass))?;
        let credentials = credentials.permitted(self.s)?;
        let mut done = Ok(());
        for mechanism in choices {
            self.by_sasl = mechanism != Mechanism::Native;
            done = match mechanism {
                Mechanism::Plain => sasl::login_plain(self, credentials).await,
                Mechanism::Login => sasl::login_login(self, credentials).await,
                Mechanism::Native => self.user_and_pass(credentials).await,
            };
            if !self.s.take_mechanism_refused() {
                break;
            }
        }
        done
    }

    /// Logs in by USER and PASS (RFC 1939 §7). The password may contain spaces.
    async fn user_and_pass(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        let user = concat(&[b"USER ", credentials.user.as_bytes(), b"\r\n"]);
        self.s.send(&user).await?;
        self.ok().await?;
        let pass = concat(&[b"PASS ", credentials.password.as_bytes(), b"\r\n"]);
        self.s.send(&pass).await?;
        self.ok().await
    }

    /// The meaning of a refused login: its response code may say that the credentials are right.
    fn refused_login(&mut self) -> Result<SaslAnswer, ProbeError> {
        let code = response_code(self.s.line());
        let is = |name: &[u8]| code.is_some_and(|code| code.eq_ignore_ascii_case(name));
        if is(b"IN-USE") || is(b"LOGIN-DELAY") {
            // RFC 2449 §8.1: the credentials are right, but another session has the maildrop open
            // or has just closed it. That proves that logins work, so the probe succeeds, unless it
            // has to open the maildrop itself.
            return match self.s.target().test_mailbox {
                None => Ok(SaslAnswer::Success),
                Some(_) => Err(self.s.refused()),
            };
        }
        Err(match code {
            // RFC 3206 §4: a problem of the server, not of the credentials.
            Some(code) if code.to_ascii_uppercase().starts_with(b"SYS/") => self.s.refused(),
            None if self.says_why && self.by_sasl => self.s.refuse_mechanism(),
            _ => self.s.refused_login(),
        })
    }

    /// Waits for `+OK`.
    async fn ok(&mut self) -> Result<(), ProbeError> {
        match self.answer().await? {
            SaslAnswer::Success => Ok(()),
            SaslAnswer::Challenge => Err(self.s.unexpected()),
        }
    }

    async fn status(&mut self) -> Result<Status, ProbeError> {
        self.s.read_line().await?;
        match split_word(self.s.line()).0 {
            b"+" => Ok(Status::Continue),
            word if word.eq_ignore_ascii_case(b"+OK") => Ok(Status::Ok),
            word if word.eq_ignore_ascii_case(b"-ERR") => Ok(Status::Err),
            _ => Err(self.s.unexpected()),
        }
    }
}

impl Exchange for Pop3<'_, '_> {
    fn takes_initial(&self, mechanism: &str, initial: &[u8]) -> bool {
        sasl::auth_command_length(mechanism, initial) <= COMMAND_MAX
    }

    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError> {
        self.s.send(&sasl::auth_command(mechanism, initial)).await
    }

    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError> {
        self.s.send(&concat(&[message, b"\r\n"])).await
    }

    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError> {
        match self.status().await? {
            Status::Continue => {
                self.s.note_understood();
                Ok(SaslAnswer::Challenge)
            }
            Status::Ok => {
                self.s.settle();
                Ok(SaslAnswer::Success)
            }
            Status::Err => {
                self.s.settle();
                if self.s.is_at(Stage::Auth) {
                    self.refused_login()
                } else {
                    Err(self.s.refused())
                }
            }
        }
    }

    fn unexpected(&self) -> ProbeError {
        self.s.unexpected()
    }

    fn take_mechanism_refused(&mut self) -> bool {
        self.s.take_mechanism_refused()
    }
}

/// The code at the start of a reply's text, `-ERR [IN-USE] …` (RFC 2449 §8).
fn response_code(line: &[u8]) -> Option<&[u8]> {
    let text = split_word(line).1.strip_prefix(b"[")?;
    Some(&text[..text.iter().position(|&b| b == b']')?])
}
