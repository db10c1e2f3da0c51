//! IMAP (RFC 9051; RFC 3501 for servers of rev1).
//!
//! ```text
//! S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready      RFC 9051 §7.1.1, §7.1.5
//! C: a1 CAPABILITY                                                 §6.1.1, where not greeted with it
//! S: * CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED                 §7.2.2
//! S: a1 OK done
//! C: a2 STARTTLS                                                   §6.2.1, tls_mode starttls
//! S: a2 OK begin TLS
//!    (TLS; what was learned so far is forgotten, §11.1)
//! C: a3 CAPABILITY
//! S: * CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN
//! S: a3 OK done
//! C: a4 AUTHENTICATE PLAIN AHByb2JlAHNlY3JldA==                    §6.2.2, with SASL-IR
//! S: a4 OK [CAPABILITY IMAP4rev1 IDLE] logged in
//! C: a5 EXAMINE "INBOX"                                             §6.3.3, where there is a test_mailbox
//! S: * 17 EXISTS
//! S: a5 OK [READ-ONLY] done
//! C: z LOGOUT                                                      §6.1.3
//! S: * BYE
//! S: z OK
//! ```
//!
//! Without SASL-IR, PLAIN's message is sent after the server's `+` (§7.6); so it is, too, if the server
//! has answered BAD to the command with the message. AUTH=LOGIN asks for the user and the password in
//! turn. If neither mechanism is offered, the LOGIN command is used:
//!
//! ```text
//! C: a4 LOGIN "probe" {9}                                          §6.2.3
//! S: + go on                                                       (not with LITERAL+, RFC 7888)
//! C: pässwort
//! S: a4 OK logged in
//! ```

use super::encode::{self, concat};
use super::mailbox_name;
use super::sasl::{self, Credentials, Exchange, Offer, SaslAnswer};
use super::session::{Session, split_word, words};
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::{AuthMechanism, TlsMode};

pub(super) const CLOSING_COMMAND: &[u8] = b"z LOGOUT\r\n";

/// The beginning of a line that Dovecot sends before its greeting while its authentication process
/// is not ready.
const NOT_YET: &[u8] = b"Waiting for authentication process";

/// The longest non-synchronizing literal in bytes under LITERAL- (RFC 7888 §5).
const LITERAL_MINUS_MAX: usize = 4096;

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    let mut imap = Imap {
        s,
        tag: Vec::new(),
        commands: 0,
        capabilities: None,
        speaks_utf8: false,
        has_initial: false,
        initial_refused: false,
    };
    let authenticated = imap.greeting().await?;

    if imap.s.target().tls_mode == TlsMode::StartTls {
        if authenticated {
            // §7.1.4: a session that begins authenticated cannot start TLS.
            imap.s.enter(Stage::StartTls);
            return Err(imap
                .s
                .fail("server greets with PREAUTH, which rules STARTTLS out"));
        }
        imap.start_tls().await?;
    }

    imap.s.enter(Stage::Auth);
    let login = match Credentials::of(imap.s)? {
        // After PREAUTH the session is authenticated, and a login is not possible (§3.2).
        _ if authenticated => None,
        login => login,
    };
    // A list in the greeting saves the round trip of CAPABILITY. If no login follows, CAPABILITY is
    // sent all the same: a server that only greets must not pass.
    if imap.capabilities.is_none() || login.is_none() {
        imap.ask_capabilities().await?;
    }
    match login {
        Some(login) => imap.login(login).await?,
        // A session that began authenticated can open a mailbox as well.
        None if authenticated => {}
        None => return Ok(()),
    }
    match &imap.s.target().test_mailbox {
        Some(mailbox) => imap.examine(mailbox).await,
        None => Ok(()),
    }
}

/// The capabilities that a probe uses.
#[derive(Default)]
struct Capabilities {
    start_tls: bool,
    sasl_ir: bool,
    literal_plus: bool,
    literal_minus: bool,
    /// UTF8=ACCEPT or UTF8=ONLY (RFC 6855): mailbox names may be in UTF-8 once that is enabled.
    utf8: bool,
    offer: Offer,
}

impl Capabilities {
    /// Parses the words after `CAPABILITY` (§7.2.2).
    fn parse(list: &[u8]) -> Self {
        let mut found = Self::default();
        let mut login_disabled = false;
        for word in words(list) {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            match word.split_at_checked(5) {
                Some((prefix, mechanism)) if prefix.eq_ignore_ascii_case(b"AUTH=") => {
                    found.offer.add(mechanism);
                }
                _ => {
                    found.start_tls |= is("STARTTLS");
                    found.sasl_ir |= is("SASL-IR");
                    found.literal_plus |= is("LITERAL+");
                    // IMAP4rev2 contains LITERAL- (RFC 9051 §4.3).
                    found.literal_minus |= is("LITERAL-") || is("IMAP4REV2");
                    found.utf8 |= is("UTF8=ACCEPT") || is("UTF8=ONLY");
                    login_disabled |= is("LOGINDISABLED");
                }
            }
        }
        if !login_disabled {
            found.offer.add_native("LOGIN command");
        }
        found
    }
}

struct Imap<'s, 'a> {
    s: &'s mut Session<'a>,
    /// The tag of the last command.
    tag: Vec<u8>,
    commands: u32,
    /// None until the server has listed them, and again after STARTTLS.
    capabilities: Option<Capabilities>,
    /// Whether quoted strings may be in UTF-8 (RFC 6855 §3).
    speaks_utf8: bool,
    /// Whether the last command contained a login's message (SASL-IR, RFC 4959).
    has_initial: bool,
    /// Whether the server has answered BAD to such a command.
    initial_refused: bool,
}

impl Imap<'_, '_> {
    /// Reads the greeting. Returns whether the session begins authenticated (PREAUTH, §7.1.4).
    async fn greeting(&mut self) -> Result<bool, ProbeError> {
        loop {
            self.s.read_line().await?;
            let Some(greeting) = self.s.line().strip_prefix(b"* ") else {
                return Err(self.s.unexpected());
            };
            let (status, text) = split_word(greeting);
            let is = |name: &[u8]| status.eq_ignore_ascii_case(name);
            if is(b"OK") && starts_with(text, NOT_YET) {
                continue;
            }
            let authenticated = is(b"PREAUTH");
            return if authenticated || is(b"OK") {
                self.capabilities = code_list(text);
                self.s.settle();
                Ok(authenticated)
            } else if is(b"BYE") {
                Err(self.s.refused())
            } else {
                Err(self.s.unexpected())
            };
        }
    }

    /// Sends CAPABILITY (§6.1.1). A reply without the untagged list is an error.
    async fn ask_capabilities(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::Capability);
        self.ask_for_capabilities().await
    }

    async fn ask_for_capabilities(&mut self) -> Result<(), ProbeError> {
        self.capabilities = None;
        self.command(&[b"CAPABILITY"]).await?;
        self.done().await?;
        match self.capabilities {
            Some(_) => Ok(()),
            None => Err(self.s.fail("no list in the reply to CAPABILITY")),
        }
    }

    /// Sends STARTTLS (§6.2.1) and performs the handshake.
    async fn start_tls(&mut self) -> Result<(), ProbeError> {
        if self.capabilities.is_none() {
            self.ask_capabilities().await?;
        }
        self.s.enter(Stage::StartTls);
        if !self.capabilities.as_ref().is_some_and(|c| c.start_tls) {
            return Err(self.s.fail("server does not offer STARTTLS"));
        }
        self.command(&[b"STARTTLS"]).await?;
        self.done().await?;
        self.s.start_tls().await?;
        self.capabilities = None;
        // The server now waits for a command.
        self.s.settle();
        Ok(())
    }

    async fn login(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        self.s.enter(Stage::Auth);
        let choices = match &self.capabilities {
            Some(c) => c.offer.choices(self.s, Some(AuthMechanism::Login), false)?,
            None => return Err(self.s.fail("capabilities unknown")),
        };
        let credentials = credentials.permitted(self.s)?;
        sasl::login(self, choices, credentials).await
    }

    /// Opens the test mailbox by EXAMINE (§6.3.3), a read-only SELECT, to detect a mail store that
    /// does not answer although logins work.
    async fn examine(&mut self, mailbox: &str) -> Result<(), ProbeError> {
        self.s.enter(Stage::Examine);
        if mailbox.is_ascii() {
            let name = mailbox_name::encoded(mailbox);
            return self.with_arguments("EXAMINE", &[&name]).await;
        }
        // The capabilities may change with the login (§6.1.1).
        self.ask_for_capabilities().await?;
        if self.capabilities.as_ref().is_some_and(|c| c.utf8) {
            self.command(&[b"ENABLE UTF8=ACCEPT"]).await?;
            self.done().await?;
            self.speaks_utf8 = true;
            return self.with_arguments("EXAMINE", &[mailbox]).await;
        }
        let name = mailbox_name::encoded(mailbox);
        self.with_arguments("EXAMINE", &[&name]).await
    }

    /// Sends a command and its arguments and waits for the tagged OK. Each argument is a quoted
    /// string or, if it contains characters that cannot be quoted, a literal. The literal is sent
    /// after the server's `+`, or at once if the server allows that (§4.3, RFC 7888).
    async fn with_arguments(
        &mut self,
        command: &str,
        arguments: &[&str],
    ) -> Result<(), ProbeError> {
        self.next_tag();
        let mut wire = concat(&[&self.tag, b" ", command.as_bytes()]);
        for &argument in arguments {
            if let Some(quoted) = quoted(argument, self.speaks_utf8) {
                wire = concat(&[&wire, b" ", &quoted]);
                continue;
            }
            let (plus, minus) = self
                .capabilities
                .as_ref()
                .map_or((false, false), |c| (c.literal_plus, c.literal_minus));
            let length = argument.len();
            if plus || (minus && length <= LITERAL_MINUS_MAX) {
                let head = format!(" {{{length}+}}\r\n");
                wire = concat(&[&wire, head.as_bytes(), argument.as_bytes()]);
            } else {
                let head = format!(" {{{length}}}\r\n");
                self.s.send(&concat(&[&wire, head.as_bytes()])).await?;
                if self.answer().await? != SaslAnswer::Challenge {
                    return Err(self.s.unexpected());
                }
                wire = concat(&[argument.as_bytes()]);
            }
        }
        self.s.send(&concat(&[&wire, b"\r\n"])).await?;
        self.done().await
    }

    fn next_tag(&mut self) {
        self.commands += 1;
        self.has_initial = false;
        self.tag = format!("a{}", self.commands).into_bytes();
    }

    async fn command(&mut self, parts: &[&[u8]]) -> Result<(), ProbeError> {
        self.next_tag();
        let wire = concat(&[&self.tag, b" ", &concat(parts), b"\r\n"]);
        self.s.send(&wire).await
    }

    /// Waits for the tagged OK.
    async fn done(&mut self) -> Result<(), ProbeError> {
        match self.answer().await? {
            SaslAnswer::Success => Ok(()),
            SaslAnswer::Challenge => Err(self.s.unexpected()),
        }
    }

    /// Handles an untagged reply (§7). BYE is an error.
    async fn untagged(&mut self) -> Result<(), ProbeError> {
        let data = self.s.line().get(2..).unwrap_or_default();
        let (kind, rest) = split_word(data);
        let is = |name: &[u8]| kind.eq_ignore_ascii_case(name);
        if is(b"BYE") {
            return Err(self.s.refused());
        }
        if is(b"CAPABILITY") {
            self.capabilities = Some(Capabilities::parse(rest));
        } else if is(b"OK") || is(b"NO") || is(b"BAD") {
            if let Some(list) = code_list(rest) {
                self.capabilities = Some(list);
            }
        } else {
            // Other data may contain literals, whose bytes must not be read as lines (§4.3).
            while let Some(length) = literal(self.s.line()) {
                self.s.read_bytes(length, None).await?;
                self.s.read_line_cut(|_| true).await?;
            }
        }
        Ok(())
    }
}

impl Exchange for Imap<'_, '_> {
    /// With SASL-IR, any message (RFC 4959 §3).
    fn takes_initial(&self, _: &str, _: &[u8]) -> bool {
        self.capabilities.as_ref().is_some_and(|c| c.sasl_ir)
    }

    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError> {
        let mechanism = mechanism.as_bytes();
        match initial {
            Some(m) => {
                self.command(&[b"AUTHENTICATE ", mechanism, b" ", m])
                    .await?;
                self.has_initial = true;
                Ok(())
            }
            None => self.command(&[b"AUTHENTICATE ", mechanism]).await,
        }
    }

    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError> {
        self.s.send(&concat(&[message, b"\r\n"])).await
    }

    /// Waits for the reply with our tag (§7.1) or a continuation request (§7.6).
    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError> {
        loop {
            self.s.read_line_cut(may_be_cut).await?;
            let line = self.s.line();
            if line.starts_with(b"* ") {
                self.untagged().await?;
                continue;
            }
            let (tag, reply) = split_word(line);
            if tag == b"+" {
                self.s.note_understood();
                return Ok(SaslAnswer::Challenge);
            }
            let (status, text) = split_word(reply);
            let is = |name: &[u8]| tag == self.tag && status.eq_ignore_ascii_case(name);
            return if is(b"OK") {
                if let Some(list) = code_list(text) {
                    self.capabilities = Some(list);
                }
                self.s.accepted();
                Ok(SaslAnswer::Success)
            } else if is(b"NO") || is(b"BAD") {
                let (is_bad, is_temporary) = (is(b"BAD"), is_temporary(text));
                self.s.accepted();
                Err(match () {
                    () if !self.s.is_at(Stage::Auth) => self.s.refused(),
                    // §7.1.3: the server does not know the command or its arguments.
                    () if is_bad && self.has_initial => {
                        self.initial_refused = true;
                        self.s.refused()
                    }
                    () if is_bad => self.s.refuse_mechanism(),
                    () if is_temporary => self.s.refused(),
                    () => self.s.refused_login(),
                })
            } else {
                Err(self.s.unexpected())
            };
        }
    }

    fn unexpected(&self) -> ProbeError {
        self.s.unexpected()
    }

    fn take_initial_refused(&mut self) -> bool {
        std::mem::take(&mut self.initial_refused)
    }

    fn take_mechanism_refused(&mut self) -> bool {
        self.s.take_mechanism_refused()
    }

    /// The LOGIN command (§6.2.3).
    async fn login_natively(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        let arguments = [credentials.user, credentials.password];
        self.with_arguments("LOGIN", &arguments).await
    }
}

/// The list of a response code `[CAPABILITY ...]` (§7.1).
fn code_list(text: &[u8]) -> Option<Capabilities> {
    let code = text.strip_prefix(b"[")?;
    let code = &code[..code.iter().position(|&b| b == b']')?];
    let (name, list) = split_word(code);
    name.eq_ignore_ascii_case(b"CAPABILITY")
        .then(|| Capabilities::parse(list))
}

/// Whether a NO has a code for a temporary problem of the server (RFC 5530 §3): the credentials are
/// not at fault.
fn is_temporary(text: &[u8]) -> bool {
    [
        &b"[UNAVAILABLE]"[..],
        b"[SERVERBUG]",
        b"[INUSE]",
        b"[LIMIT]",
    ]
    .iter()
    .any(|code| starts_with(text, code))
}

/// Whether the middle of a long line may be left out: that of untagged data without capabilities,
/// which may be of any length. EXAMINE lists all keywords of the mailbox in one line (§7.3.5).
fn may_be_cut(line: &[u8]) -> bool {
    let Some(data) = line.strip_prefix(b"* ") else {
        return false;
    };
    let (kind, rest) = split_word(data);
    !kind.eq_ignore_ascii_case(b"CAPABILITY") && !starts_with(rest, b"[CAPABILITY")
}

/// The length of the literal that a line ends with: `{5}`, `{5+}`, `~{5}` (§4.3, §4.4).
fn literal(line: &[u8]) -> Option<u64> {
    let inner = line.strip_suffix(b"}")?;
    let digits = &inner[inner.iter().rposition(|&b| b == b'{')? + 1..];
    let digits = digits.strip_suffix(b"+").unwrap_or(digits);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A length that does not fit is saturated: it is beyond the read limit in any case.
    Some(digits.iter().fold(0, |n: u64, d| {
        n.saturating_mul(10).saturating_add(u64::from(d - b'0'))
    }))
}

/// `text` as a quoted string (§4.3), with `"` and `\` escaped. None if it contains anything but
/// printable ASCII; where the server accepts UTF-8, only if it contains a control character.
fn quoted(text: &str, utf8: bool) -> Option<encode::Wiped> {
    let fits = |c: char| c == ' ' || c.is_ascii_graphic() || (utf8 && !c.is_control());
    if !text.chars().all(fits) {
        return None;
    }
    // Room for an escape before each byte: growing would leave an unwiped copy.
    let mut quoted = encode::Wiped::new(Vec::with_capacity(2 * text.len() + 2));
    quoted.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    Some(quoted)
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_seen_at_the_end_of_a_line_only() {
        assert_eq!(literal(b"LIST () \"/\" {5}"), Some(5));
        assert_eq!(literal(b"FETCH (BODY[] ~{12+}"), Some(12));
        assert_eq!(literal(b"{99999999999999999999999}"), Some(u64::MAX));
        for none in [
            &b"{}"[..],
            b"{5",
            b"5}",
            b"{5} ",
            b"{a}",
            b"{+}",
            b"{-5}",
            b"",
        ] {
            assert_eq!(literal(none), None);
        }
    }

    #[test]
    fn arguments_are_quoted_or_not_quotable() {
        assert_eq!(
            quoted(r#"a"b\c d"#, false).unwrap().as_slice(),
            br#""a\"b\\c d""#
        );
        assert_eq!(quoted("", false).unwrap().as_slice(), b"\"\"");
        assert_eq!(quoted("p\u{e4}ss", false), None);
        assert_eq!(quoted("tab\t", true), None);
        assert_eq!(
            quoted("p\u{e4}ss", true).unwrap().as_slice(),
            "\"p\u{e4}ss\"".as_bytes()
        );
    }

    #[test]
    fn capabilities_are_case_insensitive_words() {
        let found = Capabilities::parse(b"imap4REV1  auth=plain AUTH=X sasl-ir LoginDisabled");
        assert!(found.sasl_ir && !found.start_tls && !found.literal_minus);
        assert!(Capabilities::parse(b"IMAP4rev2").literal_minus);
        assert!(code_list(b"[CAPABILITY STARTTLS] hi").unwrap().start_tls);
        assert!(code_list(b"[CAPABILITY STARTTLS hi").is_none());
        assert!(code_list(b"[ALERT] [CAPABILITY STARTTLS]").is_none());
    }
}
