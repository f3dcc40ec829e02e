//! `roster man-pages`: the pages of the manual, for packages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::Cli;

/// Write a manual page for Roster, and one for each of its commands
#[derive(Debug, Args)]
pub(crate) struct ManPages {
    /// A folder that is there
    folder: PathBuf,
}

impl ManPages {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let written = clap_mangen::generate_to(Cli::command(), &self.folder);
        written.with_context(|| format!("cannot write to {}", self.folder.display()))
    }
}
