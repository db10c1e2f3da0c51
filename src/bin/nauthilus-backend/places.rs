//! Where a running engine is found: its configuration and its state file.

use std::path::{Path, PathBuf};

use nauthilus_backend::engine::config::Config;

use super::cli::EngineArgs;
use super::exit_status::CommandFailure;

/// The variable that hosts read as well.
const VARIABLE: &str = "NAUTHILUS_BACKEND_CONFIG";

/// The configuration file that is given, or that the environment names.
pub(crate) fn config_path(args: &EngineArgs) -> Option<PathBuf> {
    let of_environment = || std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    args.config
        .clone()
        .or_else(|| of_environment().map(PathBuf::from))
}

/// Reads a configuration without the files that it names.
pub(crate) fn read_config(path: &Path) -> Result<Config, CommandFailure> {
    Config::from_file(path, &|name| std::env::var(name).ok())
        .map_err(|error| CommandFailure::bad(error.to_string()))
}

/// The state file of the running engine.
pub(crate) fn state_file(args: &EngineArgs) -> Result<PathBuf, CommandFailure> {
    if let Some(path) = &args.state_file {
        return Ok(path.clone());
    }
    let Some(path) = config_path(args) else {
        return Err(CommandFailure::usage(format!(
            "--config, --state-file or {VARIABLE} expected: where the running engine is found"
        )));
    };
    of_config(&path)
}

/// The state file that a configuration names.
pub(crate) fn of_config(path: &Path) -> Result<PathBuf, CommandFailure> {
    read_config(path)?.state_file.ok_or_else(|| {
        CommandFailure::bad(format!(
            "{} names no state_file, and without one a running engine cannot be reached",
            path.display()
        ))
    })
}
