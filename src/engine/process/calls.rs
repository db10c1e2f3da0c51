//! Requests of scripts to the engine thread: checks, routes and calls of the store.

use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::checks::CheckRequest;
use super::command::Command;
use super::store_call::{Author, StoreCall, StoreRequest};
use super::{Process, Start, route};
use crate::engine::active::ActiveConfig;
use crate::engine::config::{CheckDefaults, Value, target_from_value};
use crate::engine::routing::Filter;
use crate::engine::target::{Host, Target};

impl Process {
    /// Makes a target from the description of a check. What the description leaves out comes from
    /// the configuration: timeouts, and the settings of a configured target at the same address.
    ///
    /// # Errors
    /// Those of [`target_from_value`].
    pub fn target_for_check(&self, value: &Value, extra: &[&str]) -> Result<Target, String> {
        // A refused file is reported by calls that need servers; a check works without a
        // configuration.
        let _ = self.configure_from_environment();
        let active = self.active(Start::Forbidden);
        let configured = |host: &Host, port: u16| {
            let host = host.to_string();
            let target = active.as_ref()?.targets_at(&host, port).next()?;
            Some(target.clone())
        };
        let defaults = CheckDefaults {
            timeouts: active
                .as_ref()
                .map(|active| active.config.timeouts)
                .unwrap_or_default(),
            helo_name: active
                .as_ref()
                .and_then(|active| active.config.helo_name.clone()),
            configured: &configured,
        };
        target_from_value(value, &defaults, extra).map_err(|e| e.to_string())
    }

    /// Starts a check on the engine thread. Where the thread cannot be started, the check has
    /// failed when this returns.
    pub fn check(&self, target: Arc<Target>, coalesce: bool) -> Check {
        let (check, ticket) = Check::new();
        let request = CheckRequest {
            target,
            coalesce,
            ticket: ticket.clone(),
        };
        if let Err(reason) = self.send(Command::Check(request)) {
            ticket.finish(Err(format!("internal: {reason}")));
        }
        check
    }

    /// Begins to route a user. Without a store the route is done when this returns.
    ///
    /// # Errors
    /// The name has no key.
    pub fn start_route(
        &self,
        active: &Arc<ActiveConfig>,
        user: &[u8],
        filter: Filter,
    ) -> Result<Check, String> {
        let (check, request) = route::begin(active, user, filter)?;
        if let Some(request) = request {
            // If the engine thread cannot be started, the request is dropped, and its `Drop` answers it.
            let _ = self.send(Command::Route(request));
        }
        Ok(check)
    }

    /// Begins a call of the store; also says for how long it may take at most.
    ///
    /// # Errors
    /// There is no store, or this machine does not know the node.
    pub fn start_store_call(
        &self,
        active: &Arc<ActiveConfig>,
        call: StoreCall,
        author: Author,
    ) -> Result<(Check, Duration), String> {
        let (request, check, longest) = StoreRequest::new(active, call, author)?;
        // If the engine thread cannot be started, the request is dropped, and its `Drop` answers it.
        let _ = self.send(Command::Store(Box::new(request)));
        Ok((check, longest))
    }
}
