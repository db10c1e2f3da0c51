//! The command `nauthilus-backend`: checks servers and configurations, shows what a running engine
//! knows, and sets what operators may set. `docs/operations.md` describes its subcommands.
//!
//! | file | what it is |
//! |---|---|
//! | `cli` | the subcommands and options; help, man pages and completions are made from it |
//! | `exit_status` | the exit statuses |
//! | `terminal` | printing: lines, colours, text from peers and files |
//! | `check` | `check`: one probe of a server, stage by stage |
//! | `places`, `engine` | where a running engine is found; a request to it |
//! | `requests` | `nodes`, `events`, `metrics`, `drain`, `maintenance`, `auto` |
//! | `bindings`, `users` | `move`, `forget`, `hold`, `flush`, `touch`; names of users |
//! | `store` | the store of bindings, reached without an engine |
//! | `route` | `route`: which node a user belongs on |
//! | `watch` | `watch`: a live table |
//! | `validate` | `validate`: all mistakes of configuration files |

mod bindings;
mod check;
mod cli;
mod engine;
mod exit_status;
mod manual;
mod password;
mod places;
mod requests;
mod route;
mod store;
mod terminal;
mod users;
mod validate;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use nauthilus_backend::engine::verdicts::OperatorState;

use cli::{Cli, CommandWord};

fn main() -> ExitCode {
    // Wrong arguments end the command here, with status 2.
    let cli = Cli::parse();
    let done = match cli.word {
        CommandWord::Check(args) => check::run(&args),
        CommandWord::Validate(args) => validate::run(&args),
        CommandWord::Watch(args) => watch::run(&args),
        CommandWord::Route(args) => route::run(&args),
        CommandWord::Nodes(args) => requests::nodes(&args),
        CommandWord::Events(args) => requests::events(&args),
        CommandWord::Metrics(args) => requests::metrics(&args),
        CommandWord::Drain(args) => requests::set(&args, OperatorState::Drain),
        CommandWord::Maintenance(args) => requests::set(&args, OperatorState::Maintenance),
        CommandWord::Auto(args) => requests::set(&args, OperatorState::Auto),
        CommandWord::Move(args) => bindings::move_user(&args),
        CommandWord::Forget(args) => bindings::forget(&args),
        CommandWord::Hold(args) => bindings::hold(&args),
        CommandWord::Flush(args) => bindings::flush(&args),
        CommandWord::Touch(args) => bindings::touch(&args),
        CommandWord::Completion(args) => manual::completion(&args),
        CommandWord::Manual(args) => manual::write_pages(&args),
    };
    done.unwrap_or_else(|failure| {
        terminal::complain(&failure.reason);
        failure.status
    })
    .into()
}
