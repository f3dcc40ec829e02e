//! The configuration that a command works with: which file, and what is laid over it.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use roster::config::{Config, Layers};

use super::demo;

/// Told as a warning, since the environment may name one where the sidecar runs.
pub(crate) const NO_SOURCE: &str = "it mirrors no nodes: add [[zookeeper]] or [[file]] for that";

#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// The configuration file [default: /etc/roster/roster.toml, else roster/roster.toml in the user's configuration
    /// folder, else a demonstration]
    #[arg(long, value_name = "FILE", env = "ROSTER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Set one key, over the file and the environment (`ROSTER_THRIFT__TCP`): `thrift.tcp=127.0.0.1:9090`
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// A configuration, and where it comes from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) origin: Origin,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File(PathBuf),
    /// There is no file, but the environment or the command line names sources.
    Layers,
    /// Nobody named a source.
    Demo,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "From {}, the environment and the command line.", path.display()),
            Self::Layers => f.write_str("From the environment and the command line; there is no file."),
            Self::Demo => f.write_str("The demonstration: no configuration was found."),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration {path}: {source}")]
pub(crate) struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

impl Settings {
    /// Loads it, with `flags` over all else.
    pub(crate) fn load(self, flags: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<Loaded> {
        let flags = self.set.into_iter().chain(flags).collect();
        let layers = Layers { file: None, environment: environment(), flags };
        if let Some(path) = self.config.or_else(|| first_that_exists(&places())) {
            let config = Config::load(&Layers { file: Some(read(&path)?), ..layers })?;
            return Ok(Loaded { config, origin: Origin::File(path) });
        }
        let config = Config::load(&layers)?;
        if config.has_source() || !config.upstream.is_empty() {
            return Ok(Loaded { config, origin: Origin::Layers });
        }
        let config = Config::load(&Layers { file: Some(demo::file()), ..layers })?;
        Ok(Loaded { config, origin: Origin::Demo })
    }
}

/// A file's path and its text, as a layer.
pub(crate) fn read(path: &Path) -> Result<(PathBuf, String), Unreadable> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((path.to_owned(), text)),
        Err(source) => Err(Unreadable { path: path.to_owned(), source }),
    }
}

fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    env::vars_os().filter_map(text).collect()
}

/// Where a configuration is looked for.
fn places() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let users = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
    let folders = [Some(PathBuf::from("/etc")), users];
    folders.into_iter().flatten().map(|folder| folder.join("roster/roster.toml")).collect()
}

/// One that cannot be looked at counts as existing: to pass over it in silence would surprise.
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
