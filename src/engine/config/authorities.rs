//! The certificates that handshakes trust. They are read when a configuration names them: a process
//! that later changes its root directory or gives up its rights could not open the files. They are kept
//! as PEM text, not as OpenSSL objects: those have locks, and a fork copies each lock in the state that it
//! has at that moment.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::target::{Target, TlsMode};
use super::pem_file::{self, Unread};
use super::text::shown_path;
use crate::sys::own_table::with_own_descriptors;
use crate::sys::{tls_certificates, tls_library};

/// The text of one file, or of all files of the system's authorities.
type Pem = Arc<[u8]>;

/// The content of the files with authorities when the configuration was made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    files: Arc<HashMap<PathBuf, Pem>>,
    /// `None` if no target uses them.
    system: Option<SystemAuthorities>,
}

/// The system's authorities.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct SystemAuthorities {
    pub(super) pem: Pem,
    /// Files that were left out, or that there are none at all.
    pub(super) warning: Option<String>,
}

/// How errors and warnings call the system's authorities.
const OF_SYSTEM: &str = "the system's CAs";

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

impl Authorities {
    /// Reads what the handshakes of `targets` need.
    ///
    /// # Errors
    /// `backend_servers[2].tls_ca_file: …` for a file that holds no authorities;
    /// `backend_servers[2].tls: …` where TLS is not possible in this process, or the process cannot read the
    /// system's authorities now.
    pub fn of(targets: &[Arc<Target>]) -> Result<Self, String> {
        let mut files = HashMap::new();
        let mut system = None;
        for (at, target) in targets.iter().enumerate() {
            let placed = |key, problem| format!("backend_servers[{}].{key}: {problem}", at + 1);
            if target.tls_mode != TlsMode::Plain {
                tls_library::usable().map_err(|problem| placed("tls", problem))?;
            }
            match &target.tls_ca_file {
                Some(path) if files.contains_key(path) => {}
                Some(path) => {
                    tls_library::usable().map_err(|problem| placed("tls_ca_file", problem))?;
                    let pem = read(path).map_err(|unread| {
                        let problem = format!("{}: {}", shown_path(path), unread.problem);
                        placed("tls_ca_file", problem)
                    })?;
                    files.insert(path.clone(), pem);
                }
                None if target.tls_mode == TlsMode::Plain || target.tls_skip_verify => {}
                None if system.is_some() => {}
                None => {
                    let read = of_system();
                    system = Some(read.map_err(|unread| placed("tls", unread.problem))?);
                }
            }
        }
        Ok(Self {
            files: Arc::new(files),
            system,
        })
    }

    /// The content of `path` when the configuration was made. If no target had named it, it is read now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(&self, path: &Path) -> Result<Pem, Unread> {
        match self.files.get(path) {
            Some(pem) => Ok(pem.clone()),
            None => read(path),
        }
    }

    /// Whether a target names this file.
    pub fn has_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// The system's authorities: those that were read with the configuration if a target uses them,
    /// else those that the system has now. For threads of the module.
    ///
    /// # Errors
    /// The process lacks descriptors or memory to read them.
    pub fn of_system(&self) -> Result<Pem, Unread> {
        match &self.system {
            Some(system) => Ok(system.pem.clone()),
            None => {
                let apart = |folder: &Path| with_own_descriptors(|| hashed_files(folder));
                of_system_by(apart).map(|system| system.pem)
            }
        }
    }

    /// What is doubtful about the system's authorities, if a target uses them.
    pub(super) fn warning(&self) -> Option<&String> {
        self.system.as_ref()?.warning.as_ref()
    }
}

/// Reads a file, which must contain at least one certificate and none that cannot be read.
pub(super) fn read(path: &Path) -> Result<Pem, Unread> {
    let pem = pem_file::read(path)?;
    pem_file::certificates(&pem)?;
    Ok(pem.as_slice().into())
}

/// The system's authorities, from the places where OpenSSL looks for them. What is not there is passed over, and what
/// cannot be used is left out, with a warning: the servers that the other authorities verify do not depend on it.
///
/// # Errors
/// The process lacks descriptors or memory. They are not taken for fewer authorities, since what is read now is
/// used until the next `configure`.
pub(super) fn of_system() -> Result<SystemAuthorities, Unread> {
    of_system_by(hashed_files)
}

/// [`of_system`], with a function that lists a folder's files.
fn of_system_by(list: List) -> Result<SystemAuthorities, Unread> {
    let (file, folders) = places();
    of_places(&file, &folders, list).map_err(|unread| Unread {
        problem: format!("{OF_SYSTEM}: {}", unread.problem),
        ..unread
    })
}

type List = fn(&Path) -> io::Result<Vec<PathBuf>>;

fn of_places(file: &Path, folders: &[PathBuf], list: List) -> Result<SystemAuthorities, Unread> {
    let mut all = Vec::new();
    let mut left_out = Vec::new();
    let mut note = |path: &Path, unread: Unread| match unread {
        unread if unread.is_missing => Ok(()),
        unread if unread.is_own_lack => Err(unread.in_file(path)),
        unread => {
            left_out.push(unread.in_file(path).problem);
            Ok(())
        }
    };
    let mut take = |path: &Path, note: &mut dyn FnMut(&Path, Unread) -> Result<(), Unread>| {
        let read = pem_file::read(path).and_then(|pem| pem_file::usable(&pem, &mut all));
        read.or_else(|unread| note(path, unread))
    };
    take(file, &mut note)?;
    for folder in folders {
        match list(folder) {
            Ok(files) => {
                for path in files {
                    take(&path, &mut note)?;
                }
            }
            Err(error) => note(folder, Unread::because(&error))?,
        }
    }
    let warning = match left_out.as_slice() {
        [] if all.is_empty() => Some(none_at(file, folders)),
        [] => None,
        [first] => Some(format!("{OF_SYSTEM}: left out is {first}")),
        [first, others @ ..] => {
            let more = others.len();
            Some(format!(
                "{OF_SYSTEM}: left out is {first} (and {more} more)"
            ))
        }
    };
    Ok(SystemAuthorities {
        pem: all.into(),
        warning,
    })
}

fn none_at(file: &Path, folders: &[PathBuf]) -> String {
    let places: Vec<String> = std::iter::once(file)
        .chain(folders.iter().map(PathBuf::as_path))
        .map(shown_path)
        .collect();
    let places = places.join(", ");
    format!(
        "{OF_SYSTEM}: there are none ({places}), so that no certificate is trusted: install them, or set tls_ca_file"
    )
}

/// The files in a folder that have names as OpenSSL looks them up, in the order of their names.
fn hashed_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_hashed(&entry.file_name()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A name as OpenSSL looks it up: `5ad8a5d6.0`.
fn is_hashed(name: &OsStr) -> bool {
    let mut parts = name.as_bytes().split(|&byte| byte == b'.');
    let (hash, number) = (parts.next(), parts.next());
    hash.is_some_and(|hash| hash.len() == 8 && hash.iter().all(u8::is_ascii_hexdigit))
        && number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit))
        && parts.next().is_none()
}

/// A file and folders: those of the environment (`SSL_CERT_FILE`, `SSL_CERT_DIR`), OpenSSL's
/// default ones, or, where it was built for a place of its own, those of this kind of system.
fn places() -> (PathBuf, Vec<PathBuf>) {
    let found = if cfg!(feature = "vendored-openssl") {
        openssl_probe::probe()
    } else {
        openssl_probe::ProbeResult {
            cert_file: None,
            cert_dir: Vec::new(),
        }
    };
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let file = given("SSL_CERT_FILE")
        .map(PathBuf::from)
        .or(found.cert_file);
    let folders = match given("SSL_CERT_DIR") {
        Some(list) => std::env::split_paths(&list).collect(),
        None if found.cert_dir.is_empty() => vec![tls_certificates::default_folder()],
        None => found.cert_dir,
    };
    (file.unwrap_or_else(tls_certificates::default_file), folders)
}
