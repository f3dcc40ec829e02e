//! What is measured of processes, and what is made of the values.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// User and system time of these processes, of all their threads, also those that have ended.
pub(crate) fn processor_time(processes: &[u32]) -> Duration {
    let time = |process: &u32| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(*process as i32)).expect("a process");
        Duration::from(clock.now().expect("its clock"))
    };
    processes.iter().map(time).sum()
}

pub(crate) fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    percentile(values, 50)
}

pub(crate) fn percentile<T: PartialOrd + Copy>(values: &[T], percent: usize) -> T {
    let mut values = values.to_vec();
    values.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
