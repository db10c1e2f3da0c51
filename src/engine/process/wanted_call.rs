//! Calls of the store that an operator requests with the command, and their replies. The engine thread makes
//! them for requests in the state file; the command makes them itself if no engine can be asked.

use std::sync::Arc;

use serde_json::json;

use super::routed::{Routed, UNAVAILABLE};
use super::store_call::{Author, NO_STORE, StoreCall, StoreDone, StoreRequest, keys_of};
use crate::engine::active::ActiveConfig;
use crate::engine::cluster::ClientHandle;
use crate::engine::routing::{Filter, NoRoute};
use crate::engine::state_file::call::{CallKind, WantedCall};

/// The call with users by their keys.
///
/// # Errors
/// The configuration has no store, or the name of a user has no key.
fn call_of(active: &ActiveConfig, kind: CallKind) -> Result<StoreCall, String> {
    if active.config.cluster.is_none() {
        return Err(format!(
            "{NO_STORE}: the engine's configuration has no cluster"
        ));
    }
    let key = |user: &str| {
        let key = keys_of(active, std::iter::once(user.as_bytes())).pop();
        key.ok_or_else(|| NoRoute::NoKey.text().to_owned())
    };
    Ok(match kind {
        CallKind::Move { user, node, keep } => StoreCall::Move {
            key: key(&user)?,
            node,
            keep,
        },
        CallKind::Forget { user } => StoreCall::Forget { key: key(&user)? },
        CallKind::Hold { user, duration } => StoreCall::Hold {
            key: key(&user)?,
            duration,
        },
        CallKind::Flush { node, rate } => StoreCall::Flush { node, rate },
        CallKind::Touch { users, node } => StoreCall::Touch {
            keys: keys_of(active, users.iter().map(String::as_bytes)),
            node,
        },
    })
}

/// Makes the call. Returns one line of JSON about what was done, and the request where it has to go
/// on ([`StoreRequest::go_on`]).
///
/// # Errors
/// Why nothing was done.
pub async fn carry_out(
    active: &Arc<ActiveConfig>,
    wanted: WantedCall,
    client: Option<&ClientHandle>,
) -> Result<(String, Option<StoreRequest>), String> {
    let WantedCall { kind, by, reason } = wanted;
    let call = call_of(active, kind)?;
    let (request, _check, _) = StoreRequest::new(active, call, Author { reason, by })?;
    let done = request.answer(client).await.map_err(|why| {
        let problem = client.and_then(ClientHandle::problem);
        match problem.filter(|_| why == UNAVAILABLE) {
            Some(problem) => format!("{why}: {problem}"),
            None => why,
        }
    })?;
    let goes_on = matches!(done, StoreDone::Begun);
    Ok((told(&done), goes_on.then_some(request)))
}

/// The answer that a login would get now.
#[derive(Clone, Debug)]
pub enum Explained {
    /// The answer from the store: the user's record, and why there would be no server.
    Stored {
        record: Routed,
        reason: Option<String>,
    },
    /// The answer without the store, which fails for this reason.
    Failing {
        problem: String,
        routed: Result<Routed, String>,
    },
}

/// The answer that a login of the user would get now. Writes nothing. `None` without a store, and for a name
/// without a key.
pub async fn explain(
    active: &Arc<ActiveConfig>,
    user: &[u8],
    filter: &Filter,
    client: &ClientHandle,
) -> Option<Explained> {
    active.config.cluster.as_ref()?;
    let key = keys_of(active, std::iter::once(user)).pop()?;
    let call = StoreCall::Explain {
        key,
        filter: filter.clone(),
    };
    let (request, _check, _) = StoreRequest::new(active, call, Author::default()).ok()?;
    match request.answer(Some(client)).await.ok()? {
        StoreDone::Explained {
            record,
            reason,
            problem,
        } => Some(match problem {
            None => Explained::Stored { record, reason },
            Some(problem) => Explained::Failing {
                problem,
                routed: reason.map_or(Ok(record), Err),
            },
        }),
        _ => None,
    }
}

fn told(done: &StoreDone) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let line = match done {
        StoreDone::Touched(count) => json!({ "bound": count }),
        StoreDone::Changed { record, has_left } => json!({
            "node": some(&record.node),
            "from": some(&record.from),
            "left": has_left,
            "since": record.since_us / 1_000_000,
            "until": (record.until_us > 0).then_some(record.until_us / 1_000_000),
        }),
        StoreDone::Begun | StoreDone::Explained { .. } => json!({ "begun": true }),
    };
    line.to_string()
}
