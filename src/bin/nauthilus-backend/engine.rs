//! A request to the running engine that keeps a state file.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::state_file::file::SharedStateFile;
use nauthilus_backend::engine::state_file::saved::{RequestAnswer, Saved};

use super::exit_status::CommandFailure;

/// The pause between two reads of the file.
const POLL: Duration = Duration::from_millis(20);

/// Asks the engine that keeps the file, and returns the lines of its reply.
pub(crate) fn ask(path: &Path, body: &str, wait: Duration) -> Result<Vec<String>, CommandFailure> {
    let file = open(path)?;
    let end = Instant::now() + wait;
    let mut is_asked = false;
    while Instant::now() < end {
        let saved = file
            .load_settled()
            .map_err(|reason| unusable(path, &reason))?;
        let saved = saved.unwrap_or_default();
        if !is_asked {
            let answered = saved.answer.as_ref().map_or(0, |answer| answer.number);
            is_asked = file.ask(body, answered);
        } else if let Some(answer) = answer_of(&saved, file.asked()) {
            file.stop_asking();
            return match answer.text.strip_prefix("error ") {
                Some(reason) => Err(CommandFailure::bad(reason)),
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
    Err(CommandFailure::bad(format!("{}: {reason}", path.display())))
}

fn answer_of(saved: &Saved, asked: u64) -> Option<RequestAnswer> {
    saved.answer.clone().filter(|answer| answer.number >= asked)
}

/// Opens a state file that is there. Opening one that is not would create it, as root, and keep the
/// engine from using it.
fn open(path: &Path) -> Result<SharedStateFile, CommandFailure> {
    if let Err(error) = std::fs::symlink_metadata(path) {
        return Err(unusable(path, &error.to_string()));
    }
    SharedStateFile::open(path).map_err(CommandFailure::bad)
}

fn unusable(path: &Path, reason: &str) -> CommandFailure {
    CommandFailure::bad(format!("state file {}: {reason}", path.display()))
}
