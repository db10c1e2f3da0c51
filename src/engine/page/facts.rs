//! The data that the status page and the JSON show.

use std::sync::Arc;

use crate::engine::active::ActiveConfig;

/// The status of this process and of the active configuration.
pub struct Facts {
    pub active: Option<Arc<ActiveConfig>>,
    /// Why nothing is configured, or why this process cannot probe.
    pub error: Option<String>,
    pub warnings: Vec<String>,
}
