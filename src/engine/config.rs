//! The configuration: what a user may write, its defaults and ranges.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::target::Target;

/// What a target counts as before its first verdict.
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
    /// Time between two probes of a target, from start to start. At most 24 h.
    pub connect_interval: Duration,
    pub deep_interval: Duration,
    /// Between a first failure and the verdict, and while dead.
    pub fast_interval: Duration,
    /// Consecutive failed probes that make a target dead, 1..=100.
    pub failure_threshold: u32,
    /// Consecutive good probes that make it alive again, 1..=100.
    pub recovery_threshold: u32,
    pub initial_state: InitialState,
    pub max_concurrent_probes: usize,
    /// Attribute names that become headers although their name means a secret.
    pub expose_attributes: Vec<String>,
    pub state_file: Option<PathBuf>,
    pub state_max_age: Duration,
    pub tls_full_handshake_interval: Duration,
    pub cert_warn: Duration,
    pub log: LogSink,
    /// In configured order.
    pub targets: Vec<Arc<Target>>,
}

/// A value of a configuration, whatever it was written in.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Value>),
    /// In written order. An empty Lua table arrives as an empty map and counts as a list too.
    Map(Vec<(String, Value)>),
}

/// Why a configuration was refused: `backend_servers[2].port: integer 1..65535 expected, got 70000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);
