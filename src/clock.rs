//! The clock: moments that also count while the machine sleeps. All ages are measured by them.

use std::fs;
use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::mutant;

/// Wall-clock time in milliseconds since 1970: for people and for other processes.
pub fn millis_since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// How long after the boot of the machine its wall clock may be wrong, until it is synchronised over the network.
pub const CLOCK_SETTLES: Duration = Duration::from_secs(5 * 60);

/// The boot of the machine: moments of different boots cannot be compared. Empty: unknown.
pub fn boot_id() -> &'static str {
    static ID: LazyLock<String> =
        LazyLock::new(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned());
    &ID
}

/// A moment by a monotonic clock that goes on while the machine sleeps. `Instant` stands still then, so data read
/// before a suspend would look fresh after it. Deadlines of this process's own work use `Instant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub fn now() -> Self {
        let clock = match mutant::is("clock-stands-still") {
            true => ClockId::CLOCK_MONOTONIC,
            false => ClockId::CLOCK_BOOTTIME,
        };
        Self(clock_gettime(clock).expect("Linux has had this clock since 2.6.39").into())
    }

    /// The time since an earlier moment; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// The time since the boot of the machine.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// This long before this moment, but not before the machine was started.
    #[cfg(test)]
    pub(crate) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}
