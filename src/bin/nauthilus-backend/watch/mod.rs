//! `watch`: a live table of all targets on a terminal, and lines in a pipe.

mod screen;
mod source;
mod table;

use std::collections::HashMap;
use std::thread::sleep;

use self::source::{Source, TargetRow};
use super::cli::WatchArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::terminal;

pub(crate) fn run(args: &WatchArgs) -> Result<ExitStatus, CommandFailure> {
    let source = Source::of(&args.source)?;
    if args.once {
        let rows = source.read().map_err(CommandFailure::bad)?;
        terminal::line(&table::header(table::PIPE_WIDTH));
        for row in table::sorted(&rows, false) {
            terminal::line(&table::line(row, table::PIPE_WIDTH, &table::toned_state));
        }
        let is_dead = |row: &TargetRow| row.verdict == "dead";
        return Ok(ExitStatus::good_if(!rows.iter().any(is_dead)));
    }
    if terminal::is_terminal() {
        screen::run(&source, args.interval)
            .map_err(|error| CommandFailure::bad(format!("the terminal: {error}")))?;
        return Ok(ExitStatus::Good);
    }
    lines(&source, args)
}

/// A line per target, and then a line per change. Ends when nobody reads any more.
fn lines(source: &Source, args: &WatchArgs) -> Result<ExitStatus, CommandFailure> {
    let mut known: HashMap<String, (String, String)> = HashMap::new();
    let mut last_problem = None;
    let mut is_first = true;
    loop {
        match source.read() {
            Ok(rows) => {
                last_problem = None;
                for row in table::sorted(&rows, false) {
                    let now = (row.verdict.clone(), row.state.clone());
                    if known.insert(row.key.clone(), now.clone()) != Some(now) {
                        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
                        let line = table::line(row, table::PIPE_WIDTH, &table::toned_state);
                        terminal::line(&format!("{now}  {line}"));
                    }
                }
            }
            // A source that fails at first is probably a wrong one; one that fails later may come back.
            Err(problem) if is_first => return Err(CommandFailure::bad(problem)),
            Err(problem) => {
                if last_problem.as_ref() != Some(&problem) {
                    terminal::complain(&problem);
                }
                last_problem = Some(problem);
            }
        }
        is_first = false;
        sleep(args.interval);
    }
}
