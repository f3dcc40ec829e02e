//! Entries: the held instances of a service.

use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use super::departed::Departed;
use super::room::Taken;
use super::{Config, Now, Rank, Target, Vanished};
use crate::clock::{CLOCK_SETTLES, Moment, boot_id};
use crate::model::{AfterBoot, Held, Instance, Probe, Provenance};

/// How far the wall clock may be from the other before the end of what is restored is another.
const MAX_DRIFT_MS: u64 = 1_000;

/// A held instance.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) vanished: Arc<Vanished>,
    /// None: it has no port, so that it cannot be probed.
    pub(super) target: Option<Target>,
    pub(super) held: Held,
    /// When it vanished; None: in an earlier process.
    pub(super) vanished_at: Option<Moment>,
    pub(super) expires: Moment,
    /// Since when there are strangers at its address.
    pub(super) doubted: Option<Moment>,
    /// About how many bytes it takes.
    pub(super) bytes: usize,
}

/// An instance of the service to list or withdraw.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) version: Version,
    pub(super) id: Arc<str>,
    /// None: it is gone.
    pub(super) instance: Option<Instance>,
}

impl Vanished {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let provenance = self.instance.provenance.iter().map(|Provenance { record, .. }| record.bytes() + 64);
        self.instance.packed_bytes() + provenance.sum::<usize>() + 512
    }

    pub(super) fn gone(&self) -> Outcome {
        Outcome { version: self.version.clone(), id: self.id.clone(), instance: None }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (Arc::as_ptr(&it.vanished), it.expires, it.doubted);
        of(self) == of(other) && self.held == other.held
    }
}

impl Entry {
    pub(super) fn new(Departed { vanished, at, .. }: Departed, before: usize, config: &Config) -> Self {
        let Vanished { variant, decided_by, .. } = &*vanished;
        let (variant, decided_by, before) = (variant.clone(), decided_by.clone(), Some(before));
        let held = Held { since: at.wall, variant, decided_by, before, ..Held::default() };
        Self::of(vanished, held, Some(at.moment), at).until(at, config.max_hold)
    }

    /// One that an earlier process held, and that is still to be held for so long.
    pub(super) fn restored(vanished: Vanished, held: Held, now: Now, left: Duration) -> Self {
        let ends_at = held.ends_at;
        let held = Held { probe: Probe::Untried, passed_over: false, ..held };
        let mut entry = Self::of(vanished.into(), held, None, now).until(now, left);
        if entry.held.ends_at.abs_diff(ends_at) < MAX_DRIFT_MS {
            entry.held.ends_at = ends_at;
        }
        entry
    }

    fn of(vanished: Arc<Vanished>, held: Held, vanished_at: Option<Moment>, now: Now) -> Self {
        let (target, bytes) = (Target::of(&vanished.instance), vanished.size());
        Self { vanished, target, held, vanished_at, expires: now.moment, doubted: None, bytes }
    }

    /// The same, held for so long from now on.
    fn until(mut self, now: Now, left: Duration) -> Self {
        self.expires = now.moment + left;
        self.held.ends_at = now.wall + left.as_millis() as u64;
        let ends_at = self.expires.since_boot().as_millis() as u64;
        self.held.after_boot = Some(AfterBoot { boot: boot_id().into(), ends_at });
        self
    }

    pub(super) fn rank(&self) -> Rank {
        self.vanished.rank
    }

    /// The room that it takes.
    pub(super) fn taken(&self) -> Taken {
        Taken { held: 1, bytes: self.bytes, ..Taken::default() }
    }

    pub(super) fn listed(&self) -> Outcome {
        let Vanished { version, id, instance, .. } = &*self.vanished;
        let instance = Instance { held: Some(self.held.clone().into()), ..instance.clone() };
        Outcome { version: version.clone(), id: id.clone(), instance: Some(instance) }
    }
}

/// For how long something is still to be held by a record of it. One of another boot of the machine knows only the wall
/// clock; and until that is settled, what seems over is held for as long as it was to be at first.
pub(super) fn time_left(now: Now, held: &Held) -> Duration {
    if let Some(AfterBoot { boot, ends_at }) = &held.after_boot
        && !boot.is_empty()
        && **boot == *boot_id()
    {
        return Duration::from_millis(*ends_at).saturating_sub(now.moment.since_boot());
    }
    let is_settled = now.moment.since_boot() >= CLOCK_SETTLES;
    let from = if held.ends_at > now.wall || is_settled { now.wall } else { held.since };
    Duration::from_millis(held.ends_at.saturating_sub(from))
}
