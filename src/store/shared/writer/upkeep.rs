//! The upkeep of the shared file: mapped, in order, and replaced by another one where it is not.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::{Origin, Writer};
use crate::allocator;
use crate::store::Directory;
use crate::store::shared::SharedError;
use crate::store::shared::kept::Kept;
use crate::store::shared::mapped::{Left, Mapped, Room};
use crate::store::shared::place::{Beginning, Place};
use crate::store::shared::write_txn::WriteTxn;

/// How long it is not tried again to replace a file, where that failed.
const REPLACE_RETRY_DELAY: Duration = Duration::from_secs(10);

impl Writer {
    /// Sees to it that the file is there and in order, at each heartbeat also what its readers write. Whether there is
    /// room for a transaction; or why the file cannot be written.
    pub(in crate::store::shared) fn make_ready(&mut self, is_beat: bool, now: Instant) -> Result<Room, String> {
        let failed = |error: SharedError| error.to_string();
        // First of all: it may be what fills the disk.
        self.place.locks.cut();
        if is_beat {
            self.place.forget_locks();
        }
        if self.mapped.is_none() {
            self.begin().map_err(failed)?;
        }
        if is_beat && self.mapped.as_ref().is_some_and(|mapped| mapped.marks() != self.place.marks()) {
            self.put_again().map_err(failed)?;
        }
        if is_beat {
            self.left = self.left.take().filter(|left| left.empty(now).is_err());
        }
        let Some(mapped) = &mut self.mapped else { return Err("it is not there".into()) };
        if mapped.env.is_none() {
            let again = self.place.map().map_err(failed)?;
            mapped.map_again(again).map_err(|error| error.to_string())?;
        }
        if is_beat {
            self.fault = mapped.readers.tend(now).map(|fault| format!("its lock file is out of order: {fault}"));
            if let Some(fault) = self.fault.take() {
                self.fault = self.replace(&fault, now).err();
            }
        }
        let max = self.place.config.max_pinned;
        match self.mapped.as_mut().map(|mapped| mapped.room(max, now)) {
            Some(Ok(Room::Pinned(who))) => {
                let why = format!("{who} keeps an old state of it, and more than {max} with it");
                Ok(self.replace(&why, now).map_or_else(Room::Pinned, |()| Room::Enough))
            }
            Some(Ok(room)) => Ok(room),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Room::Enough),
        }
    }

    fn begin(&mut self) -> Result<(), SharedError> {
        let mapped = match &self.origin {
            Origin::Nothing => self.place.put(Beginning::Nothing)?,
            Origin::Here => self.place.adopt()?,
            Origin::Copy(from) => self.place.put(Beginning::Copy(from))?,
        };
        self.take(mapped);
        Ok(())
    }

    /// What this one replaces.
    fn take(&mut self, mapped: Mapped) -> Option<Left> {
        self.origin = Origin::Here;
        let old = self.mapped.replace(mapped)?;
        Some(self.say_farewell(old))
    }

    /// Another file takes its place, with the same state; or why not.
    fn replace(&mut self, why: &str, now: Instant) -> Result<(), String> {
        self.place.locks.full().map_err(|full| format!("{why}; {full}"))?;
        let wait = self.left.as_ref().map_or(Ok(()), |left| left.empty(now));
        let wait = wait.err().or_else(|| Some((self.failed? + REPLACE_RETRY_DELAY).saturating_duration_since(now)));
        if wait.is_some_and(|wait| !wait.is_zero()) {
            return Err(format!("{why}; another one takes its place soon"));
        }
        let result = self
            .env()
            .map_err(|error| error.to_string())
            .and_then(|env| self.place.put(Beginning::State(&env)).map_err(|error| error.to_string()));
        match result {
            Ok(fresh) => {
                tracing::warn!(path = %self.place.path.display(), why, "replaced the shared file");
                self.failed = None;
                self.left = self.take(fresh);
                Ok(())
            }
            Err(error) => {
                self.failed = Some(now);
                Err(format!("{why}; it cannot be replaced: {error}"))
            }
        }
    }

    /// Has those who still read the old file look for the new one.
    fn say_farewell(&self, old: Mapped) -> Left {
        let written = old.env.as_ref().map(|env| {
            let mut txn = WriteTxn::begin(env, self.sum, self.of_masters)?;
            txn.farewell()?;
            txn.commit()
        });
        if let Some(Err(error)) = written {
            tracing::debug!(%error, "cannot say in the old shared file that it was replaced");
        }
        let _ = old.publish();
        old.leave()
    }

    /// Makes the file anew if it was deleted, or its lock file: another one of those would know nothing of the readers.
    fn put_again(&mut self) -> Result<(), SharedError> {
        if !self.place.is_there() {
            let again = Place::claim(self.place.path.clone(), self.place.config.clone())?;
            let before = mem::replace(&mut self.place, again);
            self.place.locks.take(before.locks);
        }
        let fresh = match self.env() {
            Ok(env) => self.place.put(Beginning::State(&env))?,
            Err(_) => {
                (self.nodes, self.directory, self.kept, self.sum) =
                    (OrdMap::new(), Directory::default(), Kept::nothing(), 0);
                (self.of_masters, self.report, self.standing) = (0, None, None);
                self.place.put(Beginning::Nothing)?
            }
        };
        let left = self.take(fresh);
        self.left = self.left.take().or(left);
        tracing::warn!(path = %self.place.path.display(), "the shared file was deleted; made it anew");
        Ok(())
    }

    /// Returns the memory that LMDB keeps.
    pub(super) fn unmap(&mut self) {
        let Some(mapped) = &mut self.mapped else { return };
        // Where it is just being copied, it waits for the next large transaction.
        if mapped.env.as_ref().is_some_and(|env| Arc::strong_count(env) == 1) {
            mapped.env = None;
            // Else it keeps what lies between the pages that LMDB had.
            allocator::trim();
        }
    }
}
