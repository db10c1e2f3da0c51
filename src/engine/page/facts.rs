//! What the page is made of.

use std::sync::Arc;

use crate::engine::active::ActiveConfig;

/// What is known of this process and of the configuration in force.
pub struct Facts {
    pub active: Option<Arc<ActiveConfig>>,
    /// Why nothing is configured, or why this process cannot probe.
    pub error: Option<String>,
    pub warnings: Vec<String>,
}
