//! Sets link flags, and passes the version of the C ABI from the header to the code.

use std::process::exit;

const HEADER: &str = "include/nauthilus_backend.h";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={HEADER}");
    // `lua_close` and nginx's reload unmap C modules. A thread of ours that still runs, or the
    // destructor of a thread-local value on a thread of the host's, would then run unmapped code
    // and crash. With this flag the library stays mapped until the process ends.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");

    let Some(version) = abi_version() else {
        println!("cargo::error={HEADER} defines no NAUTHILUS_BACKEND_ABI_VERSION");
        exit(1);
    };
    println!("cargo::rustc-env=NAUTHILUS_BACKEND_ABI_VERSION={version}");
    // Lua loads its module by path. The C library, built without a Lua feature, is found by its
    // soname; the version in it keeps a program from loading a library of another ABI.
    if std::env::var_os("CARGO_FEATURE__LUA").is_none() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnauthilus_backend.so.{version}");
    }
}

/// The version that the header defines.
fn abi_version() -> Option<u32> {
    let header = std::fs::read_to_string(HEADER).ok()?;
    let define = "#define NAUTHILUS_BACKEND_ABI_VERSION ";
    header
        .lines()
        .find_map(|line| line.strip_prefix(define)?.trim().parse().ok())
}
