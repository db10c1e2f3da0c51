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
    Config::from_file(path, &|name| std::env::var_os(name))
        .map_err(|error| CommandFailure::bad(error.to_string()))
}

/// How a running engine, or what it shares with others, can be reached.
pub(crate) struct EnginePlaces {
    pub(crate) state_file: Option<PathBuf>,
    /// The configuration with its path. With `--state-file` only one that is given by `--config`.
    pub(crate) config: Option<(PathBuf, Config)>,
}

impl EnginePlaces {
    /// # Errors
    /// Neither a configuration nor a state file is given, or the configuration does not read.
    pub(crate) fn of(args: &EngineArgs) -> Result<Self, CommandFailure> {
        let path = match &args.state_file {
            Some(_) => args.config.clone(),
            None => config_path(args),
        };
        let config = match path {
            Some(path) => {
                let config = read_config(&path)?;
                Some((path, config))
            }
            None => None,
        };
        let named = config.as_ref().map(|(_, config)| config.state_file.clone());
        let state_file = args.state_file.clone().or(named.flatten());
        if state_file.is_none() && config.is_none() {
            return Err(CommandFailure::usage(format!(
                "--config, --state-file or {VARIABLE} expected: where the running engine is found"
            )));
        }
        Ok(Self { state_file, config })
    }

    /// The state file.
    ///
    /// # Errors
    /// The configuration names none.
    pub(crate) fn state_file(&self) -> Result<&Path, CommandFailure> {
        self.state_file
            .as_deref()
            .ok_or_else(|| CommandFailure::bad(self.without_state_file()))
    }

    /// The error for a configuration without a state file.
    pub(crate) fn without_state_file(&self) -> String {
        let path = self.config.as_ref().map(|(path, _)| path.as_path());
        without_state_file(path.unwrap_or(Path::new("")))
    }
}

/// A configuration and the state file that it names.
pub(crate) fn of_config(path: &Path) -> Result<(PathBuf, Config), CommandFailure> {
    let config = read_config(path)?;
    match &config.state_file {
        Some(state_file) => Ok((state_file.clone(), config)),
        None => Err(CommandFailure::bad(without_state_file(path))),
    }
}

fn without_state_file(config: &Path) -> String {
    format!(
        "{} names no state_file, and without one a running engine cannot be reached",
        config.display()
    )
}
