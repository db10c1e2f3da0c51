//! A target: one configured backend server and how it is checked.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

/// The protocol a target speaks; it chooses the default port and the dialogue of a deep check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Imap,
    Pop3,
    Lmtp,
    Smtp,
    Sieve,
    Http,
}

impl Protocol {
    pub const ALL: [Self; 6] = [
        Self::Imap,
        Self::Pop3,
        Self::Lmtp,
        Self::Smtp,
        Self::Sieve,
        Self::Http,
    ];

    /// The name used in configurations, server objects and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Lmtp => "lmtp",
            Self::Smtp => "smtp",
            Self::Sieve => "sieve",
            Self::Http => "http",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// How long a dialogue may take where nothing is configured. An SMTP server may let a client
    /// wait for its greeting, to tell robots by their haste (Postfix's postscreen: 6 seconds).
    pub fn default_deep_timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Smtp => 15,
            Self::Imap | Self::Pop3 | Self::Lmtp | Self::Sieve | Self::Http => 5,
        })
    }

    /// The registered port (IANA service names): implicit TLS has its own where one exists.
    pub fn default_port(self, tls_mode: TlsMode) -> u16 {
        match (self, tls_mode) {
            (Self::Imap, TlsMode::Implicit) => 993,
            (Self::Imap, _) => 143,
            (Self::Pop3, TlsMode::Implicit) => 995,
            (Self::Pop3, _) => 110,
            (Self::Lmtp, _) => 24,
            (Self::Smtp, TlsMode::Implicit) => 465,
            (Self::Smtp, _) => 25,
            (Self::Sieve, _) => 4190,
            (Self::Http, TlsMode::Implicit) => 443,
            (Self::Http, _) => 80,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When TLS starts on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never.
    Plain,
    /// With the first byte.
    Implicit,
    /// After the protocol's own command; required, never opportunistic.
    StartTls,
}

impl TlsMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Implicit => "implicit",
            Self::StartTls => "starttls",
        }
    }
}

/// The oldest TLS version that a target may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMinVersion {
    V1_2,
    V1_3,
}

impl TlsMinVersion {
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// The files of the certificate that probes show to a server that asks for one. Absolute paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate, and those of its issuers, as PEM.
    pub cert_file: PathBuf,
    /// Its private key, as PEM; may be the same file.
    pub key_file: PathBuf,
}

/// How a deep check logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMechanism {
    /// The best of what the server advertises.
    Auto,
    /// SASL PLAIN (RFC 4616).
    Plain,
    /// SASL LOGIN, or IMAP's LOGIN command.
    Login,
    /// POP3's USER and PASS (RFC 1939).
    UserPass,
    /// HTTP Basic (RFC 7617).
    Basic,
}

impl AuthMechanism {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::UserPass => "USERPASS",
            Self::Basic => "BASIC",
        }
    }
}

/// The method of an HTTP check's request. Both are safe (RFC 9110 §9.2.1): a probe changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpMethod {
    Get,
    /// The head of the response alone.
    Head,
}

impl HttpMethod {
    /// As it is sent and configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// The status codes of good HTTP responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatus(
    /// None: [`ExpectedStatus::USUAL`], as nearly every target has it.
    Option<Arc<[RangeInclusive<u16>]>>,
);

impl ExpectedStatus {
    /// What counts as good where nothing is configured: success and redirects.
    pub const USUAL: RangeInclusive<u16> = 200..=399;

    /// What a configuration may name: final responses (RFC 9110 §15).
    pub const ALLOWED: RangeInclusive<u16> = 200..=599;

    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        Self((ranges.as_slice() != [Self::USUAL]).then(|| ranges.into()))
    }

    pub fn usual() -> Self {
        Self(None)
    }

    pub fn contains(&self, code: u16) -> bool {
        match &self.0 {
            Some(ranges) => ranges.iter().any(|range| range.contains(&code)),
            None => Self::USUAL.contains(&code),
        }
    }

    fn is_usual(&self) -> bool {
        self.0.is_none()
    }
}

/// As a configuration writes it: `200-299,401`.
impl fmt::Display for ExpectedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = [Self::USUAL];
        let ranges = self.0.as_deref().unwrap_or(&usual);
        for (at, range) in ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Where a target lives: a literal address or a name to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Ip(IpAddr),
    Name(HostName),
}

/// A host name as configured. It reads as the name without a trailing dot: that is how
/// certificates, SNI and server objects have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName {
    name: String,
    /// It had a trailing dot: no search list of the resolver may complete it.
    is_absolute: bool,
}

impl HostName {
    pub fn new(text: &str) -> Self {
        let name = text.strip_suffix('.');
        Self {
            name: name.unwrap_or(text).to_owned(),
            is_absolute: name.is_some(),
        }
    }

    pub fn is_absolute(&self) -> bool {
        self.is_absolute
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What a resolver is asked for: with the trailing dot where there was one.
    pub fn query(&self) -> String {
        let dot = if self.is_absolute { "." } else { "" };
        format!("{}{dot}", self.name)
    }
}

impl std::ops::Deref for HostName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl From<&str> for HostName {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Text that is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself; for the bytes of a login and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a target stands among the machines that serve users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The machine; none where it is called as its host.
    pub node: Option<Box<str>>,
    /// Empty where it has no name. The targets of a node have the same.
    pub pool: Box<str>,
    /// 0..=1000. The targets of a node have the same.
    pub weight: u16,
    /// Whether the node is unusable while this target is dead (`node_usable: all`).
    pub vital: bool,
}

impl Default for Placement {
    /// That of a target whose configuration says nothing of it.
    fn default() -> Self {
        Self {
            node: None,
            pool: Box::default(),
            weight: 100,
            vital: true,
        }
    }
}

/// When a target is probed, and how many outcomes in a row make a verdict. No part of a
/// target's identity: verdicts are kept when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Between the starts of two probes that connect, or of all where `deep_interval` is the
    /// same. 10 ms..=24 h, as the other two.
    pub connect_interval: Duration,
    /// Between the starts of two deep probes.
    pub deep_interval: Duration,
    /// Between a first failure and the verdict, and while dead.
    pub fast_interval: Duration,
    /// Consecutive failed probes that make the target dead, 1..=100.
    pub failure_threshold: u32,
    /// Consecutive good probes that make it alive again, 1..=100.
    pub recovery_threshold: u32,
}

impl ProbePolicy {
    /// What a configuration that says nothing of it has.
    pub const DEFAULT: Self = Self {
        connect_interval: Duration::from_secs(10),
        deep_interval: Duration::from_secs(10),
        fast_interval: Duration::from_secs(1),
        failure_threshold: 1,
        recovery_threshold: 1,
    };
}

/// One configured backend server. Validated: see `config` for the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub protocol: Protocol,
    pub host: Host,
    /// 1..=65535.
    pub port: u16,
    pub tls_mode: TlsMode,
    pub tls_skip_verify: bool,
    /// The name to verify and send as SNI instead of `host`.
    pub tls_server_name: Option<String>,
    /// Trusted instead of the system's CAs.
    pub tls_ca_file: Option<PathBuf>,
    /// Shown to a server that asks for one.
    pub client_certificate: Option<Box<ClientCertificate>>,
    pub tls_min_version: TlsMinVersion,
    /// Whether the listener expects a PROXY protocol v2 header.
    pub haproxy_v2: bool,
    pub deep_check: bool,
    pub test_username: Option<String>,
    pub test_password: Option<Secret>,
    pub auth_mechanism: AuthMechanism,
    /// Whether credentials may cross a connection without TLS (to loopback they always may).
    pub allow_plaintext_auth: bool,
    /// Origin-form request target of an HTTP check (RFC 9112 §3.2.1).
    pub request_uri: Cow<'static, str>,
    /// No part of the identity: a verdict is kept when this changes.
    pub placement: Placement,
    pub http_method: HttpMethod,
    /// The whole value of `Host` in an HTTP check, instead of one made of host and port.
    pub http_host: Option<Box<str>>,
    pub expected_status: ExpectedStatus,
    /// What EHLO and LHLO say, instead of this machine's name or address.
    pub helo_name: Option<Arc<str>>,
    /// The mailbox that an IMAP check opens after the login. POP3 and ManageSieve have one store
    /// for each user: any value makes them look into it.
    pub test_mailbox: Option<Box<str>>,
    /// At most one minute: resolving, connecting and the PROXY header.
    pub connect_timeout: Duration,
    /// At most one minute: the TLS handshake.
    pub tls_timeout: Duration,
    /// At most five minutes: the dialogue.
    pub deep_timeout: Duration,
    pub policy: ProbePolicy,
    /// Where probes come from, if not from where the system has them come.
    pub source_address: Option<IpAddr>,
}

/// For targets that differ in little from the defaults.
impl Target {
    /// A target without TLS and without deep checks, with the default of every other setting.
    pub fn new(protocol: Protocol, host: Host, port: u16) -> Self {
        Self {
            protocol,
            host,
            port,
            tls_mode: TlsMode::Plain,
            tls_skip_verify: false,
            tls_server_name: None,
            tls_ca_file: None,
            client_certificate: None,
            tls_min_version: TlsMinVersion::V1_2,
            haproxy_v2: false,
            deep_check: false,
            test_username: None,
            test_password: None,
            auth_mechanism: AuthMechanism::Auto,
            allow_plaintext_auth: false,
            request_uri: "/".into(),
            placement: Placement::default(),
            http_method: HttpMethod::Get,
            http_host: None,
            expected_status: ExpectedStatus::usual(),
            helo_name: None,
            test_mailbox: None,
            connect_timeout: Duration::from_secs(5),
            tls_timeout: Duration::from_secs(5),
            deep_timeout: protocol.default_deep_timeout(),
            policy: ProbePolicy::DEFAULT,
            source_address: None,
        }
    }

    /// `imap://10.0.0.1:993`, `lmtp://[2001:db8::1]:24`: how logs and `status()` name a target.
    pub fn key(&self) -> String {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => format!("{}://[{ip}]:{}", self.protocol, self.port),
            host => format!("{}://{host}:{}", self.protocol, self.port),
        }
    }

    /// Everything that decides what a probe finds out, as text; two targets with the same
    /// identity share a verdict. The password is left out: the identity's hash is stored.
    pub fn identity(&self) -> String {
        // Another name is looked up: `a.b.` is found by itself only.
        let is_absolute = matches!(&self.host, Host::Name(name) if name.is_absolute());
        let source = self.source_address.map(|ip| format!("|from {ip}"));
        let mut identity = format!(
            "{}{}|{}|{:?}|{:?}|{:?}|{}|{}|{:?}|{}|{}|{}{}",
            self.key(),
            if is_absolute { "." } else { "" },
            self.tls_mode.name(),
            self.tls_skip_verify,
            self.tls_server_name,
            self.tls_ca_file,
            self.haproxy_v2,
            self.deep_check,
            self.test_username,
            self.auth_mechanism.name(),
            self.allow_plaintext_auth,
            self.request_uri,
            source.unwrap_or_default(),
        );
        // Named only where they are set: what other targets are known by does not change.
        let mut also = |name: &str, value: Option<&dyn fmt::Display>| {
            if let Some(value) = value {
                identity.push_str(&format!("|{name}={value}"));
            }
        };
        also(
            "method",
            (self.http_method != HttpMethod::Get).then_some(&self.http_method.name()),
        );
        also("http_host", self.http_host.as_ref().map(|host| host as _));
        also(
            "status",
            (!self.expected_status.is_usual()).then_some(&self.expected_status),
        );
        let files = self.client_certificate.as_ref().map(|shown| {
            let ClientCertificate {
                cert_file,
                key_file,
            } = &**shown;
            format!("{cert_file:?} {key_file:?}")
        });
        also("certificate", files.as_ref().map(|files| files as _));
        also(
            "min_tls",
            (self.tls_min_version != TlsMinVersion::V1_2).then_some(&self.tls_min_version.name()),
        );
        also("helo", self.helo_name.as_ref().map(|name| name as _));
        also(
            "mailbox",
            self.test_mailbox.as_ref().map(|mailbox| mailbox as _),
        );
        identity
    }

    /// The machine that this is a port of.
    pub fn node(&self) -> Cow<'_, str> {
        match &self.placement.node {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(self.host.to_string()),
        }
    }

    /// Whether deep probes of this target have a timer and a health state of their own.
    pub fn has_deep_timer(&self) -> bool {
        self.deep_check && self.policy.deep_interval != self.policy.connect_interval
    }

    /// Whether TLS starts with the first byte.
    pub fn implicit_tls(&self) -> bool {
        self.tls_mode == TlsMode::Implicit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let shown = format!("{:?}", Secret::new("hunter2".into()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
