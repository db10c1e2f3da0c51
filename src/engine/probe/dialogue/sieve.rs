//! ManageSieve (RFC 5804).
//!
//! ```text
//! S: "IMPLEMENTATION" "Example1 ManageSieved v001"  RFC 5804 §1.7: the greeting is the list
//! S: "SASL" ""
//! S: "SIEVE" "fileinto vacation"
//! S: "STARTTLS"
//! S: "VERSION" "1.0"
//! S: OK
//! C: STARTTLS                                       §2.2, tls_mode starttls
//! S: OK
//!    (TLS; what was learned so far is forgotten, §2.2)
//! S: "IMPLEMENTATION" "Example1 ManageSieved v001"  §2.2: the server says it again by itself
//! S: "SASL" "PLAIN LOGIN"
//! S: OK
//! C: AUTHENTICATE "PLAIN" "AHByb2JlAHNlY3JldA=="    §2.1
//! S: OK
//! C: LISTSCRIPTS                                    §2.7, where there is a test_mailbox
//! S: "vacation" ACTIVE
//! S: OK
//! C: LOGOUT                                         §2.3
//! S: OK
//! ```
//!
//! Each string may be quoted or a literal: `{3}`, CRLF and three bytes (§1.2).

use super::encode::{self, concat};
use super::sasl::{self, Credentials, Exchange, Offer, SaslAnswer};
use super::session::{Session, split_word, words};
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::TlsMode;

pub(super) const CLOSING_COMMAND: &[u8] = b"LOGOUT\r\n";

/// The longest quoted string in bytes (RFC 5804 §4); longer ones are sent as literals.
const QUOTED_MAX: usize = 1024;

/// How many top-level words and strings of a reply are kept. No reply needs more to be understood.
const TOKENS_MAX: usize = 3;

/// How many bytes of a reply are kept for quoting.
const SAID_MAX: usize = 512;

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
    let mut sieve = Sieve {
        s,
        reply: Reply::default(),
        start_tls: false,
        offer: Offer::default(),
    };
    sieve.capabilities().await?;
    if sieve.s.target().tls_mode == TlsMode::StartTls {
        sieve.start_tls().await?;
        sieve.capabilities().await?;
    } else if Credentials::of(sieve.s)?.is_none() {
        // The first list came with the greeting. If no other command followed, a server that only
        // greets would pass.
        sieve.s.enter(Stage::Capability);
        sieve.s.send(b"CAPABILITY\r\n").await?;
        sieve.capabilities().await?;
        sieve.s.accepted();
    }
    sieve.s.enter(Stage::Auth);
    match Credentials::of(sieve.s)? {
        Some(credentials) => sieve.login(credentials).await?,
        None => return Ok(()),
    }
    if sieve.s.target().test_mailbox.is_some() {
        sieve.list_scripts().await?;
    }
    Ok(())
}

/// A word or string in a reply, outside parentheses.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(Vec<u8>),
    Text(Vec<u8>),
}

/// One reply: one line, or several if it contains literals.
#[derive(Default)]
struct Reply {
    tokens: Vec<Token>,
    /// How many parentheses are open (response codes, §1.3).
    depth: usize,
    /// The first [`SAID_MAX`] bytes of the reply.
    said: Vec<u8>,
}

impl Reply {
    fn keeps(&self) -> bool {
        self.depth == 0 && self.tokens.len() < TOKENS_MAX
    }

    fn push(&mut self, token: Token) {
        if self.keeps() {
            self.tokens.push(token);
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        let room = SAID_MAX.saturating_sub(self.said.len());
        self.said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Parses one line. Returns the length of the literal that follows it, if any; None if the line
    /// does not match the grammar (§4).
    fn line(&mut self, line: &[u8]) -> Option<Option<u64>> {
        let mut rest = line;
        loop {
            rest = match rest {
                [] => return Some(None),
                [b' ', rest @ ..] => rest,
                [b'(', rest @ ..] => {
                    self.depth += 1;
                    rest
                }
                [b')', rest @ ..] => {
                    self.depth = self.depth.checked_sub(1)?;
                    rest
                }
                [b'"', rest @ ..] => {
                    let (text, rest) = unquote(rest)?;
                    self.push(Token::Text(text));
                    rest
                }
                [b'{', digits @ .., b'}'] => {
                    let digits = digits.strip_suffix(b"+").unwrap_or(digits);
                    let digits = str::from_utf8(digits).ok()?;
                    return Some(Some(digits.parse().ok()?));
                }
                word => {
                    let end = word.iter().position(|b| b" ()\"{".contains(b));
                    let (word, rest) = word.split_at(end.unwrap_or(word.len()));
                    if word.is_empty() {
                        return None;
                    }
                    self.push(Token::Word(word.to_vec()));
                    rest
                }
            }
        }
    }
}

/// The name of the response code at the beginning of a reply, `NO (TRYLATER) …` (§1.3); empty if
/// there is none.
fn response_code(said: &[u8]) -> &[u8] {
    let (_, rest) = split_word(said);
    let Some(code) = rest.strip_prefix(b"(") else {
        return &[];
    };
    let end = code.iter().position(|b| b" )".contains(b));
    &code[..end.unwrap_or(code.len())]
}

/// Parses a quoted string after its opening quote (§4). Returns its text and the rest of the line.
fn unquote(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    loop {
        let stop = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        text.extend_from_slice(&rest[..stop]);
        match &rest[stop..] {
            [b'\\', escaped, after @ ..] => {
                text.push(*escaped);
                rest = after;
            }
            [b'"', after @ ..] => return Some((text, after)),
            _ => return None,
        }
    }
}

struct Sieve<'s, 'a> {
    s: &'s mut Session<'a>,
    /// The last reply.
    reply: Reply,
    start_tls: bool,
    offer: Offer,
}

impl Sieve<'_, '_> {
    /// Reads the list of capabilities, which ends in OK (§1.7, §2.4). Each reply that begins with a
    /// string is a line of the list, whatever the value of an unknown capability is.
    async fn capabilities(&mut self) -> Result<(), ProbeError> {
        self.start_tls = false;
        self.offer = Offer::default();
        let mut listed = false;
        loop {
            self.read_reply().await?;
            let (name, value) = match self.reply.tokens.as_slice() {
                [Token::Text(name), Token::Text(value), ..] => (name, value.as_slice()),
                [Token::Text(name), ..] => (name, &[][..]),
                _ => {
                    self.expect_ok()?;
                    // §1.7: every list contains IMPLEMENTATION and SIEVE.
                    return if listed {
                        Ok(())
                    } else {
                        Err(self.s.fail("OK without a list of capabilities"))
                    };
                }
            };
            listed = true;
            if name.eq_ignore_ascii_case(b"STARTTLS") {
                self.start_tls = true;
            } else if name.eq_ignore_ascii_case(b"SASL") {
                words(value).for_each(|m| self.offer.add(m));
            }
        }
    }

    /// Sends STARTTLS (§2.2) and performs the handshake.
    async fn start_tls(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::StartTls);
        if !self.start_tls {
            return Err(self.s.fail("server does not offer STARTTLS"));
        }
        self.s.send(b"STARTTLS\r\n").await?;
        self.read_reply().await?;
        self.expect_ok()?;
        self.s.start_tls().await
    }

    async fn login(&mut self, credentials: Credentials<'_>) -> Result<(), ProbeError> {
        let choices = self.offer.choices(self.s, None, false)?;
        let credentials = credentials.permitted(self.s)?;
        sasl::login(self, choices, credentials).await
    }

    /// Sends LISTSCRIPTS (§2.7). The reply has the name of one script per line, then OK.
    async fn list_scripts(&mut self) -> Result<(), ProbeError> {
        self.s.enter(Stage::ListScripts);
        self.s.send(b"LISTSCRIPTS\r\n").await?;
        loop {
            self.read_reply().await?;
            if !matches!(self.reply.tokens.first(), Some(Token::Text(_))) {
                return self.expect_ok();
            }
        }
    }

    /// Expects OK. NO and BYE are refusals (§1.3), anything else is unexpected.
    fn expect_ok(&mut self) -> Result<(), ProbeError> {
        let Some(Token::Word(status)) = self.reply.tokens.first() else {
            return Err(self.unexpected());
        };
        let is = |name: &[u8]| status.eq_ignore_ascii_case(name);
        let (ok, no, bye) = (is(b"OK"), is(b"NO"), is(b"BYE"));
        if ok || no {
            self.s.settle();
        }
        if ok {
            Ok(())
        } else if no || bye {
            let said = self.s.quote(&self.reply.said);
            let refusal = self.s.fail(format!("refused: {said}"));
            let is_code = |name: &[u8]| response_code(&self.reply.said).eq_ignore_ascii_case(name);
            // §1.3: the mechanism is too weak, or usable only after a login by PLAIN.
            if is_code(b"AUTH-TOO-WEAK") || is_code(b"TRANSITION-NEEDED") {
                let _ = self.s.refuse_mechanism();
            }
            let is_login = no && self.s.is_at(Stage::Auth) && !is_code(b"TRYLATER");
            Err(ProbeError {
                login_refused: is_login,
                ..refusal
            })
        } else {
            Err(self.unexpected())
        }
    }

    async fn read_reply(&mut self) -> Result<(), ProbeError> {
        self.reply = Reply::default();
        loop {
            self.s.read_line().await?;
            let line = self.s.line();
            self.reply.say(line);
            let Some(literal) = self.reply.line(line) else {
                return Err(self.unexpected());
            };
            let Some(length) = literal else { break };
            let mut text = Vec::new();
            let keep = self.reply.keeps().then_some(&mut text);
            self.s.read_bytes(length, keep).await?;
            self.reply.say(b" ");
            self.reply.say(&text);
            self.reply.push(Token::Text(text));
        }
        if self.reply.depth == 0 && !self.reply.tokens.is_empty() {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    /// A string argument (§1.2): quoted if it is short, else a literal that needs no go-ahead from
    /// the server. Base64 and names of mechanisms contain nothing that needs an escape.
    fn string(text: &[u8]) -> encode::Wiped {
        if text.len() <= QUOTED_MAX {
            concat(&[b"\"", text, b"\""])
        } else {
            concat(&[format!("{{{}+}}\r\n", text.len()).as_bytes(), text])
        }
    }
}

impl Exchange for Sieve<'_, '_> {
    /// Any message (§2.1).
    fn takes_initial(&self, _: &str, _: &[u8]) -> bool {
        true
    }

    async fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Result<(), ProbeError> {
        let mechanism = Self::string(mechanism.as_bytes());
        let wire = match initial {
            Some(message) => concat(&[
                b"AUTHENTICATE ",
                &mechanism,
                b" ",
                &Self::string(message),
                b"\r\n",
            ]),
            None => concat(&[b"AUTHENTICATE ", &mechanism, b"\r\n"]),
        };
        self.s.send(&wire).await
    }

    async fn respond(&mut self, message: &[u8]) -> Result<(), ProbeError> {
        let wire = concat(&[&Self::string(message), b"\r\n"]);
        self.s.send(&wire).await
    }

    /// §2.1: a challenge is a line with one string and nothing else.
    async fn answer(&mut self) -> Result<SaslAnswer, ProbeError> {
        self.read_reply().await?;
        if let [Token::Text(_)] = self.reply.tokens.as_slice() {
            return Ok(SaslAnswer::Challenge);
        }
        self.expect_ok()?;
        Ok(SaslAnswer::Success)
    }

    fn unexpected(&self) -> ProbeError {
        match self.reply.said.as_slice() {
            [] => self.s.unexpected(),
            said => {
                let said = self.s.quote(said);
                self.s.fail(format!("unexpected reply: {said}"))
            }
        }
    }

    fn take_mechanism_refused(&mut self) -> bool {
        self.s.take_mechanism_refused()
    }

    /// ManageSieve has no other command for the login than AUTHENTICATE.
    async fn login_natively(&mut self, _: Credentials<'_>) -> Result<(), ProbeError> {
        Err(self.unexpected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(Vec<Token>, Option<u64>)> {
        let mut reply = Reply::default();
        let literal = reply.line(line.as_bytes())?;
        Some((reply.tokens, literal))
    }

    fn text(s: &str) -> Token {
        Token::Text(s.into())
    }

    fn word(s: &str) -> Token {
        Token::Word(s.into())
    }

    #[test]
    fn replies_in_every_form() {
        for (line, tokens, literal) in [
            ("OK", vec![word("OK")], None),
            (
                "NO (TRYLATER) \"busy\"",
                vec![word("NO"), text("busy")],
                None,
            ),
            (
                "BYE (REFERRAL \"sieve://a (b\") {4}",
                vec![word("BYE")],
                Some(4),
            ),
            ("OK (TAG {16}", vec![word("OK")], Some(16)),
            (
                "\"SASL\" \"PLAIN LOGIN\"",
                vec![text("SASL"), text("PLAIN LOGIN")],
                None,
            ),
            (r#""a\"b\\""#, vec![text(r#"a"b\"#)], None),
            ("{3+}", vec![], Some(3)),
            ("a b c d e", vec![word("a"), word("b"), word("c")], None),
        ] {
            assert_eq!(parsed(line), Some((tokens, literal)), "{line}");
        }
    }

    #[test]
    fn what_is_no_reply() {
        for line in [
            "\"open",
            "OK )",
            "{x}",
            "{}",
            "{-1}",
            "{5} x",
            "\"a\\",
            "{99999999999999999999}",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
