//! The upkeep of the shared file: mapped, in order, and replaced by another one where it is not.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::{Origin, Writer};
use crate::allocator;
use crate::store::Directory;
use crate::store::shared::kept::Kept;
use crate::store::shared::mapped::{Left, Mapped, Room};
use crate::store::shared::place::{Beginning, Place};
use crate::store::shared::write_txn::WriteTxn;
use crate::store::shared::{Env, SharedError};

/// How long it is not tried again to replace a file, where that failed.
const REPLACE_RETRY_DELAY: Duration = Duration::from_secs(10);

/// A file is not replaced while processes have so many open that were: they can take the memory of each.
const MAX_LEFT: usize = 8;

impl Writer {
    /// Sees to it that the file is there and in order, at each heartbeat also what its readers write. Whether there is
    /// room for a transaction; or why the file cannot be written.
    pub(in crate::store::shared) fn make_ready(&mut self, is_beat: bool, now: Instant) -> Result<Room, String> {
        let failed = |error: SharedError| format!("{error}{}", error.hint());
        // First of all: it may be what fills the disk.
        self.place.locks.cut();
        if is_beat {
            self.place.forget_locks();
            self.left.retain(|left| left.empty(now).is_err() || left.is_open());
        }
        if self.mapped.is_none() {
            self.begin().map_err(failed)?;
        }
        if is_beat && self.mapped.as_ref().is_some_and(|mapped| mapped.marks() != self.place.marks()) {
            self.put_again().map_err(failed)?;
        }
        self.map().map_err(failed)?;
        let Some(mapped) = &mut self.mapped else { return Err("it is not there".into()) };
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
            Some(Err(error)) => {
                self.note(&error);
                Err(error.to_string())
            }
            None => Ok(Room::Enough),
        }
    }

    fn begin(&mut self) -> Result<(), SharedError> {
        let begun = match &self.origin {
            Origin::Nothing => self.place.put(Beginning::Nothing),
            Origin::Here => self.place.adopt(),
            Origin::Copy(from) => self.place.put(Beginning::Copy(from)),
        };
        match begun {
            Ok(mapped) => {
                self.take(mapped);
                Ok(())
            }
            Err(error) => {
                if error.is_missing() {
                    self.begin_anew();
                }
                Err(error)
            }
        }
    }

    /// What it was to begin with is gone.
    fn begin_anew(&mut self) {
        self.origin = Origin::Nothing;
        (self.nodes, self.directory, self.kept, self.sum) = (OrdMap::new(), Directory::default(), Kept::nothing(), 0);
        (self.of_masters, self.report, self.standing) = (0, None, None);
    }

    /// The file, mapped anew if it was not mapped.
    fn map(&mut self) -> Result<Arc<Env>, SharedError> {
        let Some(mapped) = &mut self.mapped else {
            return Err(self.place.failed(io::ErrorKind::NotFound.into()));
        };
        if let Some(env) = &mapped.env {
            return Ok(env.clone());
        }
        let again = self.place.map(&mapped.data)?;
        mapped.map_again(again).map_err(|source| self.place.failed(source))
    }

    /// LMDB works no more with what failed to be written in the middle; with a new mapping it does.
    pub(super) fn note(&mut self, error: &lmdb::Error) {
        if *error == lmdb::Error::Panic
            && let Some(mapped) = &mut self.mapped
        {
            mapped.env = None;
        }
    }

    /// What this one replaces is emptied later.
    fn take(&mut self, mapped: Mapped) {
        self.origin = Origin::Here;
        if let Some(old) = self.mapped.replace(mapped) {
            let left = self.say_farewell(old);
            self.left.push(left);
        }
    }

    /// Another file takes its place, with the same state; or why not.
    fn replace(&mut self, why: &str, now: Instant) -> Result<(), String> {
        self.place.locks.full().map_err(|full| format!("{why}; {full}"))?;
        if self.left.len() >= MAX_LEFT {
            let folder = self.place.path.parent().unwrap_or(Path::new("/")).display();
            return Err(format!(
                "{why}; processes have {MAX_LEFT} files open that were replaced before: end those that `lsof +L1 {folder}` \
                 names"
            ));
        }
        let rest = self.failed.map(|failed| (failed + REPLACE_RETRY_DELAY).saturating_duration_since(now));
        let waits = self.left.iter().filter_map(|left| left.empty(now).err());
        if waits.chain(rest).any(|wait| !wait.is_zero()) {
            return Err(format!("{why}; another one takes its place soon"));
        }
        match self.map().and_then(|env| self.place.put(Beginning::State(&env))) {
            Ok(fresh) => {
                tracing::warn!(path = %self.place.path.display(), why, "replaced the shared file");
                self.failed = None;
                self.take(fresh);
                Ok(())
            }
            Err(error) => {
                self.failed = Some(now);
                Err(format!("{why}; it cannot be replaced: {error}{}", error.hint()))
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
        let env = self.map()?;
        let fresh = self.place.put(Beginning::State(&env))?;
        self.take(fresh);
        tracing::warn!(path = %self.place.path.display(), "the shared file was deleted; made it anew");
        Ok(())
    }

    /// Returns the memory that LMDB keeps.
    pub(in crate::store::shared) fn unmap(&mut self) {
        let Some(mapped) = &mut self.mapped else { return };
        // Where it is just being copied, it waits for the next large transaction.
        if mapped.env.as_ref().is_some_and(|env| Arc::strong_count(env) == 1) {
            mapped.env = None;
            // Else it keeps what lies between the pages that LMDB had.
            allocator::trim();
        }
    }
}
