//! Link flags of the module.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // `lua_close` and nginx's reload unmap C modules. A thread of ours, or a thread-local
    // destructor on a thread of the host, would then run unmapped code: stay mapped for ever.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
