//! Access to the store for a process that makes no probes, such as the command: it reads and changes the
//! operators' settings for all machines. It does not register itself as a machine, because the verdicts of
//! a registered machine count for `quorum`, and it has none.

use std::time::Instant;

use super::client::ClientHandle;
use super::connection::CallError;
use super::machines::{exchange, from_store, to_store};
use super::script::{ClusterSetting, Synced};
use crate::engine::active::ActiveConfig;

/// Takes over what operators have set for all machines. Writes nothing into the store.
///
/// # Errors
/// Redis fails, or has not answered in time.
pub async fn learn_settings(
    client: &ClientHandle,
    active: &ActiveConfig,
    until: Instant,
) -> Result<(), CallError> {
    share(client, active, Vec::new(), until).await.map(drop)
}

/// Writes what operators have set in this process's table into the store, and takes over what was
/// set there later. Returns the names of what it took over: targets' keys, or `node:` and a name.
///
/// # Errors
/// Redis fails, or has not answered in time.
pub async fn share_settings(
    client: &ClientHandle,
    active: &ActiveConfig,
    until: Instant,
) -> Result<Vec<String>, CallError> {
    let settings = active.table.operators().iter().map(to_store).collect();
    share(client, active, settings, until).await
}

async fn share(
    client: &ClientHandle,
    active: &ActiveConfig,
    settings: Vec<ClusterSetting>,
    until: Instant,
) -> Result<Vec<String>, CallError> {
    let make = |deadline| exchange(active, settings, deadline);
    let Synced::Done { settings, .. } = client.call(until, make).await? else {
        return Err(CallError("no answer in time".to_owned()));
    };
    let mut taken = Vec::new();
    for operator in settings.iter().filter_map(from_store) {
        active.set_operator(&operator).map_err(CallError)?;
        taken.push(operator.what);
    }
    Ok(taken)
}
