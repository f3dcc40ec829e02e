//! Precedence: a process that begins leaves the processors to those that serve already, until it is ready.

use std::sync::LazyLock;
use std::thread;

use nix::libc;

/// How much nicer than the sidecar a process is while it begins.
const BEGINNING: i32 = 10;

/// Whether this process may make others less nice again. It is tried, on a thread that ends then: in a container, neither
/// its user nor its capabilities say so.
static MAY_LIFT: LazyLock<bool> = LazyLock::new(|| {
    let tries = || {
        let before = niceness(0);
        set(libc::PRIO_PROCESS, 0, before + 1) && set(libc::PRIO_PROCESS, 0, before)
    };
    thread::spawn(tries).join().unwrap_or(false)
});

/// The niceness with which a process begins, where it can be lifted later. Whatever a unit gives the sidecar, it is not
/// before other programs.
pub(super) fn of_beginner() -> i32 {
    niceness(0).max(0) + if *MAY_LIFT { BEGINNING } else { 0 }
}

/// Has this process, which begins, be as nice.
pub(super) fn yield_to_others(to: i32) {
    if niceness(0) < to {
        set(libc::PRIO_PROCESS, 0, to);
    }
}

/// Has a process that is ready, and those of its group, serve like others. What it has given up by itself, it keeps.
pub(super) fn lift(pid: i32) {
    if *MAY_LIFT {
        set(libc::PRIO_PGRP, pid, (niceness(pid) - BEGINNING).max(niceness(0)).max(0));
    }
}

#[allow(unsafe_code)]
fn niceness(pid: i32) -> i32 {
    // Safety: numbers alone.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, pid as libc::id_t) }
}

#[allow(unsafe_code)]
fn set(kind: libc::__priority_which_t, of: i32, to: i32) -> bool {
    // Safety: numbers alone.
    unsafe { libc::setpriority(kind, of as libc::id_t, to) == 0 }
}
