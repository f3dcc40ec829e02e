//! The allocator: returns unused memory of the C library to the kernel.

use std::fs;

/// Returns free memory, also between allocations. Takes milliseconds if there is much of it.
pub(crate) fn trim() {
    // SAFETY: the allocator locks itself.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// How many free bytes the C library keeps, returned or not; 0 if it does not report this. Counting takes as long as
/// returning them.
pub(crate) fn free() -> usize {
    // SAFETY: the allocator locks itself.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    let free = unsafe { nix::libc::mallinfo2().fordblks };
    #[cfg(not(target_env = "gnu"))]
    let free = 0;
    free
}

/// How many bytes of anonymous memory the process has; 0 if the kernel does not report it.
pub(crate) fn held() -> usize {
    // In pages: the total, the resident ones, and the resident ones backed by files.
    let told = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = told.split(' ').skip(1).map(|pages| pages.parse::<usize>().unwrap_or(0));
    let (resident, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(of_files) * PAGE
}

/// The page size of the machines that Roster runs on. Where it is larger, so are the thresholds.
const PAGE: usize = 4_096;
