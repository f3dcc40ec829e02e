//! `roster completions`: what a shell needs to complete Roster's commands.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print a script that makes a shell complete Roster's commands
#[derive(Debug, Args)]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Writing directly to a closed pipe would panic.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "roster", &mut script);
        Ok(io::stdout().write_all(&script)?)
    }
}
