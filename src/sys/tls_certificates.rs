//! Certificates from PEM text, and where OpenSSL looks for those of the system.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use foreign_types::ForeignType;
use openssl::error::ErrorStack;
use openssl::x509::X509;

/// `PEM_R_NO_START_LINE` (`openssl/pemerr.h`): there are no more certificates.
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

/// A reader of memory, of OpenSSL's.
struct Reader<'b> {
    bio: *mut c_void,
    _bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Result<Self, ErrorStack> {
        let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        // SAFETY: `bytes` has at least `length` bytes and lives as long as the reader, which
        // only reads them.
        let bio = unsafe { BIO_new_mem_buf(bytes.as_ptr().cast(), length) };
        if bio.is_null() {
            return Err(ErrorStack::get());
        }
        Ok(Self { bio, _bytes: bytes })
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed only here.
        unsafe { BIO_free_all(self.bio) };
    }
}

/// All certificates in PEM text, those with OpenSSL's trust settings included; whatever is between
/// them is passed over.
///
/// # Errors
/// Those of the first that cannot be read. No certificate at all is no error.
pub fn from_pem(text: &[u8]) -> Result<Vec<X509>, ErrorStack> {
    // Otherwise the first call makes OpenSSL clean up at exit, beside threads that still use it.
    openssl::init();
    let reader = Reader::new(text)?;
    let mut found = Vec::new();
    loop {
        // SAFETY: `reader` lives; nothing is to be filled, and a certificate has no password to
        // be asked for.
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
        // SAFETY: a new certificate, with the one reference that is now the list's.
        found.push(unsafe { X509::from_ptr(read.cast()) });
    }
}

/// The file that OpenSSL reads the system's certificates from, by default.
pub fn default_file() -> PathBuf {
    // SAFETY: a constant of the library's.
    path(unsafe { CStr::from_ptr(X509_get_default_cert_file()) })
}

/// The folder where OpenSSL looks for the system's certificates, by default.
pub fn default_folder() -> PathBuf {
    // SAFETY: a constant of the library's.
    path(unsafe { CStr::from_ptr(X509_get_default_cert_dir()) })
}

fn path(text: &CStr) -> PathBuf {
    OsStr::from_bytes(text.to_bytes()).into()
}
