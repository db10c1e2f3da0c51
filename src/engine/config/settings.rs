//! The settings of the service section: its own keys, then its targets.

use std::sync::Arc;

use super::super::target::Target;
use super::issue::{Issue, Path, Step};
use super::keys::{self, SERVICE_KEYS};
use super::policy::PolicyDefaults;
use super::reader::{Reader, is_file_path, item_refusal, item_text};
use super::routing;
use super::server_items::ServerItems;
use super::target::TargetDefaults;
use super::timeouts::Timeouts;
use super::value::Value;
use super::warnings::{self, Doubted};
use super::{Config, ConfigOrigin, InitialState, LogSink, TlsFiles, cluster, target};
use crate::engine::request::header_name;

pub(super) fn target_defaults(reader: &Reader<'_>) -> Result<TargetDefaults, Issue> {
    Ok(TargetDefaults {
        timeouts: Timeouts {
            connect: reader.duration_or_default(&keys::CONNECT_TIMEOUT)?,
            tls: reader.duration_or_default(&keys::TLS_TIMEOUT)?,
            deep: reader.duration(&keys::DEEP_TIMEOUT)?,
        },
        helo_name: target::helo_name(reader)?,
        policy: PolicyDefaults::of_service(reader)?,
    })
}

/// The configuration of one section, with its warnings. `servers` gives the items of the list of servers
/// if that list is deferred.
pub(super) fn read(
    section: &Value,
    path: Path,
    servers: &dyn ServerItems,
) -> Result<(Config, Vec<Issue>), Issue> {
    let reader = Reader::open(section, path, SERVICE_KEYS, &[])?;
    let defaults = target_defaults(&reader)?;
    let targets = targets(&reader, &defaults, servers)?;
    let warnings = warnings::of_section(&reader, &targets);
    let targets: Vec<Arc<Target>> = targets.into_iter().map(|(target, _)| target).collect();
    routing::check_nodes(&targets, reader.name_of(&keys::BACKEND_SERVERS))
        .map_err(|issue| issue.within(reader.path()))?;
    let config = Config {
        timeouts: defaults.timeouts,
        policy: defaults.policy.policy(),
        panic_threshold: reader.percent_or_default(&keys::PANIC_THRESHOLD)?,
        initial_state: match reader.choice_or_default(&keys::INITIAL_STATE)? {
            "dead" => InitialState::Dead,
            _ => InitialState::Alive,
        },
        max_concurrent_probes: count(&reader, &keys::MAX_CONCURRENT_PROBES)?,
        expose_attributes: expose_attributes(&reader)?,
        state_file: reader.file_path(&keys::STATE_FILE)?,
        state_max_age: reader.duration_or_default(&keys::STATE_MAX_AGE)?,
        tls_full_handshake_interval: reader
            .duration_or_default(&keys::TLS_FULL_HANDSHAKE_INTERVAL)?,
        cert_warn: reader.duration_or_default(&keys::CERT_WARN)?,
        log: log(&reader)?,
        routing: routing::settings(&reader)?,
        cluster: cluster::settings(&reader)?.map(Arc::new),
        targets,
        helo_name: defaults.helo_name,
        tls_files: TlsFiles::default(),
        warnings: Vec::new(),
        origin: ConfigOrigin::default(),
    };
    Ok((config, warnings))
}

/// An integer whose bounds fit any integer type.
fn count<T: TryFrom<i64>>(reader: &Reader<'_>, key: &keys::Key) -> Result<T, Issue> {
    let number = reader.integer_or_default(key)?;
    T::try_from(number).map_err(|_| reader.missing(key))
}

fn expose_attributes(reader: &Reader<'_>) -> Result<Vec<String>, Issue> {
    let names = reader.list(&keys::EXPOSE_ATTRIBUTES, |item| match item_text(item) {
        Some(name) if header_name::is_name(name.as_bytes()) => Ok(name.to_owned()),
        _ => Err(Issue::new(item_refusal("attribute name", item))),
    })?;
    Ok(names.unwrap_or_default())
}

fn log(reader: &Reader<'_>) -> Result<LogSink, Issue> {
    // A word without slash or dot is more likely a misspelt `syslog` than the name of a file.
    let path = |text: &str| is_file_path(text) && text.contains(['/', '.']);
    let sink = |text: &str| match text.to_ascii_lowercase().as_str() {
        "stderr" => Some(LogSink::Stderr),
        "none" => Some(LogSink::None),
        "syslog" => Some(LogSink::Syslog),
        _ => None,
    };
    let text = reader
        .text(&keys::LOG, |text| sink(text).is_some() || path(text))?
        .unwrap_or(keys::LOG.default_text());
    match sink(text) {
        Some(sink) => Ok(sink),
        None => reader.absolute(&keys::LOG, text).map(LogSink::File),
    }
}

fn targets(
    reader: &Reader<'_>,
    defaults: &TargetDefaults,
    servers: &dyn ServerItems,
) -> Result<Vec<Doubted>, Issue> {
    let read = |item: &Value| target::configured(item, defaults);
    if let Some(given) = reader.given(&keys::BACKEND_SERVERS)?
        && let Value::Deferred(count) = given.value
    {
        let path = reader.path().key(given.name);
        return deferred(servers, &path, *count, read);
    }
    reader
        .list(&keys::BACKEND_SERVERS, read)?
        .ok_or_else(|| reader.missing(&keys::BACKEND_SERVERS))
}

/// Reads each of the `count` items of the deferred list at `path` with `read`.
fn deferred<T>(
    servers: &dyn ServerItems,
    path: &Path,
    count: usize,
    read: impl Fn(&Value) -> Result<T, Issue>,
) -> Result<Vec<T>, Issue> {
    let mut done = Vec::with_capacity(count);
    let mut refused = None;
    servers.each(&path.0, &mut |item| {
        match item.and_then(|item| read(&item)) {
            Ok(one) => done.push(one),
            Err(issue) => refused = Some(issue.under(Step::item(done.len())).within(path)),
        }
        refused.is_none()
    });
    match refused {
        Some(issue) => Err(issue),
        None if done.len() == count => Ok(done),
        // Fewer servers than were configured must never be put in force.
        None => {
            let problem = format!("{count} items expected, got {}", done.len());
            Err(Path::default().issue(problem).within(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_timeouts_are_those_of_a_configuration_without_any() {
        let servers = ("backend_servers".to_owned(), Value::List(Vec::new()));
        let config = Config::from_value(&Value::Map(vec![servers]));
        assert_eq!(
            config.map(|config| config.timeouts),
            Ok(Timeouts::default())
        );
    }
}
