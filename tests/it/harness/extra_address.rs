//! One more address of this machine, which is no loopback address, and which nothing outside of it reaches.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::is_skipped_unless;

/// Taken away on drop. A guardian sees to that, also when the tests are gone without having dropped it.
#[derive(Debug)]
pub(crate) struct ExtraAddress {
    pub(crate) ip: Ipv4Addr,
    guardian: Child,
}

/// Reads until the tests close the pipe, be it by their own death. An interrupt is meant for the tests.
const GUARD: &str = r#"trap "" INT TERM; cat > /dev/null; ip address delete "$0" dev lo"#;

impl ExtraAddress {
    /// None: the test is skipped, since there is none to be had here.
    pub(crate) fn take() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() % 0x1000 * 16 + NEXT.fetch_add(1, Ordering::Relaxed);
        // Of the upper half of the range that is kept for tests.
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) + number);
        let address = format!("{ip}/32");
        let added = Command::new("ip").args(["address", "add", &address, "dev", "lo"]).output();
        let is_added = added.is_ok_and(|added| added.status.success()) && TcpListener::bind((ip, 0)).is_ok();
        if is_skipped_unless(is_added, "only root can give the machine one more address") {
            return None;
        }
        let guardian = Command::new("sh").args(["-c", GUARD, &address]).stdin(Stdio::piped()).spawn();
        Some(Self { ip, guardian: guardian.expect("sh starts") })
    }
}

impl Drop for ExtraAddress {
    fn drop(&mut self) {
        // It closes the pipe.
        let _ = self.guardian.wait();
    }
}
