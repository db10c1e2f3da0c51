//! The certificates that handshakes trust. They are read when a configuration names them: a process
//! that later changes its root directory or gives up its rights could not open the files. They are kept
//! as PEM text, not as OpenSSL objects: those have locks, and a fork copies each lock in the state that it
//! has at that moment.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::target::{Target, TlsMode};
use super::pem_file::{self, Unread};
use super::text::shown_path;
use crate::sys::{tls_certificates, tls_library};

/// The text of one file, or of all files of the system's authorities.
type Pem = Arc<[u8]>;

/// The content of the files with authorities when the configuration was made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    files: Arc<HashMap<PathBuf, Pem>>,
    /// The system's authorities; `None` if no target uses them.
    system: Option<Pem>,
}

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
    /// `backend_servers[2].tls: …` where TLS is not possible in this process.
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
                None if target.tls_mode != TlsMode::Plain && !target.tls_skip_verify => {
                    system.get_or_insert_with(of_system);
                }
                None => {}
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
    /// else those that the system has now.
    pub fn of_system(&self) -> Pem {
        self.system.clone().unwrap_or_else(of_system)
    }
}

/// Reads a file, which must contain at least one certificate and none that cannot be read.
pub(super) fn read(path: &Path) -> Result<Pem, Unread> {
    let pem = pem_file::read(path)?;
    pem_file::certificates(&pem)?;
    Ok(pem.as_slice().into())
}

/// The system's authorities, from the places where OpenSSL looks for them. What cannot be read is
/// left out, as OpenSSL does.
pub(super) fn of_system() -> Pem {
    let (file, folders) = places();
    let mut all = Vec::new();
    let mut take = |path: &Path| {
        if let Ok(pem) = pem_file::read(path) {
            all.extend_from_slice(&pem);
            all.push(b'\n');
        }
    };
    take(&file);
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_hashed(&entry.file_name())) {
            take(&entry.path());
        }
    }
    all.into()
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
