//! All mistakes of a configuration file, for a command that checks one.
//!
//! The readers stop at the first mistake, which is all that a running host needs. Here the value
//! that was refused is replaced or taken out and the table is read again, until nothing is
//! refused. So a rule between keys is written once, in the readers.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::slice;
use std::sync::Arc;

use super::issue::{Issue, Path, Step};
use super::keys::{self, Key, Kind, SERVICE_KEYS, TARGET_KEYS};
use super::reader::Reader;
use super::server_items::NothingDeferred;
use super::settings;
use super::target::TargetDefaults;
use super::text::one_line;
use super::value::Value;
use super::{
    Authorities, Config, LogSink, TlsFiles, client_certificates, file, routing, section, target,
    text, yaml,
};
use crate::engine::target::{Protocol, Target};
use crate::sys::access;
use crate::sys::state_file::StateFile;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1; none where the file cannot be read at all.
    pub line: Option<usize>,
    /// `backend_server_monitoring.backend_servers[2].port`; empty where it is about the whole file.
    pub key: String,
    pub problem: String,
}

/// The mistakes and warnings of a configuration file.
#[derive(Debug, Default)]
pub struct Findings {
    /// In the order of their lines.
    pub mistakes: Vec<Mistake>,
    /// What is valid but probably not meant. Empty if there are mistakes.
    pub warnings: Vec<Mistake>,
    /// The configuration. `None` if there are mistakes.
    pub config: Option<Config>,
}

/// The most mistakes that are searched for in one file: finding each takes one more reading of a table.
const MAX_MISTAKES: usize = 1_000;

/// Reads a configuration file and finds all of its mistakes, and those in the files that it names. If the
/// text is not YAML, finds the first mistake only. `env` returns the value of a variable in `${NAME}`.
pub fn findings(path: &FilePath, env: &dyn Fn(&str) -> Option<OsString>) -> Findings {
    let whole = |problem: String| Findings {
        mistakes: vec![Mistake {
            line: None,
            key: String::new(),
            problem,
        }],
        ..Findings::default()
    };
    let bytes = match file::read(path) {
        Ok(bytes) => bytes,
        Err(problem) => return whole(problem),
    };
    match text::utf8(&bytes) {
        Ok(text) => of_text(text, env),
        Err(problem) => whole(problem),
    }
}

pub(super) fn of_text(text: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Findings {
    let at_line = |error: yaml::YamlError| Mistake {
        line: Some(error.line),
        key: String::new(),
        problem: error.problem,
    };
    let (tree, duplicates) = match yaml::parse_all(text) {
        Ok(read) => read,
        Err(error) => {
            return Findings {
                mistakes: vec![at_line(error)],
                ..Findings::default()
            };
        }
    };
    let placed = |issue: Issue| Mistake {
        line: Some(tree.root().line_at(&issue.path)),
        key: issue.path.to_string(),
        problem: issue.problem,
    };
    let mut mistakes: Vec<Mistake> = duplicates.into_iter().map(at_line).collect();
    let has_duplicates = !mistakes.is_empty();
    let (path, section) = match section::in_file(tree.root()) {
        Ok(found) => found,
        Err(issue) => {
            mistakes.push(placed(issue));
            return Findings {
                mistakes,
                ..Findings::default()
            };
        }
    };
    let (value, unread) = yaml::to_value_all(section, &path, env);
    mistakes.extend(unread.iter().cloned().map(placed));
    let found = of_section(&value, &path, &unread);
    // The parser has found these already.
    let is_new = |issue: &Issue| !(has_duplicates && issue.problem == "given twice");
    mistakes.extend(found.into_iter().filter(is_new).map(placed));
    mistakes.sort_by_key(|mistake| mistake.line);
    if !mistakes.is_empty() {
        return Findings {
            mistakes,
            ..Findings::default()
        };
    }
    match settings::read(&value, path, &NothingDeferred) {
        Ok((config, mut warnings)) => {
            let authorities = Authorities::of(&config.targets).ok();
            let of_system = authorities.as_ref().and_then(Authorities::warning);
            warnings.extend(of_system.map(Issue::new));
            Findings {
                warnings: warnings.into_iter().map(placed).collect(),
                config: Some(config),
                ..Findings::default()
            }
        }
        Err(issue) => Findings {
            mistakes: vec![placed(issue)],
            ..Findings::default()
        },
    }
}

/// The mistakes of a section. `unread`: mistakes that were found before; `section` has no value in their
/// places.
fn of_section(section: &Value, path: &Path, unread: &[Issue]) -> Vec<Issue> {
    let (servers, others) = without_servers(section);
    let is_of_section = |issue: &Issue| match issue.path.0.as_slice() {
        [Step::Key(name), _, ..] => !keys::BACKEND_SERVERS.is_named(name),
        _ => true,
    };
    let mut before = relative(unread, path);
    before.retain(is_of_section);
    let (read, found) = collect(others, SERVICE_KEYS, &before, |value| {
        let (config, _) = settings::read(value, Path::default(), &NothingDeferred)?;
        let reader = Reader::open(value, Path::default(), SERVICE_KEYS, &[])?;
        Ok((config, settings::target_defaults(&reader)?))
    });
    let mut found: Vec<Issue> = found.into_iter().map(|issue| issue.within(path)).collect();
    let Some((config, defaults)) = read else {
        return found;
    };
    found.extend(of_own_files(&config, path));
    let Some((name, items)) = servers else {
        return found;
    };
    let list = path.key(&name);
    let mut good: Vec<(usize, Arc<Target>)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if found.len() >= MAX_MISTAKES {
            return found;
        }
        let mut place = list.clone();
        place.0.push(Step::item(index));
        let before = relative(unread, &place);
        let (target, issues) = of_target(item, &defaults, &before);
        if let Some(target) = target.filter(|_| issues.is_empty() && before.is_empty()) {
            good.push((index, target));
        }
        found.extend(issues.into_iter().map(|issue| issue.within(&place)));
    }
    let mut report = |issue: Issue| found.push(issue.within(path));
    routing::each_node_conflict(
        good.iter().map(|(index, target)| (*index, target)),
        &name,
        &mut report,
    );
    found.extend(of_files(&good, &list));
    found
}

/// The issues whose paths are below `place`, with paths that begin at `place`.
fn relative(issues: &[Issue], place: &Path) -> Vec<Issue> {
    let below = |issue: &Issue| {
        let rest = issue.path.0.strip_prefix(place.0.as_slice())?;
        Some(Path(rest.to_vec()).issue(issue.problem.clone()))
    };
    issues.iter().filter_map(below).collect()
}

/// Splits off the list of servers: returns it with the name of its key, and the section with an empty list
/// instead. A value that is not a list stays in the section, whose reading refuses it.
fn without_servers(section: &Value) -> (Option<(String, Vec<Value>)>, Value) {
    let mut others = section.clone();
    let Value::Map(entries) = &mut others else {
        return (None, others);
    };
    let servers = entries
        .iter_mut()
        .find(|(name, _)| keys::BACKEND_SERVERS.is_named(name));
    let Some((name, value)) = servers else {
        return (None, others);
    };
    let Value::List(items) = value else {
        return (None, others);
    };
    let servers = (name.clone(), std::mem::take(items));
    (Some(servers), others)
}

/// The mistakes of one target; paths begin at it.
fn of_target(
    item: &Value,
    defaults: &TargetDefaults,
    before: &[Issue],
) -> (Option<Arc<Target>>, Vec<Issue>) {
    let read = |value: Value| {
        collect(value, TARGET_KEYS, before, |value| {
            target::configured(value, defaults).map(|(target, _)| target)
        })
    };
    let (target, found) = read(item.clone());
    let is_protocol = |issue: &&Issue| is_of(issue, &keys::PROTOCOL);
    let Some(of_protocol) = found.iter().chain(before).find(is_protocol) else {
        return (target, found);
    };
    // Rules between keys depend on the protocol: the one that leaves the fewest mistakes is
    // probably the one that was meant.
    let with = |protocol: &str| {
        let mut item = item.clone();
        if let Value::Map(entries) = &mut item {
            entries.retain(|(name, _)| !keys::PROTOCOL.is_named(name));
            entries.push((keys::PROTOCOL.name.to_owned(), Value::Str(protocol.into())));
        }
        read(item).1
    };
    let fewest = Protocol::ALL
        .into_iter()
        .map(|protocol| with(protocol.name()))
        .min_by_key(Vec::len);
    let mut all = Vec::new();
    if !before.contains(of_protocol) {
        all.push(of_protocol.clone());
    }
    all.extend(fewest.unwrap_or_default());
    (None, all)
}

/// Files that the targets name: certificates and keys.
fn of_files(good: &[(usize, Arc<Target>)], list: &Path) -> Vec<Issue> {
    let targets: Vec<Arc<Target>> = good.iter().map(|(_, target)| target.clone()).collect();
    if TlsFiles::of(&targets).is_ok() {
        return Vec::new();
    }
    // Many targets name the same files, which are read once.
    let mut known = HashMap::new();
    let mut found = Vec::new();
    for (index, target) in good {
        let files = (
            target.tls_mode,
            target.tls_skip_verify,
            &target.tls_ca_file,
            &target.client_certificate,
        );
        let problems = known.entry(files).or_insert_with(|| files_of(target));
        for (key, problem) in &*problems {
            let mut place = list.clone();
            place.0.push(Step::item(*index));
            found.push(place.key(key).issue(problem.clone()));
        }
        if found.len() >= MAX_MISTAKES {
            break;
        }
    }
    found
}

/// What is wrong with the files that a target names: keys and problems.
fn files_of(target: &Arc<Target>) -> Vec<(String, String)> {
    let one = slice::from_ref(target);
    let mut found = Vec::new();
    if let Err(reason) = Authorities::of(one) {
        let reason = reason
            .split_once("].")
            .map_or(reason.as_str(), |(_, rest)| rest);
        let (key, problem) = reason.split_once(": ").unwrap_or(("", reason));
        found.push((key.to_owned(), problem.to_owned()));
    }
    if let Some(files) = &target.client_certificate {
        let mistakes = client_certificates::mistakes(files).into_iter();
        found.extend(mistakes.map(|(key, unread)| (key.to_owned(), unread.problem)));
    }
    found
}

/// Checks the log and the state file. They are opened as the engine opens them, but with the rights of
/// the user who runs this check, and neither created nor changed.
fn of_own_files(config: &Config, path: &Path) -> Vec<Issue> {
    let log = match &config.log {
        LogSink::File(file) => Some((&keys::LOG, file, check_log(file))),
        _ => None,
    };
    let state_file = config.state_file.as_ref();
    let state_file = state_file.map(|file| (&keys::STATE_FILE, file, StateFile::check(file)));
    let problem = |(key, file, checked): (&Key, &PathBuf, io::Result<()>)| {
        let error = checked.err()?;
        let problem = format!("cannot use {}: {error}", file.display());
        // The error may name the directory.
        Some(path.key(key.name).issue(one_line(&problem)))
    };
    let own = log.into_iter().chain(state_file).filter_map(problem);
    let shared = config.one_file_for_two();
    let shared = shared.map(|problem| path.key(keys::STATE_FILE.name).issue(problem));
    let own = own.chain(shared);
    let of_cluster = config.cluster.iter();
    let of_cluster = of_cluster.flat_map(|cluster| cluster.file_mistakes());
    own.chain(of_cluster.map(|issue| issue.within(path)))
        .collect()
}

/// Whether lines can be appended to a file. If it does not exist, whether it can be created.
fn check_log(file: &FilePath) -> io::Result<()> {
    if file.is_dir() {
        return Err(io::Error::other("a file expected, got a directory"));
    }
    let opened = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(file);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => access::may_create(file),
        opened => opened.map(drop),
    }
}

// === Finding all mistakes of one table ===

/// Reads a table again and again, each time with the refused value repaired, until nothing is refused.
/// Returns the refusals except those that an earlier mistake has caused. `before`: mistakes that are known
/// already.
fn collect<T>(
    mut value: Value,
    keys: &[Key],
    before: &[Issue],
    read: impl Fn(&Value) -> Result<T, Issue>,
) -> (Option<T>, Vec<Issue>) {
    let mut found: Vec<Issue> = Vec::new();
    for known in before {
        repair(&mut value, &known.path.0, keys, false);
    }
    // Bounds the loop: each entry is replaced, removed and added once at most.
    let entries = match &value {
        Value::Map(entries) => entries.len(),
        _ => 0,
    };
    for _ in 0..=3 * (entries + keys.len()) {
        let issue = match read(&value) {
            Ok(done) => return (Some(done), found),
            Err(issue) => issue,
        };
        let is_known = before
            .iter()
            .chain(&found)
            .any(|known| is_same_place(known, &issue, keys));
        let is_repaired = repair(&mut value, &issue.path.0, keys, is_known);
        if !is_known {
            found.push(issue);
        }
        if !is_repaired || found.len() >= MAX_MISTAKES {
            break;
        }
    }
    (None, found)
}

fn is_of(issue: &Issue, key: &Key) -> bool {
    matches!(issue.path.0.as_slice(), [Step::Key(name)] if key.is_named(name))
}

/// Whether both are about one key, whichever of its names was written.
fn is_same_place(one: &Issue, other: &Issue, keys: &[Key]) -> bool {
    one.path == other.path || keys.iter().any(|key| is_of(one, key) && is_of(other, key))
}

/// Changes the value that the last reading refused, so that the next reading accepts it and finds the
/// mistakes after it. `again`: a repaired value was refused again, so it is removed. Returns false where
/// nothing can be changed.
fn repair(value: &mut Value, steps: &[Step], keys: &[Key], again: bool) -> bool {
    let Some((step, below)) = steps.split_first() else {
        return false;
    };
    match (value, step) {
        (Value::Map(entries), Step::Key(name)) => {
            let key = keys.iter().find(|key| key.is_named(name));
            // If a key is given several times, the last one was refused. Once it is removed, the one
            // before it is read.
            let Some(at) = entries.iter().rposition(|(known, _)| known == name) else {
                let Some(stand_in) = key.and_then(stand_in) else {
                    return false;
                };
                entries.push((name.clone(), stand_in));
                return true;
            };
            let Some((_, inner)) = entries.get_mut(at) else {
                return false;
            };
            if !below.is_empty() && !again && repair(inner, below, &[], again) {
                return true;
            }
            // Without its value the key beside it would be refused, such as a user without a
            // password.
            let is_text = matches!(
                key.map(|key| key.kind),
                Some(Kind::User | Kind::Password | Kind::Mailbox)
            );
            if is_text && !again {
                *inner = Value::Str("x".to_owned());
            } else {
                entries.remove(at);
            }
            true
        }
        (Value::List(items), Step::Index(index)) => {
            let Some(item) = index.checked_sub(1).and_then(|at| items.get_mut(at)) else {
                return false;
            };
            if !below.is_empty() && repair(item, below, &[], again) {
                return true;
            }
            // Replaced, not removed, so that the items behind it keep their numbers.
            *item = Value::Str("x".to_owned());
            true
        }
        _ => false,
    }
}

/// A value for a required key that is missing.
fn stand_in(key: &Key) -> Option<Value> {
    let is = |other: &Key| key.name == other.name;
    if is(&keys::HOST) {
        // A name: an address could contradict the family of another key.
        Some(Value::Str("host.invalid".to_owned()))
    } else if is(&keys::BACKEND_SERVERS) {
        Some(Value::List(Vec::new()))
    } else {
        None
    }
}
