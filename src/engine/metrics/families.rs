//! The families of metrics, and how each is encoded from the shared table.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::put::{Range, counter, gauge, put_counter, put_counter_alone, put_gauge, put_histogram};
use super::routing_families::{
    config_info, moves, node_state, node_usable, node_users, redis_durations, redis_up, refusals,
    routes, selections,
};
use crate::engine::active::ActiveConfig;
use crate::engine::probe::error::Stage;
use crate::engine::target::{Protocol, Target};
use crate::engine::verdicts::health::Verdict;
use crate::engine::verdicts::{Counter, OperatorState, ProbeResult, Record, Slot};
use crate::sys::clock;

/// How a family is encoded.
#[derive(Clone, Copy)]
pub(super) enum Encode {
    /// A family that needs no configuration.
    Version(fn(&mut DescriptorEncoder<'_>) -> fmt::Result),
    /// Encoded in one step: the number of its series does not depend on the number of targets.
    Whole(fn(&mut DescriptorEncoder<'_>, &ActiveConfig) -> fmt::Result),
    /// The series of these targets.
    Targets(fn(&mut DescriptorEncoder<'_>, &ActiveConfig, Range) -> fmt::Result),
    /// The series of these nodes.
    Nodes(fn(&mut DescriptorEncoder<'_>, &ActiveConfig, Range) -> fmt::Result),
}

/// All families, in the order of the text.
pub(super) const FAMILIES: [Encode; 24] = [
    Encode::Version(build_info),
    Encode::Targets(target_up),
    Encode::Targets(target_state),
    Encode::Targets(last_probe),
    Encode::Targets(certificate_expiry),
    Encode::Targets(state_changes),
    Encode::Whole(panics),
    Encode::Whole(counts_by_verdict),
    Encode::Whole(probes),
    Encode::Whole(durations),
    Encode::Nodes(node_usable),
    Encode::Nodes(node_state),
    Encode::Nodes(node_users),
    Encode::Nodes(moves),
    Encode::Whole(selections),
    Encode::Whole(routes),
    Encode::Whole(refusals),
    Encode::Whole(redis_up),
    Encode::Whole(redis_durations),
    Encode::Whole(config_info),
    Encode::Whole(generation),
    Encode::Whole(log_lines_lost),
    Encode::Whole(takeovers),
    Encode::Whole(events_made),
];

/// Every stage; `None` stands for the whole probe.
fn stages() -> impl Iterator<Item = Option<Stage>> {
    std::iter::once(None).chain(Stage::ALL.into_iter().map(Some))
}

const RESULTS: [(ProbeResult, &str); 3] = [
    (ProbeResult::Good, "good"),
    (ProbeResult::Failed, "failed"),
    (ProbeResult::Inconclusive, "inconclusive"),
];

fn build_info(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("build", "The version of the module", None, MetricType::Info)?;
    family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

/// The targets with one key, usually one. They have one series: OpenMetrics allows each series once.
struct OneKey<'a> {
    key: String,
    targets: Vec<&'a Target>,
    /// Equal targets share a record.
    records: Vec<Record>,
}

/// The keys whose first target is in the range.
fn keys(active: &ActiveConfig, range: Range) -> impl Iterator<Item = OneKey<'_>> {
    range
        .filter(|index| !active.repeats_a_key(*index))
        .filter_map(|first| {
            let targets = &active.config.targets;
            let mut slots: Vec<Slot> = Vec::new();
            let mut of_key = OneKey {
                key: targets.get(first)?.key(),
                targets: Vec::new(),
                records: Vec::new(),
            };
            for index in active.of_one_key(first) {
                of_key.targets.push(targets.get(index)?);
                let slot = *active.slots.get(index)?;
                if !slots.contains(&slot) {
                    slots.push(slot);
                    of_key.records.push(active.table.read(slot));
                }
            }
            Some(of_key)
        })
}

fn target_up(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let mut family = gauge(encoder, "target_up", "Whether the target is alive")?;
    for of in keys(active, range) {
        let is_alive = |record: &Record| record.verdict() == Verdict::Alive;
        let up = i64::from(of.records.iter().all(is_alive));
        put_gauge(&mut family, &[("target", &*of.key)], &up)?;
    }
    Ok(())
}

fn target_state(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let settings = active.operator_settings();
    let help = "What operators have set for the target";
    let mut family = gauge(encoder, "target_state", help)?;
    for of in keys(active, range) {
        let set = of.targets.iter().map(|target| settings.state_of(target));
        let set = set.max().unwrap_or_default();
        for state in OperatorState::ALL {
            let labels = [("target", &*of.key), ("state", state.name())];
            put_gauge(&mut family, &labels, &i64::from(state == set))?;
        }
    }
    Ok(())
}

fn last_probe(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let help = "When the last probe of the target began";
    let mut family = gauge(encoder, "last_probe_timestamp_seconds", help)?;
    let boot_ns = clock::monotonic_epoch_ns();
    for of in keys(active, range) {
        let started = |record: &Record| record.connect_started_ns.max(record.deep_started_ns);
        let started = of.records.iter().map(started).max().unwrap_or(0);
        if started > 0 {
            let unix_ns = i64::try_from(started)
                .unwrap_or(i64::MAX)
                .saturating_sub(boot_ns);
            let labels = [("target", &*of.key)];
            put_gauge(&mut family, &labels, &(unix_ns as f64 / 1e9))?;
        }
    }
    Ok(())
}

fn certificate_expiry(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let help = "When the target's certificate ends";
    let mut family = gauge(encoder, "certificate_expiry_timestamp_seconds", help)?;
    for of in keys(active, range) {
        if let Some(first) = of.records.iter().filter_map(|one| one.not_after).min() {
            put_gauge(&mut family, &[("target", &*of.key)], &first)?;
        }
    }
    Ok(())
}

fn state_changes(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let help = "How often the verdict has changed";
    let mut family = counter(encoder, "state_changes", help)?;
    for of in keys(active, range) {
        let changes = of.records.iter().map(|record| record.changes);
        let changes = changes.fold(0, u64::wrapping_add);
        put_counter(&mut family, &[("target", &*of.key)], &changes)?;
    }
    Ok(())
}

/// The number of targets with each verdict, for each protocol that has targets. Each target counts, as in
/// `status()`, also where several have one key.
fn counts_by_verdict(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    const VERDICTS: [Verdict; 3] = [Verdict::Alive, Verdict::Dead, Verdict::Unknown];
    let mut counts = [[0_i64; VERDICTS.len()]; Protocol::ALL.len()];
    for (target, slot) in active.config.targets.iter().zip(&active.slots) {
        let (verdict, _) = active.table.read_brief(*slot);
        let protocols = Protocol::ALL.iter().zip(&mut counts);
        let of_protocol = protocols.filter(|(protocol, _)| **protocol == target.protocol);
        for (of, count) in of_protocol.flat_map(|(_, counts)| VERDICTS.iter().zip(counts)) {
            *count += i64::from(*of == verdict);
        }
    }
    let mut family = gauge(encoder, "targets", "Targets by protocol and verdict")?;
    for (protocol, counts) in Protocol::ALL.iter().zip(counts) {
        if counts.iter().sum::<i64>() == 0 {
            continue;
        }
        for (verdict, count) in VERDICTS.iter().zip(counts) {
            let labels = [("protocol", protocol.name()), ("state", verdict.name())];
            put_gauge(&mut family, &labels, &count)?;
        }
    }
    Ok(())
}

/// Whether so few targets of a protocol are alive that all are listed, for each protocol that has targets.
fn panics(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let help = "Whether so few targets of the protocol are alive that all are listed";
    let mut family = gauge(encoder, "panic", help)?;
    let panicking = active.panicking();
    for protocol in Protocol::ALL {
        let mut targets = active.config.targets.iter();
        if targets.any(|target| target.protocol == protocol) {
            let is_so = panicking.iter().any(|panic| panic.protocol == protocol);
            let labels = [("protocol", protocol.name())];
            put_gauge(&mut family, &labels, &i64::from(is_so))?;
        }
    }
    Ok(())
}

fn probes(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let mut family = counter(
        encoder,
        "probes",
        "Probes by what became of them and the stage that they had come to",
    )?;
    for (result, name) in RESULTS {
        for stage in stages() {
            let count = Protocol::ALL
                .into_iter()
                .map(|protocol| active.table.probes_counted(protocol, result, stage))
                .fold(0, u64::wrapping_add);
            // Zero counts are left out where they cannot occur: a good probe has no stage at which
            // it failed, every other one has.
            if count > 0 || (result == ProbeResult::Good) == stage.is_none() {
                let labels = [("result", name), ("stage", stage_name(stage))];
                put_counter(&mut family, &labels, &count)?;
            }
        }
    }
    Ok(())
}

fn durations(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "probe_duration_seconds",
        "How long probes took",
        None,
        MetricType::Histogram,
    )?;
    for protocol in Protocol::ALL {
        for stage in stages() {
            let histogram = active.table.histogram(protocol, stage);
            if histogram.counts.iter().all(|&count| count == 0) {
                continue;
            }
            let labels = [("protocol", protocol.name()), ("stage", stage_name(stage))];
            put_histogram(&mut family.encode_family(&labels)?, &histogram)?;
        }
    }
    Ok(())
}

fn generation(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let help = "The number of the list of alive servers";
    let generation = i64::try_from(active.generation()).unwrap_or(i64::MAX);
    gauge(encoder, "generation", help)?.encode_gauge(&generation)
}

fn log_lines_lost(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let mut family = counter(
        encoder,
        "log_lines_lost",
        "Log lines that could not be written",
    )?;
    put_counter_alone(&mut family, &active.table.count_of(Counter::LogLinesLost))
}

fn takeovers(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let help = "How often a process took over from a prober that stopped or died";
    let mut family = counter(encoder, "takeovers", help)?;
    put_counter_alone(&mut family, &active.table.count_of(Counter::Takeovers))
}

fn events_made(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let mut family = counter(encoder, "events", "The number of the newest event")?;
    put_counter_alone(&mut family, &active.table.last_event())
}

fn stage_name(stage: Option<Stage>) -> &'static str {
    stage.map_or("total", Stage::name)
}
