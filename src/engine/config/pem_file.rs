//! Reads PEM files that a configuration names, and says what is wrong with them.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::text::shown_path;
use crate::sys::own_descriptor::Guarded;
use crate::sys::{tls_certificates, tls_errors};

/// The longest file, in bytes. A file with the system's authorities has about 250 KB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug)]
pub struct Unread {
    pub problem: String,
    /// The process had no descriptor or memory to read it with, or the host closed the descriptor.
    pub is_own_lack: bool,
    /// There is no such file.
    pub(super) is_missing: bool,
}

impl<T: Into<String>> From<T> for Unread {
    fn from(problem: T) -> Self {
        Self {
            problem: problem.into(),
            is_own_lack: false,
            is_missing: false,
        }
    }
}

impl Unread {
    pub(super) fn because(error: &io::Error) -> Self {
        use libc::{EMFILE, ENFILE, ENOMEM};
        let problem = match error.kind() {
            ErrorKind::NotFound => "no such file".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Self {
            problem,
            is_own_lack: matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM)),
            is_missing: error.kind() == ErrorKind::NotFound,
        }
    }

    fn because_it_was_closed() -> Self {
        Self {
            is_own_lack: true,
            ..Self::from("the host closed the descriptor")
        }
    }

    pub(super) fn in_file(self, path: &Path) -> Self {
        Self {
            problem: format!("{}: {}", shown_path(path), self.problem),
            ..self
        }
    }
}

/// A regular file's bytes, which are wiped when dropped: they may hold a private key. Other files are
/// refused without waiting: a FIFO may have no writer.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unread> {
    let regular = |metadata: &fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err("a file expected, got a directory"),
        false => Err("a regular file expected, got a device, pipe or socket"),
    };
    // Checked before the file is opened, because opening a device can have effects, and again after,
    // because the name may mean another file by then.
    let failed = |error: io::Error| Unread::because(&error);
    regular(&fs::metadata(path).map_err(failed)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    // The engine thread reads such files for checks, and the host may close descriptors meanwhile.
    let file = Guarded::new(file).map_err(|_| Unread::because_it_was_closed())?;
    let open = || file.get().map_err(|_| Unread::because_it_was_closed());
    // An error of a descriptor that was closed says nothing about the file.
    let failed = |error: io::Error| open().err().unwrap_or_else(|| Unread::because(&error));
    let metadata = open()?.metadata().map_err(failed)?;
    regular(&metadata)?;
    let length = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0);
    // Room for the whole file: a buffer that grows leaves copies in freed memory that are not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.saturating_add(64)));
    open()?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    // If the host had closed the descriptor and opened another file with its number, the bytes could be that file's.
    open()?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("at most 16 MiB expected, got more".into());
    }
    Ok(bytes)
}

/// The certificates in PEM text: at least one, and none that cannot be read.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<X509>, Unread> {
    let found = tls_errors::apart(|| tls_certificates::from_pem(pem));
    let found = found.map_err(|errors| unreadable(&errors))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let got = match pem {
        [] => "an empty file",
        text if has(text, b"PRIVATE KEY-----") => "a private key",
        _ => "a file without any",
    };
    Err(format!("certificates in PEM form expected, got {got}").into())
}

fn unreadable(errors: &ErrorStack) -> Unread {
    let reason = first_reason(errors);
    Unread {
        is_own_lack: tls_errors::tell_of_no_memory(errors),
        ..format!("a certificate in it cannot be read: {reason}").into()
    }
}

/// Adds those of the certificates in PEM text that can be read to `usable`, as text.
///
/// # Errors
/// The first certificate that cannot be read, after all the others were added; or want of memory.
pub(super) fn usable(pem: &[u8], usable: &mut Vec<u8>) -> Result<(), Unread> {
    let mut first = Ok(());
    for block in blocks(pem) {
        match tls_errors::apart(|| tls_certificates::from_pem(block)) {
            Ok(found) if found.is_empty() => {}
            Ok(_) => {
                usable.extend_from_slice(block);
                usable.push(b'\n');
            }
            Err(errors) => {
                let unread = unreadable(&errors);
                if unread.is_own_lack {
                    return Err(unread);
                }
                first = first.and(Err(unread));
            }
        }
    }
    first
}

/// PEM text in parts, each from one line `-----BEGIN …` to the next, so that a part that was cut off ends there.
fn blocks(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let mut rest = pem;
    std::iter::from_fn(move || {
        let begins = |at: &usize| rest.get(*at..).is_some_and(|text| text.starts_with(BEGIN));
        let lines = rest.iter().enumerate();
        let starts = lines
            .filter(|&(_, &byte)| byte == b'\n')
            .map(|(at, _)| at + 1);
        let mut starts = std::iter::once(0).chain(starts).filter(begins);
        let from = starts.next()?;
        let to = starts.next().unwrap_or(rest.len());
        let block = rest.get(from..to)?;
        rest = rest.get(to..).unwrap_or_default();
        Some(block)
    })
}

pub(super) fn has(pem: &[u8], mark: &[u8]) -> bool {
    pem.windows(mark.len()).any(|part| part == mark)
}

pub(super) fn first_reason(errors: &ErrorStack) -> &'static str {
    let first = errors.errors().first().and_then(|error| error.reason());
    first.unwrap_or("OpenSSL gives no reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_where_the_next_begins() {
        let text = b"a comment\n-----BEGIN A-----\ncut off\n-----BEGIN B-----\n-----END B-----\nx -----BEGIN C\n";
        let parts: Vec<&[u8]> = blocks(text).collect();
        let second = b"-----BEGIN B-----\n-----END B-----\nx -----BEGIN C\n";
        assert_eq!(parts, [b"-----BEGIN A-----\ncut off\n", &second[..]]);
        assert_eq!(blocks(b"").count(), 0);
        assert_eq!(blocks(b"none\n").count(), 0);
    }
}
