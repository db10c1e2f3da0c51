//! One target from its table: an entry of `backend_servers`, or the argument of a check.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use super::super::target::{
    AuthMechanism, ClientCertificate, Host, HttpMethod, Protocol, Secret, Target, TlsMinVersion,
    TlsMode,
};
use super::ConfigError;
use super::host::parse_host;
use super::issue::{Issue, Path};
use super::keys::{self, Kind, MAX_CREDENTIAL, MAX_REQUEST_URI, TARGET_KEYS};
use super::names;
use super::policy::{self, PolicyDefaults};
use super::reader::Reader;
use super::routing;
use super::status_codes;
use super::timeouts::Timeouts;
use super::value::Value;
use super::warnings::{self, Doubted};

/// The values for targets that set none themselves.
pub(super) struct TargetDefaults {
    pub(super) timeouts: Timeouts,
    pub(super) policy: PolicyDefaults,
    pub(super) helo_name: Option<Arc<str>>,
}

/// The values of a check on demand for keys that its table leaves out.
pub struct CheckDefaults<'a> {
    pub timeouts: Timeouts,
    /// The name in EHLO.
    pub helo_name: Option<Arc<str>>,
    /// The configured target at an address, if there is one: its TLS settings and its protocol
    /// fill what the table leaves out.
    pub configured: &'a dyn Fn(&Host, u16) -> Option<Arc<Target>>,
}

/// A target to check on demand. The table has a target's keys, and may have those in `extra`,
/// which are the caller's to read. `protocol` is needed only where the protocol matters: for a
/// deep check, for STARTTLS and for a default port.
///
/// # Errors
/// As for a target of a configuration, without a prefix: `port: integer 1..65535 expected, got 0`.
pub fn target_from_value(
    value: &Value,
    defaults: &CheckDefaults<'_>,
    extra: &[&str],
) -> Result<Target, ConfigError> {
    let checked = || {
        let reader = Reader::open(value, Path::default(), TARGET_KEYS, extra)?;
        let helo_name = defaults.helo_name.as_ref();
        let policy = PolicyDefaults::default();
        read(
            &reader,
            &defaults.timeouts,
            &policy,
            helo_name,
            Some(defaults),
        )
    };
    checked().map_err(|issue: Issue| ConfigError(issue.to_string()))
}

/// One entry of `backend_servers`; the paths of errors begin at it.
pub(super) fn configured(value: &Value, defaults: &TargetDefaults) -> Result<Doubted, Issue> {
    let reader = Reader::open(value, Path::default(), TARGET_KEYS, &[])?;
    let TargetDefaults {
        timeouts,
        policy,
        helo_name,
    } = defaults;
    let target = read(&reader, timeouts, policy, helo_name.as_ref(), None)?;
    let doubts = warnings::of_target(&reader, &target);
    Ok((Arc::new(target), doubts))
}

fn read(
    reader: &Reader<'_>,
    timeouts: &Timeouts,
    policy: &PolicyDefaults,
    service_helo_name: Option<&Arc<str>>,
    check: Option<&CheckDefaults<'_>>,
) -> Result<Target, Issue> {
    let host = reader
        .host(&keys::HOST)?
        .ok_or_else(|| reader.missing(&keys::HOST))?;
    let given_protocol = reader
        .choice(&keys::PROTOCOL)?
        .and_then(Protocol::from_name);
    let given_port = match reader.integer(&keys::PORT)? {
        Some(port) => u16::try_from(port).ok(),
        None => None,
    };
    let like = match (check, given_port) {
        (Some(check), Some(port)) => (check.configured)(&host, port),
        _ => None,
    };
    let given_mode = tls_mode(reader)?;
    let deep_check = reader.boolean_or_default(&keys::DEEP_CHECK)?;

    let known_protocol = given_protocol.or(like.as_ref().map(|target| target.protocol));
    let tls_mode = given_mode
        .or(like.as_ref().map(|target| target.tls_mode))
        .unwrap_or_else(|| default_tls_mode(known_protocol));
    let matters = check.is_none() || deep_check || tls_mode == TlsMode::StartTls;
    let protocol = match known_protocol {
        Some(protocol) => protocol,
        None if matters => return Err(reader.missing(&keys::PROTOCOL)),
        // Without a port, TLS or dialogue to choose, the protocol makes no difference.
        None => Protocol::Imap,
    };
    let port = match (given_port, known_protocol) {
        (Some(port), _) => port,
        (None, Some(protocol)) => protocol.default_port(tls_mode),
        (None, None) => return Err(reader.missing(&keys::PORT)),
    };
    if protocol == Protocol::Http && tls_mode == TlsMode::StartTls {
        return Err(reader.conflict(&keys::TLS_MODE, "http has no STARTTLS"));
    }
    let (test_username, test_password) = credentials(reader, protocol)?;
    let source_address = source_address(reader, &host)?;
    let test_mailbox = test_mailbox(reader, protocol, test_username.is_some())?;
    let like = like.as_deref();

    Ok(Target {
        protocol,
        port,
        tls_mode,
        tls_skip_verify: match reader.boolean(&keys::TLS_SKIP_VERIFY)? {
            Some(skip) => skip,
            None => like.is_some_and(|target| target.tls_skip_verify),
        },
        tls_server_name: match reader.host(&keys::TLS_SERVER_NAME)? {
            Some(name) => Some(name.to_string()),
            None => like.and_then(|target| name_to_verify(target, &host)),
        },
        tls_ca_file: match reader.file_path(&keys::TLS_CA_FILE)? {
            Some(path) => Some(path),
            None => like.and_then(|target| target.tls_ca_file.clone()),
        },
        client_certificate: match client_certificate(reader)? {
            Some(files) => Some(Box::new(files)),
            None => like.and_then(|target| target.client_certificate.clone()),
        },
        tls_min_version: match tls_min_version(reader)? {
            Some(version) => version,
            None => like.map_or(TlsMinVersion::V1_2, |target| target.tls_min_version),
        },
        host,
        haproxy_v2: reader.boolean_or_default(&keys::HAPROXY_V2)?,
        deep_check,
        test_username,
        test_password,
        auth_mechanism: auth_mechanism(reader, protocol)?,
        allow_plaintext_auth: reader.boolean_or_default(&keys::ALLOW_PLAINTEXT_AUTH)?,
        request_uri: match reader.text(&keys::REQUEST_URI, is_request_uri)? {
            Some(uri) => uri.to_owned().into(),
            None => keys::REQUEST_URI.default_text().into(),
        },
        placement: routing::placement(reader)?,
        http_method: match reader.choice_or_default(&keys::HTTP_METHOD)? {
            "HEAD" => HttpMethod::Head,
            _ => HttpMethod::Get,
        },
        http_host: reader
            .text(&keys::HTTP_HOST, |text| names::http_host(text).is_some())?
            .and_then(names::http_host)
            .map(String::into_boxed_str),
        expected_status: status_codes::read(reader)?,
        helo_name: helo_name(reader)?.or_else(|| service_helo_name.cloned()),
        test_mailbox,
        connect_timeout: reader
            .duration(&keys::CONNECT_TIMEOUT)?
            .unwrap_or(timeouts.connect),
        tls_timeout: reader.duration(&keys::TLS_TIMEOUT)?.unwrap_or(timeouts.tls),
        deep_timeout: reader
            .duration(&keys::DEEP_TIMEOUT)?
            .unwrap_or_else(|| timeouts.deep_of(protocol)),
        policy: policy::read(reader, policy)?,
        source_address,
    })
}

/// An address of this machine that goes with the host's.
fn source_address(reader: &Reader<'_>, host: &Host) -> Result<Option<IpAddr>, Issue> {
    let is_address = |text: &str| matches!(parse_host(text), Ok(Host::Ip(_)));
    let text = reader.text(&keys::SOURCE_ADDRESS, is_address)?;
    let Some(Host::Ip(source)) = text.and_then(|text| parse_host(text).ok()) else {
        return Ok(None);
    };
    // `::ffff:192.0.2.1` is an IPv4 address.
    let source = source.to_canonical();
    if let Host::Ip(ip) = host
        && ip.to_canonical().is_ipv4() != source.is_ipv4()
    {
        let family = if source.is_ipv6() { "IPv4" } else { "IPv6" };
        let problem = format!("{family} expected as for the host, got {source}");
        return Err(reader.conflict(&keys::SOURCE_ADDRESS, &problem));
    }
    // Binding a UDP socket sends no packet. Only `AddrNotAvailable` says that the address is not one of
    // this machine; any other error, such as a lack of descriptors, is ignored.
    let bound = UdpSocket::bind((source, 0));
    if bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable) {
        let problem = format!("address of this machine expected, got {source}");
        return Err(reader.conflict(&keys::SOURCE_ADDRESS, &problem));
    }
    Ok(Some(source))
}

/// `tls` says whether TLS starts with the first byte, `tls_mode` says more; the two must agree.
/// `None` where neither is given.
fn tls_mode(reader: &Reader<'_>) -> Result<Option<TlsMode>, Issue> {
    if let Some(given) = reader.given(&keys::TLS)?
        && let Value::Str(text) = given.value
        && let Kind::Choice(modes) = keys::TLS_MODE.kind
        && let Some(mode) = modes.iter().find(|mode| mode.eq_ignore_ascii_case(text))
    {
        let problem = format!("boolean expected, got \"{mode}\" (write tls_mode: {mode})");
        return Err(reader.conflict(&keys::TLS, &problem));
    }
    let first_byte = reader.boolean(&keys::TLS)?;
    let word = reader.choice(&keys::TLS_MODE)?;
    let mode = [TlsMode::Plain, TlsMode::Implicit, TlsMode::StartTls]
        .into_iter()
        .find(|mode| Some(mode.name()) == word);
    match (first_byte, mode) {
        (Some(tls), Some(mode)) if tls != (mode == TlsMode::Implicit) => {
            let problem = format!(
                "{tls} contradicts tls_mode: {} (tls: true is tls_mode: implicit)",
                mode.name()
            );
            Err(reader.conflict(&keys::TLS, &problem))
        }
        (_, Some(mode)) => Ok(Some(mode)),
        (Some(true), None) => Ok(Some(TlsMode::Implicit)),
        (Some(false), None) => Ok(Some(TlsMode::Plain)),
        (None, None) => Ok(None),
    }
}

/// Both or neither: a certificate is of no use without its key.
fn client_certificate(reader: &Reader<'_>) -> Result<Option<ClientCertificate>, Issue> {
    let cert_file = reader.file_path(&keys::TLS_CERT_FILE)?;
    let key_file = reader.file_path(&keys::TLS_KEY_FILE)?;
    match (cert_file, key_file) {
        (Some(_), None) => Err(reader.conflict(
            &keys::TLS_CERT_FILE,
            "tls_key_file expected beside it, got nothing",
        )),
        (None, Some(_)) => Err(reader.conflict(
            &keys::TLS_KEY_FILE,
            "tls_cert_file expected beside it, got nothing",
        )),
        (Some(cert_file), Some(key_file)) => Ok(Some(ClientCertificate {
            cert_file,
            key_file,
        })),
        (None, None) => Ok(None),
    }
}

fn tls_min_version(reader: &Reader<'_>) -> Result<Option<TlsMinVersion>, Issue> {
    let versions = [TlsMinVersion::V1_2, TlsMinVersion::V1_3];
    let word = reader.choice(&keys::TLS_MIN_VERSION)?;
    Ok(versions
        .into_iter()
        .find(|version| Some(version.name()) == word))
}

/// The mode if neither `tls` nor `tls_mode` is given. For sieve it is STARTTLS: RFC 5804 requires every
/// server to offer it, and Nauthilus documents it as the default.
fn default_tls_mode(protocol: Option<Protocol>) -> TlsMode {
    match protocol {
        Some(Protocol::Sieve) => TlsMode::StartTls,
        _ => TlsMode::Plain,
    }
}

/// The name a certificate has to have when a check connects to an address of `target`.
fn name_to_verify(target: &Target, host: &Host) -> Option<String> {
    match (&target.tls_server_name, &target.host, host) {
        (Some(name), _, _) => Some(name.clone()),
        // The script passes the address from the server list, but the certificate is for the name.
        (None, Host::Name(name), Host::Ip(_)) => Some(name.to_string()),
        _ => None,
    }
}

fn auth_mechanism(reader: &Reader<'_>, protocol: Protocol) -> Result<AuthMechanism, Issue> {
    let word = reader.choice_or_default(&keys::AUTH_MECHANISM)?;
    let allowed: &[AuthMechanism] = match protocol {
        Protocol::Http => &[AuthMechanism::Auto, AuthMechanism::Basic],
        Protocol::Pop3 => &[
            AuthMechanism::Auto,
            AuthMechanism::Plain,
            AuthMechanism::Login,
            AuthMechanism::UserPass,
        ],
        Protocol::Imap | Protocol::Lmtp | Protocol::Smtp | Protocol::Sieve => &[
            AuthMechanism::Auto,
            AuthMechanism::Plain,
            AuthMechanism::Login,
        ],
    };
    let chosen = allowed.iter().find(|mechanism| mechanism.name() == word);
    chosen.copied().ok_or_else(|| {
        let names: Vec<&str> = allowed.iter().map(|mechanism| mechanism.name()).collect();
        let problem = format!(
            "one of {} expected for {protocol}, got {word}",
            names.join(", ")
        );
        reader.conflict(&keys::AUTH_MECHANISM, &problem)
    })
}

/// Both or neither: with only one of them the check would silently not log in.
fn credentials(
    reader: &Reader<'_>,
    protocol: Protocol,
) -> Result<(Option<String>, Option<Secret>), Issue> {
    let user = reader.text(&keys::TEST_USERNAME, is_credential)?;
    let password = reader.text(&keys::TEST_PASSWORD, is_credential)?;
    match (user, password) {
        (Some(_), None) => Err(reader.conflict(
            &keys::TEST_USERNAME,
            "test_password expected beside it, got nothing",
        )),
        (None, Some(_)) => Err(reader.conflict(
            &keys::TEST_PASSWORD,
            "test_username expected beside it, got nothing",
        )),
        // RFC 7617 §2: a colon would move the rest of the name into the password.
        (Some(user), _) if protocol == Protocol::Http && user.contains(':') => {
            Err(reader.conflict(&keys::TEST_USERNAME, "no colon expected for http, got one"))
        }
        (user, password) => Ok((
            user.map(str::to_owned),
            password.map(|text| Secret::new(text.to_owned())),
        )),
    }
}

/// The value of the key `helo_name`, which a target and the service may both have.
pub(super) fn helo_name(reader: &Reader<'_>) -> Result<Option<Arc<str>>, Issue> {
    let name = reader.text(&keys::HELO_NAME, names::is_helo_name)?;
    Ok(name.map(Arc::from))
}

/// Refused where the probe cannot open a mailbox: a probe that silently skips that step would report a
/// server as good without having checked what was asked for.
fn test_mailbox(
    reader: &Reader<'_>,
    protocol: Protocol,
    logs_in: bool,
) -> Result<Option<Box<str>>, Issue> {
    let mailbox = reader.text(&keys::TEST_MAILBOX, is_credential)?;
    let has_store = matches!(protocol, Protocol::Imap | Protocol::Pop3 | Protocol::Sieve);
    let problem = match mailbox {
        Some(_) if !has_store => {
            format!("only imap, pop3 and sieve have a mailbox to open, {protocol} has none")
        }
        Some(_) if !logs_in => "test_username expected beside it, got nothing".to_owned(),
        _ => return Ok(mailbox.map(Box::from)),
    };
    Err(reader.conflict(&keys::TEST_MAILBOX, &problem))
}

fn is_credential(text: &str) -> bool {
    (1..=MAX_CREDENTIAL).contains(&text.len()) && !text.contains(['\r', '\n', '\0'])
}

fn is_request_uri(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= MAX_REQUEST_URI
        && text.bytes().all(|b| b.is_ascii_graphic())
}
