//! Records what a probe reports: its stages with their times, the certificate, the server's lines.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nauthilus_backend::engine::probe::error::Stage;
use nauthilus_backend::engine::probe::progress::{ProbeObserver, Progress};
use nauthilus_backend::engine::tls_details::TlsDetails;

/// A stage that has ended.
#[derive(Clone, Debug)]
pub(super) struct StageTime {
    pub(super) stage: Stage,
    pub(super) took: Duration,
    /// A few words about its result, such as the address or the server's greeting.
    pub(super) detail: String,
}

/// What a probe has reported.
#[derive(Default)]
pub(super) struct Recording {
    pub(super) stages: Vec<StageTime>,
    pub(super) tls: Option<TlsDetails>,
    /// The lines of the server's greeting and capabilities, in order.
    pub(super) lines: Vec<(Stage, Vec<u8>)>,
    running: Option<(Stage, Instant)>,
    started: Option<Instant>,
    detail: String,
}

/// Gets each stage when it begins and when it ends.
pub(super) trait StageListener: Send + Sync {
    fn begins(&self, stage: Stage);
    fn ended(&self, stage: &StageTime);
}

/// The most lines of a server that are kept.
const MAX_LINES: usize = 100;

pub(super) struct Recorder<L> {
    recording: Mutex<Recording>,
    listener: L,
}

impl<L: StageListener> Recorder<L> {
    pub(super) fn new(listener: L) -> Self {
        Self {
            recording: Mutex::default(),
            listener,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when the probe begins.
    pub(super) fn begin(&self) {
        *self.lock() = Recording {
            started: Some(Instant::now()),
            ..Recording::default()
        };
    }

    /// Ends the last stage, `elapsed` after the probe began, and returns all.
    pub(super) fn end(&self, elapsed: Duration) -> Recording {
        let mut recording = self.lock();
        let at = recording
            .started
            .and_then(|started| started.checked_add(elapsed));
        self.end_stage(&mut recording, at.unwrap_or_else(Instant::now));
        std::mem::take(&mut recording)
    }

    fn end_stage(&self, recording: &mut Recording, at: Instant) {
        let Some((stage, began)) = recording.running.take() else {
            return;
        };
        let ended = StageTime {
            stage,
            took: at.saturating_duration_since(began),
            detail: std::mem::take(&mut recording.detail),
        };
        self.listener.ended(&ended);
        recording.stages.push(ended);
    }
}

impl<L: StageListener> ProbeObserver for Recorder<L> {
    fn note(&self, progress: Progress<'_>) {
        let mut recording = self.lock();
        match progress {
            Progress::Stage(stage) => {
                let now = Instant::now();
                self.end_stage(&mut recording, now);
                recording.running = Some((stage, now));
                self.listener.begins(stage);
            }
            Progress::Resolved(addresses) => recording.detail = addresses_text(addresses),
            Progress::Connected(address) => recording.detail = address.to_string(),
            Progress::Tls(details) => {
                let group = details.group.as_deref().unwrap_or_default();
                recording.detail = format!("{} {} {group}", details.version, details.cipher);
                recording.tls = Some(details.clone());
            }
            Progress::Line(line) => {
                let Some((stage, _)) = recording.running else {
                    return;
                };
                if recording.lines.len() < MAX_LINES {
                    if recording.detail.is_empty() && stage != Stage::Capability {
                        recording.detail = String::from_utf8_lossy(line).into_owned();
                    }
                    recording.lines.push((stage, line.to_vec()));
                }
            }
        }
    }
}

fn addresses_text(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}
