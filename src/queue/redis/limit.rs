//! Limits: what scripts are given that keep to them, for all hosts at once, and which keys are in the way of that.

use std::sync::PoisonError;

use super::super::limit::Rate;
use super::Redis;
use super::link::{Arguments, Failed};

impl Redis {
    /// What a script is given that keeps to the limits of these queues, before all else.
    pub(super) fn limits_of(&self, queues: &[String]) -> Result<Arguments, Failed> {
        let limits: Vec<_> = self.config.limit.iter().filter(|limit| queues.contains(&limit.queue)).collect();
        let begin = Arguments::new(&self.keys.0).number(self.link.latest()?).number(limits.len() as u64);
        Ok(limits.into_iter().fold(begin, |arguments, limit| {
            let (interval, fill) = (limit.rate.map_or(0, Rate::interval), limit.rate.map_or(0, Rate::to_fill));
            arguments.text(&limit.queue).number(limit.concurrency.unwrap_or(0)).number(interval).number(fill)
        }))
    }

    /// Notes which key is in the way of the limit of a queue; empty: none. The log has a line when that is new.
    pub(super) fn note_in_the_way(&self, queue: &str, key: &str) {
        let mut known = self.in_the_way.lock().unwrap_or_else(PoisonError::into_inner);
        if key.is_empty() {
            known.remove(queue);
        } else if known.insert(queue.to_owned()) {
            tracing::warn!(
                queue,
                key,
                "a key of Redis is of another type than it should be, and no job of this queue, which has a limit, is \
                 handed out: remove the key with `DEL`"
            );
        }
    }
}
