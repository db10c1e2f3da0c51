//! The table `cluster`: the Redis that all machines share, and the rules for bindings in it.

use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::authorities;
use super::client_certificates::{self, CertificatePem, ClientCertificates};
use super::host::parse_host;
use super::issue::{Issue, Step};
use super::keys::{self, CLUSTER_KEYS, Key, MAX_CREDENTIAL, MAX_PREFIX, MAX_REDIS_URL};
use super::pem_file;
use super::reader::Reader;
use super::text::shown_path;
use super::value::Value;
use crate::engine::target::{ClientCertificate, Host, Secret};
use crate::sys::tls_library;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    pub host: Host,
    pub port: u16,
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisPlace {
    Tcp(RedisAddress),
    Unix(PathBuf),
    /// The Sentinels know which server is the master of the service.
    Sentinel {
        sentinels: Vec<RedisAddress>,
        service: String,
    },
}

/// For an operator: `127.0.0.1:6379`, or the service and its Sentinels.
impl std::fmt::Display for RedisPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Sentinel { sentinels, service } => {
                write!(f, "{service} of")?;
                sentinels.iter().try_for_each(|one| write!(f, " {one}"))
            }
        }
    }
}

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Ip(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// The answer of `route` while Redis fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Remembered,
    Hash,
    Refuse,
}

/// The settings of `cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    pub redis: RedisPlace,
    pub database: u32,
    pub tls: bool,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub sentinel_password_file: Option<PathBuf>,
    pub tls_ca_file: Option<PathBuf>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub prefix: String,
    pub timeout: Duration,
    pub retention: Duration,
    pub on_error: OnError,
    /// Users of an unusable node are moved; else refused.
    pub moves_on_failure: bool,
    pub move_delay: Duration,
    pub min_stay: Duration,
    /// A node is left only when more than half of the living machines find it unusable.
    pub needs_quorum: bool,
    /// The content of its files when the configuration was put in force; empty before.
    pub files: ClusterFiles,
}

/// The content of the files that `cluster` names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClusterFiles {
    pub password: Option<Secret>,
    pub sentinel_password: Option<Secret>,
    /// The certificates of the authorities to trust, in PEM form.
    pub authorities: Option<std::sync::Arc<[u8]>>,
    /// What is doubtful about them, if they are the system's.
    pub(super) warning: Option<String>,
    /// The certificate to show, with its chain and its key.
    pub certificate: Option<std::sync::Arc<CertificatePem>>,
    /// The key of the HMAC of users' names.
    pub hmac_key: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for ClusterFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// The settings of the key `cluster`, if it is given.
pub(super) fn settings(section: &Reader<'_>) -> Result<Option<ClusterSettings>, Issue> {
    let Some(given) = section.given(&keys::CLUSTER)? else {
        return Ok(None);
    };
    let path = section.path().key(given.name);
    // A text is not repeated: it may be an address with a password.
    if !matches!(given.value, Value::Map(_) | Value::List(_)) {
        let problem = format!("table expected, got {}", given.value.type_name());
        return Err(path.issue(problem));
    }
    let reader = Reader::open(given.value, path, CLUSTER_KEYS, &[])?;
    let ca_file = reader.file_path(&keys::CLUSTER_TLS_CA_FILE)?;
    let place = redis_place(&reader)?;
    let is_sentinel = matches!(place.redis, RedisPlace::Sentinel { .. });
    let tls = place.tls || is_sentinel && ca_file.is_some();
    let settings = ClusterSettings {
        redis: place.redis,
        database: place.database,
        tls,
        username: reader
            .text(&keys::USERNAME, is_credential)?
            .map(str::to_owned),
        password_file: reader.file_path(&keys::PASSWORD_FILE)?,
        sentinel_password_file: reader.file_path(&keys::SENTINEL_PASSWORD_FILE)?,
        tls_ca_file: ca_file,
        tls_cert_file: reader.file_path(&keys::CLUSTER_TLS_CERT_FILE)?,
        tls_key_file: reader.file_path(&keys::CLUSTER_TLS_KEY_FILE)?,
        key_file: reader.file_path(&keys::KEY_FILE)?,
        prefix: reader
            .text(&keys::PREFIX, is_prefix)?
            .unwrap_or(keys::PREFIX.default_text())
            .to_owned(),
        timeout: reader.duration_or_default(&keys::CLUSTER_TIMEOUT)?,
        retention: reader.duration_or_default(&keys::RETENTION)?,
        on_error: match reader.choice_or_default(&keys::ON_ERROR)? {
            "hash" => OnError::Hash,
            "refuse" => OnError::Refuse,
            _ => OnError::Remembered,
        },
        moves_on_failure: reader.choice_or_default(&keys::NODE_FAILOVER)? == "move",
        move_delay: reader.duration_or_default(&keys::MOVE_DELAY)?,
        min_stay: reader.duration_or_default(&keys::MIN_STAY)?,
        needs_quorum: reader.choice_or_default(&keys::VERDICTS)? == "quorum",
        files: ClusterFiles::default(),
    };
    check(&reader, &settings)?;
    Ok(Some(settings))
}

/// The rules between keys.
fn check(reader: &Reader<'_>, settings: &ClusterSettings) -> Result<(), Issue> {
    let refuse = |is_wrong: bool, key: &Key, problem: &str| {
        if is_wrong {
            return Err(reader.conflict(key, problem));
        }
        Ok(())
    };
    let is_sentinel = matches!(settings.redis, RedisPlace::Sentinel { .. });
    let no_tls = "has no effect without TLS (redis: rediss://…)";
    refuse(
        settings.username.is_some() && settings.password_file.is_none(),
        &keys::USERNAME,
        "password_file has to be given too",
    )?;
    refuse(
        settings.sentinel_password_file.is_some() && !is_sentinel,
        &keys::SENTINEL_PASSWORD_FILE,
        "is for redis: redis+sentinel://… only",
    )?;
    refuse(
        settings.tls_ca_file.is_some() && !settings.tls,
        &keys::CLUSTER_TLS_CA_FILE,
        no_tls,
    )?;
    refuse(
        settings.tls_cert_file.is_some() && !settings.tls,
        &keys::CLUSTER_TLS_CERT_FILE,
        no_tls,
    )?;
    refuse(
        settings.tls_cert_file.is_some() && settings.tls_key_file.is_none(),
        &keys::CLUSTER_TLS_CERT_FILE,
        "tls_key_file has to be given too",
    )?;
    refuse(
        settings.tls_key_file.is_some() && settings.tls_cert_file.is_none(),
        &keys::CLUSTER_TLS_KEY_FILE,
        "tls_cert_file has to be given too",
    )
}

fn is_credential(text: &str) -> bool {
    (1..=MAX_CREDENTIAL).contains(&text.len()) && !text.contains(['\r', '\n', '\0'])
}

fn is_prefix(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    (1..=MAX_PREFIX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// The value of the key `redis`, parsed.
struct Place {
    redis: RedisPlace,
    database: u32,
    tls: bool,
}

fn redis_place(reader: &Reader<'_>) -> Result<Place, Issue> {
    let mut found = None;
    let mut problem = None;
    let parse = |text: &str| {
        let read = (text.len() <= MAX_REDIS_URL).then(|| parse_url(text));
        match read {
            Some(Ok(place)) => found = Some(place),
            Some(Err(reason)) => problem = reason,
            None => {}
        }
        // A specific problem is kept and reported below instead of the general one.
        found.is_some() || problem.is_some()
    };
    let given = reader.text(&keys::REDIS, parse)?;
    match (given, found, problem) {
        (_, _, Some(problem)) => Err(reader.conflict(&keys::REDIS, problem)),
        (Some(_), Some(place), _) => Ok(place),
        _ => Err(reader.missing(&keys::REDIS)),
    }
}

/// # Errors
/// What is wrong. The error repeats no part of the text, which may hold a password. `None` if the text is
/// no Redis URL at all.
fn parse_url(text: &str) -> Result<Place, Option<&'static str>> {
    if text.contains('@') {
        return Err(Some(
            "no user and no password expected in it: use username and password_file",
        ));
    }
    if text.contains(['?', '#']) || text.contains(char::is_control) {
        return Err(None);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        // The longest path of a socket has 107 bytes (unix(7)).
        if !path.starts_with('/') || path.len() > 107 || path.ends_with('/') {
            return Err(Some("unix: with an absolute path of 2..107 bytes expected"));
        }
        return Ok(Place {
            redis: RedisPlace::Unix(PathBuf::from(path)),
            database: 0,
            tls: false,
        });
    }
    if let Some(rest) = text.strip_prefix("redis+sentinel://") {
        let (hosts, path) = rest.split_once('/').ok_or(None)?;
        let (service, database) = match path.split_once('/') {
            Some((service, number)) => (service, database(number)?),
            None => (path, 0),
        };
        if service.is_empty() {
            return Err(Some("the name of the service expected after the Sentinels"));
        }
        let sentinels = hosts.split(',').map(|host| address(host, SENTINEL_PORT));
        return Ok(Place {
            redis: RedisPlace::Sentinel {
                sentinels: sentinels.collect::<Result<_, _>>()?,
                service: service.to_owned(),
            },
            database,
            tls: false,
        });
    }
    let (rest, tls) = match text.strip_prefix("rediss://") {
        Some(rest) => (rest, true),
        None => (text.strip_prefix("redis://").ok_or(None)?, false),
    };
    let (host, number) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Place {
        redis: RedisPlace::Tcp(address(host, REDIS_PORT)?),
        database: database(number)?,
        tls,
    })
}

/// The number of a database; 0 where none is given.
fn database(text: &str) -> Result<u32, Option<&'static str>> {
    let is_number = text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(Some("the number of a database expected at its end"));
    }
    Ok(text.parse().unwrap_or(0))
}

fn address(text: &str, default_port: u16) -> Result<RedisAddress, Option<&'static str>> {
    let wrong = Some("host, host:port or [IPv6]:port expected in it");
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address without a port ends with its bracket.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong);
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(wrong)?,
        None => default_port,
    };
    let host = parse_host(host).map_err(|_| wrong)?;
    Ok(RedisAddress { host, port })
}

impl ClusterSettings {
    /// A copy of the settings with the content of the files that they name.
    ///
    /// # Errors
    /// `cluster.password_file: …` for a file that cannot be used, and `cluster.redis: …` where TLS is
    /// not possible in this process.
    pub(super) fn with_files(&self) -> Result<Self, Issue> {
        if self.tls {
            tls_library::usable().map_err(place(&keys::REDIS))?;
        }
        let mut files = ClusterFiles {
            password: secret(self.password_file.as_deref()).map_err(place(&keys::PASSWORD_FILE))?,
            sentinel_password: secret(self.sentinel_password_file.as_deref())
                .map_err(place(&keys::SENTINEL_PASSWORD_FILE))?,
            ..ClusterFiles::default()
        };
        if let Some(path) = &self.key_file {
            let key = without_line_end(bytes(path).map_err(place(&keys::KEY_FILE))?);
            if key.is_empty() {
                return Err(place(&keys::KEY_FILE)(named(
                    path,
                    "a key expected, got an empty file",
                )));
            }
            files.hmac_key = Some(key);
        }
        if self.tls {
            files.authorities = Some(match &self.tls_ca_file {
                Some(path) => authorities::read(path).map_err(|unread| {
                    place(&keys::CLUSTER_TLS_CA_FILE)(named(path, &unread.problem))
                })?,
                None => {
                    let system = authorities::of_system();
                    let system = system.map_err(|unread| place(&keys::REDIS)(unread.problem))?;
                    files.warning = system.warning;
                    system.pem
                }
            });
        }
        if let (Some(cert_file), Some(key_file)) = (&self.tls_cert_file, &self.tls_key_file) {
            let both = ClientCertificate {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
            };
            let read = ClientCertificates::default().of_files(&both);
            files.certificate =
                Some(read.map_err(|(key, unread)| of_certificate(key)(unread.problem))?);
        }
        Ok(Self {
            files,
            ..self.clone()
        })
    }
}

impl ClusterSettings {
    /// All mistakes that [`ClusterSettings::with_files`] would refuse; that function stops at the first.
    pub(super) fn file_mistakes(&self) -> Vec<Issue> {
        let none = Self {
            password_file: None,
            sentinel_password_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            key_file: None,
            // Without TLS: reading a password or a key needs no TLS library.
            tls: false,
            ..self.clone()
        };
        let each = [
            Self {
                password_file: self.password_file.clone(),
                ..none.clone()
            },
            Self {
                sentinel_password_file: self.sentinel_password_file.clone(),
                ..none.clone()
            },
            Self {
                key_file: self.key_file.clone(),
                ..none.clone()
            },
            Self {
                tls_ca_file: self.tls_ca_file.clone(),
                tls: self.tls,
                ..none
            },
        ];
        let mut found: Vec<Issue> = each
            .iter()
            .filter_map(|one| one.with_files().err())
            .collect();
        if let (Some(cert_file), Some(key_file)) = (&self.tls_cert_file, &self.tls_key_file) {
            let both = ClientCertificate {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
            };
            let mistakes = client_certificates::mistakes(&both).into_iter();
            found.extend(mistakes.map(|(key, unread)| of_certificate(key)(unread.problem)));
        }
        found
    }
}

/// Makes an issue of a problem with one of the files of a client certificate.
fn of_certificate(key: &str) -> impl Fn(String) -> Issue {
    place(if key == keys::CLUSTER_TLS_KEY_FILE.name {
        &keys::CLUSTER_TLS_KEY_FILE
    } else {
        &keys::CLUSTER_TLS_CERT_FILE
    })
}

/// Makes an issue of a problem with this key of the table.
fn place(key: &'static Key) -> impl Fn(String) -> Issue {
    move |problem| {
        Issue::new(problem)
            .under(Step::Key(key.name.to_owned()))
            .under(Step::Key(keys::CLUSTER.name.to_owned()))
    }
}

fn named(path: &FilePath, problem: &str) -> String {
    format!("{}: {problem}", shown_path(path))
}

fn bytes(path: &FilePath) -> Result<Zeroizing<Vec<u8>>, String> {
    pem_file::read(path).map_err(|unread| unread.in_file(path).problem)
}

/// The first line of a file.
fn secret(path: Option<&FilePath>) -> Result<Option<Secret>, String> {
    let Some(path) = path else {
        return Ok(None);
    };
    let all = bytes(path)?;
    let line = all.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line)
        .ok()
        .filter(|text| is_credential(text));
    let Some(text) = text else {
        let problem = format!("a first line of 1..{MAX_CREDENTIAL} bytes of UTF-8 expected");
        return Err(named(path, &problem));
    };
    Ok(Some(Secret::new(text.to_owned())))
}

/// Removes the line feed that editors put at the end of a file: it is no part of the key.
fn without_line_end(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}
