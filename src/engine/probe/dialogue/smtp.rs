//! SMTP and submission (RFC 5321), with AUTH (RFC 4954) and STARTTLS (RFC 3207).
//!
//! ```text
//! S: 220-mx.example.com ESMTP                      RFC 5321 §3.1, §4.2.1 (many lines)
//! S: 220 ready
//! C: EHLO probe.example.org                        §4.1.1.1
//! S: 250-mx.example.com
//! S: 250-ENHANCEDSTATUSCODES
//! S: 250 STARTTLS
//! C: STARTTLS                                      RFC 3207 §4, tls_mode starttls
//! S: 220 2.0.0 go ahead
//!    (TLS; what was learned so far is forgotten, RFC 3207 §4.2)
//! C: EHLO probe.example.org
//! S: 250-mx.example.com
//! S: 250 AUTH PLAIN LOGIN                          RFC 4954 §3
//! C: AUTH PLAIN AHByb2JlAHNlY3JldA==               RFC 4954 §4
//! S: 235 2.7.0 logged in
//! C: QUIT                                          RFC 5321 §4.1.1.10
//! S: 221 2.0.0 bye
//! ```
//!
//! If a server refuses EHLO, HELO is sent (§3.2, §4.1.4), unless the target is configured with
//! credentials or STARTTLS, which need EHLO.

use super::encode::concat;
use super::hello;
use super::sasl::{self, Credentials, Exchange, Offer, SaslAnswer};
use super::session::{Session, split_word, words};
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::TlsMode;

pub(super) const CLOSING_COMMAND: &[u8] = b"QUIT\r\n";

/// The longest command line in bytes, with its end (RFC 5321 §4.5.3.1.4); it holds for AUTH as well
/// (RFC 4954 §4).
const COMMAND_MAX: usize = 512;

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    converse(s, Hello::Ehlo).await
}

/// The greeting command; the only difference between SMTP and LMTP here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    Ehlo,
    /// RFC 2033 §4.1.
    Lhlo,
}

impl Hello {
    fn command(self) -> &'static str {
        match self {
            Self::Ehlo => "EHLO",
            Self::Lhlo => "LHLO",
        }
    }
}

pub(super) async fn converse(s: &mut Session<'_>, hello: Hello) -> Result<(), ProbeError> {
    let mut smtp = Smtp {
        s,
        start_tls: false,
        offer: Offer::default(),
        has_sent_credentials: false,
    };
    smtp.greeting().await?;
    smtp.hello(hello).await?;
    if smtp.s.target().tls_mode == TlsMode::StartTls {
        smtp.start_tls().await?;
        smtp.hello(hello).await?;
    }
    smtp.s.enter(Stage::Auth);
    match Credentials::of(smtp.s)? {
        Some(credentials) => smtp.login(credentials).await,
        None => Ok(()),
    }
}

struct Smtp<'s, 'a> {
    s: &'s mut Session<'a>,
    start_tls: bool,
    offer: Offer,
    /// Whether the present login has sent any credentials.
    has_sent_credentials: bool,
}

impl Smtp<'_, '_> {
    /// Reads the greeting (RFC 5321 §4.3.2): 220, 554 if the server offers no service, or 421 if it
    /// offers none at the moment.
    async fn greeting(&mut self) -> Result<(), ProbeError> {
        match self.reply().await? {
            220 => Ok(()),
            400..=599 => Err(self.s.refused()),
            _ => Err(self.s.unexpected()),
        }
    }

    /// Sends EHLO or LHLO and reads the list of extensions (RFC 5321 §4.1.1.1).
    async fn hello(&mut self, hello: Hello) -> Result<(), ProbeError> {
        self.s.enter(Stage::Capability);
        self.start_tls = false;
        self.offer = Offer::default();
        let name = hello::name(self.s);
        self.say_hello(hello.command(), &name).await?;
        let mut code = self.extensions().await?;
        let target = self.s.target();
        if (500..=599).contains(&code)
            && hello == Hello::Ehlo
            && target.test_username.is_none()
            && target.tls_mode != TlsMode::StartTls
        {
            // RFC 5321 §3.2. The reply to HELO replaces the refusal of EHLO.
            self.say_hello("HELO", &name).await?;
            code = self.reply().await?;
        }
        match code {
            250 => {
                self.s.accepted();
                Ok(())
            }
            400..=599 => Err(self.s.refused()),
            _ => Err(self.s.unexpected()),
        }
    }

    async fn say_hello(&mut self, command: &str, name: &str) -> Result<(), ProbeError> {
        let line = format!("{command} {name}\r\n");
        self.s.send(line.as_bytes()).await
    }

    /// Sends STARTTLS (RFC 3207 §4) and performs the handshake.
    async fn start_tls(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::StartTls);
        if !self.start_tls {
            return Err(self.s.fail("server does not offer STARTTLS"));
        }
        self.s.send(b"STARTTLS\r\n").await?;
        match self.reply().await? {
            220 => self.s.start_tls().await,
            400..=599 => Err(self.s.refused()),
            _ => Err(self.s.unexpected()),
        }
    }

    async fn login(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        let choices = self.offer.choices(self.s, None, false)?;
        let credentials = credentials.permitted(self.s)?;
        sasl::login(self, choices, credentials).await
    }

    /// Reads a complete reply and returns its code. Its last line stays available for quoting.
    async fn reply(&mut self) -> Result<u16, ProbeError> {
        let (code, mut more) = self.reply_line().await?;
        while more {
            more = self.next_reply_line(code).await?;
        }
        self.reply_ended(code);
        Ok(code)
    }

    /// Reads the reply to EHLO or LHLO: the first line has the server's name, each other line an
    /// extension. Returns the code.
    async fn extensions(&mut self) -> Result<u16, ProbeError> {
        let (code, mut more) = self.reply_line().await?;
        while more {
            more = self.next_reply_line(code).await?;
            if code == 250 {
                self.extension();
            }
        }
        self.reply_ended(code);
        Ok(code)
    }

    fn extension(&mut self) {
        let text = self.s.line().get(4..).unwrap_or_default();
        let (keyword, parameters) = split_word(text);
        if keyword.eq_ignore_ascii_case(b"STARTTLS") {
            self.start_tls = true;
        } else if keyword.eq_ignore_ascii_case(b"AUTH") {
            words(parameters).for_each(|m| self.offer.add(m));
        } else if let Some((name, first)) = keyword.split_at_checked(5)
            && name.eq_ignore_ascii_case(b"AUTH=")
        {
            // The form from before RFC 2554; some servers send it in addition to `AUTH`.
            words(first)
                .chain(words(parameters))
                .for_each(|m| self.offer.add(m));
        }
    }

    async fn next_reply_line(&mut self, code: u16) -> Result<bool, ProbeError> {
        let (next, more) = self.reply_line().await?;
        if next == code {
            return Ok(more);
        }
        // RFC 5321 §4.2.1: all lines of a reply have the same code.
        let quoted = self.s.quote(self.s.line());
        Err(self
            .s
            .fail(format!("code {code} changes within a reply: {quoted}")))
    }

    /// Reads one line. Returns its code and whether another line follows (RFC 5321 §4.2.1). A code
    /// without text, or even without the space after it, is accepted, as §4.2 demands.
    async fn reply_line(&mut self) -> Result<(u16, bool), ProbeError> {
        self.s.read_line().await?;
        let (code, rest) = match self.s.line() {
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
                let digit = |d: &u8| u16::from(d - b'0');
                (digit(a) * 100 + digit(b) * 10 + digit(c), rest)
            }
            _ => return Err(self.s.unexpected()),
        };
        match rest.first() {
            None | Some(b' ') => Ok((code, false)),
            Some(b'-') => Ok((code, true)),
            Some(_) => Err(self.s.unexpected()),
        }
    }

    /// Records the end of a reply. After 421 the server closes the connection (RFC 5321 §3.8), so
    /// no QUIT is sent.
    fn reply_ended(&mut self, code: u16) {
        if code != 421 {
            self.s.settle();
        }
    }
}

impl Exchange for Smtp<'_, '_> {
    fn takes_initial(&self, mechanism: &str, initial: &[u8]) -> bool {
        sasl::auth_command_length(mechanism, initial) <= COMMAND_MAX
    }

    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError> {
        self.has_sent_credentials = initial.is_some();
        self.s.send(&sasl::auth_command(mechanism, initial)).await
    }

    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError> {
        self.has_sent_credentials = true;
        self.s.send(&concat(&[message, b"\r\n"])).await
    }

    /// The reply codes of AUTH (RFC 4954 §4, §6). Servers refuse credentials with other codes than 535
    /// as well: 501 (Cyrus), 525, 550, 554.
    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError> {
        match self.reply().await? {
            235 => Ok(SaslAnswer::Success),
            334 => Ok(SaslAnswer::Challenge),
            // The mechanism is unknown, too weak for this user, or not without encryption (RFC 4954
            // §4, §6; RFC 2554 §6).
            504 | 534 | 538 => Err(self.s.refuse_mechanism()),
            535 => Err(self.s.refused_login()),
            500..=599 if self.has_sent_credentials => Err(self.s.refused_login()),
            500..=599 => Err(self.s.refuse_mechanism()),
            400..=499 => Err(self.s.refused()),
            _ => Err(self.s.unexpected()),
        }
    }

    fn unexpected(&self) -> ProbeError {
        self.s.unexpected()
    }

    fn take_mechanism_refused(&mut self) -> bool {
        self.s.take_mechanism_refused()
    }

    /// SMTP has no command of its own for the login.
    async fn login_natively(&mut self, _: Credentials<'_>) -> Result<(), ProbeError> {
        Err(self.unexpected())
    }
}
