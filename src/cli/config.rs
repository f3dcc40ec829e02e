//! `roster config`: what is wrong with a configuration, and what is in force.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};
use roster::access::uid;
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
        /// The user who runs the sidecar, for whom root checks it [default: the owner of `shared.state`]
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Print the configuration in force, with the defaults
    #[command(after_help = super::exit::HELP)]
    Show(#[command(flatten)] Settings),
}

impl Configure {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check { file, user } => check(file, user.as_deref())?,
            Command::Show(settings) => {
                let loaded = settings.load()?;
                write!(io::stdout(), "# {}.\n\n{}", loaded.origin, loaded.config.to_toml())?;
            }
        }
        Ok(())
    }
}

fn check(file: Option<PathBuf>, user: Option<&str>) -> anyhow::Result<()> {
    let (mut layers, origin) = match &file {
        Some(path) => (Layers { file: Some(settings::read(path)?), ..Layers::default() }, Origin::from(path.as_path())),
        None => Settings::in_force().layers([])?,
    };
    if let Some(user) = sidecar_user(user, &layers)? {
        become_user(&user)?;
        if let Some((path, _)) = &layers.file {
            layers.file = Some(settings::read(path)?);
        }
    }
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

/// As whom to check: root may read what the sidecar may not. None: as whoever asks.
fn sidecar_user(named: Option<&str>, layers: &Layers) -> anyhow::Result<Option<User>> {
    if let Some(name) = named {
        let uid = uid(name)?;
        return Ok(Some(User::from_uid(uid)?.with_context(|| format!("there is no user {name:?} on this machine"))?));
    }
    if !geteuid().is_root() {
        return Ok(None);
    }
    let state = Config::load(layers).map_or_else(|_| layers.default_paths.state.clone(), |config| config.shared.state);
    let owner = state.metadata().ok().map(|state| Uid::from_raw(state.uid())).filter(|owner| !owner.is_root());
    let user = owner.map(User::from_uid).transpose()?.flatten();
    if let Some(user) = &user {
        eprintln!("checked as {}, to whom {} belongs; --user names another", user.name, state.display());
    }
    Ok(user)
}

/// Goes on as this user, with the groups that the machine gives to it.
fn become_user(user: &User) -> anyhow::Result<()> {
    if user.uid == geteuid() {
        return Ok(());
    }
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("cannot check as {}: only root can check for another user", user.name))
}
