//! What the engine thread is told, and what it reports.

use std::sync::Arc;

use tokio::sync::mpsc::WeakUnboundedSender;

use super::checks::CheckRequest;
use super::route::RouteRequest;
use super::store_call::StoreRequest;
use crate::engine::active::ActiveConfig;
use crate::engine::log::Log;

/// What the engine thread is to do.
pub(super) enum Command {
    /// A configuration to serve from now on.
    Serve(Arc<ActiveConfig>, Arc<Log>),
    Check(CheckRequest),
    Route(Box<RouteRequest>),
    Store(Box<StoreRequest>),
    Stop,
}

/// The callbacks of the engine thread.
#[derive(Clone, Copy)]
pub(super) struct Reports {
    /// The host closed the descriptor of the table's lock: this process must go on in a table of
    /// its own.
    pub detach: fn(&Arc<ActiveConfig>),
    /// The thread no longer serves this configuration.
    pub stopped: fn(&ActiveConfig),
    /// The host closed the descriptors of the engine thread with this command channel: the thread
    /// does nothing any more.
    pub lost: fn(&WeakUnboundedSender<Command>),
    /// Whether this process runs its engine. The thread may also be there for checks on demand only, or still
    /// be there after `stop`, and be told of a configuration.
    pub is_running: fn() -> bool,
    /// Whether the engine thread should stay when it has nothing to do: `stop` was not called, or `start` was
    /// called since.
    pub is_wanted: fn() -> bool,
    /// Start another thread in place of one that was lost.
    pub restart: fn(),
    /// Whether the thread may end now: if the closure returns true, it has nothing to do, and gets
    /// no further command.
    pub may_end: fn(&dyn Fn() -> bool) -> bool,
}

/// The facts about its process that the host adapter gives to the engine.
#[derive(Clone, Copy)]
pub struct HostSigns {
    /// Whether the process is about to exit and must leave probing to others.
    pub exiting: fn() -> bool,
    /// Whether the host takes addresses only: a name without one is not listed.
    pub takes_addresses_only: bool,
}
