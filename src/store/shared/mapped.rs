//! The shared file from its writer's view: mapped, with what its readers may still read, until another replaces it.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytesize::ByteSize;
use lmdb::Error;

use super::env::Env;
use super::floor::Floor;
use super::location::{FileId, file_id};
use super::lock_file::LockFile;

/// The file, its readers' lock file, and LMDB's own.
#[derive(Debug)]
pub(super) struct Mapped {
    /// None: to be mapped again.
    pub(super) env: Option<Arc<Env>>,
    pub(super) data: File,
    own: LockFile,
    pub(super) readers: LockFile,
    floor: Floor,
    room: Room,
}

/// Whether a transaction may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// Not before more of what was recently replaced is released.
    Later,
    /// Not while this process keeps what was replaced.
    Pinned(String),
}

impl Mapped {
    /// A mapped file, from its parts.
    pub(super) fn new(env: Arc<Env>, own: LockFile, readers: LockFile, data: File) -> io::Result<Self> {
        let floor = Floor::new(Instant::now());
        own.take_floor(floor.transaction())?;
        let mapped = Self { env: Some(env), data, own, readers, floor, room: Room::Enough };
        mapped.publish()?;
        Ok(mapped)
    }

    /// The same after it was unmapped.
    pub(super) fn map_again(&mut self, (env, own): (Arc<Env>, LockFile)) -> io::Result<Arc<Env>> {
        own.take_floor(self.floor.transaction())?;
        (self.env, self.own) = (Some(env.clone()), own);
        Ok(env)
    }

    /// The ids of the file and its readers' lock file: of these two, even if others are in place by now.
    pub(super) fn ids(&self) -> [Option<FileId>; 2] {
        [&self.data, self.readers.file()].map(|file| file.metadata().ok().map(|file| file_id(&file)))
    }

    /// Shows readers the newest transaction.
    pub(super) fn publish(&self) -> io::Result<()> {
        let Some(env) = &self.env else { return Ok(()) };
        let transaction = env.transaction().map_err(|error| io::Error::other(error.to_string()))?;
        self.readers.publish(transaction)
    }

    /// Whether a transaction may be written without more than `max` waiting for readers.
    pub(super) fn room(&mut self, max: ByteSize, now: Instant) -> Result<Room, Error> {
        let Some(env) = &self.env else { return Ok(Room::Enough) };
        let current = env.transaction()?;
        if self.floor.note(current, now) {
            let pin = self.readers.oldest(self.floor.transaction()..=current).ok().flatten();
            let is_read = self.floor.raise(pin.map(|pin| pin.transaction), now);
            self.own
                .set_floor(self.floor.transaction())
                .map_err(|error| Error::Other(error.raw_os_error().unwrap_or(0)))?;
            let kept = env.freed_after(self.floor.transaction())?;
            self.room = match pin.filter(|_| is_read) {
                _ if kept <= max.as_u64() || self.floor.is_first() => Room::Enough,
                Some(pin) => Room::Pinned(self.readers.name(pin)),
                None => Room::Later,
            };
        }
        Ok(self.room.clone())
    }

    /// Releases everything but the file.
    pub(super) fn leave(self) -> (File, Weak<Env>) {
        (self.data, self.env.as_ref().map(Arc::downgrade).unwrap_or_default())
    }
}
