//! Every key that a user may write, with its default, its range and its meaning. The readers take bounds
//! and defaults from here, unknown keys are compared with these names, and the tables of the
//! documentation are generated from it.

use std::time::Duration;

use super::duration;
use super::host;
use super::names;

/// The kind of value that a key takes, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    /// Both bounds are allowed values.
    Integer {
        min: i64,
        max: i64,
    },
    /// Both bounds are allowed values.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// Text that identifies a user; never repeated in an error.
    User,
    /// Text that is a secret; never repeated in an error.
    Password,
    Host,
    Path,
    /// Origin-form request target; never repeated in an error, since its query may be a secret.
    RequestUri,
    /// The value of a `Host` field.
    HttpHost,
    HeloName,
    StatusCodes,
    Mailbox,
    LogSink,
    AttributeNames,
    /// The name of a node or a pool.
    Name,
    /// A text that separates two parts of a user's name.
    Separator,
    Targets,
    /// A share of something, in percent.
    Percent,
    /// An address of this machine.
    OwnAddress,
    /// Where a Redis is; never repeated in an error, since a password may be in it.
    RedisUrl,
    /// The beginning of the names of keys in Redis.
    KeyPrefix,
    Cluster,
}

impl Kind {
    /// The range in words, as documented and as an error names what it expected.
    pub fn expected(self) -> String {
        match self {
            Self::Boolean => "boolean".to_owned(),
            Self::Integer { min, max } => format!("integer {min}..{max}"),
            Self::Duration { min, max } => {
                format!("duration {}..{}", duration::text(min), duration::text(max))
            }
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::User | Self::Password | Self::Mailbox => {
                format!("string of 1..{MAX_CREDENTIAL} bytes without CR, LF and NUL")
            }
            Self::Host => host::EXPECTED.to_owned(),
            Self::Path => "path of a file".to_owned(),
            Self::RequestUri => {
                format!(
                    "string that starts with / , of 1..{MAX_REQUEST_URI} visible ASCII characters"
                )
            }
            Self::HttpHost => names::EXPECTED_HTTP_HOST.to_owned(),
            Self::HeloName => names::EXPECTED_HELO.to_owned(),
            Self::StatusCodes => STATUS_CODES.to_owned(),
            Self::LogSink => "stderr, none, syslog or the path of a file".to_owned(),
            Self::AttributeNames => "list of attribute names".to_owned(),
            Self::Name => format!("string of 1..{MAX_NAME} bytes without control characters"),
            Self::Separator => format!("string of 1..{MAX_SEPARATOR} bytes"),
            Self::Targets => "list of tables".to_owned(),
            Self::Percent => "percentage 0%..100%".to_owned(),
            Self::OwnAddress => "IPv4 or IPv6 address of this machine".to_owned(),
            Self::RedisUrl => REDIS_URL.to_owned(),
            Self::KeyPrefix => {
                format!("string of 1..{MAX_PREFIX} visible ASCII characters without braces")
            }
            Self::Cluster => "table".to_owned(),
        }
    }

    /// Whether an error must not repeat the value.
    pub(super) fn is_secret(self) -> bool {
        matches!(
            self,
            Self::User | Self::Password | Self::RequestUri | Self::RedisUrl
        )
    }
}

/// The default of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, parsed as if a user had written it.
    Value(&'static str),
    /// No value, or the value of another key: described in words.
    Words(&'static str),
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// Other names for it; only one may be given.
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub default: Default,
    /// One sentence for the documentation.
    pub meaning: &'static str,
}

impl Key {
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// The default as text; empty if it is described in words only.
    pub(super) const fn default_text(&self) -> &'static str {
        match self.default {
            Default::Value(text) => text,
            Default::Words(_) => "",
        }
    }
}

/// The value that a key of [`Kind::StatusCodes`] takes, in words.
pub(super) const STATUS_CODES: &str = "status codes and ranges within 200..599, as in 200-299,401";

/// The longest `test_username` and `test_password`, in bytes.
pub(super) const MAX_CREDENTIAL: usize = 1_024;
/// The longest `request_uri`, in bytes: what RFC 9110 §4.1 asks every server to take.
pub(super) const MAX_REQUEST_URI: usize = 8_000;

/// The value that a key of [`Kind::RedisUrl`] takes, in words.
pub(super) const REDIS_URL: &str = "redis://host[:port][/database], rediss://host[:port][/database], unix:/path or redis+sentinel://host:port[,host:port…]/service";
/// The longest `prefix`, in bytes.
pub(super) const MAX_PREFIX: usize = 64;
/// The longest `redis`, in bytes.
pub(super) const MAX_REDIS_URL: usize = 2_000;

/// The longest name of a node or a pool, in bytes: that of a host name.
pub(super) const MAX_NAME: usize = 255;
/// The longest separator in a user's name, in bytes.
pub(super) const MAX_SEPARATOR: usize = 16;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

const fn key(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    Key {
        name,
        aliases: &[],
        kind,
        default,
        meaning,
    }
}

const TIMEOUT: Kind = Kind::Duration {
    min: Duration::from_millis(1),
    max: MINUTE,
};
const LONG_TIMEOUT: Kind = Kind::Duration {
    min: Duration::from_millis(1),
    max: Duration::from_secs(300),
};
const INTERVAL: Kind = Kind::Duration {
    min: Duration::from_millis(10),
    max: DAY,
};
const DELAY: Kind = Kind::Duration {
    min: Duration::ZERO,
    max: DAY,
};
const THRESHOLD: Kind = Kind::Integer { min: 1, max: 100 };
const OFF: Default = Default::Value("false");
const NONE: Default = Default::Words("none");
const REQUIRED: Default = Default::Words("required");
const SERVICE: Default = Default::Words("the service's");

// The service section's keys.

pub(super) const CONNECT_TIMEOUT: Key = key(
    "connect_timeout",
    TIMEOUT,
    Default::Value("5s"),
    "Time limit for resolving the name, connecting and sending the PROXY header, together.",
);
pub(super) const TLS_TIMEOUT: Key = key(
    "tls_timeout",
    TIMEOUT,
    Default::Value("5s"),
    "Time limit for the TLS handshake.",
);
pub(super) const DEEP_TIMEOUT: Key = key(
    "deep_timeout",
    LONG_TIMEOUT,
    Default::Words("5s, smtp 15s"),
    "Time limit for the protocol dialogue of a deep check.",
);
pub(super) const CONNECT_INTERVAL: Key = key(
    "connect_interval",
    INTERVAL,
    Default::Value("10s"),
    "From the start of one probe of a target to the start of the next.",
);
pub(super) const DEEP_INTERVAL: Key = key(
    "deep_interval",
    INTERVAL,
    Default::Words("connect_interval"),
    "The same for deep checks. If both intervals are equal, one probe does both.",
);
pub(super) const FAST_INTERVAL: Key = key(
    "fast_interval",
    INTERVAL,
    Default::Words("min(1s, connect_interval)"),
    "The interval from a first failed probe until the verdict, and while a target is dead.",
);
pub(super) const FAILURE_THRESHOLD: Key = key(
    "failure_threshold",
    THRESHOLD,
    Default::Value("1"),
    "Consecutive failed probes that make a target dead.",
);
pub(super) const RECOVERY_THRESHOLD: Key = key(
    "recovery_threshold",
    THRESHOLD,
    Default::Value("1"),
    "Consecutive good probes that make a dead target alive again.",
);
pub(super) const PANIC_THRESHOLD: Key = key(
    "panic_threshold",
    Kind::Percent,
    Default::Value("0%"),
    "If fewer than this share of a protocol's targets are alive, all of them are listed: probes that fail everywhere suggest a fault of this machine.",
);
pub(super) const HELO_NAME: Key = key(
    "helo_name",
    Kind::HeloName,
    Default::Words("the machine's name where it is fully qualified, else the connection's address"),
    "The name that the probe gives in EHLO (smtp) and LHLO (lmtp).",
);
pub(super) const INITIAL_STATE: Key = key(
    "initial_state",
    Kind::Choice(&["alive", "dead"]),
    Default::Value("alive"),
    "How a target counts before its first verdict.",
);
pub(super) const MAX_CONCURRENT_PROBES: Key = key(
    "max_concurrent_probes",
    Kind::Integer {
        min: 1,
        max: 65_536,
    },
    Default::Value("512"),
    "How many probes may be in flight at once. Further probes wait; their timeouts begin after the wait.",
);
pub(super) const EXPOSE_ATTRIBUTES: Key = key(
    "expose_attributes",
    Kind::AttributeNames,
    NONE,
    "Attributes that become response headers although [their names mean a secret](api.md#secrets).",
);
pub(super) const STATE_FILE: Key = key(
    "state_file",
    Kind::Path,
    NONE,
    "File that keeps the verdicts over a restart and shares them between processes that did not fork from one parent.",
);
pub(super) const STATE_MAX_AGE: Key = key(
    "state_max_age",
    Kind::Duration {
        min: Duration::from_secs(1),
        max: DAY,
    },
    Default::Value("5m"),
    "Verdicts in the state file that are older than this count as unknown.",
);
pub(super) const TLS_FULL_HANDSHAKE_INTERVAL: Key = key(
    "tls_full_handshake_interval",
    Kind::Duration {
        min: Duration::ZERO,
        max: DAY,
    },
    Default::Value("1h"),
    "The time between full TLS handshakes; between them sessions are resumed. 0: every handshake is a full one.",
);
pub(super) const CERT_WARN: Key = key(
    "cert_warn",
    Kind::Duration {
        min: Duration::ZERO,
        max: Duration::from_secs(365 * 86_400),
    },
    Default::Value("14d"),
    "A certificate that expires within this time is logged once a day. 0: never.",
);
pub(super) const LOG: Key = key(
    "log",
    Kind::LogSink,
    Default::Value("stderr"),
    "Where the log goes. A text with a slash or a dot is a path.",
);
pub(super) const NODE_USABLE: Key = key(
    "node_usable",
    Kind::Choice(&["all", "any", "match"]),
    Default::Value("all"),
    "When a node is usable: while all of its `vital` targets are alive, while any of its targets is, or while a target that matches the filter is.",
);
pub(super) const NODE_DOWN_AFTER: Key = key(
    "node_down_after",
    DELAY,
    Default::Value("10s"),
    "How long a target must be dead before `route` treats it as dead. If its first verdict is dead, that counts for new users at once.",
);
pub(super) const NODE_UP_AFTER: Key = key(
    "node_up_after",
    DELAY,
    Default::Value("30s"),
    "How long such a target must be alive again before `route` treats it as alive.",
);
pub(super) const USER_KEY: Key = key(
    "user_key",
    Kind::Choice(&["lower", "exact", "local", "domain"]),
    Default::Value("lower"),
    "The part of a user's name that selects the node: `lower` the whole name with ASCII letters in lower case, `exact` the name as it is, `local` and `domain` in lower case the part before or after the last `@`.",
);
pub(super) const MASTER_SEPARATOR: Key = key(
    "master_separator",
    Kind::Separator,
    NONE,
    "The part of a user's name from the first occurrence of this text on is ignored: with `*`, `alice*admin` counts as `alice`.",
);
pub(super) const DETAIL_SEPARATOR: Key = key(
    "detail_separator",
    Kind::Separator,
    NONE,
    "The part of a user's name from the first occurrence of this text to the last `@` or the end is ignored: with `+`, `alice+box@a.example` counts as `alice@a.example`.",
);
pub(super) const DRAIN_TIME: Key = key(
    "drain_time",
    DELAY,
    Default::Value("15m"),
    "How long after the beginning of a drain users may stay bound to the node.",
);
pub(super) const CLUSTER: Key = key(
    "cluster",
    Kind::Cluster,
    NONE,
    "The Redis that keeps bindings of users to nodes for all machines; its keys are in the next table.",
);
pub(super) const BACKEND_SERVERS: Key = Key {
    name: "backend_servers",
    aliases: &["targets"],
    kind: Kind::Targets,
    default: REQUIRED,
    meaning: "The targets, in the order in which they are offered; may be empty.",
};

/// The keys of the service section.
pub const SERVICE_KEYS: &[Key] = &[
    CONNECT_TIMEOUT,
    TLS_TIMEOUT,
    DEEP_TIMEOUT,
    CONNECT_INTERVAL,
    DEEP_INTERVAL,
    FAST_INTERVAL,
    HELO_NAME,
    FAILURE_THRESHOLD,
    RECOVERY_THRESHOLD,
    PANIC_THRESHOLD,
    INITIAL_STATE,
    MAX_CONCURRENT_PROBES,
    EXPOSE_ATTRIBUTES,
    STATE_FILE,
    STATE_MAX_AGE,
    TLS_FULL_HANDSHAKE_INTERVAL,
    CERT_WARN,
    LOG,
    NODE_USABLE,
    NODE_DOWN_AFTER,
    NODE_UP_AFTER,
    USER_KEY,
    MASTER_SEPARATOR,
    DETAIL_SEPARATOR,
    DRAIN_TIME,
    CLUSTER,
    BACKEND_SERVERS,
];

// The keys of `cluster`.

pub(super) const REDIS: Key = key(
    "redis",
    Kind::RedisUrl,
    REQUIRED,
    "The address of Redis. The default port is 6379, for Sentinels 26379. It must not contain a password.",
);
pub(super) const USERNAME: Key = key(
    "username",
    Kind::User,
    Default::Words("Redis's default user"),
    "The user of Redis to log in as; only together with `password_file`.",
);
pub(super) const PASSWORD_FILE: Key = key(
    "password_file",
    Kind::Path,
    NONE,
    "File with that user's password on its first line.",
);
pub(super) const SENTINEL_PASSWORD_FILE: Key = key(
    "sentinel_password_file",
    Kind::Path,
    NONE,
    "File with the password of the Sentinels on its first line; only with `redis+sentinel:`.",
);
pub(super) const CLUSTER_TLS_CA_FILE: Key = key(
    "tls_ca_file",
    Kind::Path,
    Default::Words("the system's CAs"),
    "PEM file of the CAs to trust. With `redis+sentinel:` this key makes all connections use TLS.",
);
pub(super) const CLUSTER_TLS_CERT_FILE: Key = key(
    "tls_cert_file",
    Kind::Path,
    NONE,
    "PEM file of the client certificate for Redis, with its chain; only together with `tls_key_file`.",
);
pub(super) const CLUSTER_TLS_KEY_FILE: Key = key(
    "tls_key_file",
    Kind::Path,
    NONE,
    "PEM file of the private key of that certificate.",
);
pub(super) const PREFIX: Key = key(
    "prefix",
    Kind::KeyPrefix,
    Default::Value("nauthilus_backend"),
    "What the names of all keys in Redis begin with.",
);
pub(super) const CLUSTER_TIMEOUT: Key = key(
    "timeout",
    Kind::Duration {
        min: Duration::from_millis(1),
        max: Duration::from_secs(10),
    },
    Default::Value("100ms"),
    "The longest time that a login waits for Redis.",
);
pub(super) const RETENTION: Key = key(
    "retention",
    Kind::Duration {
        min: Duration::from_secs(1),
        max: Duration::from_secs(366 * 86_400),
    },
    Default::Value("24h"),
    "How long a binding lasts after the user's last login or `touch_users`.",
);
pub(super) const ON_ERROR: Key = key(
    "on_error",
    Kind::Choice(&["remembered", "hash", "refuse"]),
    Default::Value("remembered"),
    "What `route` returns while Redis fails: `remembered` the binding that this machine remembers, or if it remembers none as `hash`; `hash` the node that hashing gives; `refuse` nil.",
);
pub(super) const NODE_FAILOVER: Key = key(
    "node_failover",
    Kind::Choice(&["move", "refuse"]),
    Default::Value("move"),
    "Whether `route` moves the users of an unusable node to another node, or refuses them.",
);
pub(super) const MOVE_DELAY: Key = key(
    "move_delay",
    DELAY,
    Default::Value("0s"),
    "How long `route` refuses a user after a move, so that old sessions can be ended meanwhile.",
);
pub(super) const MIN_STAY: Key = key(
    "min_stay",
    DELAY,
    Default::Value("30s"),
    "How long after a move the user is not moved again.",
);
pub(super) const VERDICTS: Key = key(
    "verdicts",
    Kind::Choice(&["own", "quorum"]),
    Default::Value("own"),
    "`own`: users are moved away from a node as soon as this machine finds it unusable; `quorum`: only when more than half of the living machines do.",
);
pub(super) const KEY_FILE: Key = key(
    "key_file",
    Kind::Path,
    NONE,
    "File with a secret key. The names of users in Redis are then HMACs with this key; without it they are SHA-256 hashes.",
);

/// The keys of the table `cluster`.
pub const CLUSTER_KEYS: &[Key] = &[
    REDIS,
    USERNAME,
    PASSWORD_FILE,
    SENTINEL_PASSWORD_FILE,
    CLUSTER_TLS_CA_FILE,
    CLUSTER_TLS_CERT_FILE,
    CLUSTER_TLS_KEY_FILE,
    PREFIX,
    CLUSTER_TIMEOUT,
    RETENTION,
    ON_ERROR,
    NODE_FAILOVER,
    MOVE_DELAY,
    MIN_STAY,
    VERDICTS,
    KEY_FILE,
];

// A target's keys.

pub(super) const PROTOCOL: Key = key(
    "protocol",
    Kind::Choice(&["imap", "pop3", "lmtp", "smtp", "sieve", "http"]),
    REQUIRED,
    "The protocol of the server. It selects the default port and the dialogue of a deep check.",
);
pub(super) const HOST: Key = Key {
    name: "host",
    aliases: &["ip", "ip_address"],
    kind: Kind::Host,
    default: REQUIRED,
    meaning: "Address or host name. Brackets and a trailing dot are removed.",
};
pub(super) const PORT: Key = key(
    "port",
    Kind::Integer {
        min: 1,
        max: 65_535,
    },
    Default::Words("by protocol and TLS mode"),
    "TCP port.",
);
pub(super) const TLS: Key = key(
    "tls",
    Kind::Boolean,
    OFF,
    "Whether TLS starts with the first byte: true means `tls_mode: implicit`, false means `plain` or `starttls`.",
);
pub(super) const TLS_MODE: Key = key(
    "tls_mode",
    Kind::Choice(&["plain", "implicit", "starttls"]),
    Default::Words("as `tls` says; without `tls` `starttls` for sieve, else `plain`"),
    "When TLS starts. With `starttls` a deep check requires STARTTLS; a connect probe ends after the TCP connect and makes no TLS. `starttls` is not for http. Must not contradict `tls`.",
);
pub(super) const TLS_SKIP_VERIFY: Key = key(
    "tls_skip_verify",
    Kind::Boolean,
    OFF,
    "Accept any certificate.",
);
pub(super) const TLS_SERVER_NAME: Key = key(
    "tls_server_name",
    Kind::Host,
    Default::Words("host"),
    "The name that the handshake asks for (SNI) and that the certificate must contain.",
);
pub(super) const TLS_CA_FILE: Key = key(
    "tls_ca_file",
    Kind::Path,
    Default::Words("the system's CAs"),
    "PEM file of the CAs to trust.",
);
pub(super) const TLS_CERT_FILE: Key = key(
    "tls_cert_file",
    Kind::Path,
    NONE,
    "PEM file of the client certificate and its issuers, for servers that ask for one; only together with `tls_key_file`.",
);
pub(super) const TLS_KEY_FILE: Key = key(
    "tls_key_file",
    Kind::Path,
    NONE,
    "PEM file of the private key of that certificate, without a passphrase; may be the same file.",
);
pub(super) const TLS_MIN_VERSION: Key = key(
    "tls_min_version",
    Kind::Choice(&["1.2", "1.3"]),
    Default::Value("1.2"),
    "The oldest TLS version that is accepted.",
);
pub(super) const HAPROXY_V2: Key = key(
    "haproxy_v2",
    Kind::Boolean,
    OFF,
    "The listener expects a PROXY protocol v2 header.",
);
pub(super) const DEEP_CHECK: Key = key(
    "deep_check",
    Kind::Boolean,
    OFF,
    "Whether a probe speaks the protocol, and logs in if `test_username` is set.",
);
pub(super) const TEST_USERNAME: Key = key(
    "test_username",
    Kind::User,
    NONE,
    "The user that a deep check logs in as; only together with `test_password`. For http it must not contain a colon.",
);
pub(super) const TEST_PASSWORD: Key = key(
    "test_password",
    Kind::Password,
    NONE,
    "That user's password.",
);
pub(super) const AUTH_MECHANISM: Key = key(
    "auth_mechanism",
    Kind::Choice(&["auto", "PLAIN", "LOGIN", "USERPASS", "BASIC"]),
    Default::Value("auto"),
    "How a deep check logs in. `USERPASS` is for pop3 only. `BASIC` is for http only, and http has no other.",
);
pub(super) const ALLOW_PLAINTEXT_AUTH: Key = key(
    "allow_plaintext_auth",
    Kind::Boolean,
    OFF,
    "Whether credentials may be sent without TLS. To loopback addresses they always may.",
);
pub(super) const REQUEST_URI: Key = key(
    "request_uri",
    Kind::RequestUri,
    Default::Value("/"),
    "The path that an http deep check requests; it may have a query.",
);
pub(super) const HTTP_METHOD: Key = key(
    "http_method",
    Kind::Choice(&["GET", "HEAD"]),
    Default::Value("GET"),
    "The method of that request.",
);
pub(super) const HTTP_HOST: Key = key(
    "http_host",
    Kind::HttpHost,
    Default::Words("`tls_server_name` under TLS, else host; the port where it is not the default"),
    "The `Host` header of that request, sent as it is written here.",
);
pub(super) const EXPECTED_STATUS: Key = key(
    "expected_status",
    Kind::StatusCodes,
    Default::Value("200-399"),
    "The status codes of a good http response, as a text or a list. Redirects are not followed: the status of the redirect itself counts.",
);
pub(super) const TEST_MAILBOX: Key = key(
    "test_mailbox",
    Kind::Mailbox,
    NONE,
    "Makes a deep check read the mail store after the login: imap opens this mailbox read-only (`EXAMINE`); pop3 (`STAT`) and sieve (`LISTSCRIPTS`) do so with any value.",
);

pub(super) const SOURCE_ADDRESS: Key = key(
    "source_address",
    Kind::OwnAddress,
    Default::Words("the system's choice"),
    "The source address of probes. If `host` is a name, only its addresses of the same family (IPv4 or IPv6) are tried.",
);
pub(super) const NODE: Key = key(
    "node",
    Kind::Name,
    Default::Words("host"),
    "The machine that the target is a port of. All sessions of a user go to one node. Names that are spelled differently, also only in capitals, are different nodes; a warning says so.",
);
pub(super) const POOL: Key = key(
    "pool",
    Kind::Name,
    Default::Words("the unnamed pool"),
    "A set of nodes, each of which can serve every user of the pool. All targets of a node must name the same pool.",
);
pub(super) const WEIGHT: Key = key(
    "weight",
    Kind::Integer { min: 0, max: 1_000 },
    Default::Value("100"),
    "The node's share of the users, relative to the weights of the pool's other nodes. 0: no users. All targets of a node must have the same weight.",
);
pub(super) const VITAL: Key = key(
    "vital",
    Kind::Boolean,
    Default::Value("true"),
    "With `node_usable: all`: whether the node is unusable while this target is dead.",
);

const fn inherited(service: Key) -> Key {
    Key {
        default: SERVICE,
        ..service
    }
}

/// The keys of one target.
pub const TARGET_KEYS: &[Key] = &[
    PROTOCOL,
    HOST,
    PORT,
    TLS,
    TLS_MODE,
    TLS_SKIP_VERIFY,
    TLS_SERVER_NAME,
    TLS_CA_FILE,
    TLS_CERT_FILE,
    TLS_KEY_FILE,
    TLS_MIN_VERSION,
    HAPROXY_V2,
    DEEP_CHECK,
    TEST_USERNAME,
    TEST_PASSWORD,
    AUTH_MECHANISM,
    ALLOW_PLAINTEXT_AUTH,
    TEST_MAILBOX,
    REQUEST_URI,
    HTTP_METHOD,
    HTTP_HOST,
    EXPECTED_STATUS,
    inherited(HELO_NAME),
    NODE,
    POOL,
    WEIGHT,
    VITAL,
    inherited(CONNECT_TIMEOUT),
    inherited(TLS_TIMEOUT),
    inherited(DEEP_TIMEOUT),
    inherited(CONNECT_INTERVAL),
    inherited(DEEP_INTERVAL),
    inherited(FAST_INTERVAL),
    inherited(FAILURE_THRESHOLD),
    inherited(RECOVERY_THRESHOLD),
    SOURCE_ADDRESS,
];

/// The Markdown table of `keys` for the documentation.
pub fn markdown(keys: &[Key]) -> String {
    let mut out = String::from("| key | default | range | meaning |\n|---|---|---|---|\n");
    for key in keys {
        let mut names = format!("`{}`", key.name);
        if !key.aliases.is_empty() {
            names.push_str(&format!(" (also `{}`)", key.aliases.join("`, `")));
        }
        let default = match key.default {
            Default::Value(text) => format!("`{text}`"),
            Default::Words(words) => words.to_owned(),
        };
        let (range, meaning) = (key.kind.expected(), key.meaning);
        out.push_str(&format!("| {names} | {default} | {range} | {meaning} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::target::{AuthMechanism, Protocol, TlsMinVersion, TlsMode};
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        for keys in [SERVICE_KEYS, CLUSTER_KEYS, TARGET_KEYS] {
            let mut names: Vec<&str> = keys
                .iter()
                .flat_map(|key| key.aliases.iter().copied().chain([key.name]))
                .collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn choices_are_the_names_of_the_types_they_become() {
        let names = |kind: Kind| match kind {
            Kind::Choice(names) => names.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(PROTOCOL.kind), Protocol::ALL.map(Protocol::name));
        assert_eq!(
            names(TLS_MODE.kind),
            [TlsMode::Plain, TlsMode::Implicit, TlsMode::StartTls].map(TlsMode::name)
        );
        assert_eq!(
            names(TLS_MIN_VERSION.kind),
            [TlsMinVersion::V1_2, TlsMinVersion::V1_3].map(TlsMinVersion::name)
        );
        assert_eq!(
            names(AUTH_MECHANISM.kind),
            [
                AuthMechanism::Auto,
                AuthMechanism::Plain,
                AuthMechanism::Login,
                AuthMechanism::UserPass,
                AuthMechanism::Basic,
            ]
            .map(AuthMechanism::name)
        );
    }

    #[test]
    fn the_table_has_a_row_for_each_key() {
        for keys in [SERVICE_KEYS, CLUSTER_KEYS, TARGET_KEYS] {
            let table = markdown(keys);
            assert_eq!(table.lines().count(), keys.len() + 2);
            for line in table.lines() {
                assert_eq!(line.matches('|').count(), 5, "{line}");
            }
            for key in keys {
                assert!(table.contains(&format!("| `{}`", key.name)), "{}", key.name);
            }
        }
        assert!(
            markdown(TARGET_KEYS)
                .contains("| `port` | by protocol and TLS mode | integer 1..65535 | TCP port. |")
        );
    }
}
