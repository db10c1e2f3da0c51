//! Checks whether this process may create a file, without creating one.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Checks that this process may create a file at `path`, where no file exists yet.
///
/// # Errors
/// Its directory does not exist, or this process may not write there.
pub fn may_create(path: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let folder = absolute.parent().filter(|folder| folder.is_dir());
    let folder = folder.ok_or_else(|| io::Error::other("its directory does not exist"))?;
    let name = CString::new(folder.as_os_str().as_bytes())
        .map_err(|_| io::Error::other("the path holds a NUL"))?;
    let wanted = libc::W_OK | libc::X_OK;
    // `AT_EACCESS`: checks the rights of the effective user, which `open` uses, too. Without it
    // the call would check those of the real user.
    // SAFETY: `name` is a C string that lives during the call, which only reads it.
    let done = unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), wanted, libc::AT_EACCESS) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let reason = format!("no file can be created in {}: {error}", folder.display());
    Err(io::Error::new(error.kind(), reason))
}
