//! The allocator: has the C library's return to the kernel what nobody uses.

/// Returns what is free, also between what is not. That takes milliseconds where much is.
pub(crate) fn trim() {
    // SAFETY: the allocator locks itself.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
