//! Reading a configuration file: regular files only, and only so much of them.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys::pages::Pages;

/// The longest configuration, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The file's bytes.
///
/// # Errors
/// A sentence without the path.
pub(super) fn read(path: &Path) -> Result<Pages<u8>, String> {
    let file = open(path)?;
    let mut bytes = Pages::default();
    bytes
        .read_from(file, MAX_BYTES.saturating_add(1))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(TOO_LONG.to_owned());
    }
    Ok(bytes)
}

pub(super) const TOO_LONG: &str = "at most 1 MiB expected, got more";

fn open(path: &Path) -> Result<File, String> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => format!("cannot be opened: {error}"),
    };
    // Asked before opening, since opening a device can do things, and again after, since the
    // name may mean something else by then; not waiting, since a FIFO may have no writer.
    regular(&std::fs::metadata(path).map_err(failed)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    regular(&file.metadata().map_err(failed)?)?;
    Ok(file)
}

fn regular(metadata: &std::fs::Metadata) -> Result<(), String> {
    if metadata.is_file() {
        Ok(())
    } else if metadata.is_dir() {
        Err("a file expected, got a directory".to_owned())
    } else {
        Err("a regular file expected, got a device, pipe or socket".to_owned())
    }
}
