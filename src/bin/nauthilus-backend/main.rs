//! The command `nauthilus-backend`: checks servers and configurations, shows what a running engine
//! knows, and sets what operators may set. `docs/operations.md` describes its words.
//!
//! | file | what it is |
//! |---|---|
//! | `cli` | the words and options; help, man pages and completions are made from it |
//! | `exit_status` | how the command ends |
//! | `terminal` | what is printed: lines, colours, text of others |
//! | `check` | `check`: one probe of a server, stage by stage |
//! | `validate` | `validate`: all mistakes of configuration files |

mod check;
mod cli;
mod exit_status;
mod manual;
mod password;
mod terminal;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, CommandWord};

fn main() -> ExitCode {
    // Wrong arguments end the command here, with status 2.
    let cli = Cli::parse();
    let done = match cli.word {
        CommandWord::Check(args) => check::run(&args),
        CommandWord::Validate(args) => validate::run(&args),
        CommandWord::Completion(args) => manual::completion(&args),
        CommandWord::Manual(args) => manual::write_pages(&args),
    };
    done.unwrap_or_else(|failure| {
        terminal::complain(&failure.reason);
        failure.status
    })
    .into()
}
