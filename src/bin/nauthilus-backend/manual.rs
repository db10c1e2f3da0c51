//! Completions and man pages, made from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let mut command = Cli::command();
    command.build();
    write_page(&pages, NAME, &command)?;
    // clap adds the subcommand `help`. It gets no page: that of the command lists the subcommands.
    let has_page = |word: &&clap::Command| !word.is_hide_set() && word.get_name() != "help";
    for word in command.get_subcommands().filter(has_page) {
        write_page(&pages, &format!("{NAME}-{}", word.get_name()), word)?;
    }
    for dialect in [Dialect::Bash, Dialect::Zsh, Dialect::Fish] {
        fs::write(scripts.join(dialect.to_string()), script(dialect))?;
    }
    Ok(())
}

/// Writes the page of the command or of one of its subcommands.
fn write_page(folder: &Path, name: &str, command: &clap::Command) -> io::Result<()> {
    // clap requires names that live as long as the process. A page is made once, so the leak is bounded.
    let long: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let since = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds.parse().ok().map(Duration::from_secs),
        Err(_) => None,
    };
    let at = since.map_or_else(SystemTime::now, |since| UNIX_EPOCH + since);
    let date = humantime::format_rfc3339_seconds(at).to_string();
    let page = clap_mangen::Man::new(command.clone().name(long))
        .title(long)
        .date(date.split('T').next().unwrap_or_default());
    let mut bytes = Vec::new();
    page.render(&mut bytes)?;
    fs::write(folder.join(format!("{name}.1")), bytes)
}
