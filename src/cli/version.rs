//! `roster version`: prints the version.

use std::io::{self, Write};

use clap::Args;

/// Print the version
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        Ok(writeln!(io::stdout(), "roster {}", env!("CARGO_PKG_VERSION"))?)
    }
}
