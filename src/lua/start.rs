//! Whether a call may start the engine.

use crate::engine::process::Start;

/// Whether a call may start the engine, as the host adapter says.
pub(super) fn start_if(allowed: bool) -> Start {
    if allowed {
        Start::Allowed
    } else {
        Start::Forbidden
    }
}
