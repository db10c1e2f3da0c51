//! Reads certificates and keys from PEM text, and names the places where OpenSSL looks for the
//! system's certificates.

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use foreign_types::ForeignType;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::gate;

/// `PEM_R_NO_START_LINE` (`openssl/pemerr.h`): the text holds no further certificate.
const NO_START_LINE: i32 = 108;

unsafe extern "C" {
    // `openssl/bio.h`, `openssl/pem.h` and `openssl/x509.h`, all versions of OpenSSL.
    fn BIO_new_mem_buf(bytes: *const c_void, length: c_int) -> *mut c_void;
    fn BIO_free_all(bio: *mut c_void);
    fn PEM_read_bio_X509_AUX(
        bio: *mut c_void,
        place: *mut *mut c_void,
        ask_password: *const c_void,
        data: *mut c_void,
    ) -> *mut c_void;
    fn X509_get_default_cert_file() -> *const c_char;
    fn X509_get_default_cert_dir() -> *const c_char;
}

/// An OpenSSL `BIO` that reads from memory.
struct Reader<'b> {
    bio: *mut c_void,
    _bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Result<Self, ErrorStack> {
        let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        // SAFETY: `bytes` has at least `length` bytes and outlives the reader (`'b`), and a
        // memory BIO made by this call is read-only.
        let bio = unsafe { BIO_new_mem_buf(bytes.as_ptr().cast(), length) };
        if bio.is_null() {
            return Err(ErrorStack::get());
        }
        Ok(Self { bio, _bytes: bytes })
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` made the BIO, and only this frees it.
        unsafe { BIO_free_all(self.bio) };
    }
}

/// All certificates in PEM text, including those with OpenSSL's trust settings (`TRUSTED
/// CERTIFICATE`). Other text between them is skipped.
///
/// # Errors
/// OpenSSL's errors for the first certificate that cannot be read. Text without a certificate
/// gives an empty list.
pub fn from_pem(text: &[u8]) -> Result<Vec<X509>, ErrorStack> {
    // Without this the first OpenSSL call initialises the library so that it frees its state at
    // exit, while threads may still use it.
    openssl::init();
    let reader = Reader::new(text)?;
    let mut found = Vec::new();
    loop {
        // The system's authorities take some 20 ms, on a busy machine more than a fork waits for.
        gate::give_way();
        // SAFETY: `reader.bio` lives; null for the place makes the call allocate a certificate,
        // and null for the password callback is allowed.
        let read = unsafe {
            PEM_read_bio_X509_AUX(reader.bio, ptr::null_mut(), ptr::null(), ptr::null_mut())
        };
        if read.is_null() {
            let errors = ErrorStack::get();
            let last = errors.errors().last();
            return match last.map(openssl::error::Error::reason_code) {
                Some(NO_START_LINE) => Ok(found),
                _ => Err(errors),
            };
        }
        // SAFETY: `read` is a new certificate with one reference, which the list takes over.
        found.push(unsafe { X509::from_ptr(read.cast()) });
    }
}

/// Why a private key cannot be used.
pub enum KeyProblem {
    /// It needs a passphrase.
    Encrypted,
    Unreadable(ErrorStack),
}

impl KeyProblem {
    pub fn into_errors(self) -> ErrorStack {
        match self {
            Self::Encrypted => ErrorStack::get(),
            Self::Unreadable(errors) => errors,
        }
    }
}

/// The first private key in PEM text.
///
/// # Errors
/// There is none, or it is encrypted: nobody is asked for a passphrase.
pub fn key_from_pem(text: &[u8]) -> Result<PKey<Private>, KeyProblem> {
    openssl::init();
    let is_asked = Cell::new(false);
    // Without a callback OpenSSL would ask on the terminal of the host.
    let read = PKey::private_key_from_pem_callback(text, |_| {
        is_asked.set(true);
        Err(ErrorStack::get())
    });
    read.map_err(|errors| match is_asked.get() {
        true => KeyProblem::Encrypted,
        false => KeyProblem::Unreadable(errors),
    })
}

/// The file from which OpenSSL reads the system's certificates by default.
pub fn default_file() -> PathBuf {
    // SAFETY: OpenSSL returns a constant string, which lives as long as the library.
    path(unsafe { CStr::from_ptr(X509_get_default_cert_file()) })
}

/// The folder where OpenSSL looks for the system's certificates, by default.
pub fn default_folder() -> PathBuf {
    // SAFETY: OpenSSL returns a constant string, which lives as long as the library.
    path(unsafe { CStr::from_ptr(X509_get_default_cert_dir()) })
}

fn path(text: &CStr) -> PathBuf {
    OsStr::from_bytes(text.to_bytes()).into()
}
