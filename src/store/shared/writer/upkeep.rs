//! The upkeep of the shared file: keeps it mapped and in order, and replaces it otherwise.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::{Origin, Writer};
use crate::allocator;
use crate::permissions::own;
use crate::store::Directory;
use crate::store::shared::location::{Beginning, FileLocation, file_id, has_sum};
use crate::store::shared::mapped::{Mapped, Room};
use crate::store::shared::restored_masters::RestoredMasters;
use crate::store::shared::write_txn::WriteTxn;
use crate::store::shared::{Env, SharedError};

/// How long no other file is replaced after one was, and how long to wait after a failed attempt.
const REPLACE_INTERVAL: Duration = Duration::from_secs(30);
const REPLACE_RETRY_DELAY: Duration = Duration::from_secs(10);

impl Writer {
    /// Makes sure that the file exists and is in order, at each heartbeat including what its readers write. Returns
    /// whether there is room for a transaction; or why the file cannot be written.
    pub(in crate::store::shared) fn make_ready(&mut self, is_beat: bool, now: Instant) -> Result<Room, String> {
        let failed = |error: SharedError| error.with_hint();
        // Each time: without the claim, another sidecar may write the file, and release the memory mapped here.
        if !self.location.is_there() {
            self.is_claim_new |= self.claim_again().map_err(failed)?;
        }
        if is_beat {
            // First of all: it may be what fills the disk. But readers decide how long it takes.
            self.location.make_room(self.mapped.as_ref().and_then(|mapped| mapped.ids()[1]), now);
        }
        // Another sidecar may have had the claim meanwhile; and what LMDB could not finish may be in the file all the
        // same.
        let is_in_doubt = self.is_claim_new || self.env().is_err();
        if is_in_doubt && !self.is_as_written().map_err(|error| format!("cannot read what it holds: {error}"))? {
            self.begin_anew();
        }
        let is_claimed_anew = mem::take(&mut self.is_claim_new);
        let begins = self.mapped.is_none();
        if begins {
            self.put_by_turns(now, Self::begin)?;
        }
        let (mapped, _) = self.map().map_err(failed)?;
        let is_out_of_place = is_beat && mapped.ids() != self.location.ids();
        if is_beat || is_claimed_anew {
            let is_missing = is_out_of_place || is_claimed_anew && !begins;
            let again = if is_missing { self.put_by_turns(now, Self::put_again) } else { Ok(()) };
            self.missing = again.err().map(|why| format!("new readers cannot find it: {why}"));
        }
        let (mapped, _) = self.map().map_err(failed)?;
        if is_beat {
            self.fault = mapped.readers.tend(now).map(|fault| format!("its lock file is out of order: {fault}"));
            if let Some(fault) = self.fault.take() {
                self.fault = self.replace(&fault, now).err();
            }
        }
        let max = self.location.config.max_pinned;
        let (mapped, _) = self.map().map_err(failed)?;
        match mapped.room(max, now) {
            Ok(Room::Pinned(who)) => {
                let why = format!("{who} keeps an old state of it, and more than {max} with it");
                Ok(self.replace(&why, now).map_or_else(Room::Pinned, |()| Room::Enough))
            }
            room => room.map_err(|error| error.to_string()),
        }
    }

    /// Puts a file in place, but does not retry soon after a failure: each attempt may copy all of it.
    fn put_by_turns(
        &mut self,
        now: Instant,
        put: impl FnOnce(&mut Self) -> Result<(), SharedError>,
    ) -> Result<(), String> {
        if let Some((_, why)) = self.not_put.as_ref().filter(|(again, _)| now < *again) {
            return Err(why.clone());
        }
        let put = put(self).map_err(|error| error.with_hint());
        self.not_put = put.as_ref().err().map(|why| (now + REPLACE_RETRY_DELAY, why.clone()));
        put
    }

    fn begin(&mut self) -> Result<(), SharedError> {
        let mut begun = match &self.origin {
            Origin::Nothing => self.location.put(Beginning::Nothing),
            Origin::Here(read) => self.location.adopt(*read, self.sum),
            Origin::Copy(from, read) => self.location.put(Beginning::Copy(from, *read, self.sum)),
        };
        if begun.is_err() && !self.is_as_read() {
            self.begin_anew();
            begun = self.location.put(Beginning::Nothing);
        }
        begun.map(|mapped| self.install(mapped))
    }

    /// Whether the file to begin with is where it was read, with the same content.
    pub(in crate::store::shared) fn is_as_read(&self) -> bool {
        let (path, read) = match &self.origin {
            Origin::Nothing => return true,
            Origin::Here(read) => (&self.location.path, read),
            Origin::Copy(from, read) => (from, read),
        };
        match fs::symlink_metadata(path) {
            Ok(found) => {
                file_id(&found) == *read
                    && own::open(path).ok().is_none_or(|file| has_sum(&file, self.sum).unwrap_or(true))
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether the mapped file holds what was written last.
    fn is_as_written(&self) -> io::Result<bool> {
        self.mapped.as_ref().map_or(Ok(true), |mapped| has_sum(&mapped.data, self.sum))
    }

    /// What the file holds, or should begin with, is no longer known.
    fn begin_anew(&mut self) {
        (self.mapped, self.origin) = (None, Origin::Nothing);
        (self.nodes, self.directory, self.restored, self.sum) =
            (OrdMap::new(), Directory::default(), RestoredMasters::nothing(), 0);
        (self.of_masters, self.status, self.standing) = (0, None, None);
        (self.registered, self.left) = (Directory::default(), Vec::new());
    }

    /// Returns the file, mapped again if necessary.
    fn map(&mut self) -> Result<(&mut Mapped, Arc<Env>), SharedError> {
        let Some(mapped) = &mut self.mapped else {
            return Err(self.location.failed(io::ErrorKind::NotFound.into()));
        };
        let env = match &mapped.env {
            Some(env) => env.clone(),
            None => {
                let again = self.location.map(&mapped.data)?;
                mapped.map_again(again).map_err(|source| self.location.failed(source))?
            }
        };
        Ok((mapped, env))
    }

    /// The replaced one is emptied later.
    fn install(&mut self, mapped: Mapped) {
        if let Some(old) = self.mapped.replace(mapped) {
            let old = self.say_farewell(old);
            self.location.watch(old);
        }
    }

    /// Whether processes have few enough replaced files open; or what an operator can do about it.
    fn may_replace(&self) -> Result<(), String> {
        self.location.locks.full().and_then(|()| self.location.full())
    }

    /// Replaces the file by another with the same state; or returns why not.
    fn replace(&mut self, why: &str, now: Instant) -> Result<(), String> {
        self.may_replace().map_err(|full| format!("{why}; {full}"))?;
        // Including one that a start or an earlier process replaced: there is room for two.
        let is_one_whole = self.location.replaced.iter().any(|old| old.is_whole(now));
        if is_one_whole || self.not_before.is_some_and(|not_before| now < not_before) {
            return Err(format!("{why}; another one takes its place soon"));
        }
        let state = self.map().map(|(_, env)| env);
        match state.and_then(|env| self.location.put(Beginning::State(&env))) {
            Ok(fresh) => {
                tracing::warn!(path = %self.location.path.display(), why, "replaced the shared file");
                self.not_before = Some(now + REPLACE_INTERVAL);
                self.install(fresh);
                Ok(())
            }
            Err(error) => {
                self.not_before = Some(now + REPLACE_RETRY_DELAY);
                Err(format!("{why}; it cannot be replaced: {}", error.with_hint()))
            }
        }
    }

    /// Makes readers of the old file look for the new one.
    fn say_farewell(&self, old: Mapped) -> (File, Weak<Env>) {
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

    /// Claims the location again after its hidden folder was removed; false: only its permissions were wrong.
    fn claim_again(&mut self) -> Result<bool, SharedError> {
        let again = FileLocation::claim(self.location.path.clone(), self.location.config.clone());
        if let Err(SharedError::Taken(..)) = &again {
            // The attempt has fixed them, and met this claim.
            if self.location.is_there() {
                return Ok(false);
            }
            // It may write the very file that is mapped here.
            self.begin_anew();
            self.location.leave();
        }
        let before = mem::replace(&mut self.location, again?);
        self.location.take(before);
        Ok(true)
    }

    /// Replaces the file if it or its lock file was deleted: a new lock file would not know the current readers.
    fn put_again(&mut self) -> Result<(), SharedError> {
        self.may_replace().map_err(|full| self.location.failed(io::Error::other(full)))?;
        let (_, env) = self.map()?;
        let fresh = self.location.put(Beginning::State(&env))?;
        self.install(fresh);
        tracing::warn!(path = %self.location.path.display(), "put the shared file in its place anew: something there was removed or exchanged");
        Ok(())
    }

    /// Releases the memory that LMDB keeps.
    pub(in crate::store::shared) fn unmap(&mut self) {
        let Some(mapped) = &mut self.mapped else { return };
        // If it is being copied, it waits for the next large transaction.
        if mapped.env.as_ref().is_some_and(|env| Arc::strong_count(env) == 1) {
            mapped.env = None;
            // Otherwise the allocator keeps the memory between LMDB's pages.
            allocator::trim();
        }
    }
}
