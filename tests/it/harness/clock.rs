//! A wall clock of its own for a process, which jumps when it is told to.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::library::preload;

/// A clock that is off by what a file says.
#[derive(Debug)]
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// One that is right, until it jumps.
    pub(crate) fn new(folder: &Path) -> Self {
        let clock = Self { file: folder.join("clock") };
        clock.jump(0);
        clock
    }

    /// From now on it is off by so many hours.
    pub(crate) fn jump(&self, hours: i64) {
        let next = self.file.with_extension("next");
        // In one step: the process may look at any time.
        let written = std::fs::write(&next, format!("{hours:+}h")).and_then(|()| std::fs::rename(&next, &self.file));
        written.expect("the clock is set");
    }

    /// Has a command live by it. What measures how long something takes goes on as before.
    pub(crate) fn rules(&self, command: &mut Command) {
        let libraries = std::fs::read_dir("/usr/lib").expect("libraries").flatten();
        let library = libraries.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|it| it.exists());
        preload(command, &library.expect("faketime, if `make deps` has been run"));
        command.env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
