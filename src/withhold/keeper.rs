//! The keeper: writes what is withheld to its file, on its own thread: a disk that hangs delays neither the end of what is
//! withheld nor any answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::record::{Record, Recorded};

/// How soon a failed write is retried.
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
    newest: watch::Receiver<Newest>,
    kept: watch::Sender<Kept>,
    /// Whether the failure to write has been logged.
    is_failing: bool,
}

impl Keeper {
    pub(super) fn new(record: Record, newest: watch::Receiver<Newest>) -> (Self, watch::Receiver<Kept>) {
        let (kept, heard) = watch::channel(Kept::default());
        (Self { record, newest, kept, is_failing: false }, heard)
    }

    /// Writes what arrives, only the newest, until all senders are gone.
    pub(super) async fn run(mut self) {
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                changed = self.newest.changed() => is_last = changed.is_err(),
                () = sleep(RETRY_DELAY), if self.is_to_be_tried_again() => {}
            }
            if !is_last || self.is_to_be_tried_again() {
                self.write();
            }
        }
    }

    pub(super) fn write(&mut self) {
        let (number, recorded) = self.newest.borrow_and_update().clone();
        let why_not = self.record.write(&recorded).err();
        if let Some(why) = why_not.as_ref().filter(|_| !self.is_failing) {
            tracing::warn!(why, "what is ejected and drained would not outlast a restart");
        }
        self.is_failing = why_not.is_some();
        self.kept.send_replace(Kept { number, why_not });
    }

    /// Where there is a folder for it.
    pub(super) fn is_to_be_tried_again(&self) -> bool {
        self.is_failing && self.record.has_path()
    }
}
