//! Checks which copy of OpenSSL this module's calls reach.
//!
//! If OpenSSL is linked statically into the host's program, and the program exports its symbols
//! (nginx built with `--with-openssl`, which links with `-Wl,-E`), the dynamic linker resolves this
//! module's calls to the program's copy instead of `libssl.so`. That copy may be built without
//! threads, or lay out its structures otherwise than this module was compiled for: a call from the
//! engine thread then corrupts the host's memory. Only another build of this module can avoid
//! that, so TLS is refused before the first call.

use std::ffi::{CStr, OsStr, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use once_cell::race::OnceBox;

/// Functions that this module calls, by the beginning of the name of the library that must contain
/// them. The list is long because a program may export only those that another of its libraries
/// uses. It leaves out functions whose address programs take: in a program that is not
/// position-independent such a function has an address within the program although the code is
/// the library's.
const FUNCTIONS: [(&str, &[&CStr]); 2] = [
    (
        "libssl.",
        &[
            c"SSL_CTX_new",
            c"SSL_CTX_ctrl",
            c"SSL_CTX_set_verify",
            c"SSL_CTX_set_cert_verify_callback",
            c"SSL_CTX_set_ciphersuites",
            c"SSL_CTX_set_ex_data",
            c"SSL_CTX_get_ex_data",
            c"SSL_CTX_sess_set_new_cb",
            c"SSL_new",
            c"SSL_ctrl",
            c"SSL_connect",
            c"SSL_read_ex",
            c"SSL_write_ex",
            c"SSL_shutdown",
            c"SSL_get_error",
            c"SSL_get_ex_data",
            c"SSL_set_ex_data",
            c"SSL_get_verify_result",
            c"SSL_session_reused",
            c"SSL_set_bio",
            c"SSL_set_session",
            c"SSL_SESSION_dup",
            c"TLS_client_method",
            c"OPENSSL_init_ssl",
        ],
    ),
    (
        "libcrypto.",
        &[
            c"ASN1_STRING_length",
            c"ASN1_TIME_set",
            c"BIO_meth_new",
            c"BIO_new",
            c"BIO_set_data",
            c"CRYPTO_get_ex_new_index",
            c"CRYPTO_malloc",
            c"CRYPTO_THREAD_lock_new",
            c"ERR_get_error",
            c"ERR_reason_error_string",
            c"EVP_MD_CTX_new",
            c"OPENSSL_init_crypto",
            c"OPENSSL_sk_num",
            c"OPENSSL_sk_value",
            c"X509_STORE_add_cert",
            c"X509_STORE_CTX_get_ex_data",
            c"X509_STORE_CTX_get0_cert",
            c"X509_STORE_CTX_get0_untrusted",
            c"X509_VERIFY_PARAM_set1_host",
            c"X509_digest",
            c"X509_get_ext_d2i",
            c"X509_verify_cert",
        ],
    ),
];

unsafe extern "C" {
    // `CRYPTO_THREAD_ID CRYPTO_THREAD_get_current_id(void)`, OpenSSL 1.1.0. It returns 0 in a build
    // without threads.
    fn CRYPTO_THREAD_get_current_id() -> usize;
    // Never called: only its address is used.
    fn SSL_CTX_new(method: *const c_void) -> *mut c_void;
}

/// Whether the engine thread may call OpenSSL in this process. Determined once, since the dynamic
/// linker does not resolve the module's calls again.
///
/// # Errors
/// One line that names the file whose functions would be called, and says what to do.
pub fn usable() -> Result<(), String> {
    // Not `OnceLock`: a child forked while another thread initialises it would block for ever.
    static ANSWER: OnceBox<Result<(), String>> = OnceBox::new();
    let find = || {
        owned()?;
        // SAFETY: the call takes no arguments and changes nothing, and `owned` found that it
        // reaches OpenSSL's library.
        if unsafe { CRYPTO_THREAD_get_current_id() } == 0 {
            return Err(refusal("its OpenSSL is built without threads"));
        }
        Ok(())
    };
    ANSWER.get_or_init(|| Box::new(find())).clone()
}

/// Whether the functions of [`FUNCTIONS`] are in OpenSSL's libraries, or in this module.
fn owned() -> Result<(), String> {
    let ours = object_of(usable as *const c_void);
    if ours.is_some() && object_of(SSL_CTX_new as *const c_void) == ours {
        // OpenSSL is linked statically into this module: the linker resolved its calls.
        return Ok(());
    }
    for (library, names) in FUNCTIONS {
        for name in names {
            // `RTLD_DEFAULT` searches in the order in which the dynamic linker resolved this
            // module's own calls, since the caller is this module.
            // SAFETY: `name` is a C string.
            let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            let Some(object) = (!address.is_null()).then(|| object_of(address)).flatten() else {
                // Some versions of OpenSSL lack the function, and a module built for one of them
                // does not call it.
                continue;
            };
            let path = Path::new(OsStr::from_bytes(object.1.to_bytes()));
            let file = path.file_name().unwrap_or_default();
            if !file.as_bytes().starts_with(library.as_bytes()) {
                let holder = if path.is_absolute() {
                    path.display().to_string()
                } else {
                    "the program".to_owned()
                };
                let name = name.to_string_lossy();
                return Err(refusal(&format!(
                    "OpenSSL's {name} is that of {holder}, which must not be called from another thread"
                )));
            }
        }
    }
    Ok(())
}

fn refusal(why: &str) -> String {
    format!(
        "TLS is not possible in this process: {why}; a module that was built with \
         `--features vendored-openssl` has an OpenSSL of its own"
    )
}

/// The library or program that contains an address: its base address and the name of its file.
fn object_of(address: *const c_void) -> Option<(usize, &'static CStr)> {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `dladdr` accepts any address and does not read from it; `found` has room for what it
    // writes, and is all zeros before, which is valid for pointers and integers.
    let found = unsafe {
        if libc::dladdr(address, found.as_mut_ptr()) == 0 {
            return None;
        }
        found.assume_init()
    };
    if found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the dynamic linker's name of the object is a C string that lives as long as the
    // object is loaded, and this module and the libraries it depends on are never unloaded.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some((found.dli_fbase.addr(), name))
}
