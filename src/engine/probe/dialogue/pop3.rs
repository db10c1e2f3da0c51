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
//! C: USER probe                                    RFC 1939 §7
//! S: +OK
//! C: PASS secret
//! S: +OK logged in
//! C: STAT                                          RFC 1939 §5, where there is a test_mailbox
//! S: +OK 2 320
//! C: QUIT                                          RFC 1939 §5
//! S: +OK bye
//! ```
//!
//! A server that does not know CAPA (RFC 1939 alone) is taken to have USER and PASS. If the server does
//! not offer them, or they cannot carry the credentials, SASL is used:
//!
//! ```text
//! C: AUTH PLAIN                                    RFC 5034 §4
//! S: +
//! C: AHByb2JlAHNlY3JldA==
//! S: +OK logged in
//! ```
//!
//! RFC 5034 §4 allows the message in the line of AUTH as well. It is not sent there, since Exchange
//! refuses such a line, and nginx refuses commands longer than 128 bytes.

use super::encode::concat;
use super::sasl::{self, Credentials, Exchange, Offer, SaslAnswer};
use super::session::{Session, split_word, words};
use crate::engine::probe::error::{Evidence, ProbeError, Stage};
use crate::engine::probe::proxy;
use crate::engine::target::{AuthMechanism, TlsMode};

pub(super) const CLOSING_COMMAND: &[u8] = b"QUIT\r\n";

/// The longest command line in bytes, with its end (RFC 2449 §4).
const COMMAND_MAX: usize = 255;

const USER: &[u8] = b"USER ";
const PASS: &[u8] = b"PASS ";

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    let mut pop3 = Pop3 {
        s,
        stls: false,
        refuses_capa: false,
        by_sasl: false,
        unsent: 0,
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
        None if pop3.refuses_capa => return pop3.quit().await,
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
    refuses_capa: bool,
    /// Whether the present login uses AUTH.
    by_sasl: bool,
    /// How many messages of the present login are left to be sent. The last one has the password.
    unsent: u8,
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
        self.refuses_capa = false;
        self.says_why = false;
        self.offer = Offer::default();
        for _ in 0..self.refusals_needed()? {
            self.s.send(b"CAPA\r\n").await?;
            match self.status().await? {
                Status::Ok => return self.list().await,
                Status::Err => self.s.settle(),
                Status::Continue => return Err(self.s.unexpected()),
            }
            if response_code(self.s.line()).is_some_and(is_trouble) {
                return Err(self.s.refused());
            }
        }
        self.refuses_capa = true;
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
        let is_suited = suits_user_and_pass(credentials);
        let choices = self
            .offer
            .choices(self.s, Some(AuthMechanism::UserPass), is_suited)?;
        let credentials = credentials.permitted(self.s)?;
        sasl::login(self, choices, credentials).await
    }

    /// Sends QUIT (RFC 1939 §5), which must be answered: a server that has refused CAPA has not
    /// shown yet that it serves anything.
    async fn quit(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::Capability);
        self.s.send(CLOSING_COMMAND).await?;
        match self.status().await? {
            Status::Ok => {
                self.s.note_closed();
                Ok(())
            }
            Status::Err => Err(self.s.refused()),
            Status::Continue => Err(self.s.unexpected()),
        }
    }

    /// The meaning of a refusal during the login.
    fn refused_login(&mut self) -> Result<SaslAnswer, ProbeError> {
        let code = response_code(self.s.line());
        let is = |name: &[u8]| code.is_some_and(|code| code.eq_ignore_ascii_case(name));
        let has_password = self.unsent == 0;
        if is(b"IN-USE") {
            // RFC 2449 §8.1.2: the credentials are right, but another session has the maildrop
            // open. That proves that logins work, so the probe succeeds, unless it has to open the
            // maildrop itself: the other session may be another probe, or one that hangs.
            return if has_password && self.s.target().test_mailbox.is_none() {
                Ok(SaslAnswer::Success)
            } else {
                Err(ProbeError {
                    evidence: Evidence::IfRepeated,
                    ..self.s.refused()
                })
            };
        }
        if is(b"LOGIN-DELAY") {
            // RFC 2449 §8.1.1: the server may not have looked at the password.
            return Err(ProbeError {
                login_refused: true,
                evidence: Evidence::Nothing,
                ..self.s.refused()
            });
        }
        Err(match code {
            Some(code) if is_trouble(code) => self.s.refused(),
            _ if is(b"AUTH") => self.s.refused_login(),
            // The server has not seen the password yet.
            _ if !has_password => self.s.refuse_mechanism(),
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
    fn takes_initial(&self, _: &str, _: &[u8]) -> bool {
        false
    }

    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError> {
        self.by_sasl = true;
        self.unsent = if mechanism == "LOGIN" { 2 } else { 1 };
        self.s.send(&sasl::auth_command(mechanism, initial)).await
    }

    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError> {
        self.unsent = self.unsent.saturating_sub(1);
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

    /// USER and PASS (RFC 1939 §7). The password may contain spaces.
    async fn login_natively(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        self.by_sasl = false;
        self.unsent = 1;
        let user = concat(&[USER, credentials.user.as_bytes(), b"\r\n"]);
        self.s.send(&user).await?;
        self.ok().await?;
        self.unsent = 0;
        let pass = concat(&[PASS, credentials.password.as_bytes(), b"\r\n"]);
        self.s.send(&pass).await?;
        self.ok().await
    }
}

/// Whether USER and PASS carry the credentials to every server. RFC 1939 §3 has printable ASCII in
/// arguments. A space in the name would begin another one, and servers may remove spaces around
/// the password.
fn suits_user_and_pass(credentials: Credentials<'_>) -> bool {
    let Credentials { user, password } = credentials;
    let fits = |command: &[u8], text: &str| command.len() + text.len() + 2 <= COMMAND_MAX;
    let is_printable = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~'));
    fits(USER, user)
        && fits(PASS, password)
        && is_printable(user)
        && is_printable(password)
        && !user.contains(' ')
        && password.trim_ascii() == password
}

/// Whether a response code stands for a problem of the server (RFC 3206 §4).
fn is_trouble(code: &[u8]) -> bool {
    code.get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"SYS/"))
}

/// The code at the start of a reply's text, `-ERR [IN-USE] …` (RFC 2449 §8).
fn response_code(line: &[u8]) -> Option<&[u8]> {
    let text = split_word(line).1.strip_prefix(b"[")?;
    Some(&text[..text.iter().position(|&b| b == b']')?])
}
