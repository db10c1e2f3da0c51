//! Text as Lua's strings and C's views have it: bytes that need not be UTF-8.

use smallvec::SmallVec;

/// A string of bytes.
pub type Bytes = Box<[u8]>;

/// The text of a value. Up to 24 bytes need no heap memory, which suits most values.
pub type Text = SmallVec<[u8; 24]>;
