#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nauthilus_backend_fuzz::run("state", data));
