//! Other users, whom only root can be; and how a test says that it was skipped.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};

/// The web server's user and its group, with one number on Debian.
pub(crate) const WWW_DATA: u32 = 33;

/// Whether a test cannot run here; then it says why, on a line that is shown also when it passes.
pub(crate) fn is_skipped_unless(holds: bool, why: &str) -> bool {
    if !holds {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "\nSKIPPED {test}: {why}");
    }
    !holds
}

/// Whether a test cannot run here that has other users or namespaces.
pub(crate) fn is_skipped_without_root() -> bool {
    is_skipped_unless(geteuid().is_root(), "only root can be other users and make namespaces")
}

/// Does something to files as www-data; where this is not root, as whoever it is.
pub(crate) fn as_www_data<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let what = || {
        if geteuid().is_root() {
            // Of this thread alone.
            setfsgid(Gid::from_raw(WWW_DATA));
            setfsuid(Uid::from_raw(WWW_DATA));
        }
        what()
    };
    std::thread::scope(|threads| threads.spawn(what).join().expect("it does not panic"))
}

/// A command of www-data's; where this is not root, of whoever it is.
pub(crate) fn of_www_data(mut command: Command) -> Command {
    if geteuid().is_root() {
        command.uid(WWW_DATA).gid(WWW_DATA).current_dir("/");
    }
    command
}
