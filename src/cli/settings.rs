//! The configuration that a command works with: the file, and what overrides it.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use nix::unistd::{Group, getegid, geteuid};
use roster::config::{Config, Diagnostics, Layers};
use roster::default_paths::DefaultPaths;
use roster::permissions::own::name_of;

use super::demo;

/// Logged as a warning, since the sidecar's environment may name one.
pub(crate) const NO_SOURCE: &str = "it mirrors no nodes: add [[zookeeper]] or [[file]] for that";

#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// The configuration file [default: /etc/roster/roster.toml, else roster/roster.toml in the user's configuration
    /// folder, else a demonstration]
    #[arg(long, global = true, value_name = "FILE", env = "ROSTER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Set one key, overriding the file and the environment (`ROSTER_THRIFT__TCP`): `thrift.tcp=127.0.0.1:9090`
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// A configuration and its origin.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) origin: Origin,
}

/// What was read.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    file: Option<PathBuf>,
    /// No source was named.
    pub(crate) is_demo: bool,
    /// The variables and flags, as written.
    others: Vec<String>,
}

impl Origin {
    /// When the file, or the link to it, was last changed or created, if it exists. Unlike the modification time, this
    /// one cannot be set back.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        let path = self.file.as_ref()?;
        let found = [fs::metadata(path), fs::symlink_metadata(path)].into_iter().filter_map(Result::ok);
        found.map(|found| changed(found.ctime(), found.ctime_nsec())).max()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = match &self.file {
            Some(path) => path.display().to_string(),
            None if self.is_demo => "the demonstration's".into(),
            None => "no file".into(),
        };
        write!(f, "The configuration: {}", [&[file], &self.others[..]].concat().join(", "))?;
        if self.file.is_some() {
            return Ok(());
        }
        let places: Vec<_> = places().iter().map(|path| path.display().to_string()).collect();
        write!(f, "; there is no {}", places.join(" and no "))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration {path}: {source}")]
pub(crate) struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

/// The reader of a configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// A person who types a command, and may use sudo.
    Person,
    /// A sidecar, which runs as its own user.
    Sidecar,
}

impl Settings {
    /// The layers of a file alone, and of the command line.
    pub(crate) fn of_file_alone(self, path: PathBuf) -> Result<(Layers, Origin), Unreadable> {
        let layers = Layers {
            file: Some(read(&path, Reader::Person)?),
            environment: Vec::new(),
            flags: self.set,
            default_paths: DefaultPaths::of_this_process(),
            has_other_groups: false,
        };
        let origin = Origin { file: Some(path), is_demo: false, others: names(&layers) };
        Ok((layers, origin))
    }

    /// Loads that of the running sidecar, which may belong to another user.
    pub(crate) fn load(self) -> anyhow::Result<Loaded> {
        let (layers, origin) = self.layers([], Reader::Person)?;
        let layers = Layers { default_paths: DefaultPaths::of_the_running(), ..layers };
        loaded(Config::load(&layers), origin)
    }

    /// Loads it for a start, with `flags` overriding everything else.
    pub(crate) fn load_to_start(self, flags: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<Loaded> {
        let (layers, origin) = self.layers(flags, Reader::Sidecar)?;
        loaded(Config::load_to_start(&layers), origin)
    }

    /// The layers to load.
    pub(crate) fn layers(
        self,
        flags: impl IntoIterator<Item = (String, String)>,
        reader: Reader,
    ) -> Result<(Layers, Origin), Unreadable> {
        let mut layers = Layers {
            file: None,
            environment: environment(),
            flags: self.set.into_iter().chain(flags).collect(),
            default_paths: DefaultPaths::of_this_process(),
            has_other_groups: false,
        };
        let mut origin = Origin { file: None, is_demo: false, others: names(&layers) };
        if let Some(path) = self.config.or_else(|| first_that_exists(&places())) {
            layers.file = Some(read(&path, reader)?);
            origin.file = Some(path);
        } else if Config::load(&layers)
            .is_ok_and(|config| !config.has_source() && config.upstream.is_empty() && config.worker.is_empty())
        {
            layers.file = Some(demo::file());
            origin.is_demo = true;
        }
        Ok((layers, origin))
    }
}

/// The latest time that a file's time may stand for: without a fraction, the file system counts whole seconds.
fn changed(seconds: i64, nanoseconds: i64) -> SystemTime {
    let fraction = if nanoseconds == 0 { Duration::from_secs(1) } else { Duration::from_nanos(nanoseconds as u64) };
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds as u64) + fraction
}

fn loaded(config: Result<Config, Diagnostics>, origin: Origin) -> anyhow::Result<Loaded> {
    match config {
        Ok(config) => {
            let read_from = origin.file.as_ref().map(|path| path::absolute(path).unwrap_or_else(|_| path.clone()));
            Ok(Loaded { config: Config { read_from, ..config }, origin })
        }
        Err(diagnostics) => Err(anyhow::Error::from(diagnostics).context(origin)),
    }
}

/// The variables and flags that set something.
fn names(layers: &Layers) -> Vec<String> {
    let variables = layers.environment.iter().map(|(name, _)| name);
    let mut names: Vec<_> =
        variables.filter(|name| name.starts_with("ROSTER_") && name.contains("__")).cloned().collect();
    names.sort();
    names.extend(layers.flags.iter().map(|(key, _)| format!("--set {key}")));
    names
}

/// A file's path and text, as a layer.
pub(crate) fn read(path: &Path, reader: Reader) -> Result<(PathBuf, String), Unreadable> {
    let text = fs::read(path).map_err(|error| with_owner(path, error, reader)).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            io::Error::other(format!("line {line} is not UTF-8: save the file as UTF-8"))
        })
    });
    match text {
        Ok(text) => Ok((path.to_owned(), text)),
        Err(source) => Err(Unreadable { path: path.to_owned(), source }),
    }
}

/// A denied read is explained by the owner of the file.
fn with_owner(path: &Path, error: io::Error, reader: Reader) -> io::Error {
    match fs::metadata(path) {
        Ok(found) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (owner, mode, user) = (name_of(found.uid()), found.mode() & 0o777, name_of(geteuid().as_raw()));
            let cure = match reader {
                Reader::Person => "use sudo".to_owned(),
                Reader::Sidecar => {
                    let group = Group::from_gid(getegid()).ok().flatten();
                    let (group, path) = (group.map_or(getegid().to_string(), |group| group.name), path.display());
                    format!("give it to the sidecar's group: `sudo chgrp {group} {path} && sudo chmod 640 {path}`")
                }
            };
            io::Error::other(format!("{error}: it is of {owner}, mode {mode:04o}, and {user} asks; {cure}"))
        }
        _ => error,
    }
}

fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    env::vars_os().filter_map(text).collect()
}

/// Where to look for a configuration.
fn places() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let users = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
    let folders = [Some(PathBuf::from("/etc")), users];
    folders.into_iter().flatten().map(|folder| folder.join("roster/roster.toml")).collect()
}

/// One that cannot be checked counts as existing: skipping it silently would surprise.
fn first_that_exists(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().find(|path| path.try_exists().unwrap_or(true)).cloned()
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_cut_at_its_first_equals_sign() {
        assert_eq!(key_and_value("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(key_and_value("a.b").is_err());
    }

    #[test]
    fn what_is_no_utf8_is_named_by_its_line() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (bytes, line) in [(&b"\xff\xfe[\0"[..], 1), (b"# one\n# M\xfcller\n", 2)] {
            fs::write(file.path(), bytes).expect("written");
            let told = read(file.path(), Reader::Person).expect_err("it is no text").to_string();
            assert!(told.ends_with(&format!(": line {line} is not UTF-8: save the file as UTF-8")), "{told}");
        }
    }

    #[test]
    fn the_first_file_that_exists_is_the_configuration() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = ["system", "user"].map(|name| folder.path().join(name));
        assert_eq!(first_that_exists(&places), None);
        std::fs::write(&places[1], "").expect("written");
        assert_eq!(first_that_exists(&places).as_ref(), Some(&places[1]));
        std::fs::write(&places[0], "").expect("written");
        assert_eq!(first_that_exists(&places).as_ref(), Some(&places[0]));
    }
}
