//! The configuration: what a user may write, its defaults and ranges.
//!
//! A Lua table and a YAML text are both converted to a [`Value`]. The same readers, with the same table
//! of keys, then read it.
//!
//! | file | what it is |
//! |---|---|
//! | `keys` | every key with default, range and meaning; the readers' and the documentation's |
//! | `value`, `issue` | a value before it is read; an error with the path of the value |
//! | `server_items` | the items of the list of servers, one at a time |
//! | `reader`, `unknown` | typed access to one table; what an unknown key was meant for |
//! | `settings`, `target`, `routing`, `cluster` | the section and its targets, with the rules between keys |
//! | `policy` | intervals and thresholds of the service and of a target |
//! | `duration`, `host` | the notations of durations and hosts |
//! | `section` | where in a file the section is |
//! | `file`, `yaml`, `env` | from a path to a [`Value`] |
//! | `origin`, `warnings` | where it was written; what is valid in it but doubtful |
//! | `mistakes` | all mistakes of a file, for a command that checks one |
//! | `tls_files`, `authorities`, `client_certificates`, `pem_file` | what the files of certificates and keys held that targets name |

mod authorities;
mod client_certificates;
mod cluster;
mod duration;
mod env;
mod file;
mod host;
mod issue;
mod keys;
mod mistakes;
mod names;
mod origin;
mod pem_file;
mod policy;
mod reader;
mod routing;
mod section;
mod server_items;
mod settings;
mod status_codes;
mod target;
mod text;
mod timeouts;
mod tls_files;
mod unknown;
mod value;
mod warnings;
mod yaml;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::authorities::Authorities;
pub use self::client_certificates::{CertificatePem, ClientCertificates};
pub use self::cluster::{ClusterFiles, ClusterSettings, OnError, RedisAddress, RedisPlace};
pub use self::duration::parse as parse_duration;
pub use self::file::MAX_BYTES;
pub use self::host::parse_host;
pub use self::issue::{Issue, Step};
pub use self::keys::{CLUSTER_KEYS, Default, Key, Kind, SERVICE_KEYS, TARGET_KEYS, markdown};
pub use self::mistakes::{Findings, Mistake, findings};
pub use self::origin::ConfigOrigin;
pub use self::pem_file::Unread;
pub use self::routing::{NodeUsable, RoutingSettings, UserKey};
pub use self::server_items::{ServerItems, is_server_list};
pub use self::target::{CheckDefaults, target_from_value};
pub use self::text::{shortened, shown_path};
pub use self::timeouts::Timeouts;
pub use self::tls_files::TlsFiles;
pub use self::unknown::nearest;
pub use self::value::Value;

use self::server_items::NothingDeferred;
use super::target::{ProbePolicy, Target};

/// The state of a target before its first verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    Alive,
    Dead,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    Stderr,
    None,
    Syslog,
    File(PathBuf),
}

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For targets without timeouts of their own, and for checks on demand.
    pub timeouts: Timeouts,
    /// The name in the EHLO of targets that have no `helo_name` of their own. None: the machine's
    /// name, or the connection's address.
    pub helo_name: Option<Arc<str>>,
    /// Intervals and thresholds of targets without their own.
    pub policy: ProbePolicy,
    /// In percent: where fewer than this share of a protocol's targets are alive, all of them
    /// are listed.
    pub panic_threshold: u8,
    pub initial_state: InitialState,
    /// 1..=65536.
    pub max_concurrent_probes: usize,
    /// Attribute names that become headers although their name means a secret.
    pub expose_attributes: Vec<String>,
    pub state_file: Option<PathBuf>,
    /// 1 s..=24 h.
    pub state_max_age: Duration,
    /// At most 24 h; zero never resumes a TLS session.
    pub tls_full_handshake_interval: Duration,
    /// At most 365 days; zero warns of no certificate.
    pub cert_warn: Duration,
    pub log: LogSink,
    pub routing: RoutingSettings,
    /// The store that keeps bindings of users to nodes; `None`: there is none.
    pub cluster: Option<Arc<ClusterSettings>>,
    /// In configured order; may be empty, and may hold the same target twice.
    pub targets: Vec<Arc<Target>>,
    /// The content of the certificate files when this configuration was put in force; empty before.
    pub tls_files: TlsFiles,
    /// One text, with the key's path, for each thing that is valid but probably not meant.
    pub warnings: Vec<String>,
    pub origin: ConfigOrigin,
}

/// Why a configuration was refused, on one line and without a secret:
/// `backend_servers[2].port: integer 1..65535 expected, got 70000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl From<Issue> for ConfigError {
    fn from(issue: Issue) -> Self {
        Self(issue.to_string())
    }
}

impl Config {
    /// From a table of the host. It is the section itself, or has the section nested in it as a
    /// file does. Nothing is taken from the environment.
    ///
    /// # Errors
    /// The first key that is unknown, missing, of the wrong type or out of range, or that
    /// contradicts another; its path begins at the table.
    pub fn from_value(root: &Value) -> Result<Self, ConfigError> {
        Self::from_value_with(root, &NothingDeferred)
    }

    /// Like [`Config::from_value`]. `servers` gives the items of the list of servers if `root` has that list
    /// as [`Value::Deferred`].
    ///
    /// # Errors
    /// As [`Config::from_value`].
    pub fn from_value_with(root: &Value, servers: &dyn ServerItems) -> Result<Self, ConfigError> {
        let (path, section) = section::in_table(root)?;
        let (config, warnings) = settings::read(section, path, servers)?;
        Ok(Self {
            warnings: warnings.iter().map(Issue::to_string).collect(),
            ..config
        })
    }

    /// The same configuration with the content of all files that it names, so that the process never has to
    /// open them again.
    ///
    /// # Errors
    /// `backend_servers[2].tls_ca_file: …` for a file that cannot be used, and
    /// `backend_servers[2].tls: …` where TLS is not possible in this process.
    pub fn with_files(self) -> Result<Self, ConfigError> {
        self.refuse_one_file_for_two()?;
        let tls_files = TlsFiles::of(&self.targets)
            .map_err(|reason| ConfigError(self.origin.of_target(&reason)))?;
        let with_cluster = self.with_cluster_files()?;
        let mut warnings = with_cluster.warnings;
        warnings.extend(tls_files.authorities.warning().cloned());
        // That of the store is the same.
        warnings.dedup();
        Ok(Self {
            tls_files,
            warnings,
            ..with_cluster
        })
    }

    /// # Errors
    /// Log lines would go into the state file.
    pub fn refuse_one_file_for_two(&self) -> Result<(), ConfigError> {
        self.one_file_for_two().map_or(Ok(()), |reason| {
            let reason = format!("{}: {reason}", keys::STATE_FILE.name);
            Err(ConfigError(self.origin.of_state_file(&reason)))
        })
    }

    /// Whether log lines would go into the state file: what is wrong with its key.
    fn one_file_for_two(&self) -> Option<String> {
        let (LogSink::File(log), Some(state_file)) = (&self.log, &self.state_file) else {
            return None;
        };
        is_one_file(log, state_file)
            .then(|| format!("{} is the file of log as well", shown_path(state_file)))
    }

    /// The same configuration with the content of the files of `cluster` only, for a process that makes no
    /// probes.
    ///
    /// # Errors
    /// As [`Config::with_files`].
    pub fn with_cluster_files(self) -> Result<Self, ConfigError> {
        let cluster = match &self.cluster {
            Some(cluster) => {
                Some(Arc::new(cluster.with_files().map_err(|issue| {
                    ConfigError(self.origin.of_target(&issue.to_string()))
                })?))
            }
            None => None,
        };
        let warning = cluster.as_ref().and_then(|one| one.files.warning.clone());
        let mut warnings = self.warnings;
        warnings.extend(warning);
        Ok(Self {
            cluster,
            warnings,
            ..self
        })
    }

    /// Checks that the files that a target names can be used.
    ///
    /// # Errors
    /// `tls_ca_file: …` for a file that cannot be used, and `tls: …` where TLS is not possible in
    /// this process.
    pub fn check_files_of(target: &Target) -> Result<(), ConfigError> {
        let checked = TlsFiles::of(&[Arc::new(target.clone())]);
        checked.map(drop).map_err(|reason| {
            let key = reason.split_once("].").map(|(_, key)| key.to_owned());
            ConfigError(key.unwrap_or(reason))
        })
    }

    /// From the text of a whole YAML file; its other sections are ignored. `env` returns the value of a
    /// variable in `${NAME}`.
    ///
    /// # Errors
    /// As [`Config::from_value`], with the line: `line 7: backend_server_monitoring.log: …`;
    /// text that is longer than [`MAX_BYTES`] or not well-formed; neither or both of the
    /// sections; a variable that is not set or not UTF-8.
    pub fn from_yaml(
        text: &str,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError(file::TOO_LONG.to_owned()));
        }
        let tree = yaml::parse(text)
            .map_err(|error| ConfigError(format!("line {}: {}", error.line, error.problem)))?;
        let with_line = |issue: &Issue| {
            if issue.path.0.is_empty() {
                issue.to_string()
            } else {
                format!("line {}: {issue}", tree.root().line_at(&issue.path))
            }
        };
        let read = || {
            let (path, section) = section::in_file(tree.root())?;
            let servers = yaml::Section::new(section, &path, env);
            let value = servers.value()?;
            let origin = ConfigOrigin::in_text(&path, |path| tree.root().line_at(path));
            let (config, warnings) = settings::read(&value, path.clone(), &servers)?;
            Ok(Self {
                warnings: warnings.iter().map(with_line).collect(),
                origin,
                ..config
            })
        };
        read().map_err(|issue: Issue| ConfigError(with_line(&issue)))
    }

    /// From the bytes of a YAML text.
    ///
    /// # Errors
    /// As [`Config::from_yaml`], and the line of a byte that is not UTF-8.
    pub fn from_yaml_bytes(
        bytes: &[u8],
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        Self::from_yaml(text::utf8(bytes).map_err(ConfigError)?, env)
    }

    /// From a YAML file: a regular file of at most [`MAX_BYTES`], or a symbolic link to one.
    ///
    /// # Errors
    /// As [`Config::from_yaml`], and what keeps the file from being read; each begins with
    /// the path.
    pub fn from_file(
        path: &Path,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let named = |problem: String| format!("{}: {problem}", shown_path(path));
        let refused = |problem: String| ConfigError(named(problem));
        let bytes = file::read(path).map_err(refused)?;
        let config = Self::from_yaml_bytes(&bytes, env).map_err(|error| refused(error.0))?;
        Ok(Self {
            warnings: config.warnings.iter().cloned().map(named).collect(),
            origin: config.origin.clone().in_file(path),
            ..config
        })
    }
}

/// Whether two paths name the same file, which may not exist yet.
fn is_one_file(a: &Path, b: &Path) -> bool {
    if resolved(a) == resolved(b) {
        return true;
    }
    let id = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino()))
    };
    id(a).is_some_and(|one| id(b) == Some(one))
}

/// The path without links and `..`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let canonical = |path: &Path| path.canonicalize().ok();
    let by_folder = || Some(canonical(path.parent()?)?.join(path.file_name()?));
    canonical(path)
        .or_else(by_folder)
        .unwrap_or_else(|| path.to_owned())
}
