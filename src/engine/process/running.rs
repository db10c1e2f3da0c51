//! Starts and stops the engine thread, and sends it commands.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::command::Command;
use super::thread::spawn;
use super::{Control, Process, REPORTS, Start, signs};
use crate::engine::log::{Level, Line};
use crate::sys::{clock, copies, thread as threads};

/// For this long after the system refused a thread, calls do not try to start the engine thread by
/// themselves.
const RESTART_AFTER: Duration = Duration::from_secs(1);

impl Process {
    /// Starts the engine thread unless it runs. Without a configuration it only makes checks on
    /// demand.
    ///
    /// # Errors
    /// Where the system allows no thread or descriptor, or another copy of this library holds
    /// the engine of the process.
    pub fn start(&self) -> Result<(), String> {
        copies::claim()?;
        self.wanted.store(true, Ordering::Release);
        let done = self.ensure_running();
        if done.is_err() && !self.is_configured() {
            copies::give_up();
        }
        done
    }

    /// Stops the engine thread of this process until [`Process::start`] or a new configuration.
    pub fn stop(&self) {
        let control = self.control();
        self.wanted.store(false, Ordering::Release);
        self.running.store(false, Ordering::Release);
        if let Some(commands) = &control.commands {
            // Fails where the thread has ended already.
            let _ = commands.send(Command::Stop);
        }
        drop(control);
        self.advance();
    }

    pub(super) fn ensure_running(&self) -> Result<(), String> {
        if self.is_running() {
            return Ok(());
        }
        let mut control = self.control();
        let commands = match control.commands.take().filter(|c| !c.is_closed()) {
            Some(commands) => commands,
            None => self.start_thread(&mut control)?,
        };
        control.commands = Some(commands);
        if let (Some(active), Some(log)) = (self.active.load_full(), self.log.load_full()) {
            // The role is taken here, not by the thread, so that `status()` shows it when this call
            // returns.
            if !(signs().exiting)() {
                active.come_into_force(self.pid, None);
                if active.table.epoch() == active.epoch {
                    let _ = active.take_role(self.pid, None);
                }
            }
            control.serve(active, log);
            self.has_run.store(true, Ordering::Release);
            self.running.store(true, Ordering::Release);
            drop(control);
            self.advance();
        }
        Ok(())
    }

    /// Starts the engine thread if it may and should run. Where the system refuses a thread, the
    /// last verdicts stand and a later call tries again, at most once per second.
    pub(super) fn start_if(&self, start: Start) {
        if start == Start::Forbidden || self.is_running() || !self.should_run() {
            return;
        }
        let now = clock::monotonic_ns();
        let refused_at = self.refused_start_ns.load(Ordering::Relaxed);
        if refused_at != 0 && now.saturating_sub(refused_at) < clock::ns(RESTART_AFTER) {
            return;
        }
        let refused = self.ensure_running().is_err();
        self.refused_start_ns
            .store(if refused { now } else { 0 }, Ordering::Relaxed);
    }

    /// Whether there is a configuration and `stop` was not called since.
    pub(super) fn should_run(&self) -> bool {
        self.is_wanted() && self.is_configured()
    }

    pub(super) fn send(&self, command: Command) -> Result<(), String> {
        let mut control = self.control();
        let open = control.commands.as_ref().is_some_and(|c| !c.is_closed());
        if !open {
            control.commands = Some(self.start_thread(&mut control)?);
        }
        match &command {
            Command::Check(request) => control.note_check(&request.ticket),
            Command::Route(request) => control.note_check(&request.ticket),
            Command::Store(request) => control.note_check(&request.ticket),
            Command::Serve(..) | Command::Stop => {}
        }
        match &control.commands {
            Some(commands) => commands
                .send(command)
                .map_err(|_| "the engine thread has ended".to_owned()),
            None => Err("the engine thread is missing".to_owned()),
        }
    }

    pub(super) fn start_thread(
        &self,
        control: &mut Control,
    ) -> Result<UnboundedSender<Command>, String> {
        let started = spawn(signs(), REPORTS).map_err(|e| {
            format!(
                "cannot start the engine thread: {}",
                threads::explain_refusal(&e)
            )
        });
        control.start_error = started.as_ref().err().cloned();
        match &started {
            Ok(_) => control.is_refusal_logged = false,
            Err(reason) => {
                if let Some(log) = self.log.load_full()
                    && !std::mem::replace(&mut control.is_refusal_logged, true)
                {
                    // Written here: the log may have no thread either.
                    log.write_here(
                        &Line::new(Level::Error, "engine_not_started").quoted("reason", reason),
                    );
                }
            }
        }
        started
    }
}
