//! Tests of the tunnel, by kind of evidence.
#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test, and says where")]

#[cfg(feature = "php")]
mod closures;
mod conversation;
mod memory;
mod mutants;
mod recorded;
#[cfg(feature = "php")]
mod trunk;
#[cfg(feature = "php")]
mod values;
mod windows;
mod words;

/// Pseudo-random numbers, the same each time.
fn random() -> impl FnMut() -> usize {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    }
}
