//! `validate`: all mistakes of configuration files.

use std::collections::BTreeSet;
use std::path::Path;

use nauthilus_backend::engine::config::{Findings, Mistake, findings};
use serde_json::json;

use super::cli::ValidateArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::terminal::{self, Tone, count_text, harmless, toned};

pub(crate) fn run(args: &ValidateArgs) -> Result<ExitStatus, CommandFailure> {
    let mut is_good = true;
    for file in &args.files {
        let found = findings(file, &|name| std::env::var_os(name));
        is_good &= found.mistakes.is_empty();
        if args.json {
            terminal::line(&as_json(file, &found).to_string());
        } else {
            show(file, &found);
        }
    }
    Ok(ExitStatus::good_if(is_good))
}

fn show(file: &Path, found: &Findings) {
    let name = harmless(&file.display().to_string());
    for mistake in &found.mistakes {
        terminal::line(&format!("{name}: {}", sentence(mistake)));
    }
    for warning in &found.warnings {
        let word = toned(Tone::Doubtful, "warning");
        terminal::line(&format!("{name}: {word}: {}", sentence(warning)));
    }
    match &found.config {
        Some(config) => {
            let nodes: BTreeSet<_> = config.targets.iter().map(|target| target.node()).collect();
            let good = toned(Tone::Good, "good");
            let targets = count_text(config.targets.len(), "target");
            let nodes = count_text(nodes.len(), "node");
            terminal::line(&format!("{name}: {good}: {targets} on {nodes}"));
        }
        None => {
            let bad = toned(Tone::Bad, "bad");
            let mistakes = count_text(found.mistakes.len(), "mistake");
            terminal::line(&format!("{name}: {bad}: {mistakes}"));
        }
    }
}

/// `line 7: backend_server_monitoring.log: …`
fn sentence(mistake: &Mistake) -> String {
    let mut text = String::new();
    if let Some(line) = mistake.line {
        text.push_str(&format!("line {line}: "));
    }
    if !mistake.key.is_empty() {
        text.push_str(&format!("{}: ", mistake.key));
    }
    text.push_str(&mistake.problem);
    harmless(&text)
}

fn as_json(file: &Path, found: &Findings) -> serde_json::Value {
    let list = |mistakes: &[Mistake]| -> Vec<serde_json::Value> {
        let one = |mistake: &Mistake| {
            json!({
                "line": mistake.line,
                "key": mistake.key,
                "problem": mistake.problem,
            })
        };
        mistakes.iter().map(one).collect()
    };
    json!({
        "file": file.display().to_string(),
        "good": found.mistakes.is_empty(),
        "targets": found.config.as_ref().map(|config| config.targets.len()),
        "mistakes": list(&found.mistakes),
        "warnings": list(&found.warnings),
    })
}
