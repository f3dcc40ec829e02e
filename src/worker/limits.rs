//! Limits: what a process may take before another one takes its place.

use std::fs;
use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::{Instant, sleep, sleep_until};

use super::config::Config;

/// How often it is looked how much memory a process takes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A lifetime is shorter by a random part of it, at most one in so many, so that processes do not end together.
const LIFETIME_JITTER: u32 = 10;

/// A limit that a process has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// In words. Another one is to take its place.
    Soft(String),
    /// It is not to go on.
    Hard(String),
}

/// Waits until a process passes a limit, for so long at least.
pub(super) async fn passed(config: &Config, pid: i32, pause: Duration) -> Passed {
    sleep(pause).await;
    let lifetime = async {
        match config.max_lifetime {
            Some(most) => {
                let jitter = (most / LIFETIME_JITTER).mul_f64(fastrand::f64());
                sleep_until(Instant::now() + most - jitter).await;
                Passed::Soft(format!("it has lived for max_lifetime, {}", humantime::format_duration(most)))
            }
            None => std::future::pending().await,
        }
    };
    let memory = async {
        if config.max_memory.is_none() && config.kill_memory.is_none() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_INTERVAL).await;
            let Some(taken) = resident(pid) else { continue };
            let over = |most: Option<ByteSize>, key| {
                let most = most.filter(|most| taken > *most)?;
                Some(format!("it takes {taken} of memory, and {key} is {most}"))
            };
            if let Some(why) = over(config.kill_memory, "kill_memory") {
                return Passed::Hard(why);
            }
            if let Some(why) = over(config.max_memory, "max_memory") {
                return Passed::Soft(why);
            }
        }
    };
    tokio::select! {
        passed = lifetime => passed,
        passed = memory => passed,
    }
}

/// How much memory a process has in use; none: it has ended.
fn resident(pid: i32) -> Option<ByteSize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(ByteSize::kib(line.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_memory_in_use() {
        let own = resident(std::process::id() as i32).expect("it lives");
        assert!(own > ByteSize::kib(100), "{own}");
        assert_eq!(resident(-1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_is_no_longer_than_it_may_be_and_not_much_shorter() {
        let config = Config { max_lifetime: Some(Duration::from_secs(100)), ..Config::default() };
        let begun = Instant::now();
        assert!(
            matches!(passed(&config, 1, Duration::ZERO).await, Passed::Soft(why) if why.contains("max_lifetime, 1m 40s"))
        );
        let lived = begun.elapsed().as_secs_f64();
        assert!((89.9..=100.1).contains(&lived), "{lived}");
    }
}
