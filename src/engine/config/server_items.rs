//! The list of servers, one item at a time.
//!
//! Ten thousand targets with twenty keys each take 45 MB as [`Value`]s, several times the size of the
//! targets that are made from them. If all values existed at once, the process would keep most of that
//! memory after they are freed: the allocator cannot return it to the system, because later allocations
//! lie between. So items are converted one at a time, to bound peak memory: a source converts an item,
//! the reader makes a target of it, and the item is freed before the next one is converted.

use super::issue::{Issue, Step};
use super::keys::BACKEND_SERVERS;
use super::value::Value;

/// A source of the items of a list that is [`Value::Deferred`].
pub trait ServerItems {
    /// Calls `take` with each item of the list at `path`, in order, until it returns false. The
    /// path of an issue begins at the item.
    fn each(&self, path: &[Step], take: &mut dyn FnMut(Result<Value, Issue>) -> bool);
}

/// The source for a value without a deferred list. It has no items.
pub(super) struct NothingDeferred;

impl ServerItems for NothingDeferred {
    fn each(&self, _: &[Step], _: &mut dyn FnMut(Result<Value, Issue>) -> bool) {}
}

/// Whether the list with this name, in the section or above it, can be deferred.
pub fn is_server_list(name: &str) -> bool {
    BACKEND_SERVERS.is_named(name)
}
