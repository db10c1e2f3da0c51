//! The certificates that handshakes trust: read when a configuration names them, so that a process
//! that changes its root directory or gives up its rights afterwards needs no file any more, and
//! kept as text, since what OpenSSL makes of it does not outlive a fork safely.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::target::{Target, TlsMode};
use crate::sys::{tls_certificates, tls_library};

/// The longest file of authorities, in bytes. Those of systems have a quarter of a megabyte.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The text of one file, or of all files of the system's authorities.
type Pem = Arc<[u8]>;

/// What files of authorities held when the configuration was made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    files: Arc<HashMap<PathBuf, Pem>>,
    /// Where a target uses them.
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
                        let problem = format!("{}: {}", path.display(), unread.problem);
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

    /// What `path` held, or holds now if no target has named it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn of_file(&self, path: &Path) -> Result<Pem, Unread> {
        match self.files.get(path) {
            Some(pem) => Ok(pem.clone()),
            None => read(path),
        }
    }

    /// The system's authorities: those that were read with the configuration if a target uses them,
    /// else those that the system has now.
    pub fn of_system(&self) -> Pem {
        self.system.clone().unwrap_or_else(of_system)
    }
}

/// A file that holds one certificate at least, and none that cannot be read.
fn read(path: &Path) -> Result<Pem, Unread> {
    let pem = text(path)?;
    let found = tls_certificates::from_pem(&pem).map_err(|errors| {
        let first = errors.errors().first().and_then(|error| error.reason());
        let reason = first.unwrap_or("OpenSSL gives no reason");
        Unread::from(format!("a certificate in it cannot be read: {reason}"))
    })?;
    if !found.is_empty() {
        return Ok(pem);
    }
    let got = match &*pem {
        [] => "an empty file",
        text if has_key(text) => "a private key",
        _ => "a file without any",
    };
    Err(format!("certificates in PEM form expected, got {got}").into())
}

fn has_key(pem: &[u8]) -> bool {
    const KEY: &[u8] = b"PRIVATE KEY-----";
    pem.windows(KEY.len()).any(|part| part == KEY)
}

/// Why a file of authorities cannot be used.
pub struct Unread {
    pub problem: String,
    /// The process had no descriptor or memory to read it with.
    pub is_own_lack: bool,
}

impl<T: Into<String>> From<T> for Unread {
    fn from(problem: T) -> Self {
        Self {
            problem: problem.into(),
            is_own_lack: false,
        }
    }
}

impl Unread {
    fn because(error: &io::Error) -> Self {
        use libc::{EMFILE, ENFILE, ENOMEM};
        let problem = match error.kind() {
            ErrorKind::NotFound => "no such file".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Self {
            problem,
            is_own_lack: matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM)),
        }
    }
}

/// A regular file's bytes. Nothing is waited for: a FIFO may have no writer.
fn text(path: &Path) -> Result<Pem, Unread> {
    let regular = |metadata: &fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err("a file expected, got a directory"),
        false => Err("a regular file expected, got a device, pipe or socket"),
    };
    // Before it is opened, since opening a device may have effects, and after, since the name may
    // mean another file by then.
    let failed = |error: io::Error| Unread::because(&error);
    regular(&fs::metadata(path).map_err(failed)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    regular(&file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("at most 16 MiB expected, got more".into());
    }
    Ok(bytes.into())
}

/// The system's authorities, from the places where OpenSSL looks for them. What cannot be read is
/// left out, as OpenSSL does.
fn of_system() -> Pem {
    let (file, folders) = places();
    let mut all = Vec::new();
    let mut take = |path: &Path| {
        if let Ok(pem) = text(path) {
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
