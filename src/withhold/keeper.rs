//! The keeper: writes what is withheld to its file, on its own thread: a disk that hangs delays neither the end of what is
//! withheld nor any answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::Command;
use super::record::{Record, Recorded};

/// How soon a failed write, or a failed read at the start, is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// All that is withheld, and how often that has changed.
pub(super) type Newest = (u64, Arc<Recorded>);

/// Up to which number it was written, or tried to be; and why it would not outlast a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) why_not: Option<String>,
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) record: Record,
    /// Why what an earlier process left could not be read yet. It is not replaced before it is withheld too.
    unread: Option<io::Error>,
    commands: mpsc::Sender<Command>,
    newest: watch::Receiver<Newest>,
    kept: watch::Sender<Kept>,
    /// Whether the failure to write has been logged.
    is_failing: bool,
}

impl Keeper {
    pub(super) fn new(
        record: Record,
        unread: Option<io::Error>,
        commands: mpsc::Sender<Command>,
        newest: watch::Receiver<Newest>,
    ) -> (Self, watch::Receiver<Kept>) {
        let (kept, heard) = watch::channel(Kept::default());
        (Self { record, unread, commands, newest, kept, is_failing: false }, heard)
    }

    /// Writes what arrives, only the newest, until all senders are gone.
    pub(super) async fn run(mut self) {
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                changed = self.newest.changed() => is_last = changed.is_err(),
                () = sleep(RETRY_DELAY), if self.is_to_be_tried_again() => {}
            }
            self.read_again().await;
            if !is_last || self.is_to_be_tried_again() {
                self.write();
            }
        }
    }

    /// Withholds what could not be read at the start, once it can be.
    async fn read_again(&mut self) {
        if self.unread.is_none() {
            return;
        }
        let left = match self.record.left() {
            Ok(left) => left,
            Err(error) => return self.unread = Some(error),
        };
        let (done, restored) = oneshot::channel();
        if self.commands.send(Command::Restore(left, done)).await.is_ok() && restored.await.is_ok() {
            tracing::info!("what was drained and ejected could be read, and is so again");
            self.unread = None;
        }
    }

    pub(super) fn write(&mut self) {
        let (number, recorded) = self.newest.borrow_and_update().clone();
        let why_not = match &self.unread {
            Some(error) => Some(self.record.why_unread(error)),
            None => self.record.write(&recorded).err(),
        };
        if let Some(why) = why_not.as_ref().filter(|_| !self.is_failing) {
            tracing::warn!(why, "what is ejected and drained would not outlast a restart");
        }
        self.is_failing = why_not.is_some();
        self.kept.send_replace(Kept { number, why_not });
    }

    /// Where there is a folder for it.
    pub(super) fn is_to_be_tried_again(&self) -> bool {
        self.unread.is_some() || self.is_failing && self.record.has_path()
    }
}
