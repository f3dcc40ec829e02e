//! Descriptors that peers send over Unix sockets (`SCM_RIGHTS`), and Roster itself never needs.

use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Makes the kernel refuse descriptors sent to this end of a Unix socket; for a listener, those sent by clients that
/// connect from now on. Otherwise the kernel closes them when we read or close, and blocks for as long as the sender
/// chose by `SO_LINGER`. Requires Linux 6.16; before, nothing can refuse them.
pub fn refuse_descriptors(socket: impl AsFd) {
    set(socket, 0);
}

/// Makes the kernel accept them again, for a program that may need them.
pub fn allow_descriptors(socket: impl AsFd) {
    set(socket, 1);
}

fn set(socket: impl AsFd, are_passed: libc::c_int) {
    const SO_PASSRIGHTS: libc::c_int = 83;
    // Safety: the option is a number, which lives as long as the call.
    #[allow(unsafe_code)]
    unsafe {
        let (value, length) = ((&raw const are_passed).cast(), size_of_val(&are_passed) as libc::socklen_t);
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, length);
    }
}
