//! Metrics in the text form of OpenMetrics 1.0.
//!
//! All values are read from the shared table, so that any process that shares it gives the same
//! ones. The number of series is bounded by the configuration: targets and nodes are labels of
//! gauges and counters only, never of histograms, and users are no labels.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::active::{ActiveConfig, OperatorSettings, TargetStatus};
use super::probe::error::Stage;
use super::target::Protocol;
use super::verdicts::health::Verdict;
use super::verdicts::{BUCKETS_US, Counter, OperatorState, ProbeResult};
use crate::sys::clock;

/// The `Content-Type` of a response with this text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The longest piece, in bytes.
pub const PIECE_MAX: usize = 64 * 1024;

/// Every stage; `None` stands for the whole probe.
fn stages() -> impl Iterator<Item = Option<Stage>> {
    std::iter::once(None).chain(Stage::ALL.into_iter().map(Some))
}

const RESULTS: [(ProbeResult, &str); 3] = [
    (ProbeResult::Good, "good"),
    (ProbeResult::Failed, "failed"),
    (ProbeResult::Inconclusive, "inconclusive"),
];

/// Passes the metrics of `active` to `write` in pieces of at most [`PIECE_MAX`] bytes, so that the
/// text of many targets is never in memory as a whole. Without a configuration the version is the
/// only metric.
pub fn write_pieces(active: Option<Arc<ActiveConfig>>, write: &mut dyn FnMut(String)) {
    let mut registry = Registry::with_prefix("nauthilus_backend");
    registry.register_collector(Box::new(Source { active }));
    let mut pieces = Pieces {
        piece: String::with_capacity(PIECE_MAX),
        write,
    };
    // Writing to memory does not fail, and the encoder has no error of its own.
    let _ = encode(&mut pieces, &registry);
    pieces.flush();
}

/// Cuts a text into pieces.
struct Pieces<'w> {
    piece: String,
    write: &'w mut dyn FnMut(String),
}

impl Pieces<'_> {
    fn flush(&mut self) {
        if !self.piece.is_empty() {
            let fresh = String::with_capacity(PIECE_MAX);
            (self.write)(std::mem::replace(&mut self.piece, fresh));
        }
    }
}

impl Write for Pieces<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while self.piece.len() + rest.len() > PIECE_MAX {
            let room = PIECE_MAX - self.piece.len();
            let cut = (0..=room).rev().find(|&at| rest.is_char_boundary(at));
            let (now, later) = rest.split_at(cut.unwrap_or(0));
            self.piece.push_str(now);
            self.flush();
            rest = later;
        }
        self.piece.push_str(rest);
        Ok(())
    }
}

/// The collector of all metrics of the active configuration.
struct Source {
    active: Option<Arc<ActiveConfig>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared table")
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        build_info(&mut encoder)?;
        let Some(active) = &self.active else {
            return Ok(());
        };
        let targets = distinct(active.targets());
        target_gauges(&mut encoder, &targets, &active.operator_settings())?;
        panics(&mut encoder, active, &targets)?;
        counts_by_verdict(&mut encoder, &targets)?;
        state_changes(&mut encoder, &targets)?;
        probes(&mut encoder, active)?;
        durations(&mut encoder, active)?;
        nodes(&mut encoder, active)?;
        process_wide(&mut encoder, active)
    }
}

/// Removes targets with a key that another one has: OpenMetrics allows each series once.
fn distinct(targets: Vec<TargetStatus>) -> Vec<(String, TargetStatus)> {
    let mut seen = HashSet::with_capacity(targets.len());
    targets
        .into_iter()
        .map(|status| (status.target.key().to_string(), status))
        .filter(|(key, _)| seen.insert(key.clone()))
        .collect()
}

fn build_info(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("build", "The version of the module", None, MetricType::Info)?;
    family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

fn target_gauges(
    encoder: &mut DescriptorEncoder,
    targets: &[(String, TargetStatus)],
    settings: &OperatorSettings,
) -> fmt::Result {
    let mut family = gauge(encoder, "target_up", "Whether the target is alive")?;
    for (key, status) in targets {
        let up = i64::from(status.record.verdict() == Verdict::Alive);
        put_gauge(&mut family, &[("target", key)], &up)?;
    }
    let mut family = gauge(
        encoder,
        "target_state",
        "What operators have set for the target",
    )?;
    for (key, status) in targets {
        let set = settings.state_of(&status.target);
        for state in OperatorState::ALL {
            let labels = [("target", &**key), ("state", state.name())];
            put_gauge(&mut family, &labels, &i64::from(state == set))?;
        }
    }
    let mut family = gauge(
        encoder,
        "last_probe_timestamp_seconds",
        "When the last probe of the target began",
    )?;
    let boot_ns = clock::monotonic_epoch_ns();
    for (key, status) in targets {
        let record = &status.record;
        let started = record.connect_started_ns.max(record.deep_started_ns);
        if started > 0 {
            let unix_ns = i64::try_from(started)
                .unwrap_or(i64::MAX)
                .saturating_sub(boot_ns);
            put_gauge(&mut family, &[("target", key)], &(unix_ns as f64 / 1e9))?;
        }
    }
    let mut family = gauge(
        encoder,
        "certificate_expiry_timestamp_seconds",
        "When the target's certificate ends",
    )?;
    for (key, status) in targets {
        if let Some(not_after) = status.record.not_after {
            put_gauge(&mut family, &[("target", key)], &not_after)?;
        }
    }
    Ok(())
}

fn counts_by_verdict(
    encoder: &mut DescriptorEncoder,
    targets: &[(String, TargetStatus)],
) -> fmt::Result {
    let mut family = gauge(encoder, "targets", "Targets by protocol and verdict")?;
    for protocol in Protocol::ALL {
        let mine = || {
            targets
                .iter()
                .filter(|(_, t)| t.target.protocol == protocol)
        };
        if mine().next().is_none() {
            continue;
        }
        for verdict in [Verdict::Alive, Verdict::Dead, Verdict::Unknown] {
            let count = mine()
                .filter(|(_, t)| t.record.verdict() == verdict)
                .count();
            let labels = [("protocol", protocol.name()), ("state", verdict.name())];
            put_gauge(
                &mut family,
                &labels,
                &i64::try_from(count).unwrap_or(i64::MAX),
            )?;
        }
    }
    Ok(())
}

/// Of each protocol that has targets, whether so few are alive that all are listed.
fn panics(
    encoder: &mut DescriptorEncoder,
    active: &ActiveConfig,
    targets: &[(String, TargetStatus)],
) -> fmt::Result {
    let mut family = gauge(
        encoder,
        "panic",
        "Whether so few targets of the protocol are alive that all are listed",
    )?;
    let panicking = active.panicking();
    for protocol in Protocol::ALL {
        if targets.iter().any(|(_, t)| t.target.protocol == protocol) {
            let is_so = panicking.iter().any(|panic| panic.protocol == protocol);
            put_gauge(
                &mut family,
                &[("protocol", protocol.name())],
                &i64::from(is_so),
            )?;
        }
    }
    Ok(())
}

fn state_changes(
    encoder: &mut DescriptorEncoder,
    targets: &[(String, TargetStatus)],
) -> fmt::Result {
    let mut family = counter(
        encoder,
        "state_changes",
        "How often the verdict has changed",
    )?;
    for (key, status) in targets {
        put_counter(&mut family, &[("target", key)], &status.record.changes)?;
    }
    Ok(())
}

fn probes(encoder: &mut DescriptorEncoder, active: &ActiveConfig) -> fmt::Result {
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

fn durations(encoder: &mut DescriptorEncoder, active: &ActiveConfig) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "probe_duration_seconds",
        "How long probes took",
        None,
        MetricType::Histogram,
    )?;
    for protocol in Protocol::ALL {
        for stage in stages() {
            let histogram = active.table.histogram(protocol, stage);
            let count = histogram.counts.iter().copied().fold(0, u64::wrapping_add);
            if count == 0 {
                continue;
            }
            let bounds = BUCKETS_US.iter().map(|&us| us as f64 / 1e6);
            let buckets: Vec<(f64, u64)> = bounds
                .chain([f64::INFINITY])
                .zip(histogram.counts)
                .collect();
            let labels = [("protocol", protocol.name()), ("stage", stage_name(stage))];
            family.encode_family(&labels)?.encode_histogram(
                histogram.sum.as_secs_f64(),
                count,
                &buckets,
                None::<&std::collections::HashMap<usize, Exemplar<[(&str, &str); 0], f64>>>,
            )?;
        }
    }
    Ok(())
}

fn nodes(encoder: &mut DescriptorEncoder, active: &ActiveConfig) -> fmt::Result {
    let mut family = gauge(
        encoder,
        "node_usable",
        "Whether users are routed to the node",
    )?;
    for status in active.node_statuses() {
        let labels = [("node", &*status.node.name), ("pool", &*status.node.pool)];
        put_gauge(&mut family, &labels, &i64::from(status.why.is_none()))?;
    }
    Ok(())
}

fn process_wide(encoder: &mut DescriptorEncoder, active: &ActiveConfig) -> fmt::Result {
    let mut family = gauge(
        encoder,
        "generation",
        "The number of the list of alive servers",
    )?;
    let generation = i64::try_from(active.generation()).unwrap_or(i64::MAX);
    family.encode_gauge(&generation)?;
    let mut family = counter(
        encoder,
        "log_lines_lost",
        "Log lines that could not be written",
    )?;
    let lost = active.table.count_of(Counter::LogLinesLost);
    put_counter_alone(&mut family, &lost)?;
    let mut family = counter(
        encoder,
        "takeovers",
        "How often a process took over from a prober that stopped or died",
    )?;
    let takeovers = active.table.count_of(Counter::Takeovers);
    put_counter_alone(&mut family, &takeovers)
}

fn stage_name(stage: Option<Stage>) -> &'static str {
    stage.map_or("total", Stage::name)
}

fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn put_gauge(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(value)
}

fn put_counter(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    put_counter_alone(&mut family.encode_family(labels)?, value)
}

fn put_counter_alone(
    family: &mut MetricEncoder<'_>,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    family.encode_counter(value, None::<&Exemplar<[(&str, &str); 0], f64>>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_cut_between_characters() {
        let mut pieces = Vec::new();
        let mut write = |piece: String| pieces.push(piece);
        let mut cutter = Pieces {
            piece: String::new(),
            write: &mut write,
        };
        let text = "aé".repeat(PIECE_MAX);
        cutter.write_str("x").unwrap();
        cutter.write_str(&text).unwrap();
        cutter.flush();
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_MAX));
        assert_eq!(pieces.concat(), format!("x{text}"));
    }
}
