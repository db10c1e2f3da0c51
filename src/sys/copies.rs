//! Other copies of this library in the process: the module beside the C library, or the module
//! of two Luas. Each has statics of its own, so each would probe; only one may.
//!
//! The dynamic loader knows all copies, those of private scope too. Each tells by an exported
//! function whether it holds the engine.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What each copy exports.
const ASK: &CStr = c"nauthilus_backend_holds_engine";

static HOLDS: AtomicBool = AtomicBool::new(false);

/// Whether this copy holds the engine of the process.
pub fn holds_engine() -> bool {
    HOLDS.load(Ordering::SeqCst)
}

/// Makes this copy the one that holds the engine, which it stays.
///
/// # Errors
/// Where another copy does; the text names its file. Where two try at the same moment, both
/// may be refused, but never both succeed.
pub fn claim() -> Result<(), String> {
    if holds_engine() {
        return Ok(());
    }
    // First said, then asked: of two copies at least one sees the other.
    HOLDS.store(true, Ordering::SeqCst);
    let Some(holder) = other_holder() else {
        return Ok(());
    };
    HOLDS.store(false, Ordering::SeqCst);
    Err(format!(
        "{holder} already runs the engine of this process, and there is one only: use the functions of that file"
    ))
}

/// Undoes a claim that led to nothing.
pub fn give_up() {
    HOLDS.store(false, Ordering::SeqCst);
}

/// The file of another copy that holds the engine.
fn other_holder() -> Option<String> {
    loaded_files().into_iter().find_map(|file| {
        let ask = exported(&file)?;
        // SAFETY: each copy exports this function with this signature, in every version of it,
        // and none is ever unmapped.
        let holds = unsafe { ask() } != 0;
        holds.then(|| file.to_string_lossy().into_owned())
    })
}

type Ask = unsafe extern "C" fn() -> c_int;

/// The function by which a copy in `file` answers; none where it is no copy, or this one.
fn exported(file: &CStr) -> Option<Ask> {
    // SAFETY: loads nothing: only what is loaded already is found. The handle is given back;
    // what it stands for stays, since the copies are linked with `-z nodelete`.
    let symbol = unsafe {
        let handle = libc::dlopen(file.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return None;
        }
        let symbol = libc::dlsym(handle, ASK.as_ptr());
        libc::dlclose(handle);
        symbol
    };
    // Found through a library that depends on a copy, too: then it is that copy's turn.
    if symbol.is_null() || !is_in(symbol, file) || is_here(symbol) {
        return None;
    }
    // SAFETY: see `other_holder`; a symbol of that name is that function.
    Some(unsafe { std::mem::transmute::<*mut c_void, Ask>(symbol) })
}

fn is_in(symbol: *mut c_void, file: &CStr) -> bool {
    // SAFETY: the loader fills `found`, whose name then lives as long as the file is loaded.
    unsafe {
        information(symbol).is_some_and(|found| {
            !found.dli_fname.is_null() && CStr::from_ptr(found.dli_fname) == file
        })
    }
}

/// Whether an address is in the file that this code is in.
fn is_here(symbol: *mut c_void) -> bool {
    let own = (&raw const HOLDS).cast_mut().cast::<c_void>();
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
    // SAFETY: any address may be asked about; `found` is there to be filled.
    (unsafe { libc::dladdr(address, &raw mut found) } != 0).then_some(found)
}

/// The names of all files that the loader has mapped.
fn loaded_files() -> Vec<CString> {
    let mut files: Vec<CString> = Vec::new();
    // SAFETY: `note` gets the address of `files`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut files).cast()) };
    files
}

/// Called for each file.
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    files: *mut c_void,
) -> c_int {
    // SAFETY: the loader gives a valid `info`, `loaded_files` the vector; neither is used
    // elsewhere meanwhile.
    let (name, files): (*const c_char, &mut Vec<CString>) =
        unsafe { ((*info).dlpi_name, &mut *files.cast()) };
    if !name.is_null() {
        // SAFETY: a name of the loader's is a C string.
        let name = unsafe { CStr::from_ptr(name) };
        // The program itself has no name.
        if !name.is_empty() {
            files.push(name.to_owned());
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_lone_copy_gets_the_engine() {
        assert_eq!(claim(), Ok(()));
        assert_eq!(claim(), Ok(()));
        assert!(holds_engine());
        give_up();
        assert!(!holds_engine());
    }
}
