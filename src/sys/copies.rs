//! Finds other copies of this library in the process: the Lua module beside the C library, or the
//! modules of two Lua versions. Each copy has its own statics, so each would run an engine and
//! probe. Only one may.
//!
//! The dynamic linker lists all copies, even those loaded with `RTLD_LOCAL`. Each copy exports a
//! function that says whether it holds the engine.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The function that each copy exports.
const ASK: &CStr = c"nauthilus_backend_holds_engine";

/// The claim of this copy: one of the three states, and a count that changes with each change of
/// the state. A thread that has asked the other copies holds the engine only if the claim was not
/// given up and made again meanwhile: another copy may have got it in between.
static CLAIM: AtomicU64 = AtomicU64::new(NONE);

const NONE: u64 = 0;
/// A thread of this copy asks the others. They are refused meanwhile.
const ASKING: u64 = 1;
const HELD: u64 = 2;
const STATES: u64 = 4;

/// The word for another state after `seen`.
fn next(seen: u64, state: u64) -> u64 {
    (seen / STATES).wrapping_add(1).wrapping_mul(STATES) | state
}

/// Replaces the claim that was seen; false if another thread has changed it.
fn change(seen: u64, state: u64) -> bool {
    CLAIM
        .compare_exchange(seen, next(seen, state), Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

/// Whether this copy holds the engine of the process, or is about to.
pub fn holds_engine() -> bool {
    CLAIM.load(Ordering::SeqCst) % STATES != NONE
}

/// Makes this copy the one that holds the engine, until [`give_up`].
///
/// # Errors
/// Another copy holds the engine; the text names its file. If two copies try at the same moment,
/// both may be refused, but never do both succeed.
pub fn claim() -> Result<(), String> {
    claim_after(other_holder)
}

fn claim_after(other_holder: impl Fn() -> Option<String>) -> Result<(), String> {
    loop {
        let seen = CLAIM.load(Ordering::SeqCst);
        // Set before the others are asked: if two copies do this at the same time, at least one of
        // them sees the other's claim.
        let asking = match seen % STATES {
            HELD => return Ok(()),
            // Another thread asks. Its answer is not known yet, so this one asks too.
            ASKING => seen,
            _ if change(seen, ASKING) => next(seen, ASKING),
            _ => continue,
        };
        match other_holder() {
            None if change(asking, HELD) => return Ok(()),
            None => {}
            Some(holder) => {
                // Fails where another thread has learned the same.
                change(asking, NONE);
                return Err(format!(
                    "{holder} already runs the engine of this process, which can have only one: use the functions of that file"
                ));
            }
        }
    }
}

/// Undoes a claim after which the engine could not be configured or started.
pub fn give_up() {
    loop {
        let seen = CLAIM.load(Ordering::SeqCst);
        if seen % STATES != HELD || change(seen, NONE) {
            return;
        }
    }
}

/// The file of another copy that holds the engine.
fn other_holder() -> Option<String> {
    loaded_files().into_iter().find_map(|file| {
        let ask = exported(&file)?;
        // SAFETY: every version of this library exports the function with this signature, and a
        // copy is never unmapped (`-z nodelete`).
        let holds = unsafe { ask() } != 0;
        holds.then(|| file.to_string_lossy().into_owned())
    })
}

type Ask = unsafe extern "C" fn() -> c_int;

/// The function that `file` exports if it is another copy; None if it is no copy, or this one.
fn exported(file: &CStr) -> Option<Ask> {
    // SAFETY: `file` and `ASK` are C strings. `RTLD_NOLOAD` loads nothing, so no code of a library
    // runs. The handle is valid until it is closed; a copy's symbol stays valid after that, since
    // copies are linked with `-z nodelete`.
    let symbol = unsafe {
        let handle = libc::dlopen(file.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return None;
        }
        let symbol = libc::dlsym(handle, ASK.as_ptr());
        libc::dlclose(handle);
        symbol
    };
    // `dlsym` also searches the libraries that `file` depends on. A symbol found there is skipped
    // here, since that library is in the list itself.
    if symbol.is_null() || !is_in(symbol, file) || is_here(symbol) {
        return None;
    }
    // SAFETY: in every version of this library the symbol of this name is a function with the
    // signature `Ask`.
    Some(unsafe { std::mem::transmute::<*mut c_void, Ask>(symbol) })
}

/// Whether an address is in `file`.
fn is_in(symbol: *mut c_void, file: &CStr) -> bool {
    // SAFETY: the dynamic linker's name of a file is a C string that lives as long as the file is
    // loaded, and it is not used after this function.
    unsafe {
        information(symbol).is_some_and(|found| {
            !found.dli_fname.is_null() && CStr::from_ptr(found.dli_fname) == file
        })
    }
}

/// Whether an address is in the file that contains this code.
fn is_here(symbol: *mut c_void) -> bool {
    let own = (&raw const CLAIM).cast_mut().cast::<c_void>();
    match (information(symbol), information(own)) {
        (Some(theirs), Some(ours)) => theirs.dli_fbase == ours.dli_fbase,
        _ => true,
    }
}

fn information(address: *mut c_void) -> Option<libc::Dl_info> {
    let mut found = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: `dladdr` accepts any address and does not read from it; `found` has room for what it
    // writes.
    (unsafe { libc::dladdr(address, &raw mut found) } != 0).then_some(found)
}

/// The names of all libraries that the dynamic linker has loaded.
fn loaded_files() -> Vec<CString> {
    let mut files: Vec<CString> = Vec::new();
    // SAFETY: `note` has the signature of the callback, and gets the address of a `Vec<CString>`
    // that lives during the call and is not used otherwise.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut files).cast()) };
    files
}

/// Adds the name of a loaded file to `files`. `dl_iterate_phdr` calls this for each.
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    files: *mut c_void,
) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes a valid `info`, and `files` as `loaded_files` gave it: the
    // address of a `Vec<CString>` that nothing else uses during the call.
    let (name, files): (*const c_char, &mut Vec<CString>) =
        unsafe { ((*info).dlpi_name, &mut *files.cast()) };
    if !name.is_null() {
        // SAFETY: the dynamic linker's name of a file is a C string that lives during the call.
        let name = unsafe { CStr::from_ptr(name) };
        // The program itself has an empty name.
        if !name.is_empty() {
            files.push(name.to_owned());
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// The tests share one claim.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn the_loader_knows_the_c_library_and_it_is_no_copy() {
        let files = loaded_files();
        assert!(
            files
                .iter()
                .any(|f| f.to_string_lossy().contains("libc.so"))
        );
        assert!(files.iter().all(|file| exported(file).is_none()));
    }

    /// A thread that finds the state `ASKING` asks the other copies itself.
    #[test]
    fn no_thread_gets_the_engine_on_a_claim_that_is_refused() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let held = || Some("other.so".to_owned());
        let inner = std::cell::Cell::new(None);
        let outer = claim_after(|| {
            inner.set(Some(claim_after(held)));
            held()
        });
        assert!(outer.is_err() && inner.take().is_some_and(|inner| inner.is_err()));
        assert!(!holds_engine());
    }

    #[test]
    fn a_lone_copy_gets_the_engine() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(claim(), Ok(()));
        assert_eq!(claim(), Ok(()));
        assert!(holds_engine());
        give_up();
        assert!(!holds_engine());
    }
}
