//! Limits: how many jobs of a queue run at once, and how many begin within a time; who has to wait leaves the others alone.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Config;
use super::book::Queue;
use super::change::Change;
use super::engine::EngineError;
use super::job::Head;
use super::keys::{self, QueueNumber};
use super::order::Order;
use crate::rule::{self, NoDuration};

/// So many jobs at the head of a queue are looked at, to find one whose key is not used up.
const LOOK_AHEAD: usize = 1_000;

/// So many are looked at in one transaction, for all who want jobs: the thread that looks has all queues.
const MAX_LOOKS: usize = 2_000;

/// Where more than a few had to wait, and there was no other, how soon it is looked again, in ms, for each transaction that
/// it takes to look through all queues in which that is so: those that are looked through last have their turn by then.
const FEW_LOOKS: usize = 100;
const LOOK_DELAY: u64 = 20;

/// Of so many keys of a queue it is known how many of their jobs began lately. Jobs of further ones wait.
const MAX_KEYS: usize = 16_384;

/// How soon it is tried again where there are more.
const KEYS_DELAY: u64 = 1_000;

/// For how long it is told how many were passed over, once one of them may begin: whoever wants jobs looks again by then.
const LOOK_AGE: u64 = 1_000;

/// The longest time of a rate.
const MAX_PERIOD: Duration = Duration::from_secs(31 * 86_400);

/// What one transaction has looked at. Keys are only used up while it hands out jobs, which it does at its end.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) count: usize,
    /// By queue.
    places: HashMap<QueueNumber, Look>,
}

#[derive(Debug)]
struct Look {
    /// Where it goes on,
    from: Vec<u8>,
    /// how many have to wait that are before that,
    passed: usize,
    /// and when the first of them may begin.
    opens_at: u64,
}

/// `[[queue.limit]]`: of the jobs of a queue, or of those of them that have the same key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Required.
    pub queue: String,
    /// So many run at once,
    #[serde(deserialize_with = "crate::rule::some_positive", skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// and so many begin within a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether it is of each `limitKey`, and not of jobs without one.
    pub key: bool,
}

/// As many jobs within any time of that length as in a bucket that is full at first, and then fills evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: u32,
    period: Duration,
}

impl Look {
    fn at(head: &[u8]) -> Self {
        Self { from: head.to_vec(), passed: 0, opens_at: u64::MAX }
    }
}

impl Queue {
    /// Notes what a look has found.
    fn note(&mut self, look: &Look) {
        (self.passed, self.passed_until) = (look.passed as u64, look.opens_at);
    }
}

impl Limit {
    /// When a job may begin: now, or not before that time in ms, which may be never. The bucket is full at `full_at`.
    fn opens_at(&self, running: u64, full_at: u64, now: u64) -> Option<u64> {
        if self.concurrency.is_some_and(|most| running >= most) {
            return Some(u64::MAX);
        }
        let opens_at = self.rate?.opens_at(full_at).div_ceil(1_000);
        (opens_at > now).then_some(opens_at)
    }
}

impl Rate {
    const MAX_COUNT: u32 = 1_000_000;

    /// How long one takes, in µs, as all times here.
    pub(super) fn interval(self) -> u64 {
        (self.period.as_micros() as u64).div_ceil(self.count.into())
    }

    /// How long it takes until an empty bucket is full.
    pub(super) fn to_fill(self) -> u64 {
        u64::from(self.count) * self.interval()
    }

    fn opens_at(self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.to_fill() - self.interval())
    }

    fn after_one(self, full_at: u64, now: u64) -> u64 {
        full_at.max(now) + self.interval()
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate: write a number of jobs and a time, as in \"100/1m\"");
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        let period = rule::duration(period.trim()).map_err(|error| match error {
            NoDuration::Form(_) => wrong(),
            error => error.to_string(),
        })?;
        if count == 0 || count > Self::MAX_COUNT {
            return Err(format!("{text:?} is of {count} jobs, and is to be of 1 to {}", Self::MAX_COUNT));
        }
        if period < Duration::from_secs(1) || period > MAX_PERIOD {
            return Err(format!("{text:?} is for a time that is not from 1 s to 31 days"));
        }
        Ok(Self { count, period })
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(Rate { count, period }: Rate) -> Self {
        format!("{count}/{}", humantime::format_duration(period))
    }
}

impl Config {
    fn limit_of(&self, queue: &str, key: bool) -> Option<&Limit> {
        self.limit.iter().find(|limit| limit.key == key && limit.queue == queue)
    }
}

impl Change<'_, '_> {
    /// The place of the next job of a queue that may begin. None: for now none may, and the queue is held back.
    pub(super) fn next_place(&mut self, number: QueueNumber) -> Result<Option<Vec<u8>>, EngineError> {
        let (config, now, prefix) = (self.config, self.now.uptime, Order::Waiting.of(number));
        let Some(queue) = self.book.queues.get_mut(&number) else { return Ok(None) };
        if let Some(limit) = config.limit_of(&queue.name, false) {
            if let Some(rate) = limit.rate {
                // Whatever the clock was when it was written.
                queue.full_at = queue.full_at.min(now * 1_000 + rate.to_fill());
            }
            if let Some(opens_at) = limit.opens_at(queue.counts.running, queue.full_at, now) {
                queue.held_until = Some(opens_at);
                return Ok(None);
            }
        }
        let Some(limit) = config.limit_of(&queue.name, true) else { return self.txn.first(&prefix, &prefix) };
        let Some(queue) = self.book.queues.get(&number) else { return Ok(None) };
        let mut look = self.looks.places.remove(&number).unwrap_or_else(|| Look::at(&prefix));
        let (mut is_whole, rests_until) = (false, queue.rests_until);
        while !is_whole && self.looks.count < MAX_LOOKS && rests_until <= now {
            let Some(place) = self.txn.first(&prefix, &look.from)? else {
                is_whole = true;
                break;
            };
            // What is damaged has no key, and is passed over by whoever takes it.
            let key = self.standing_at(&place)?.and_then(|(_, head)| head.limit_key);
            let Some(opens) = key.and_then(|key| {
                let (running, full_at) =
                    (self.book.leases.running_of(number, &key), queue.full_at_of.get(key.as_str()));
                let is_new = full_at.is_none() && queue.full_at_of.len() >= MAX_KEYS && limit.rate.is_some();
                let opens = limit.opens_at(running as u64, full_at.copied().unwrap_or(0), now);
                if is_new { opens.or(Some(now + KEYS_DELAY)) } else { opens }
            }) else {
                if let Some(queue) = self.book.queues.get_mut(&number) {
                    queue.note(&look);
                }
                self.looks.places.insert(number, look);
                return Ok(Some(place));
            };
            let (passed, opens_at) = (look.passed + 1, look.opens_at.min(opens));
            look = Look { from: keys::after(&place), passed, opens_at };
            self.looks.count += 1;
            is_whole = passed == LOOK_AHEAD;
        }
        let transactions = 1 + self.book.resting(now) / (MAX_LOOKS / LOOK_AHEAD);
        if let Some(queue) = self.book.queues.get_mut(&number) {
            if is_whole {
                queue.note(&look);
            }
            if is_whole && look.passed >= FEW_LOOKS {
                queue.rests_until = now + LOOK_DELAY * transactions as u64;
            }
            // One that was cut short is looked through in the next transaction, while those rest that were before it.
            queue.held_until = Some(if is_whole { look.opens_at } else { rests_until.max(now + 1) });
        }
        Ok(None)
    }

    /// How many of the jobs that wait in a queue a limit holds back: all, or as many as the last look passed over. What waits
    /// in a queue that is paused waits for that.
    pub(super) fn limited(&self, queue: &Queue) -> u64 {
        if queue.counts.is_paused {
            return 0;
        }
        let (limit, now) = (self.config.limit_of(&queue.name, false), self.now.uptime);
        let holds = |limit: &Limit| limit.opens_at(queue.counts.running, queue.full_at, now).is_some();
        match limit.is_some_and(holds) {
            true => queue.counts.waiting,
            false if queue.passed_until.saturating_add(LOOK_AGE) <= now => 0,
            false => queue.passed.min(queue.counts.waiting),
        }
    }

    /// A job of a queue begins.
    pub(super) fn count_begun(&mut self, head: &Head) {
        let (wall, now) = (self.now.wall, self.now.uptime * 1_000);
        let Some(queue) = self.book.queues.get_mut(&head.queue) else { return };
        if let Some(rate) = self.config.limit_of(&queue.name, false).and_then(|limit| limit.rate) {
            queue.full_at = rate.after_one(queue.full_at, now);
            queue.counts.rate_full_at = wall + (queue.full_at - now).div_ceil(1_000);
        }
        if let Some(rate) = self.config.limit_of(&queue.name, true).and_then(|limit| limit.rate)
            && let Some(key) = &head.limit_key
        {
            if queue.full_at_of.len() >= MAX_KEYS {
                queue.full_at_of.retain(|_, full_at| *full_at > now);
            }
            let full_at = queue.full_at_of.entry(Arc::from(key.as_str())).or_default();
            *full_at = rate.after_one(*full_at, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn a_rate_is_a_number_of_jobs_and_a_time_and_is_written_so() {
        for text in ["100/1m", "1/31days", "1000000/1s"] {
            assert_eq!(rate(&String::from(rate(text))), rate(text));
        }
        assert_eq!(String::from(rate("100/60s")), "100/1m");
        assert!("100/1M".parse::<Rate>().is_err_and(|told| told.contains("for minutes write \"1m\"")));
        assert_eq!(rate(" 5 / 60s "), rate("5/1m"));
        for wrong in ["", "100", "/1m", "100/", "0/1m", "-1/1m", "1000001/1s", "5/m", "5/1ms", "5/32days", "5/1m/1m"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn within_no_time_of_that_length_do_more_begin_than_twice_the_number_and_in_the_long_run_as_many() {
        for text in ["1/1s", "7/1s", "999983/1s", "3/10s"] {
            let rate = rate(text);
            let (mut full_at, mut now, mut begun) = (0, 1_000_000_000, 0);
            let began = now;
            while begun < 3 * rate.count {
                match rate.opens_at(full_at) {
                    opens_at if opens_at <= now => {
                        full_at = rate.after_one(full_at, now);
                        begun += 1;
                    }
                    opens_at => {
                        assert!(begun >= rate.count, "{text}: the bucket is full at first");
                        now = opens_at;
                    }
                }
            }
            let took = now - began;
            let least = rate.period.as_micros() as u64 * 2;
            assert!((least..=least + 3 * u64::from(rate.count)).contains(&took), "{text}: {took}");
        }
    }
}
