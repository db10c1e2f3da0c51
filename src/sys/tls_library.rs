//! Checks which copy of OpenSSL this module's calls reach.
//!
//! If OpenSSL is linked statically into the host's program, and the program exports its symbols
//! (nginx built with `--with-openssl`, which links with `-Wl,-E`), the dynamic linker resolves this
//! module's calls to the program's copy instead of `libssl.so`. That copy may be built without
//! threads, or lay out its structures otherwise than this module was compiled for: a call from the
//! engine thread then corrupts the host's memory. The same happens if the host has loaded another library with
//! OpenSSL's functions (LibreSSL, BoringSSL, AWS-LC) whose symbols have no versions. Only another build of this
//! module can avoid that, so TLS is refused before the first call.

use std::ffi::{CStr, OsStr, c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use once_cell::race::OnceBox;

type OnCertificate = unsafe extern "C" fn(c_int, *mut c_void) -> c_int;
type OnChain = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// Declares functions of OpenSSL, and makes [`functions`] of them.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        // None of them is called: only their addresses are used. Those that other files of this module declare are
        // declared in the same way.
        unsafe extern "C" {
            $(fn $name($(_: $argument),*) $(-> $result)?;)*
        }

        /// Functions that this module calls: their names, each with a NUL, and where the calls arrive. The dynamic
        /// linker finds both in the same way, by name and version.
        fn functions() -> impl Iterator<Item = (&'static str, *const c_void)> {
            [$((concat!(stringify!($name), "\0"), $name as *const c_void)),*].into_iter()
        }
    };
}

// The list is long because a program may export only those that another of its libraries uses. It leaves
// out functions whose address programs take: in a program that is not position-independent such a
// function has an address within the program although the code is the library's.
functions! {
    SSL_CTX_new();
    SSL_CTX_ctrl();
    SSL_CTX_set_verify(*mut c_void, c_int, Option<OnCertificate>);
    SSL_CTX_set_cert_verify_callback(*mut c_void, Option<OnChain>, *mut c_void);
    SSL_CTX_set_ciphersuites();
    SSL_CTX_set_ex_data();
    SSL_CTX_get_ex_data();
    SSL_CTX_sess_set_new_cb();
    SSL_new();
    SSL_ctrl(*mut c_void, c_int, c_long, *mut c_void) -> c_long;
    SSL_connect();
    SSL_read_ex();
    SSL_write_ex();
    SSL_shutdown();
    SSL_get_error();
    SSL_get_ex_data();
    SSL_set_ex_data();
    SSL_get_verify_result();
    SSL_session_reused();
    SSL_set_bio();
    SSL_set_session();
    SSL_SESSION_dup(*const c_void) -> *mut c_void;
    TLS_client_method();
    OPENSSL_init_ssl();
    ASN1_STRING_length();
    ASN1_TIME_set();
    BIO_meth_new();
    BIO_new();
    BIO_set_data();
    CRYPTO_get_ex_new_index();
    CRYPTO_malloc();
    CRYPTO_THREAD_lock_new();
    ERR_get_error();
    ERR_reason_error_string();
    EVP_MD_CTX_new();
    OPENSSL_init_crypto();
    OPENSSL_sk_num();
    OPENSSL_sk_value();
    X509_STORE_add_cert();
    X509_STORE_CTX_get_ex_data();
    X509_STORE_CTX_get0_cert(*const c_void) -> *mut c_void;
    X509_STORE_CTX_get0_untrusted(*const c_void) -> *mut c_void;
    X509_VERIFY_PARAM_set1_host();
    X509_digest();
    X509_get_ext_d2i();
    X509_verify_cert(*mut c_void) -> c_int;
}

unsafe extern "C" {
    // `CRYPTO_THREAD_ID CRYPTO_THREAD_get_current_id(void)`, OpenSSL 1.1.0. It returns 0 in a build
    // without threads.
    fn CRYPTO_THREAD_get_current_id() -> usize;
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

/// Whether the calls of this module arrive in the libraries that it was linked with, or in the module itself.
fn owned() -> Result<(), String> {
    let Some(ours) = object_of(usable as *const c_void) else {
        return Err(refusal("the module cannot be found in its own process"));
    };
    let is_ours = |address| object_of(address).is_some_and(|(base, _)| base == ours.0);
    if is_ours(SSL_CTX_new as *const c_void) {
        // OpenSSL is linked statically into this module: the linker resolved its calls.
        return Ok(());
    }
    // SAFETY: the call reads a value that the kernel gave this process.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) } as usize;
    if is_ours(std::ptr::without_provenance(entry)) {
        // The program is linked with this library: it comes first where the dynamic linker looks.
        return Ok(());
    }
    // musl knows a loaded library by its file rather than by its path, and does not find one whose file was
    // replaced since. OpenSSL's own name is enough then.
    let module = Handle::of_loaded(ours.1).or_else(|| Handle::of_loaded(c"libssl.so.3"));
    let Some(module) = module else {
        return Err(refusal(
            "the libraries that the module needs cannot be found",
        ));
    };
    for (name, address) in functions() {
        let reached = object_of(address);
        let needed = object_of(module.symbol(name));
        if reached.is_none() || reached.map(|(base, _)| base) != needed.map(|(base, _)| base) {
            let name = name.trim_end_matches('\0');
            let holder = holder(reached.map(|(_, file)| file));
            return Err(refusal(&format!(
                "OpenSSL's {name} is that of {holder}, which must not be called from another thread"
            )));
        }
    }
    Ok(())
}

/// What holds a function, for an error.
fn holder(file: Option<&CStr>) -> String {
    let path = file.map(|file| Path::new(OsStr::from_bytes(file.to_bytes())));
    match path {
        Some(path) if path.is_absolute() => path.display().to_string(),
        _ => "the program".to_owned(),
    }
}

/// A loaded library, kept from being unloaded.
struct Handle(NonNull<c_void>);

impl Handle {
    /// The library of this file name, as the dynamic linker has it. None if no such library is loaded.
    fn of_loaded(file: &CStr) -> Option<Self> {
        let mode = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        // SAFETY: `file` is a C string. Nothing is loaded, so no code of a library runs.
        NonNull::new(unsafe { libc::dlopen(file.as_ptr(), mode) }).map(Self)
    }

    /// The address of a function in the library or those that it needs, whatever else is loaded. `name` ends with a NUL.
    fn symbol(&self, name: &'static str) -> *const c_void {
        let Ok(name) = CStr::from_bytes_with_nul(name.as_bytes()) else {
            return std::ptr::null();
        };
        // SAFETY: the handle is one of `dlopen`, and `name` is a C string.
        unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: `dlopen` returned the handle, and it is closed only here.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }
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
