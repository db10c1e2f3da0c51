//! Makes a configuration the active one: from a call, or from the file that the environment names.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Process, signs};
use crate::engine::active::{ActiveConfig, KnownNames, StartState};
use crate::engine::config::{Config, LogSink, shown_path};
use crate::engine::log::{Level, Line, Log};
use crate::engine::probe::resolve::origin;
use crate::engine::request::secret_names;
use crate::engine::state_file::file::SharedStateFile;
use crate::sys::fork_mark::pid;
use crate::sys::{copies, stderr};

/// The environment variable with the path of a YAML file, for hosts that do not call `configure`.
pub(super) const CONFIG_VARIABLE: &str = "NAUTHILUS_BACKEND_CONFIG";

/// For this long after a file was refused it is not read again: otherwise each request would read it.
const REREAD_AFTER: Duration = Duration::from_secs(1);

/// Why a configuration did not come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotConfigured {
    /// The configuration has a mistake, or a file that it names cannot be used.
    Wrong(String),
    /// Another copy of this library holds the engine of the process.
    OtherCopy(String),
    /// The system refused what it needs.
    System(String),
}

impl From<NotConfigured> for String {
    fn from(refused: NotConfigured) -> Self {
        use NotConfigured::{OtherCopy, System, Wrong};
        match refused {
            Wrong(reason) | OtherCopy(reason) | System(reason) => reason,
        }
    }
}

impl NotConfigured {
    fn prefixed(self, prefix: &str) -> Self {
        let prefixed = |reason: String| format!("{prefix}: {reason}");
        match self {
            Self::Wrong(reason) => Self::Wrong(prefixed(reason)),
            Self::OtherCopy(reason) => Self::OtherCopy(prefixed(reason)),
            Self::System(reason) => Self::System(prefixed(reason)),
        }
    }
}

/// Which configuration a new one replaces.
#[derive(Clone, Copy, PartialEq)]
enum Replaces {
    Any,
    /// None: one that was set meanwhile stays.
    Nothing,
}

impl Process {
    /// Replaces the active configuration, and returns the new one. Targets that did not change keep their
    /// records. `head`: see [`ActiveConfig::succeed`].
    ///
    /// # Errors
    /// One line that names the key, or the other copy of this library that holds the engine of
    /// the process. The old configuration then runs on.
    pub fn configure(
        &self,
        config: Config,
        head: bool,
    ) -> Result<Arc<ActiveConfig>, NotConfigured> {
        self.configure_if(Replaces::Any, config, head)
    }

    fn configure_if(
        &self,
        replaces: Replaces,
        config: Config,
        head: bool,
    ) -> Result<Arc<ActiveConfig>, NotConfigured> {
        copies::claim().map_err(NotConfigured::OtherCopy)?;
        origin::remember();
        let is_required = signs().takes_addresses_only;
        let names = if head {
            KnownNames::look_up(&config, is_required)
        } else {
            KnownNames::none(is_required)
        };
        let done = self.replace_active(replaces, config, head, names);
        if let Ok(active) = done.as_ref()
            && head
        {
            active.given.fetch_add(1, Ordering::Relaxed);
        }
        if done.is_err() && !self.is_configured() {
            copies::give_up();
        }
        done.map_err(NotConfigured::System)
    }

    fn replace_active(
        &self,
        replaces: Replaces,
        config: Config,
        head: bool,
        names: KnownNames,
    ) -> Result<Arc<ActiveConfig>, String> {
        let mut control = self.control();
        let before = self.active.load_full();
        if let Some(active) = before.as_ref().filter(|_| replaces == Replaces::Nothing) {
            return Ok(active.clone());
        }
        if let Some(same) = before.as_ref().filter(|b| *b.config == config) {
            self.wanted.store(true, Ordering::Release);
            if head {
                same.set_names(names);
            }
            if let Some(log) = self.log.load_full() {
                log.reopen();
                // Sent to the engine thread again, so that it reads the files that the configuration names
                // again.
                control.serve(same.clone(), log);
            }
            return Ok(same.clone());
        }
        let sink_changed = before.as_ref().is_none_or(|b| b.config.log != config.log);
        stderr::remember();
        let log = match self.log.load_full() {
            Some(log) if !sink_changed => {
                log.reopen();
                log
            }
            _ => Arc::new(open_log(&config.log).map_err(|e| config.origin.of_log(&e))?),
        };
        let state_files = &mut control.state_files;
        let mut state = open_state_file(before.as_deref(), state_files, &config, &log)?;
        state.names = names;
        let active = ActiveConfig::succeed(before.as_ref(), Arc::new(config), pid(), head, state)
            .map_err(|e| format!("cannot share memory with forked processes: {e}"))?;
        let active = Arc::new(active);
        // A process that only configures leaves this to those that are forked from it: nginx may refuse the
        // reload after `init_by_lua`, and the workers of before then go on.
        let has_run = self.has_run.load(Ordering::Acquire);
        if self.is_running() || has_run && !active.replaces_served(pid()) {
            active.come_into_force(pid(), None);
        }
        secret_names::set_exposed(&active.config.expose_attributes);
        let replaced = self.log.swap(Some(log.clone()));
        if let Some(replaced) = replaced.as_ref().filter(|one| !Arc::ptr_eq(one, &log)) {
            log.inherit_losses(replaced);
        }
        control.note_earlier(before.zip(replaced).filter(|_| head));
        self.active.store(Some(active.clone()));
        self.wanted.store(true, Ordering::Release);
        for warning in &active.config.warnings {
            log.write_here(
                &Line::new(Level::Warning, "configuration_warning").quoted("reason", warning),
            );
        }
        control.serve(active.clone(), log);
        self.advance();
        Ok(active)
    }

    /// The host has given up a configuration that it gave with `head`, or has replaced it. If it was not given
    /// again and no process has run its engine with it, the one before is active again: a worker that nginx
    /// starts later then serves what the others do.
    pub fn give_up(&self, given_up: &Arc<ActiveConfig>) {
        let mut control = self.control();
        let is_given_again = given_up.given.fetch_sub(1, Ordering::Relaxed) > 1;
        let active = self.active.load_full();
        let is_active = active.is_some_and(|active| Arc::ptr_eq(&active, given_up));
        if is_given_again || !is_active || given_up.is_in_force() {
            return;
        }
        let Some((before, log)) = control.earlier.pop() else {
            return;
        };
        secret_names::set_exposed(&before.config.expose_attributes);
        self.log.store(Some(log));
        self.active.store(Some(before));
        drop(control);
        self.advance();
    }

    /// Reads the file that `NAUTHILUS_BACKEND_CONFIG` names, where nothing was configured. What another thread
    /// configures meanwhile stays.
    ///
    /// # Errors
    /// Why the file was refused. It is not read again within a second.
    pub fn configure_from_environment(&self) -> Result<(), NotConfigured> {
        if self.is_configured() {
            return Ok(());
        }
        let Some(path) = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        if let Some((at, reason)) = &self.control().refused
            && at.elapsed() < REREAD_AFTER
        {
            return Err(reason.clone());
        }
        let read = Config::from_file(Path::new(&path), &|name| std::env::var_os(name));
        let done = read
            .and_then(Config::with_files)
            .map_err(|e| NotConfigured::Wrong(e.to_string()))
            .and_then(|config| self.configure_if(Replaces::Nothing, config, false));
        match done {
            Err(refused) if !self.is_configured() => {
                let refused = refused.prefixed(CONFIG_VARIABLE);
                self.control().refused = Some((Instant::now(), refused.clone()));
                Err(refused)
            }
            _ => Ok(()),
        }
    }
}

/// Opens and reads the state file of a configuration. If the process has it open already, for the configuration
/// before or for one whose last content is still being written, the open file is used again: see
/// [`SharedStateFile::is_at`]. A content that cannot be used is logged; the first content that is saved replaces
/// it. `opened`: the files that this process has opened.
fn open_state_file(
    before: Option<&ActiveConfig>,
    opened: &mut Vec<Weak<SharedStateFile>>,
    config: &Config,
    log: &Log,
) -> Result<StartState, String> {
    let Some(path) = &config.state_file else {
        return Ok(StartState::default());
    };
    let of_before = before.and_then(|b| b.state_file.clone());
    let mut open = of_before
        .into_iter()
        .chain(opened.iter().filter_map(Weak::upgrade));
    let file = match open.find(|file| file.is_at(path)) {
        Some(file) => file,
        None => {
            let file = SharedStateFile::open(path).map_err(|e| config.origin.of_state_file(&e))?;
            let file = Arc::new(file);
            opened.retain(|file| file.strong_count() > 0);
            opened.push(Arc::downgrade(&file));
            file
        }
    };
    // Again, now that both are open: a path that led nowhere before may have been a link to the other.
    config
        .refuse_one_file_for_two()
        .map_err(|e| e.to_string())?;
    let saved = file.load_settled().unwrap_or_else(|reason| {
        log.write_here(
            &Line::new(Level::Warning, "state_file_rejected")
                .quoted("path", &path.display().to_string())
                .quoted("reason", &reason),
        );
        None
    });
    Ok(StartState {
        state_file: Some(file),
        saved,
        names: KnownNames::default(),
    })
}

fn open_log(sink: &LogSink) -> Result<Log, String> {
    Log::open(sink).map_err(|e| match sink {
        LogSink::File(path) => format!("log: cannot append to {}: {e}", shown_path(path)),
        _ => format!("log: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its writing thread may still have it open, though no configuration has it any more.
    #[test]
    fn a_state_file_is_open_once() {
        let dir = std::env::temp_dir().join(format!("nb-open-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "backend_server_monitoring: {{log: none, state_file: {}, backend_servers: []}}",
            dir.join("state").display()
        );
        let config = Config::from_yaml(&text, &|_| None).unwrap();
        let log = Log::open(&LogSink::None).unwrap();
        let mut opened = Vec::new();
        let mut open = || {
            let state = open_state_file(None, &mut opened, &config, &log).unwrap();
            state.state_file.unwrap()
        };
        let (first, again) = (open(), open());
        assert!(Arc::ptr_eq(&first, &again));
        drop((first, again));
        drop(open());
        assert_eq!(opened.len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
