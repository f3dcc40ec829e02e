//! The allocator: has the C library's return to the kernel what nobody uses.

use std::fs;

/// Returns what is free, also between what is not. That takes milliseconds where much is.
pub(crate) fn trim() {
    // SAFETY: the allocator locks itself.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// How many bytes the C library keeps that nobody uses, returned or not; 0 where it does not tell. To count them takes
/// as long as to return them.
pub(crate) fn free() -> usize {
    // SAFETY: the allocator locks itself.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    let free = unsafe { nix::libc::mallinfo2().fordblks };
    #[cfg(not(target_env = "gnu"))]
    let free = 0;
    free
}

/// How many bytes of memory the process has that are of no file; 0 where the kernel does not tell.
pub(crate) fn held() -> usize {
    // In pages: the whole, what is resident, and what of that is of files.
    let told = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = told.split(' ').skip(1).map(|pages| pages.parse::<usize>().unwrap_or(0));
    let (resident, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(of_files) * PAGE
}

/// The size of a page on the machines that Roster runs on. Where it is larger, so is what is taken for much.
const PAGE: usize = 4_096;
