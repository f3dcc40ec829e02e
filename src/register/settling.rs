//! Settling: after a start, the time that masters have to come back before their absence is an answer.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::RegisterState;
use super::session::WORKER_ADDRESS;
use crate::clock::Moment;
use crate::model::Change;
use crate::store::{Batch, FeedState, Proof};

/// If nothing was known of masters, nothing is reported of them for this long.
const UNKNOWN_TIME: Duration = Duration::from_secs(3);

/// How often to check whether all are back.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Settling {
    began: Instant,
    /// Whether masters are known from an earlier process, and whether these are all.
    is_restored: bool,
    are_all: bool,
    is_over: bool,
}

impl Settling {
    /// Waits for workers that are among these.
    pub(super) fn begin(state: &RegisterState, workers: &HashSet<String>) -> Self {
        let (progress, own) = (state.publisher.progress(), state.publisher.number());
        let is_restored = progress.whole;
        let are_all = is_restored && !progress.settling;
        state.publisher.publish(Batch::settling(true));
        let snapshot = state.publisher.snapshot();
        let expected = snapshot.directory().expected_by(own);
        let over = expected.filter(|it| it.peer_address.starts_with(WORKER_ADDRESS) && !workers.contains(&it.id));
        state.publisher.publish(over.map(|it| Change::GiveUp(it.id.clone())).collect::<Vec<_>>());
        state.returning.expect(state.publisher.snapshot().directory().expected_by(own).map(AsRef::as_ref));
        Self { began: Instant::now(), is_restored, are_all, is_over: false }
    }

    /// Reports how far the known masters can be trusted now.
    pub(super) fn look(&mut self, state: &RegisterState) {
        let feed = state.publisher.feed();
        if !self.is_over && self.has_ended(state) {
            // Before the proof, which it would otherwise affect.
            state.publisher.clear_expected();
            state.returning.give_up();
            self.is_over = true;
        }
        if !self.is_over && (self.is_restored || self.began.elapsed() < UNKNOWN_TIME) {
            let detail = match count_of_expected(state) {
                0 => "giving masters time to connect".to_owned(),
                count => format!("giving masters time to come back: {count} of those known before have not"),
            };
            feed.enter(FeedState::Syncing, detail);
            return;
        }
        let detail = if self.is_over { state.suffering() } else { "masters may still be on their way".to_owned() };
        feed.enter(FeedState::Live, detail);
        let (settling, proof) = (Some(!self.is_over), Some(Proof::Seen(Moment::now())));
        let skipped_nodes = Some(state.metrics.masters_left_out.get());
        state.publisher.publish(Batch { settling, proof, skipped_nodes, ..Batch::whole(Vec::new()) });
    }

    fn has_ended(&self, state: &RegisterState) -> bool {
        let all_are_back = self.are_all && count_of_expected(state) == 0;
        // A source that knows there are no others has reported that.
        let is_settled = !state.publisher.progress().settling;
        all_are_back || is_settled || self.began.elapsed() >= state.config.settle
    }
}

/// How many masters are not back yet, by the store: a master whose return is not published yet is not back.
fn count_of_expected(state: &RegisterState) -> usize {
    state.publisher.snapshot().directory().expected_by(state.publisher.number()).count()
}
