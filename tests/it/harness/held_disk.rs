//! A disk that can be held: nothing is synced meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::library::{library, preload};

#[derive(Debug)]
pub(crate) struct HeldDisk {
    /// It is there while the disk is held, with a byte for each that waits.
    held: PathBuf,
    library: PathBuf,
}

impl HeldDisk {
    /// One that is not held yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { held: folder.join("held"), library: library("held_disk", folder) }
    }

    /// Has a command write to it.
    pub(crate) fn rules(&self, command: &mut Command) {
        preload(command, &self.library);
        command.env("HELD", &self.held);
    }

    pub(crate) fn hold(&self) {
        fs::write(&self.held, "").expect("it is written");
    }

    /// Whether somebody waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        fs::metadata(&self.held).is_ok_and(|held| held.len() > 0)
    }

    pub(crate) fn let_go(&self) {
        fs::remove_file(&self.held).expect("it was held");
    }
}
