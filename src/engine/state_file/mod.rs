//! The state file: verdicts and operators' settings, kept across restarts and shared by processes
//! that do not share a table because neither is forked from the other. Only the process that holds
//! the writer's lock writes verdicts, or a deputy while that process is stopped (`file.rs`); any
//! process may leave a request in the file (`request.rs`).
//!
//! | file | what it is |
//! |---|---|
//! | `container.rs` | two contents in turn, with their checksums |
//! | `format.rs`, `fields.rs`, `text.rs` | a content's lines |
//! | `version_1.rs` | the format before, which is read |
//! | `file.rs` | the file in use: its locks, its writing thread |
//! | `content.rs`, `work.rs` | how a content is written; whether the thread is at it |
//! | `request.rs`, `call.rs` | what others ask of its writer |

pub mod call;
mod container;
mod content;
pub mod file;
pub mod format;
mod request;
pub mod saved;
pub mod text;
mod version_1;
mod work;
pub mod writer;

pub use request::{ANSWERED_WITHIN, BODY_MAX};
