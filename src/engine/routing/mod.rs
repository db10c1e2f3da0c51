//! Which server a user belongs on: the user's key, the nodes, and the choice between them.
//!
//! The choice is rendezvous hashing: every process and machine with the same nodes chooses the same
//! node, without communication.

mod agreement;
mod filter;
mod hash;
mod key;
mod login_kind;
mod nodes;
mod plan;
mod select;
mod standing;
#[cfg(test)]
mod tests;

pub use agreement::agreement;
pub use filter::{FieldKind, FieldValue, Filter, POOL, ServerField, unknown_field};
pub use key::{KEY_MAX, user_key};
pub use login_kind::LoginKind;
pub use nodes::{Node, Nodes, Port};
pub use plan::{Choice, NoRoute, Plan};
pub use select::{Candidate, Fleet, Route, TargetView, Users, Why};
pub use standing::Standing;
