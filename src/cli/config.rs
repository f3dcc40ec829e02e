//! `roster config`: what is wrong with a configuration, and what is in force.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use roster::config::{Config, Layers};

use super::settings::{self, NO_SOURCE, Settings};

/// Check or show a configuration
#[derive(Debug, Args)]
pub(crate) struct Configure {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell all that is wrong with a file, also what it names that this machine does not have
    #[command(after_help = super::exit::HELP)]
    Check { file: PathBuf },
    /// Print the configuration in force, with the defaults
    #[command(after_help = super::exit::HELP)]
    Show(#[command(flatten)] Settings),
}

impl Configure {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check { file } => {
                let layers = Layers { file: Some(settings::read(&file)?), ..Layers::default() };
                let config = Config::check(&layers, |doubt| eprintln!("{doubt}"))?;
                if !config.has_source() {
                    eprintln!("{}: {NO_SOURCE}", file.display());
                }
                writeln!(io::stdout(), "{} is in order", file.display())?;
            }
            Command::Show(settings) => {
                let loaded = settings.load([])?;
                write!(io::stdout(), "# {}\n\n{}", loaded.origin, loaded.config.to_toml())?;
            }
        }
        Ok(())
    }
}
