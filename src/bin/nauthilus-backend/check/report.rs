//! Prints the results of `check`: a line when a stage ends, or one JSON object at the end.

use std::io::IsTerminal;
use std::time::Duration;

use nauthilus_backend::engine::probe::error::Stage;
use nauthilus_backend::engine::tls_details::{CertificateDetails, TlsDetails};
use serde_json::{Value as Json, json};

use super::advice::advice;
use super::offers::offers;
use super::recorder::{StageListener, StageTime};
use super::subject::{ProbeRun, Subject};
use super::url::CheckUrl;

use crate::cli::CheckArgs;
use crate::terminal::{
    self, Tone, date_text, days_until, harmless, harmless_bytes, time_text, toned,
};

/// Clears the line that the cursor is in, and begins it again.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Days before the end of a certificate from which it is pointed out: the default of `cert_warn`.
const CERTIFICATE_DAYS: i64 = 14;

fn field(name: &str, value: &str) -> String {
    format!("  {name:<12} {value}")
}

/// The report for a person.
pub(super) struct TextReport {
    is_shown: bool,
    repeat: u32,
    has_progress: bool,
}

impl TextReport {
    pub(super) fn begin(url: &CheckUrl, args: &CheckArgs) -> Self {
        if !args.json {
            terminal::line(&harmless(&url.shown()));
        }
        Self {
            is_shown: !args.json,
            repeat: args.repeat,
            has_progress: !args.json && terminal::is_terminal() && std::io::stdin().is_terminal(),
        }
    }

    /// Prints stages as they begin and end, unless that is not wanted.
    pub(super) fn stages(&self, is_quiet: bool) -> StageLines {
        StageLines {
            is_quiet,
            has_progress: self.has_progress,
        }
    }

    /// Says on a terminal which of many checks is being made.
    pub(super) fn progress(&self, number: u32) {
        if self.has_progress && self.repeat > 1 {
            terminal::print(&format!("{CLEAR_LINE}  {number} of {} ...", self.repeat));
        }
    }

    pub(super) fn end(&self, subject: &Subject, runs: &[ProbeRun]) {
        if !self.is_shown {
            return;
        }
        if self.has_progress && self.repeat > 1 {
            terminal::print(CLEAR_LINE);
        }
        let Some(run) = run_to_report(runs) else {
            return;
        };
        if let Some(tls) = &run.recording.tls {
            certificate_lines(tls);
        }
        let offers = offers(subject.target.protocol, &run.recording.lines);
        if !offers.is_empty() {
            terminal::line(&field("offers", &harmless(&offers.join(" "))));
        }
        if self.repeat > 1 {
            repeat_lines(runs);
        }
        match &run.result {
            Ok(()) => {
                let word = toned(Tone::Good, &format!("{:<12}", "good"));
                terminal::line(&format!("  {word} in {}", time_text(run.elapsed)));
            }
            Err(error) => {
                let word = toned(Tone::Bad, &format!("{:<12}", "failed"));
                let reason = harmless(&error.to_string());
                terminal::line(&format!(
                    "  {word} after {}: {reason}",
                    time_text(run.elapsed)
                ));
                let advice = advice(error, &subject.target);
                terminal::line(&field("try", &harmless(&advice)));
            }
        }
    }
}

/// The run to report: the last that failed; if none did, the last one.
fn run_to_report(runs: &[ProbeRun]) -> Option<&ProbeRun> {
    let failed = runs.iter().rev().find(|run| run.result.is_err());
    failed.or(runs.last())
}

/// Prints a line when a stage ends, and on a terminal one while it runs.
pub(super) struct StageLines {
    is_quiet: bool,
    has_progress: bool,
}

impl StageListener for StageLines {
    fn begins(&self, stage: Stage) {
        if !self.is_quiet && self.has_progress {
            terminal::print(&format!("{CLEAR_LINE}  {:<12} ...", stage.name()));
        }
    }

    fn ended(&self, stage: &StageTime) {
        if self.is_quiet {
            return;
        }
        if self.has_progress {
            terminal::print(CLEAR_LINE);
        }
        let detail = harmless_bytes(stage.detail.as_bytes());
        let text = format!("{:>9}  {detail}", time_text(stage.took));
        terminal::line(field(stage.stage.name(), &text).trim_end());
    }
}

fn certificate_lines(tls: &TlsDetails) {
    let Some((certificate, issuers)) = tls.chain.split_first() else {
        return;
    };
    terminal::line(&field("certificate", &harmless(&certificate.subject)));
    terminal::line(&field("  issued by", &harmless(&certificate.issuer)));
    if !certificate.names.is_empty() {
        terminal::line(&field("  for", &harmless(&certificate.names.join(", "))));
    }
    terminal::line(&field("  valid", &validity(certificate)));
    for issuer in issuers {
        terminal::line(&field("issuer", &harmless(&issuer.subject)));
        terminal::line(&field("  issued by", &harmless(&issuer.issuer)));
        terminal::line(&field("  valid", &validity(issuer)));
    }
}

fn validity(certificate: &CertificateDetails) -> String {
    let date = |at: Option<i64>| at.map_or_else(|| "?".to_owned(), date_text);
    let days = certificate.not_after.map(days_until);
    let left = match days {
        Some(days) if days < 0 => toned(Tone::Bad, "expired"),
        Some(days) if days < CERTIFICATE_DAYS => {
            toned(Tone::Doubtful, &format!("{days} days left"))
        }
        Some(days) => format!("{days} days left"),
        None => "no end".to_owned(),
    };
    format!(
        "{} to {} ({left})",
        date(certificate.not_before),
        date(certificate.not_after)
    )
}

// === Many runs ===

/// Minimum, median and maximum.
struct Spread {
    min: Duration,
    median: Duration,
    max: Duration,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let middle = times.len() / 2;
        let (upper, lower) = (*times.get(middle)?, *times.get((times.len() - 1) / 2)?);
        Some(Self {
            min: *times.first()?,
            median: (lower + upper) / 2,
            max: *times.last()?,
        })
    }

    fn json(&self) -> Json {
        json!({ "min_ms": ms(self.min), "median_ms": ms(self.median), "max_ms": ms(self.max) })
    }
}

/// The spread of each stage and of the whole, of the good runs.
fn spreads(runs: &[ProbeRun]) -> Vec<(&'static str, Spread)> {
    let good = || runs.iter().filter(|run| run.result.is_ok());
    let times_of = |stage: Stage| -> Vec<Duration> {
        let of_run = |run: &ProbeRun| -> Option<Duration> {
            let stages = run.recording.stages.iter();
            let times = stages.filter(|one| one.stage == stage).map(|one| one.took);
            times.reduce(|sum, time| sum + time)
        };
        good().filter_map(of_run).collect()
    };
    let mut all: Vec<_> = Stage::ALL
        .into_iter()
        .filter_map(|stage| Some((stage.name(), Spread::of(times_of(stage))?)))
        .collect();
    let whole = Spread::of(good().map(|run| run.elapsed).collect());
    all.extend(whole.map(|spread| ("all", spread)));
    all
}

fn repeat_lines(runs: &[ProbeRun]) {
    let header = format!("{:>10} {:>10} {:>10}", "min", "median", "max");
    let good = runs.iter().filter(|run| run.result.is_ok()).count();
    terminal::line(&field("", &header));
    for (name, spread) in spreads(runs) {
        let times = [spread.min, spread.median, spread.max].map(time_text);
        let [min, median, max] = times;
        terminal::line(&field(name, &format!("{min:>10} {median:>10} {max:>10}")));
    }
    terminal::line(&field("runs", &format!("{good} of {} good", runs.len())));
}

// === JSON ===

pub(super) struct JsonReport;

impl JsonReport {
    pub(super) fn print(subject: &Subject, runs: &[ProbeRun]) {
        if let Some(run) = run_to_report(runs) {
            terminal::line(&of_run(subject, run, runs).to_string());
        }
    }
}

fn of_run(subject: &Subject, run: &ProbeRun, runs: &[ProbeRun]) -> Json {
    let target = &subject.target;
    let error = run.result.as_ref().err();
    let stages: Vec<Json> = run.recording.stages.iter().map(of_stage).collect();
    let greeting = run
        .recording
        .lines
        .iter()
        .find(|(stage, _)| *stage != Stage::Capability);
    let spreads: serde_json::Map<String, Json> = spreads(runs)
        .into_iter()
        .map(|(name, spread)| (name.to_owned(), spread.json()))
        .collect();
    json!({
        "url": subject.url.shown(),
        "good": error.is_none(),
        "stage": error.map(|error| error.stage.name()),
        "reason": error.map(ToString::to_string),
        "advice": error.map(|error| advice(error, target)),
        "address": run.address.map(|address| address.to_string()),
        "port": target.port,
        "elapsed_ms": ms(run.elapsed),
        "stages": stages,
        "tls": run.recording.tls.as_ref().map(of_tls),
        "greeting": greeting.map(|(_, line)| String::from_utf8_lossy(line).into_owned()),
        "offers": offers(target.protocol, &run.recording.lines),
        "runs": runs.len(),
        "good_runs": runs.iter().filter(|run| run.result.is_ok()).count(),
        "times": spreads,
    })
}

fn of_stage(stage: &StageTime) -> Json {
    json!({ "stage": stage.stage.name(), "ms": ms(stage.took) })
}

fn of_tls(tls: &TlsDetails) -> Json {
    let certificate = |certificate: &CertificateDetails| {
        json!({
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "names": certificate.names,
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
        })
    };
    let chain: Vec<Json> = tls.chain.iter().map(certificate).collect();
    json!({
        "version": tls.version,
        "cipher": tls.cipher,
        "distrust": tls.distrust,
        "group": tls.group,
        "certificate": chain.first(),
        "chain": chain,
    })
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
