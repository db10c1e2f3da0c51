//! Configuration, start and stop, status: the natives for the engine.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::raw::{Answer, ArgView, Args, Items, LuaValue, config_native, native};
use crate::engine::active::{ActiveConfig, TargetStatus};
use crate::engine::config::{Config, ConfigError};
use crate::engine::page::Facts;
use crate::engine::process::current;
use crate::engine::tls_details::{CertificateDetails, TlsDetails};
use crate::engine::verdicts::{Operator, ProbeResult, Sample, Setting};

pub(super) const NATIVES: Items = &[
    ("configure", config_native!(configure)),
    ("start", native!(start)),
    ("stop", native!(stop)),
    ("is_ready", native!(is_ready)),
    ("wait_ready", native!(wait_ready)),
    ("status", native!(status)),
    ("report_failure", native!(report_failure)),
    ("is_health_check", native!(is_health_check)),
];

/// The error text if there is no configuration.
const NOT_CONFIGURED: &str = "not configured";

/// `configure(table or path, head)`: nil, or why the configuration was refused. `head`: this is the
/// process that the others are forked from.
fn configure(args: &Args) -> Answer {
    let head = args.view(2) == ArgView::Bool(true);
    let config = match args.view(1) {
        ArgView::Bytes(path) => match std::str::from_utf8(path) {
            Ok(path) => Config::from_file(Path::new(path), &|name| std::env::var_os(name))
                .map_err(|e| e.to_string()),
            Err(_) => Err("a path in UTF-8 expected".to_owned()),
        },
        _ => args.config_with_servers(1, |value, servers| {
            value
                .map_err(ConfigError::from)
                .and_then(|value| Config::from_value_with(&value, servers))
                .map_err(|e| e.to_string())
        }),
    };
    let config = config.and_then(|config| config.with_files().map_err(|e| e.to_string()));
    let configure = |config| current().configure(config, head).map_err(String::from);
    let done = config.and_then(configure);
    if let (Ok(active), Some(own)) = (&done, args.per_state())
        && head
    {
        own.note_configured(active);
    }
    Answer::problem(done.map(|_| ()))
}

/// `start()`: nil, or why it cannot start.
fn start(_: &Args) -> Answer {
    let process = current();
    Answer::problem(
        process
            .configure_from_environment()
            .map_err(String::from)
            .and_then(|()| process.start()),
    )
}

/// `stop()`
fn stop(_: &Args) -> Answer {
    current().stop();
    Answer::Nothing
}

/// `is_ready(may_start)`: whether every target has had a verdict, and if not why waiting for that is in vain; or nil and
/// why there is no configuration.
fn is_ready(args: &Args) -> Answer {
    let process = current();
    if let Err(reason) = process.configure_from_environment() {
        return Answer::Values(vec![LuaValue::Nil, String::from(reason).into()]);
    }
    match process.active(super::start::start_if(args.view(1) == ArgView::Bool(true))) {
        Some(active) if active.is_ready() => Answer::Bool(true),
        Some(_) => Answer::Values(vec![false.into(), process.why_not_probing().into()]),
        None => Answer::Values(vec![LuaValue::Nil, NOT_CONFIGURED.into()]),
    }
}

/// `wait_ready(seconds or nil)`: waits until every target has had a verdict, and returns whether that is so, and if not
/// why waiting is in vain. Blocks the thread.
fn wait_ready(args: &Args) -> Answer {
    match args.optional_number(1) {
        Ok(seconds) => {
            let ready = current().wait_ready(seconds.and_then(to_duration));
            Answer::Values(vec![(ready == Ok(true)).into(), ready.err().into()])
        }
        Err(refused) => Answer::Raised(refused),
    }
}

/// Seconds as a duration; `None`, which means no limit, for a number that is too large.
pub(super) fn to_duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// `status(may_start)`: a table.
fn status(args: &Args) -> Answer {
    let status = current_status(args.view(1) == ArgView::Bool(true));
    let mut fields = status_fields(&status);
    let active = status.active.as_deref();
    let targets = active.map_or_else(Vec::new, |active| {
        target_rows(active, 0..active.slots.len(), false).collect()
    });
    fields.push(("targets", LuaValue::List(targets)));
    Answer::Values(vec![LuaValue::Table(fields)])
}

/// The status of this process and its configuration. `may_start`: whether the call may start
/// the engine.
pub(super) fn current_status(may_start: bool) -> Facts {
    let process = current();
    let failed = process.configure_from_environment().err().map(String::from);
    let active = process.active(super::start::start_if(may_start));
    let error = failed
        .or_else(|| process.last_start_error())
        .or_else(|| active.is_none().then(|| NOT_CONFIGURED.to_owned()));
    Facts {
        active,
        error,
        warnings: process.warnings(),
    }
}

/// The fields of the table that `status` returns, without the targets.
pub(super) fn status_fields(status: &Facts) -> Vec<(&'static str, LuaValue)> {
    let process = current();
    let active = status.active.as_deref();
    let panicking = active.iter().flat_map(|active| active.panicking());
    let panicking = panicking.map(|p| p.protocol.name().into()).collect();
    let warnings = status.warnings.iter().cloned().map(LuaValue::from);
    vec![
        ("pid", u64::from(std::process::id()).into()),
        ("configured", active.is_some().into()),
        ("running", process.is_running().into()),
        ("probing", process.is_prober().into()),
        ("error", status.error.clone().into()),
        (
            "generation",
            active.map_or(0, ActiveConfig::generation).into(),
        ),
        ("panic", LuaValue::List(panicking)),
        ("warnings", LuaValue::List(warnings.collect())),
        ("operators", LuaValue::List(operators(active))),
    ]
}

/// The tables of the targets with these indices. `with_latencies`: each also has its last probes.
pub(super) fn target_rows(
    active: &ActiveConfig,
    range: Range<usize>,
    with_latencies: bool,
) -> impl Iterator<Item = LuaValue> {
    active
        .target_statuses(range)
        .into_iter()
        .map(move |target| {
            let soon = active.certificate_ends_within(&target.record).is_some();
            let mut fields = target_status(&target, soon);
            if with_latencies {
                fields.extend(latencies(&active.table.latencies(target.slot)));
            }
            LuaValue::Table(fields)
        })
}

/// The settings of operators that are in force.
fn operators(active: Option<&ActiveConfig>) -> Vec<LuaValue> {
    let time = |ms: u64| (ms > 0).then(|| seconds(Duration::from_millis(ms)));
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let fields = |one: Operator| {
        let setting = match one.setting {
            Setting::State(state) => ("state", state.name().into()),
            Setting::Weight(weight) => ("weight", weight.into()),
        };
        LuaValue::Table(vec![
            ("what", one.what.into()),
            setting,
            ("since", time(one.since_ms).into()),
            ("until", time(one.until_ms).into()),
            ("reason", given(one.reason).into()),
            ("by", given(one.by).into()),
        ])
    };
    let settings = active.map_or_else(Vec::new, ActiveConfig::operators_in_force);
    settings.into_iter().map(fields).collect()
}

/// The last probes of a target, the oldest first: how many seconds each took, and one letter for
/// the result of each.
fn latencies(samples: &[Sample]) -> [(&'static str, LuaValue); 2] {
    let times = samples.iter().map(|one| seconds(one.took).into());
    let letter = |one: &Sample| match one.result {
        ProbeResult::Good => 'g',
        ProbeResult::Failed => 'f',
        ProbeResult::Inconclusive => 'i',
    };
    let results: String = samples.iter().map(letter).collect();
    [
        ("latencies", LuaValue::List(times.collect())),
        ("results", results.into()),
    ]
}

fn target_status(status: &TargetStatus, expires_soon: bool) -> Vec<(&'static str, LuaValue)> {
    let TargetStatus {
        target,
        record,
        ip,
        state,
        tls,
        slot: _,
    } = status;
    let since = (record.since_ms > 0).then(|| seconds(Duration::from_millis(record.since_ms)));
    let soon = record.not_after.is_some().then_some(expires_soon);
    vec![
        ("key", target.key().to_string().into()),
        ("ip", ip.clone().into()),
        ("host", target.host.to_string().into()),
        ("port", target.port.into()),
        ("protocol", target.protocol.name().into()),
        ("tls_mode", target.tls_mode.name().into()),
        ("deep_check", target.deep_check.into()),
        ("verdict", record.verdict().name().into()),
        ("state", state.name().into()),
        ("node", target.node().into_owned().into()),
        ("pool", target.placement.pool.to_string().into()),
        ("since", since.into()),
        ("probes", record.probes.into()),
        ("failures", record.failures.into()),
        ("last_error", record.error.clone().into()),
        ("last_latency", record.latency.map(seconds).into()),
        ("certificate_expiry", record.not_after.into()),
        ("certificate_expires_soon", soon.into()),
        ("tls", tls.as_deref().map_or(LuaValue::Nil, tls_details)),
    ]
}

/// The table of what a TLS handshake showed, from its line.
pub(super) fn tls_details(line: &str) -> LuaValue {
    let Some(details) = TlsDetails::from_line(line) else {
        return LuaValue::Nil;
    };
    let certificate = |of: CertificateDetails| {
        let names = of.names.into_iter().map(LuaValue::from);
        LuaValue::Table(vec![
            ("subject", of.subject.into()),
            ("issuer", of.issuer.into()),
            ("names", LuaValue::List(names.collect())),
            ("expiry", of.not_after.into()),
        ])
    };
    LuaValue::Table(vec![
        ("at", details.at.into()),
        ("protocol", details.version.into()),
        ("cipher", details.cipher.into()),
        ("group", details.group.into()),
        (
            "certificates",
            i64::try_from(details.certificates).unwrap_or(0).into(),
        ),
        (
            "chain",
            LuaValue::List(details.chain.into_iter().map(certificate).collect()),
        ),
    ])
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// `report_failure(host, port, may_start)`: whether there is such a target.
fn report_failure(args: &Args) -> Answer {
    let host = match args.bytes(1) {
        Ok(host) => host,
        Err(refused) => return Answer::Raised(refused),
    };
    let (Ok(host), Some(port)) = (
        std::str::from_utf8(host),
        super::context::port(args.view(2)),
    ) else {
        return Answer::Bool(false);
    };
    let process = current();
    // An error of the file is ignored here: functions that return errors, such as `status`, report it.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(args.view(3) == ArgView::Bool(true)));
    Answer::Bool(active.is_some_and(|active| active.report_failure(host, port)))
}

/// `is_health_check(username)`
fn is_health_check(args: &Args) -> Answer {
    let username = match args.bytes(1) {
        Ok(username) => username,
        Err(refused) => return Answer::Raised(refused),
    };
    let process = current();
    // An error of the file is ignored here: functions that return errors, such as `status`, report it.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(false));
    Answer::Bool(active.is_some_and(|active| active.is_health_check(username)))
}
