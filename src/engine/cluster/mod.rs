//! Bindings of users to nodes in Redis, which all machines share.
//!
//! | file | what it is |
//! |---|---|
//! | `script`, `scripts/*.lua` | what runs inside Redis: arguments and answers, without any I/O |

pub mod script;
