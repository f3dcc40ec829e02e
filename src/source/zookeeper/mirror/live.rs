//! What a mirror does while it is in sync: takes in events, reads what they name, checks that the server is there, and
//! compares everything now and then.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::iter::successors;
use std::mem;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::{Held, Mirror};
use crate::clock::Moment;
use crate::model::{Change, NodePath};
use crate::mutant;
use crate::source::zookeeper::Config;
use crate::source::zookeeper::bulk::Bulk;
use crate::source::zookeeper::delta::Delta;
use crate::source::zookeeper::scan::{Budget, Scope};
use crate::source::zookeeper::skipped::Skipped;
use crate::source::zookeeper::walk::{Below, Walk};
use crate::store::{Batch, Proof};
use crate::task::around;
use crate::zookeeper::{Event, Session, SessionError};

/// How long to gather more events after one; also the minimum interval between two publications.
const GATHER_DELAY: Duration = Duration::from_millis(2);
const MIN_PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// With more changed paths than this it is cheaper, and bounded, to read everything.
const MAX_DIRTY_PATHS: usize = 20_000;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// The approximate delay before reading everything for a reason other than an audit: held nodes may have come back, or
/// nodes that became readable may have more below them.
const RECHECK_DELAY: Duration = Duration::from_secs(8);

/// What changed and has to be read again.
#[derive(Default)]
struct Dirty {
    /// In path order, parents come first.
    paths: BTreeSet<NodePath>,
    /// A heartbeat that will prove being in sync once these have been read.
    proof: Option<Moment>,
    /// What a mutant publishes too late.
    late: Option<Change>,
}

impl Mirror {
    /// Follows the changes until there is trouble.
    pub(super) async fn live(&mut self, session: &mut Session) -> Result<Infallible, SessionError> {
        let mut dirty = Dirty::default();
        let (mut due, mut published) = (Instant::now(), Instant::now());
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audit = Instant::now() + until_audit(&self.config, self.held);
        loop {
            tokio::select! {
                // Once there are so many that everything is read anyway, no more are taken until it is.
                event = session.next(), if dirty.paths.len() <= MAX_DIRTY_PATHS => {
                    if dirty.paths.is_empty() {
                        due = (Instant::now() + GATHER_DELAY).max(published + MIN_PUBLISH_INTERVAL);
                    }
                    self.note(event?, &mut dirty)?;
                    self.drain(session, &mut dirty)?;
                    if dirty.paths.len() > MAX_DIRTY_PATHS {
                        audit = Instant::now();
                    }
                }
                () = sleep_until(due.into()), if !dirty.paths.is_empty() => {
                    if self.read_again(session, &mut dirty).await? {
                        audit = audit.min(Instant::now() + around(RECHECK_DELAY));
                    }
                    published = Instant::now();
                }
                _ = heartbeat.tick() => self.prove(session, &mut dirty).await?,
                () = sleep_until(audit.into()) => {
                    self.audit(session, &mut dirty).await?;
                    audit = Instant::now() + until_audit(&self.config, self.held);
                }
                () = self.reload.requested() => self.check_identity(session)?,
            }
        }
    }

    /// Proves that the server is there. What it did before its reply is known from the events that came before: once
    /// these have been read, the store holds what the server held when it was asked.
    async fn prove(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<(), SessionError> {
        let asked = Moment::now();
        session.heartbeat().await?;
        session.learn_new_servers().await?;
        if self.drain(session, dirty)? {
            dirty.proof = Some(asked);
            if let Some(at) = self.proof(dirty) {
                self.publisher.prove(at);
            }
        }
        Ok(())
    }

    /// The time for which the store will match the server, once what is read has been published.
    fn proof(&self, dirty: &mut Dirty) -> Option<Moment> {
        let is_proven = dirty.paths.is_empty() && self.held.is_none() && !self.is_read_only;
        if is_proven { dirty.proof.take() } else { None }
    }

    /// Reads again what changed, and publishes it; returns whether something became readable, so that there may be more
    /// below it.
    async fn read_again(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<bool, SessionError> {
        let paths = self.skipped.askable(std::mem::take(&mut dirty.paths));
        let unreadable: Vec<_> = paths.iter().filter(|path| self.skipped.is_unreadable(path)).cloned().collect();
        let known = self.publisher.snapshot();
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        let budget = Budget::new(&self.config, self.publisher.progress());
        let bulk = Bulk { session, pace: &self.pace, known: &known, earlier: &self.earlier };
        let mut update = Delta::new(&known, budget, self.held.is_none(), &mut self.skipped);
        let read = Walk { scope: &scope, bulk, below: Below::Unwatched }.read(paths, &mut update).await;
        let mut changes = update.changes();
        if let Err(trouble) = read {
            self.pace.slow_down();
            return Err(trouble);
        }
        if mutant::is("replies-out-of-order") {
            let late = mem::replace(&mut dirty.late, changes.pop());
            changes.extend(late);
        }
        let proof = self.proof(dirty).map(Proof::Seen);
        self.publish(Batch { proof, ..changes.into() });
        Ok(unreadable.iter().any(|path| !self.skipped.is_unreadable(path)))
    }

    /// Compares everything. A difference that no event announced is drift: there should be none.
    async fn audit(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<(), SessionError> {
        let began = Moment::now();
        let was_held = self.held.is_some();
        let (changes, announced) = self.compare(session, std::mem::take(&mut dirty.paths)).await?;
        let changes = self.hold_back(changes, &announced);
        let known = self.publisher.snapshot();
        let is_announced = |path: &NodePath| {
            // A new node may be announced by its parent, or by a higher ancestor that is new too.
            let mut above = successors(path.parent(), NodePath::parent);
            announced.contains(path) || known.node(path).is_none() && above.any(|above| announced.contains(&above))
        };
        let drift: Vec<_> = changes.iter().filter_map(Change::path).filter(|path| !is_announced(path)).collect();
        if !was_held && let Some(first) = drift.first() {
            self.feed().drift.add(drift.len() as u64);
            tracing::warn!(source = self.feed().name(), drift = drift.len(), %first, "the audit found a change that no event announced");
        }
        dirty.proof = Some(began);
        let proof = self.proof(dirty).map(Proof::Seen);
        self.publish(Batch { proof, ..changes.into() });
        Ok(())
    }

    fn drain(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<bool, SessionError> {
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        drain(&scope, session, &mut dirty.paths, &mut self.skipped)
    }

    fn note(&mut self, event: Event, dirty: &mut Dirty) -> Result<(), SessionError> {
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        note(&scope, event, &mut dirty.paths, &mut self.skipped)
    }
}

/// When the next audit is due. Sidecars that came back together after a loss must not all read everything together
/// again.
fn until_audit(config: &Config, held: Option<Held>) -> Duration {
    match held {
        Some(held) => around(RECHECK_DELAY).min(config.hold.saturating_sub(held.since.elapsed())),
        None => around(config.audit_interval),
    }
}

/// Takes in the events that have arrived; false: there may be more. Under heavy writes there always are.
pub(super) fn drain(
    scope: &Scope<'_>,
    session: &mut Session,
    dirty: &mut BTreeSet<NodePath>,
    skipped: &mut Skipped,
) -> Result<bool, SessionError> {
    for _ in 0..MAX_DIRTY_PATHS {
        match session.try_next() {
            Some(event) => note(scope, event?, dirty, skipped)?,
            None => return Ok(true),
        }
    }
    Ok(false)
}

fn note(
    scope: &Scope<'_>,
    event: Event,
    dirty: &mut BTreeSet<NodePath>,
    skipped: &mut Skipped,
) -> Result<(), SessionError> {
    match event {
        Event::Lost(why) => return Err(SessionError::Lost(why)),
        Event::Regained => return Err(SessionError::Lost("the connection was lost, and found again".into())),
        Event::Changed { path, fired } => {
            let is_followed = |path: &NodePath| scope.enters(path) && !skipped.hides(path);
            if fired.is_structure() {
                dirty.extend(path.parent().filter(is_followed));
            }
            if is_followed(&path) {
                dirty.insert(path);
            }
        }
        Event::Odd { parent, name, is_there } if scope.enters(&parent) && !skipped.hides(&parent) => {
            match is_there {
                true => skipped.insert_name(&parent, &name),
                false => skipped.remove_name(&parent, &name),
            }
            // Its stat changed, and with it what is reported as omitted.
            dirty.insert(parent);
        }
        Event::Odd { .. } => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::assert_spread;

    #[test]
    fn the_audits_of_many_come_at_no_moment_together() {
        let config = Config::new("zk:2181");
        let held = Held { since: Moment::now(), nodes: 1 };
        for (held, mean) in [(None, config.audit_interval), (Some(held), RECHECK_DELAY)] {
            assert_spread(mean / 2, mean / 2 * 3, || until_audit(&config, held));
        }
        let short = Config { hold: Duration::from_secs(1), ..config };
        assert!(until_audit(&short, Some(held)) <= short.hold, "what is held is believed gone in time");
    }
}
