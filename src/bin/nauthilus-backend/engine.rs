//! Requests to the running engine that keeps a state file.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::state_file::BODY_MAX;
use nauthilus_backend::engine::state_file::file::SharedStateFile;
use nauthilus_backend::engine::state_file::saved::{RequestAnswer, Saved};

use super::exit_status::CommandFailure;

/// The pause between two reads of the file.
const POLL: Duration = Duration::from_millis(20);

/// Why a request has no reply.
pub(crate) enum AskFailure {
    /// No engine can be asked, or none has answered.
    Unanswered(String),
    /// The engine refused; the text is its reason.
    Refused(String),
}

impl From<AskFailure> for CommandFailure {
    fn from(failure: AskFailure) -> Self {
        match failure {
            AskFailure::Unanswered(reason) | AskFailure::Refused(reason) => Self::bad(reason),
        }
    }
}

/// Asks the engine that keeps the file, and returns the lines of its reply. Waits for at most `wait` until the
/// requests of others are done, and then as long for the answer. The request is taken out of the file in
/// the end, answered or not.
pub(crate) fn ask(path: &Path, body: &str, wait: Duration) -> Result<Vec<String>, AskFailure> {
    if body.len() > BODY_MAX {
        return Err(AskFailure::Refused(format!(
            "a request of at most {BODY_MAX} bytes expected, got {}",
            body.len()
        )));
    }
    let store = open(path)?;
    let replied = ask_in(&store, path, body, wait);
    store.stop_asking();
    replied
}

fn ask_in(
    store: &SharedStateFile,
    path: &Path,
    body: &str,
    wait: Duration,
) -> Result<Vec<String>, AskFailure> {
    let mut end = Instant::now() + wait;
    let mut is_asked = false;
    // The version of the content that was read last. The file may be large, so it is read again only
    // if its version has changed.
    let mut read = None;
    let mut saved = Saved::default();
    while Instant::now() < end {
        let version = store.version().ok();
        if version.is_none() || version != read {
            saved = store
                .load_settled()
                .map_err(|reason| unusable(path, &reason))?
                .unwrap_or_default();
            read = version.filter(|version| version.is_settled());
        }
        if !is_asked {
            let answered = saved.answer.as_ref().map_or(0, |answer| answer.number);
            is_asked = store.ask(body, answered);
            if is_asked {
                // However long other requests had the place before, the engine has its time for this one.
                end = Instant::now() + wait;
            }
        } else if let Some(answer) = answer_of(&saved, store.asked()) {
            return match answer.text.strip_prefix("error ") {
                Some(reason) => Err(AskFailure::Refused(reason.to_owned())),
                None => Ok(answer.reply),
            };
        }
        sleep(POLL);
    }
    let wait = wait.as_secs_f64();
    let reason = if is_asked {
        format!("no engine answered within {wait} s: does a host that uses this state file run?")
    } else {
        format!("another request waited for its answer for {wait} s")
    };
    Err(unusable(path, &reason))
}

fn answer_of(saved: &Saved, asked: u64) -> Option<RequestAnswer> {
    saved.answer.clone().filter(|answer| answer.number >= asked)
}

/// Opens a state file that exists. Opening a missing one would create it: if root runs the command,
/// the file would belong to root, and the engine could not use it.
fn open(path: &Path) -> Result<SharedStateFile, AskFailure> {
    if let Err(error) = std::fs::symlink_metadata(path) {
        return Err(unusable(path, &error.to_string()));
    }
    SharedStateFile::open(path).map_err(AskFailure::Unanswered)
}

fn unusable(path: &Path, reason: &str) -> AskFailure {
    AskFailure::Unanswered(format!("state file {}: {reason}", path.display()))
}
