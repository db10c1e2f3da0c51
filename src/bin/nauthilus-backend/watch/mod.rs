//! `watch`: a live table of all targets on a terminal, and lines in a pipe.

mod printed;
mod screen;
mod source;
mod table;

use self::printed::Printed;
use self::source::{Row, Source};
use super::cli::WatchArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::terminal;

pub(crate) fn run(args: &WatchArgs) -> Result<ExitStatus, CommandFailure> {
    let source = Source::of(&args.source)?;
    if args.once {
        return once(&source);
    }
    if terminal::is_terminal() {
        screen::run(&source, args.interval)
            .map_err(|error| CommandFailure::bad(format!("the terminal: {error}")))?;
        return Ok(ExitStatus::Good);
    }
    lines(&source, args)
}

fn once(source: &Source) -> Result<ExitStatus, CommandFailure> {
    let reading = source.read().map_err(CommandFailure::bad)?;
    terminal::line(&table::header(table::PIPE_WIDTH));
    for row in table::sorted(&reading.rows, false) {
        terminal::line(&line(row));
    }
    if let Some(doubt) = &reading.doubt {
        terminal::complain(doubt);
    }
    let is_dead = |row: &Row| row.verdict == "dead";
    let is_good = reading.doubt.is_none() && !reading.rows.iter().any(is_dead);
    Ok(ExitStatus::good_if(is_good))
}

/// A line per row, and then a line per change. Ends when nobody reads any more.
fn lines(source: &Source, args: &WatchArgs) -> Result<ExitStatus, CommandFailure> {
    let mut printed = Printed::default();
    let mut last_problem = None;
    let mut is_first = true;
    loop {
        let problem = match source.read() {
            Ok(reading) => {
                for row in printed.changes(&reading.rows) {
                    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
                    terminal::line(&format!("{now}  {}", line(&row)));
                }
                reading.doubt
            }
            // A source that fails at first is probably a wrong one; one that fails later may come back.
            Err(problem) if is_first => return Err(CommandFailure::bad(problem)),
            Err(problem) => Some(problem),
        };
        if let Some(problem) = &problem
            && last_problem.as_ref() != Some(problem)
        {
            terminal::complain(problem);
        }
        last_problem = problem;
        is_first = false;
        terminal::pause(args.interval);
    }
}

fn line(row: &Row) -> String {
    table::line(row, table::PIPE_WIDTH, &table::toned_state)
}
