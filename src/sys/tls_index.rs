//! Indices under which data is attached to OpenSSL's objects.

use once_cell::race::OnceBox;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;

/// An index that is made once for the process. Not a `OnceLock`: a child forked while another thread
/// initialises it would block for ever.
pub type OnceIndex<Object, Data> = OnceBox<Index<Object, Data>>;

/// The index in `cell`, made by `make` at the first call. Of two threads that make one at the same time both
/// get the same; the other index stays unused.
///
/// # Errors
/// There is no memory.
pub fn once<Object, Data>(
    cell: &OnceIndex<Object, Data>,
    make: impl FnOnce() -> Result<Index<Object, Data>, ErrorStack>,
) -> Result<Index<Object, Data>, ErrorStack> {
    match cell.get() {
        Some(index) => Ok(*index),
        None => {
            let made = make()?;
            Ok(*cell.get_or_init(|| Box::new(made)))
        }
    }
}
