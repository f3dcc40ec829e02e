//! Handing over: jobs on their way to whoever takes them.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::mpsc;

use super::job::JobId;
use super::keeper::{Ask, What};
use super::redis::Redis;

/// Jobs on their way to whoever takes them. Dropped before they have arrived there, they are given back.
#[derive(Debug, Default)]
pub struct Handed {
    attempts: Vec<(JobId, u32)>,
    back: Option<Back>,
}

#[derive(Debug)]
pub(super) enum Back {
    Keeper(mpsc::WeakUnboundedSender<Ask>),
    Redis(Weak<Redis>),
}

impl Handed {
    pub(super) fn new(attempts: Vec<(JobId, u32)>, back: Back) -> Self {
        Self { attempts, back: Some(back) }
    }

    pub fn have_arrived(mut self) {
        self.attempts.clear();
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let attempts = std::mem::take(&mut self.attempts);
        if attempts.is_empty() {
            return;
        }
        // Where nobody is there for it any more, they are another's when their leases end.
        match &self.back {
            Some(Back::Keeper(asks)) => {
                let Some(asks) = asks.upgrade() else { return };
                let _ = asks.send(Ask { what: What::GiveBack(attempts), at: Instant::now(), place: Arc::default() });
            }
            Some(Back::Redis(redis)) => {
                let Some(redis) = redis.upgrade() else { return };
                redis.give_back_later(attempts);
            }
            None => {}
        }
    }
}
