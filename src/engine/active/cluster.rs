//! What the store of bindings says of this configuration, for `status()` and `nodes()`.

use std::sync::Arc;

use super::ActiveConfig;

/// What this process has last read from the store.
#[derive(Clone, Debug, Default)]
pub struct ClusterNotes {
    pub warnings: Vec<String>,
    pub users: Vec<NodeUsers>,
}

/// How many users are bound to a node.
#[derive(Clone, Debug)]
pub struct NodeUsers {
    pub node: String,
    /// An estimate.
    pub users: u64,
    /// How many were ever moved there from another node, and away to another.
    pub moved_in: u64,
    pub moved_out: u64,
}

impl ActiveConfig {
    pub fn cluster_notes(&self) -> Arc<ClusterNotes> {
        self.cluster_notes.load_full()
    }

    pub fn note_cluster(&self, notes: ClusterNotes) {
        self.cluster_notes.store(Arc::new(notes));
    }
}
