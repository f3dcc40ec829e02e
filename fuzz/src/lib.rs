//! What all targets share: a check is run on an input, and may take so much memory and no more.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MOST: usize = 16 * 1024 * 1024;

pub fn check(bytes: &[u8], check: fn(&[u8])) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    check(bytes);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= MOST, "{} bytes of input took {taken} bytes of memory", bytes.len());
}
