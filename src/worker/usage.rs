//! Usage: the memory and CPU time of a process, read from /proc on request.

use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

use super::process_stat::{self, FIRST_FIELD};

/// The resource usage of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub memory: u64,
    /// CPU time.
    pub processor: Duration,
}

impl Usage {
    /// The usage of a child of this process; none: it has ended, or the kernel does not report it. Reads a file.
    pub fn of(pid: i32) -> Option<Self> {
        Self::read(&process_stat::read(Pid::from_raw(pid)).ok()??, std::process::id())
    }

    fn read(stat: &str, parent: u32) -> Option<Self> {
        let fields = process_stat::fields(stat)?;
        let field = |number: usize| fields.get(number - FIRST_FIELD)?.parse::<u64>().ok();
        let unit = |variable| u64::try_from(sysconf(variable).ok()??).ok().filter(|unit| *unit > 0);
        if field(4)? != u64::from(parent) {
            return None;
        }
        let ticks = field(14)? + field(15)?;
        let processor = Duration::from_millis(ticks * 1_000 / unit(SysconfVar::CLK_TCK)?);
        Some(Self { memory: field(24)? * unit(SysconfVar::PAGE_SIZE)?, processor })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_child_takes_is_read_whatever_it_is_called_and_of_no_other_process() {
        let own = fs::read_to_string("/proc/self/stat").expect("it is there");
        let (_, rest) = own.rsplit_once(')').expect("a name");
        let parent = nix::unistd::getppid().as_raw() as u32;
        let usage = Usage::read(&format!("7 (a) S 1 (b){rest}"), parent).expect("it is read");
        assert!(usage.memory > 100_000, "{usage:?}");
        assert_eq!(Usage::read(&own, parent + 1), None);
        assert_eq!(Usage::of(-1), None);
        for short in ["", "7 (a", "7 (a)", "7 (a) S 1"] {
            assert_eq!(Usage::read(short, 1), None);
        }
    }
}
