//! Limits: what a process may use before it is replaced.

use std::fs;
use std::future::pending;
use std::time::Duration;

use bytesize::ByteSize;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

use super::config::Config;
use crate::tunnel::Silence;
use crate::tunnel::worker::CallsUnderWay;

/// How often to check how much memory a process takes, and whether it answers.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Lifetimes and request limits are reduced by a random part of at most one in this many, so that processes do not end
/// together.
const JITTER_PART: u32 = 10;

/// A limit that a process has exceeded, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It has to be replaced.
    Age(String),
    Requests(String),
    Memory(String),
    /// It no longer takes connections, or has none to the sidecar.
    Connections(String),
    /// It must not continue.
    Hard(String),
}

impl Passed {
    pub(super) fn why(&self) -> &str {
        let (Self::Age(why) | Self::Requests(why) | Self::Memory(why) | Self::Connections(why) | Self::Hard(why)) =
            self;
        why
    }

    /// Whether its jobs may end before it does.
    pub(super) fn waits_for_jobs(&self) -> bool {
        matches!(self, Self::Age(_) | Self::Requests(_))
    }

    /// Whether what it performs may be at fault: a job that it has not done in time is a loss then. Others may be ended.
    pub(super) fn is_its_doing(&self) -> bool {
        matches!(self, Self::Memory(_) | Self::Hard(_))
    }
}

/// Each limit for which a ready process has to be replaced, once it has passed that: one that has to wait for something
/// hides no other.
pub(super) fn soft<'a>(
    config: &'a Config,
    pid: i32,
    calls: &'a CallsUnderWay,
) -> FuturesUnordered<BoxFuture<'a, Passed>> {
    let age = async move {
        let Some(most) = config.max_lifetime else { return pending().await };
        let jitter = (most / JITTER_PART).mul_f64(fastrand::f64());
        sleep(most - jitter).await;
        Passed::Age(format!("it has lived for max_lifetime, {}", humantime::format_duration(most)))
    };
    let requests = async move {
        calls.are_enough().await;
        let most = config.max_requests.unwrap_or_default();
        Passed::Requests(format!("it was asked as much as max_requests, {most}, allows"))
    };
    let memory = async move { Passed::Memory(takes_more(config.max_memory, "max_memory", pid).await) };
    [age.boxed(), requests.boxed(), memory.boxed()].into_iter().collect()
}

/// How many requests a process may get.
pub(super) fn requests(config: &Config) -> Option<u64> {
    config.max_requests.map(|most| most - fastrand::u64(0..=most / u64::from(JITTER_PART)))
}

/// Waits until a process must not continue, whatever it is doing.
pub(super) async fn hard(config: &Config, pid: i32) -> Passed {
    Passed::Hard(takes_more(config.kill_memory, "kill_memory", pid).await)
}

/// Waits until a process has not answered over its channel for too long.
pub(super) async fn silent(config: &Config, silence: impl Fn() -> Option<Silence>) -> Passed {
    let Some(most) = config.hang_timeout else { return pending().await };
    loop {
        sleep(LOOK_INTERVAL.min(most)).await;
        if silence().is_some_and(|silence| silence.began.elapsed() >= most) {
            let most = humantime::format_duration(most);
            return Passed::Hard(format!("it did not answer over its channel for hang_timeout, {most}"));
        }
    }
}

/// Waits until a process has taken longer for a job than it may, by more than the grace.
pub(super) async fn overdue(config: &Config, calls: &CallsUnderWay) -> Passed {
    let most = config.job_grace;
    loop {
        sleep(LOOK_INTERVAL.min(most)).await;
        if calls.late_for().is_some_and(|late| late >= most) {
            let most = humantime::format_duration(most);
            return Passed::Hard(format!(
                "it took longer for a job than its timeout, or to end after one, by more than job_grace, {most}"
            ));
        }
    }
}

/// Waits until a process takes more memory than this setting allows.
async fn takes_more(most: Option<ByteSize>, key: &str, pid: i32) -> String {
    let Some(most) = most else { return pending().await };
    loop {
        sleep(LOOK_INTERVAL).await;
        if let Some(taken) = resident(pid).filter(|taken| *taken > most) {
            return format!("it takes {taken} of memory, and {key} is {most}");
        }
    }
}

/// The resident memory of a process; none: it has ended.
fn resident(pid: i32) -> Option<ByteSize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(ByteSize::kib(line.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures::StreamExt;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_process_has_some_memory_in_use() {
        let own = resident(std::process::id() as i32).expect("it lives");
        assert!(own > ByteSize::kib(100), "{own}");
        assert_eq!(resident(-1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sets_the_clock_shortens_and_prolongs_no_silence() {
        let config = Config { hang_timeout: Some(Duration::from_secs(60)), ..Config::default() };
        let later = SystemTime::now() + Duration::from_secs(3_600);
        for since in [SystemTime::UNIX_EPOCH, later] {
            let (begun, mut silence) = (Instant::now(), Silence::of(Duration::ZERO));
            silence.since = since;
            assert!(
                matches!(silent(&config, || Some(silence)).await, Passed::Hard(why) if why.contains("hang_timeout, 1m"))
            );
            let lasted = begun.elapsed().as_secs();
            assert!((60..=62).contains(&lasted), "{lasted}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_killed_that_is_late_with_one_job_for_too_long_and_not_one_that_answers() {
        let (config, calls) = (Config::default(), CallsUnderWay::default());
        let late = async {
            for _ in 0..9 {
                calls.set_late(true);
                sleep(Duration::from_secs(25)).await;
                calls.set_late(false);
            }
            calls.set_late(true);
            Instant::now()
        };
        let (passed, since) = tokio::join!(overdue(&config, &calls), late);
        assert!(matches!(passed, Passed::Hard(why) if why.contains("job_grace, 30s")));
        assert!((30..=32).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_is_no_longer_than_it_may_be_and_not_much_shorter() {
        let config = Config { max_lifetime: Some(Duration::from_secs(100)), ..Config::default() };
        let begun = Instant::now();
        let calls = CallsUnderWay::default();
        let passed = soft(&config, 1, &calls).next().await;
        assert!(matches!(passed, Some(Passed::Age(why)) if why.contains("max_lifetime, 1m 40s")));
        let lived = begun.elapsed().as_secs_f64();
        assert!((89.9..=100.1).contains(&lived), "{lived}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_asked_no_more_than_it_may_be_and_not_much_less() {
        let config = Config { max_requests: Some(100), ..Config::default() };
        let most = requests(&config).expect("a limit");
        assert!((90..=100).contains(&most), "{most}");
        let calls = CallsUnderWay::of_at_most(Some(most));
        let ask = async {
            (1..most).for_each(|_| drop(calls.begin("mail", "send")));
            sleep(Duration::from_secs(60)).await;
            let before = Instant::now();
            calls.count();
            before
        };
        let passed = async { soft(&config, 1, &calls).next().await };
        let (passed, before) = tokio::join!(passed, ask);
        assert!(matches!(passed, Some(Passed::Requests(why)) if why.contains("max_requests, 100")));
        assert_eq!(before.elapsed(), Duration::ZERO, "by the last");
        assert_eq!(requests(&Config { max_requests: Some(1), ..config }), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_too_old_is_told_of_also_once_it_takes_too_much() {
        let (max_lifetime, max_memory) = (Some(Duration::from_secs(1)), Some(ByteSize::b(1)));
        let config = Config { max_lifetime, max_memory, ..Config::default() };
        let (calls, pid) = (CallsUnderWay::default(), std::process::id() as i32);
        let passed: Vec<_> = soft(&config, pid, &calls).take(2).collect().await;
        assert!(matches!(&passed[..], [Passed::Age(_), Passed::Memory(_)]), "{passed:?}");
    }
}
