//! Where `watch` reads the state of targets: a state file, or a URL that serves `status_json()`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nauthilus_backend::engine::config::Config;
use nauthilus_backend::engine::state_file::format::decode;
use nauthilus_backend::engine::state_file::saved::{Saved, SavedTarget};
use nauthilus_backend::engine::verdicts::{
    IdentityHash, Operator, OperatorState, Setting, Verdict, hash_identity,
};
use nauthilus_backend::sys::clock;
use serde_json::Value as Json;

use crate::exit_status::CommandFailure;
use crate::places;
use crate::terminal::moment_text;

/// The fields of a target that the table shows; or the state that operators have set for something that is
/// none of the targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// A target's key, or `node:` and a node's name.
    pub(super) key: String,
    /// `alive`, `dead` or `unknown`; empty where this is no target.
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

impl Row {
    pub(super) fn is_target(&self) -> bool {
        !self.verdict.is_empty()
    }
}

/// What a source said at one moment.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) rows: Vec<Row>,
    /// Why no verdict is known, where that is so.
    pub(super) doubt: Option<String>,
}

pub(super) enum Source {
    StateFile {
        path: PathBuf,
        max_age: Duration,
        nodes: TargetNodes,
    },
    Url(String, ureq::Agent),
}

/// The nodes of targets, which the state file does not have. Empty without a configuration.
type TargetNodes = HashMap<IdentityHash, Vec<String>>;

/// The default of `state_max_age`.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

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
            return Ok(Self::StateFile {
                path: path.to_owned(),
                max_age: MAX_AGE,
                nodes: TargetNodes::new(),
            });
        }
        let (state_file, config) = places::of_config(path).map_err(|failure| CommandFailure {
            reason: format!(
                "no state file, so a configuration expected: {}",
                failure.reason
            ),
            ..failure
        })?;
        Ok(Self::StateFile {
            path: state_file,
            max_age: config.state_max_age,
            nodes: nodes_of(&config),
        })
    }

    /// How the table's title names the source.
    pub(super) fn name(&self) -> String {
        match self {
            Self::StateFile { path, .. } => path.display().to_string(),
            Self::Url(url, _) => url.clone(),
        }
    }

    /// # Errors
    /// Why nothing can be read, on one line.
    pub(super) fn read(&self) -> Result<Reading, String> {
        match self {
            Self::StateFile {
                path,
                max_age,
                nodes,
            } => {
                let named = |reason| format!("{}: {reason}", path.display());
                let saved = load(path).map_err(named)?;
                let reading = of_state_file(&saved, *max_age, nodes);
                Ok(Reading {
                    doubt: reading.doubt.map(named),
                    ..reading
                })
            }
            Self::Url(url, agent) => {
                let rows = of_url(url, agent).map_err(|reason| format!("{url}: {reason}"))?;
                Ok(Reading { rows, doubt: None })
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

fn nodes_of(config: &Config) -> TargetNodes {
    let mut nodes = TargetNodes::new();
    for target in &config.targets {
        let of_target = nodes.entry(hash_identity(&target.identity()));
        of_target.or_default().push(target.node().into_owned());
    }
    nodes
}

fn load(path: &Path) -> Result<Saved, String> {
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
    saved
}

fn of_state_file(saved: &Saved, max_age: Duration, nodes: &TargetNodes) -> Reading {
    let doubt = doubt_of(saved, max_age);
    let now = clock::unix_ms();
    let in_force = saved.operators.iter().filter(|one| one.is_in_force(now));
    let states: HashMap<&str, (&Operator, OperatorState)> = in_force
        .filter_map(|one| match one.setting {
            Setting::State(state) => Some((one.what.as_str(), (one, state))),
            Setting::Weight(_) => None,
        })
        .collect();
    // Targets may have equal keys: their order must be the same in each reading.
    let mut targets: Vec<(&IdentityHash, &SavedTarget)> = saved.targets.iter().collect();
    targets.sort_by_key(|(identity, target)| (&target.key, **identity));
    let mut shown = HashSet::new();
    let mut rows = Vec::with_capacity(targets.len());
    for (identity, target) in targets {
        let nodes = nodes.get(identity).map_or(&[][..], Vec::as_slice);
        let names = nodes.iter().map(|node| format!("node:{node}"));
        let names = names.chain([target.key.clone()]);
        let set = names.filter_map(|name| states.get_key_value(name.as_str()));
        let mut row = row(target, doubt.is_some());
        let mut strictest = OperatorState::Auto;
        for (name, (_, state)) in set {
            shown.insert(*name);
            strictest = strictest.max(*state);
        }
        row.state = strictest.name().to_owned();
        rows.push(row);
    }
    let others = states.iter().filter(|(name, _)| !shown.contains(*name));
    rows.extend(others.map(|(name, (one, state))| Row {
        key: (*name).to_owned(),
        state: state.name().to_owned(),
        since: Duration::from_millis(one.since_ms).as_secs_f64(),
        error: one.reason.clone(),
        ..Row::default()
    }));
    Reading { rows, doubt }
}

/// Why the verdicts of the file are not known: an engine that runs writes it every few seconds.
fn doubt_of(saved: &Saved, max_age: Duration) -> Option<String> {
    if saved.is_within(max_age) {
        return None;
    }
    let written = moment_text(Duration::from_millis(saved.saved_ms));
    let max_age = humantime::format_duration(max_age);
    Some(format!(
        "written {written}, which is not within {max_age} (state_max_age): no verdict is known"
    ))
}

/// `is_doubtful`: the verdict is not known any more, nor how long it has been so.
fn row(target: &SavedTarget, is_doubtful: bool) -> Row {
    let key = target.key.clone();
    if is_doubtful {
        return Row {
            key,
            verdict: Verdict::Unknown.name().to_owned(),
            ..Row::default()
        };
    }
    let record = &target.record;
    Row {
        key,
        verdict: record.verdict().name().to_owned(),
        state: String::new(),
        since: Duration::from_millis(record.since_ms).as_secs_f64(),
        latency: record.latency.map(|latency| latency.as_secs_f64()),
        probes: record.probes,
        failures: record.failures,
        error: record.error.as_deref().unwrap_or_default().to_owned(),
    }
}

fn of_url(url: &str, agent: &ureq::Agent) -> Result<Vec<Row>, String> {
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(ANSWER_MAX);
    let text = body.read_to_string().map_err(|error| error.to_string())?;
    let status: Json = serde_json::from_str(&text)
        .map_err(|error| format!("status_json() expected, got something else: {error}"))?;
    let targets = status.get("targets").and_then(Json::as_array);
    let targets = targets.ok_or("status_json() expected, got something else")?;
    Ok(targets.iter().map(of_json).collect())
}

fn of_json(target: &Json) -> Row {
    let text = |name: &str| {
        let text = target.get(name).and_then(Json::as_str);
        text.unwrap_or_default().to_owned()
    };
    let number = |name: &str| target.get(name).and_then(Json::as_u64).unwrap_or(0);
    Row {
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

#[cfg(test)]
mod tests {
    use nauthilus_backend::engine::verdicts::Record;

    use super::*;

    const YAML: &str = "backend_server_monitoring: {log: none, backend_servers: [\
        {protocol: imap, host: 127.0.0.1, port: 143, node: one},\
        {protocol: imap, host: 127.0.0.1, port: 143, node: one, deep_check: true},\
        {protocol: imap, host: 127.0.0.2, port: 143, node: two}]}";

    fn config() -> Config {
        Config::from_yaml(YAML, &|_| None).unwrap()
    }

    /// A file in which all targets are alive, with these states.
    fn saved(states: &[(&str, OperatorState)]) -> Saved {
        let mut record = Record::default();
        record.connect.verdict = Verdict::Alive;
        let targets = config().targets.into_iter().map(|target| {
            let saved = SavedTarget {
                record: record.clone(),
                key: target.key(),
                ..SavedTarget::default()
            };
            (hash_identity(&target.identity()), saved)
        });
        let operator = |(what, state): &(&str, OperatorState)| Operator {
            what: (*what).to_owned(),
            setting: Setting::State(*state),
            since_ms: 1,
            until_ms: 0,
            reason: "disk".to_owned(),
            by: String::new(),
        };
        Saved {
            saved_ms: clock::unix_ms(),
            targets: targets.collect(),
            operators: states.iter().map(operator).collect(),
            ..Saved::default()
        }
    }

    fn states(reading: &Reading) -> Vec<[&str; 3]> {
        let rows = reading.rows.iter();
        let mut states: Vec<[&str; 3]> = rows
            .map(|row| [&*row.key, &*row.verdict, &*row.state])
            .collect();
        states.sort_unstable();
        states
    }

    #[test]
    fn a_target_has_the_strictest_state_of_its_own_and_its_node_s() {
        let saved = saved(&[
            ("node:one", OperatorState::Maintenance),
            ("node:three", OperatorState::Drain),
            ("imap://127.0.0.1:143", OperatorState::Drain),
        ]);
        let reading = of_state_file(&saved, MAX_AGE, &nodes_of(&config()));
        let one = ["imap://127.0.0.1:143", "alive", "maintenance"];
        let expected = [
            one,
            one,
            ["imap://127.0.0.2:143", "alive", "auto"],
            ["node:three", "", "drain"],
        ];
        assert_eq!(states(&reading), expected);
    }

    #[test]
    fn without_a_configuration_the_states_of_nodes_have_rows_of_their_own() {
        let saved = saved(&[("node:one", OperatorState::Maintenance)]);
        let reading = of_state_file(&saved, MAX_AGE, &TargetNodes::new());
        let one = ["imap://127.0.0.1:143", "alive", "auto"];
        let expected = [
            one,
            one,
            ["imap://127.0.0.2:143", "alive", "auto"],
            ["node:one", "", "maintenance"],
        ];
        assert_eq!(states(&reading), expected);
        let node = reading.rows.iter().find(|row| !row.is_target()).unwrap();
        assert_eq!((node.since, node.error.as_str()), (0.001, "disk"));
    }

    #[test]
    fn an_old_file_says_nothing_of_verdicts_and_still_what_operators_have_set() {
        for saved_ms in [0, clock::unix_ms() - 301_000, u64::MAX] {
            let saved = Saved {
                saved_ms,
                ..saved(&[("node:two", OperatorState::Drain)])
            };
            let reading = of_state_file(&saved, MAX_AGE, &nodes_of(&config()));
            let one = ["imap://127.0.0.1:143", "unknown", "auto"];
            let expected = [one, one, ["imap://127.0.0.2:143", "unknown", "drain"]];
            assert_eq!(states(&reading), expected);
            let doubt = reading.doubt.unwrap();
            assert!(doubt.contains("not within 5m (state_max_age)"), "{doubt}");
        }
        let reading = of_state_file(&saved(&[]), MAX_AGE, &TargetNodes::new());
        assert_eq!(reading.doubt, None);
    }

    #[test]
    fn without_a_configuration_a_file_counts_for_as_long_as_by_default() {
        assert_eq!(config().state_max_age, MAX_AGE);
    }

    #[test]
    fn targets_with_one_key_stay_in_their_order() {
        let deep = config().targets.remove(1);
        let of_deep = |rows: &[Row]| rows.iter().position(|row| row.probes == 7);
        let places = (0..20).map(|_| {
            // Each file is read into a map with an order of its own.
            let mut saved = saved(&[]);
            let identity = hash_identity(&deep.identity());
            saved.targets.get_mut(&identity).unwrap().record.probes = 7;
            of_deep(&of_state_file(&saved, MAX_AGE, &TargetNodes::new()).rows)
        });
        let places: HashSet<_> = places.collect();
        assert_eq!(places.len(), 1, "{places:?}");
    }
}
