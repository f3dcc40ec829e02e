#![no_main]

use roster::tunnel;

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::php_values(bytes));
