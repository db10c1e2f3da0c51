//! Text as Lua's strings and C's views have it: bytes that need not be UTF-8.

use smallvec::SmallVec;

/// A string of bytes.
pub type Bytes = Box<[u8]>;

/// The text of a value: mostly so short that it needs no memory of its own.
pub type Text = SmallVec<[u8; 24]>;
