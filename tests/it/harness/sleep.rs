//! Sleep: a suspended machine, as a process on it sees one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::Roster;
use super::library::{library, preload};

/// A machine that can be suspended.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// How long it has slept, in seconds.
    slept: PathBuf,
    library: PathBuf,
}

impl Sleep {
    pub(crate) fn new(folder: &Path) -> Self {
        let sleep = Self { slept: folder.join("slept"), library: library("sleep", folder) };
        sleep.set(0);
        sleep
    }

    /// Has a command live on that machine.
    pub(crate) fn rules(&self, command: &mut Command) {
        preload(command, &self.library);
        command.env("SLEPT", &self.slept);
    }

    /// Suspends it once, for so many seconds; `meanwhile` the world goes on.
    pub(crate) fn suspends(&self, roster: &Roster, seconds: u64, meanwhile: impl FnOnce()) {
        roster.process().freeze();
        meanwhile();
        thread::sleep(Duration::from_secs(seconds));
        self.set(seconds);
        roster.process().thaw();
    }

    fn set(&self, seconds: u64) {
        std::fs::write(&self.slept, seconds.to_string()).expect("it is written");
    }
}
