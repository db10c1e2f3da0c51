//! Parses the URL of a server that `check` checks.

use nauthilus_backend::engine::config::{Value, nearest};
use nauthilus_backend::engine::target::{Protocol, TlsMode};

/// The parts of the URL of a server to check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CheckUrl {
    pub(super) protocol: Protocol,
    pub(super) tls_mode: TlsMode,
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// As written, with its `/`; empty where there is none.
    pub(super) path: String,
}

impl CheckUrl {
    /// # Errors
    /// What is wrong with it. No part of it is repeated that could be a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("SCHEME://[USER@]HOST[:PORT][/PATH] expected".to_owned());
        };
        let (protocol, tls_mode) = scheme_of(scheme)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // At the last `@`: the user's name may contain one (`alice@example.org`).
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("no password expected in a URL, where others can read it: \
                 use NAUTHILUS_BACKEND_PASSWORD, --password-file or the prompt"
                .to_owned());
        }
        let (host, port) = host_and_port(place)?;
        Ok(Self {
            protocol,
            tls_mode,
            user: user
                .map(decoded)
                .transpose()?
                .filter(|user| !user.is_empty()),
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// The keys of a target that the URL says something about. `is_deep`: whether the check logs in, without
    /// which no mailbox is opened.
    ///
    /// # Errors
    /// A path, where the protocol has none.
    pub(super) fn keys(&self, is_deep: bool) -> Result<Vec<(String, Value)>, String> {
        let text = |text: &str| Value::Str(text.to_owned());
        let mut keys = vec![
            ("protocol", text(self.protocol.name())),
            ("tls_mode", text(self.tls_mode.name())),
            ("host", text(&self.host)),
        ];
        if let Some(port) = self.port {
            keys.push(("port", Value::Int(port.into())));
        }
        let mailbox = decoded(self.path.trim_start_matches('/'))?;
        match self.protocol {
            Protocol::Http if !self.path.is_empty() => keys.push(("request_uri", text(&self.path))),
            Protocol::Imap if is_deep && !mailbox.is_empty() => {
                keys.push(("test_mailbox", text(&mailbox)))
            }
            Protocol::Http | Protocol::Imap => {}
            protocol if !mailbox.is_empty() => {
                return Err(format!("no path expected for {protocol}"));
            }
            _ => {}
        }
        let owned = |(name, value): (&str, Value)| (name.to_owned(), value);
        Ok(keys.into_iter().map(owned).collect())
    }

    /// The URL with the port that is used and without the path, for a reader.
    pub(super) fn shown(&self) -> String {
        let scheme = match self.tls_mode {
            TlsMode::Plain if self.protocol == Protocol::Sieve => "sieve+plain".to_owned(),
            TlsMode::Plain => self.protocol.name().to_owned(),
            TlsMode::Implicit => format!("{}s", self.protocol),
            TlsMode::StartTls => format!("{}+starttls", self.protocol),
        };
        let user = self
            .user
            .as_deref()
            .map_or_else(String::new, |user| format!("{user}@"));
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let default = self.protocol.default_port(self.tls_mode);
        format!("{scheme}://{user}{host}:{}", self.port.unwrap_or(default))
    }
}

fn scheme_of(scheme: &str) -> Result<(Protocol, TlsMode), String> {
    let lower = scheme.to_ascii_lowercase();
    let (name, mode) = match lower.split_once('+') {
        Some((name, "starttls")) => (name, Some(TlsMode::StartTls)),
        Some((name, "plain")) => (name, Some(TlsMode::Plain)),
        Some(_) => ("", None),
        None => (lower.as_str(), None),
    };
    if let Some(protocol) = Protocol::from_name(name) {
        let default = match protocol {
            // The default of a configuration as well: RFC 5804 requires STARTTLS of every server.
            Protocol::Sieve => TlsMode::StartTls,
            _ => TlsMode::Plain,
        };
        return Ok((protocol, mode.unwrap_or(default)));
    }
    if let (None, Some(protocol)) = (mode, name.strip_suffix('s').and_then(Protocol::from_name)) {
        return Ok((protocol, TlsMode::Implicit));
    }
    let known: Vec<String> = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| [protocol.name().to_owned(), format!("{protocol}s")])
        .collect();
    let hint = nearest(name, known.iter().map(String::as_str))
        .map_or_else(String::new, |known| format!("; did you mean {known}?"));
    Err(format!(
        "unknown scheme {scheme:?}: imap, pop3, smtp, lmtp, sieve or http expected, \
         alone or with s, +starttls or +plain behind it{hint}"
    ))
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or("] expected behind the address")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err("a colon expected between ] and the port".to_owned());
            }
            (host, port.unwrap_or_default())
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if host.is_empty() {
        return Err("a host expected, got nothing".to_owned());
    }
    if port.is_empty() {
        return Ok((host.to_owned(), None));
    }
    // `parse` would take a plus sign as well.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|port| digits && *port > 0);
    let number = number
        .ok_or("a port 1..65535 expected behind the host (an IPv6 address goes into brackets)")?;
    Ok((host.to_owned(), Some(number)))
}

/// Replaces `%40` and the like.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        // `from_str_radix` would take a plus sign as well.
        let digits = rest
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or("two hexadecimal digits expected behind % (% itself is %25)")?);
        rest = rest.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| "UTF-8 expected in a user or path".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> CheckUrl {
        CheckUrl::parse(text).unwrap()
    }

    #[test]
    fn a_url_says_protocol_tls_user_host_port_and_path() {
        let url = parsed("imaps://alice@example.org@mail.example.org:1993/INBOX");
        assert_eq!(url.protocol, Protocol::Imap);
        assert_eq!(url.tls_mode, TlsMode::Implicit);
        assert_eq!(url.user.as_deref(), Some("alice@example.org"));
        assert_eq!(
            (url.host.as_str(), url.port),
            ("mail.example.org", Some(1993))
        );
        assert_eq!(
            url.shown(),
            "imaps://alice@example.org@mail.example.org:1993"
        );
        assert_eq!(
            parsed("IMAP+StartTLS://[::1]").shown(),
            "imap+starttls://[::1]:143"
        );
        assert_eq!(parsed("sieve://h").shown(), "sieve+starttls://h:4190");
        assert_eq!(parsed("sieve+plain://h").shown(), "sieve+plain://h:4190");
        assert_eq!(parsed("smtp://a%3Ab@h").user.as_deref(), Some("a:b"));
        assert_eq!(parsed("https://h/a?b=%20").path, "/a?b=%20");
    }

    #[test]
    fn a_mailbox_is_part_of_a_login() {
        let url = parsed("imap://alice@h/INBOX");
        let has_mailbox = |is_deep| {
            let keys = url.keys(is_deep).unwrap();
            keys.iter().any(|(name, _)| name == "test_mailbox")
        };
        assert!(has_mailbox(true) && !has_mailbox(false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_a_password_in_the_words() {
        for text in [
            "h",
            "imap:/h",
            "imap://",
            "imap://h:0",
            "imap://h:x",
            "imap://h:+143",
            "imap://::1",
            "imap://[::1]143",
            "imap://[::1",
            "imap://a%+1@h",
            "imap+x://h",
        ] {
            assert!(CheckUrl::parse(text).is_err(), "{text}");
        }
        let reason = CheckUrl::parse("imap://alice:s3cret@h").unwrap_err();
        assert!(!reason.contains("s3cret"), "{reason}");
        assert!(
            CheckUrl::parse("imsp://h")
                .unwrap_err()
                .contains("did you mean imap")
        );
        assert!(parsed("smtp://h/x").keys(true).is_err());
    }
}
