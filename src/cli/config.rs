//! `roster config`: checks a configuration, and shows the one in force.

use std::ffi::CString;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::unistd::{User, geteuid, initgroups, setgid, setuid};
use roster::access::uid;
use roster::config::{Config, Layers};
use roster::permissions::own::name_of;

use super::settings::{self, NO_SOURCE, Reader, Settings};
use super::text;

/// Check or show a configuration
#[derive(Debug, Args)]
pub(crate) struct Configure {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report everything that is wrong with a configuration, including names that this machine does not have
    #[command(after_help = super::exit::HELP)]
    Check {
        /// Check this file without the environment [default: what `roster serve` would read]
        file: Option<PathBuf>,
        /// The user who runs the sidecar, as whom root checks the file [default: the owner of its socket, or of
        /// `shared.state`]
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print the configuration in force, with the defaults
    #[command(after_help = super::exit::HELP)]
    Show(#[command(flatten)] Settings),
}

impl Configure {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Check { file, user, settings } => check(file, user.as_deref(), settings)?,
            Command::Show(settings) => {
                let loaded = settings.load()?;
                write!(io::stdout(), "# {}.\n\n{}", loaded.origin, loaded.config.to_toml())?;
            }
        }
        Ok(())
    }
}

fn check(file: Option<PathBuf>, user: Option<&str>, settings: Settings) -> anyhow::Result<()> {
    let (mut layers, origin) = match file {
        Some(path) => settings.of_file_alone(path)?,
        None => settings.layers([], Reader::Person)?,
    };
    if origin.is_demo {
        let none = "no configuration; `roster serve` would run the demonstration";
        return Ok(writeln!(io::stdout(), "{none}. {origin}.")?);
    }
    if let Some(user) = sidecar_user(user, &layers)? {
        layers.has_other_groups = become_user(&user)?;
        if let Some((path, _)) = &layers.file {
            layers.file = Some(settings::read(path, Reader::Sidecar)?);
        }
    }
    let mut doubts = 0;
    let config = Config::check(&layers, |doubt| {
        eprintln!("warning: {}", text::printable(doubt.to_string().as_bytes()));
        doubts += 1;
    });
    let config = config.map_err(|diagnostics| anyhow::Error::from(diagnostics).context(origin.clone()))?;
    if !config.has_source() && config.worker.is_empty() && !config.has_queues() {
        eprintln!("warning: {origin}: {NO_SOURCE}");
        doubts += 1;
    }
    if let Some(user) = config.sidecar_user().filter(|user| *user != geteuid()) {
        eprintln!("checked as {}; the sidecar runs as {}", name_of(geteuid().as_raw()), name_of(user.as_raw()));
    }
    let doubts = match doubts {
        0 => String::new(),
        1 => ", but for the warning".to_owned(),
        count => format!(", but for {count} warnings"),
    };
    Ok(writeln!(io::stdout(), "{origin}: it is in order{doubts}")?)
}

/// The user to check as: root may read what the sidecar may not. None: the current user.
fn sidecar_user(named: Option<&str>, layers: &Layers) -> anyhow::Result<Option<User>> {
    if let Some(name) = named {
        let uid = uid(name)?;
        return Ok(Some(User::from_uid(uid)?.with_context(|| format!("there is no user {name:?} on this machine"))?));
    }
    if !geteuid().is_root() {
        return Ok(None);
    }
    let owner = Config::load(layers).unwrap_or_default().sidecar_user().filter(|owner| !owner.is_root());
    let user = owner.map(User::from_uid).transpose()?.flatten();
    if let Some(user) = &user {
        eprintln!("checked as {}, as whom the sidecar runs; --user names another", user.name);
    }
    Ok(user)
}

/// Continues as this user, with its groups on this machine. Returns whether anything had to change.
fn become_user(user: &User) -> anyhow::Result<bool> {
    if user.uid == geteuid() {
        return Ok(false);
    }
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("cannot check as {}: only root can check for another user", user.name))?;
    Ok(true)
}
