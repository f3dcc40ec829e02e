//! `roster config`: what is wrong with a configuration, and what is in force.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use roster::config::{Config, Layers};

use super::settings::{self, NO_SOURCE, Origin, Settings};

/// Check or show a configuration
#[derive(Debug, Args)]
pub(crate) struct Configure {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell all that is wrong with a configuration, also what it names that this machine does not have
    #[command(after_help = super::exit::HELP)]
    Check {
        /// Check this file alone [default: what `roster serve` would read, with the environment]
        file: Option<PathBuf>,
    },
    /// Print the configuration in force, with the defaults
    #[command(after_help = super::exit::HELP)]
    Show(#[command(flatten)] Settings),
}

impl Configure {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check { file } => check(file)?,
            Command::Show(settings) => {
                let loaded = settings.load([])?;
                write!(io::stdout(), "# {}.\n\n{}", loaded.origin, loaded.config.to_toml())?;
            }
        }
        Ok(())
    }
}

fn check(file: Option<PathBuf>) -> anyhow::Result<()> {
    let (layers, origin) = match &file {
        Some(path) => (Layers { file: Some(settings::read(path)?), ..Layers::default() }, Origin::from(path.as_path())),
        None => Settings::in_force().layers([])?,
    };
    let config = Config::check(&layers, |doubt| eprintln!("{doubt}"));
    let config = config.map_err(|mistakes| anyhow::Error::from(mistakes).context(origin.clone()))?;
    if !config.has_source() {
        eprintln!("{origin}: {NO_SOURCE}");
    }
    match file {
        Some(path) => writeln!(io::stdout(), "{} is in order", path.display())?,
        None => writeln!(io::stdout(), "{origin}: it is in order")?,
    }
    Ok(())
}
