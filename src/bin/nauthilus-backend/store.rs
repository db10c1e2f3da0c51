//! The store of bindings, reached without a running engine. The command does not register itself there
//! as a machine: it makes no probes, so it has no verdicts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nauthilus_backend::engine::active::{ActiveConfig, OperatorRequest, StartState};
use nauthilus_backend::engine::cluster::visitor::{learn_settings, share_settings};
use nauthilus_backend::engine::cluster::{CallError, Client};
use nauthilus_backend::engine::config::{Config, LogSink};
use nauthilus_backend::engine::log::Log;
use nauthilus_backend::engine::process::wanted_call::{Explained, carry_out, explain};
use nauthilus_backend::engine::routing::Filter;
use nauthilus_backend::engine::state_file::call::WantedCall;
use nauthilus_backend::engine::state_file::saved::Saved;
use tokio::runtime::{Builder, Runtime};

use super::exit_status::CommandFailure;

/// A connection to the store of a configuration.
pub(crate) struct DirectStore {
    runtime: Runtime,
    pub(crate) active: Arc<ActiveConfig>,
    client: Client,
    /// Where Redis is.
    pub(crate) place: String,
    wait: Duration,
}

impl DirectStore {
    /// Begins to connect to the store of a configuration. `saved`: what a state file says of its
    /// targets. `wait`: for how long the store may be silent.
    ///
    /// # Errors
    /// The configuration has no store, or a file that it needs for it does not read.
    pub(crate) fn open(
        config: Config,
        saved: Option<Saved>,
        wait: Duration,
    ) -> Result<Self, CommandFailure> {
        let config = config
            .with_cluster_files()
            .map_err(|error| CommandFailure::bad(error.to_string()))?;
        let Some(settings) = config.cluster.clone() else {
            return Err(CommandFailure::bad("no store: no cluster is configured"));
        };
        let place = format!("Redis at {}", settings.redis);
        // The configured timeout is for logins, in milliseconds; an operator can wait for seconds.
        let mut settings = (*settings).clone();
        settings.timeout = wait;
        let active = active(
            Config {
                cluster: Some(Arc::new(settings)),
                ..config
            },
            saved,
        )?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CommandFailure::bad(format!("cannot start: {error}")))?;
        let log = Log::open(&LogSink::None)
            .map_err(|error| CommandFailure::bad(format!("cannot start: {error}")))?;
        let client = runtime.block_on(async { Client::of_visitor(&active, &Arc::new(log)) });
        let client = client.ok_or_else(|| CommandFailure::bad("no store"))?;
        Ok(Self {
            runtime,
            active,
            client,
            place,
            wait,
        })
    }

    fn until(&self) -> Instant {
        Instant::now() + self.wait
    }

    fn failure(&self, reason: &str) -> CommandFailure {
        CommandFailure::bad(format!("{}: {reason}", self.place))
    }

    /// Takes over what operators have set for all machines.
    fn learn(&self) -> Result<(), CallError> {
        let client = self.client.handle();
        let learned = learn_settings(&client, &self.active, self.until());
        self.runtime.block_on(learned)
    }

    /// Makes a call. Returns the line of JSON about it, and how many bindings were released since.
    ///
    /// # Errors
    /// Why nothing was done.
    pub(crate) fn call(&self, wanted: WantedCall) -> Result<(String, u64), CommandFailure> {
        self.learn().map_err(|error| self.failure(&error.0))?;
        let client = self.client.handle();
        self.runtime.block_on(async {
            let done = carry_out(&self.active, wanted, Some(&client)).await;
            let (line, goes_on) = done.map_err(|reason| self.failure(&reason))?;
            let released = match goes_on {
                Some(request) => request.go_on(&client).await,
                None => 0,
            };
            Ok((line, released))
        })
    }

    /// Sets what an operator wants, for all machines that share the store.
    ///
    /// # Errors
    /// Why it is not in force there.
    pub(crate) fn set(&self, wanted: OperatorRequest) -> Result<(), CommandFailure> {
        // Learns the earlier setting first: the new one has to be later, although another machine's
        // clock may be ahead.
        self.learn().map_err(|error| self.failure(&error.0))?;
        let what = wanted.what.clone();
        self.active.operate(wanted).map_err(CommandFailure::bad)?;
        let client = self.client.handle();
        let shared = share_settings(&client, &self.active, self.until());
        let later = self
            .runtime
            .block_on(shared)
            .map_err(|error| self.failure(&error.0))?;
        if later.contains(&what) {
            return Err(self.failure(&format!("{what} was set by somebody else at the same time")));
        }
        Ok(())
    }

    /// The answer that a login of a user would get now. Writes nothing. `None` for a name without a key.
    pub(crate) fn explain(&self, user: &[u8], filter: &Filter) -> Option<Explained> {
        // If learning fails, so does the call below, which reports the reason.
        let _ = self.learn();
        let client = self.client.handle();
        let explained = explain(&self.active, user, filter, &client);
        self.runtime.block_on(explained)
    }
}

/// The configuration in a table of this process alone. No state file is in it: nothing is opened for
/// writing.
pub(crate) fn active(
    config: Config,
    saved: Option<Saved>,
) -> Result<Arc<ActiveConfig>, CommandFailure> {
    let config = Config {
        state_file: None,
        ..config
    };
    let state = StartState {
        saved,
        ..StartState::default()
    };
    let pid = u64::from(std::process::id());
    let active = ActiveConfig::succeed(None, Arc::new(config), pid, true, state)
        .map_err(|error| CommandFailure::bad(format!("cannot start: {error}")))?;
    Ok(Arc::new(active))
}
