//! Completions and man pages, made from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell as Dialect;

use super::cli::{Cli, CompletionArgs, ManualArgs, Shell};
use super::exit_status::{CommandFailure, ExitStatus};
use super::terminal;

const NAME: &str = "nauthilus-backend";

pub(crate) fn completion(args: &CompletionArgs) -> Result<ExitStatus, CommandFailure> {
    let dialect = match args.shell {
        Shell::Bash => Dialect::Bash,
        Shell::Zsh => Dialect::Zsh,
        Shell::Fish => Dialect::Fish,
        Shell::Elvish => Dialect::Elvish,
        Shell::Powershell => Dialect::PowerShell,
    };
    terminal::print(&script(dialect));
    Ok(ExitStatus::Good)
}

fn script(dialect: Dialect) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(dialect, &mut Cli::command(), NAME, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes `man/*.1` and `completions/{bash,zsh,fish}` below a folder, for `make command`.
pub(crate) fn write_pages(args: &ManualArgs) -> Result<ExitStatus, CommandFailure> {
    write_all(&args.folder).map_err(|error| {
        CommandFailure::bad(format!("cannot write {}: {error}", args.folder.display()))
    })?;
    Ok(ExitStatus::Good)
}

fn write_all(folder: &Path) -> io::Result<()> {
    let (pages, scripts) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&scripts)?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &pages)?;
    for dialect in [Dialect::Bash, Dialect::Zsh, Dialect::Fish] {
        fs::write(scripts.join(dialect.to_string()), script(dialect))?;
    }
    Ok(())
}
