//! Where `watch` reads the state of targets: a state file, or a URL that serves `status_json()`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nauthilus_backend::engine::state_file::format::decode;
use nauthilus_backend::engine::verdicts::Setting;
use nauthilus_backend::sys::clock;
use serde_json::Value as Json;

use crate::exit_status::CommandFailure;
use crate::places;

/// The fields of a target that the table shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TargetRow {
    pub(super) key: String,
    /// `alive`, `dead` or `unknown`.
    pub(super) verdict: String,
    /// `auto`, `drain` or `maintenance`.
    pub(super) state: String,
    /// Seconds since 1970.
    pub(super) since: f64,
    /// Seconds.
    pub(super) latency: Option<f64>,
    pub(super) probes: u64,
    pub(super) failures: u64,
    pub(super) error: String,
}

pub(super) enum Source {
    StateFile(PathBuf),
    Url(String, ureq::Agent),
}

/// The longest answer that is read from a URL, in bytes.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// How every state file begins.
const TITLE: &[u8] = b"nauthilus_backend state ";

impl Source {
    pub(super) fn of(text: &str) -> Result<Self, CommandFailure> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let tls = ureq::tls::TlsConfig::builder()
                .provider(ureq::tls::TlsProvider::NativeTls)
                .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                .build();
            let config = ureq::Agent::config_builder()
                .timeout_global(Some(Duration::from_secs(5)))
                .tls_config(tls)
                .build();
            return Ok(Self::Url(text.to_owned(), config.into()));
        }
        if text.contains("://") {
            return Err(CommandFailure::usage(
                "a state file, a configuration or an http URL expected",
            ));
        }
        let path = Path::new(text);
        if is_state_file(path).map_err(CommandFailure::bad)? {
            return Ok(Self::StateFile(path.to_owned()));
        }
        let state_file = places::of_config(path).map_err(|failure| CommandFailure {
            reason: format!(
                "no state file, so a configuration expected: {}",
                failure.reason
            ),
            ..failure
        })?;
        Ok(Self::StateFile(state_file))
    }

    /// How the table's title names the source.
    pub(super) fn name(&self) -> String {
        match self {
            Self::StateFile(path) => path.display().to_string(),
            Self::Url(url, _) => url.clone(),
        }
    }

    /// # Errors
    /// Why nothing can be read, on one line.
    pub(super) fn read(&self) -> Result<Vec<TargetRow>, String> {
        match self {
            Self::StateFile(path) => {
                of_state_file(path).map_err(|reason| format!("{}: {reason}", path.display()))
            }
            Self::Url(url, agent) => {
                of_url(url, agent).map_err(|reason| format!("{url}: {reason}"))
            }
        }
    }
}

fn is_state_file(path: &Path) -> Result<bool, String> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(TITLE.len() as u64).read_to_end(&mut start))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(start == TITLE)
}

fn of_state_file(path: &Path) -> Result<Vec<TargetRow>, String> {
    let read = || std::fs::read(path).map_err(|error| error.to_string());
    // A content that is being written does not read.
    let mut saved = decode(&read()?);
    for _ in 0..5 {
        if saved.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        saved = decode(&read()?);
    }
    let saved = saved?;
    let state_of = |key: &str| {
        let now = clock::unix_ms();
        let set = saved.operators.iter();
        let set = set.filter(|one| one.what == key && one.is_in_force(now));
        let mut states = set.filter_map(|one| match one.setting {
            Setting::State(state) => Some(state),
            Setting::Weight(_) => None,
        });
        states.next_back().unwrap_or_default().name().to_owned()
    };
    let row = |target: &nauthilus_backend::engine::state_file::saved::SavedTarget| {
        let record = &target.record;
        TargetRow {
            verdict: record.verdict().name().to_owned(),
            state: state_of(&target.key),
            since: Duration::from_millis(record.since_ms).as_secs_f64(),
            latency: record.latency.map(|latency| latency.as_secs_f64()),
            probes: record.probes,
            failures: record.failures,
            error: record.error.as_deref().unwrap_or_default().to_owned(),
            key: target.key.clone(),
        }
    };
    Ok(saved.targets.values().map(row).collect())
}

fn of_url(url: &str, agent: &ureq::Agent) -> Result<Vec<TargetRow>, String> {
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(ANSWER_MAX);
    let text = body.read_to_string().map_err(|error| error.to_string())?;
    let status: Json = serde_json::from_str(&text)
        .map_err(|error| format!("status_json() expected, got something else: {error}"))?;
    let targets = status.get("targets").and_then(Json::as_array);
    let targets = targets.ok_or("status_json() expected, got something else")?;
    Ok(targets.iter().map(of_json).collect())
}

fn of_json(target: &Json) -> TargetRow {
    let text = |name: &str| {
        let text = target.get(name).and_then(Json::as_str);
        text.unwrap_or_default().to_owned()
    };
    let number = |name: &str| target.get(name).and_then(Json::as_u64).unwrap_or(0);
    TargetRow {
        key: text("key"),
        verdict: text("verdict"),
        state: text("state"),
        since: target.get("since").and_then(Json::as_f64).unwrap_or(0.0),
        latency: target.get("last_latency").and_then(Json::as_f64),
        probes: number("probes"),
        failures: number("failures"),
        error: text("last_error"),
    }
}
