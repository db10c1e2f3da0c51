//! Link flags, and the version of the C ABI.

use std::process::exit;

const HEADER: &str = "include/nauthilus_backend.h";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={HEADER}");
    // `lua_close` and nginx's reload unmap C modules. A thread of ours, or a thread-local
    // destructor on a thread of the host, would then run unmapped code: stay mapped for ever.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");

    let Some(version) = abi_version() else {
        println!("cargo::error={HEADER} defines no NAUTHILUS_BACKEND_ABI_VERSION");
        exit(1);
    };
    println!("cargo::rustc-env=NAUTHILUS_BACKEND_ABI_VERSION={version}");
    // A module is found by its path; the library, without a Lua feature, by its name.
    if std::env::var_os("CARGO_FEATURE__LUA").is_none() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnauthilus_backend.so.{version}");
    }
}

/// The header's word on it.
fn abi_version() -> Option<u32> {
    let header = std::fs::read_to_string(HEADER).ok()?;
    let define = "#define NAUTHILUS_BACKEND_ABI_VERSION ";
    header
        .lines()
        .find_map(|line| line.strip_prefix(define)?.trim().parse().ok())
}
