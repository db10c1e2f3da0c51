//! Reads a configuration file: regular files only, of at most [`MAX_BYTES`].

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// The longest configuration, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The file's bytes, which are wiped when dropped: a password may be among them.
///
/// # Errors
/// A sentence without the path.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = open(path)?;
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let length = file.metadata().map_err(failed)?.len();
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_BYTES);
    // Room for the whole file: a buffer that grows leaves copies in freed memory that are not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.saturating_add(64)));
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
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
    // Checked before the file is opened, because opening a device can have effects, and again after,
    // because the name may mean another file by then. O_NONBLOCK: opening a FIFO without a writer
    // would wait for ever.
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
