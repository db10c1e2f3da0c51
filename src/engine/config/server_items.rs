//! The list of servers, one item at a time.
//!
//! Ten thousand targets with twenty keys each are 45 MB as [`Value`]s, several times what is made
//! of them. Freed all at once this memory would stay with the process, since the allocator returns
//! little of it to the system while later allocations lie between. So a source converts an item,
//! the reader makes a target of it, and the item is gone before the next one is converted.

use super::issue::{Issue, Step};
use super::keys::BACKEND_SERVERS;
use super::value::Value;

/// A source of the items of a list that is [`Value::Deferred`].
pub trait ServerItems {
    /// Calls `take` with each item of the list at `path`, in order, until it returns false. The
    /// path of an issue begins at the item.
    fn each(&self, path: &[Step], take: &mut dyn FnMut(Result<Value, Issue>) -> bool);
}

/// The source beside a value that holds everything.
pub(super) struct NothingDeferred;

impl ServerItems for NothingDeferred {
    fn each(&self, _: &[Step], _: &mut dyn FnMut(Result<Value, Issue>) -> bool) {}
}

/// Whether the list with this name, in the section or above it, can be deferred.
pub fn is_server_list(name: &str) -> bool {
    BACKEND_SERVERS.is_named(name)
}
