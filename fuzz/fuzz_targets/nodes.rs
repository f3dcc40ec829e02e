#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roster_fuzz::check(bytes, roster::format::fuzz::nodes));
