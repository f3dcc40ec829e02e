//! The configuration: each room's own part, read from all layers and checked as a whole.

mod added;
mod check;
mod connect;
mod descriptors;
mod diagnostic;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod preflight;
mod read;
mod runs_as;
mod show;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::check::log_filter_flaw;
pub use self::descriptors::raise_limit;
pub use self::diagnostic::{Diagnostic, Diagnostics, Key, Location};
pub(crate) use self::preflight::foreign_folders;
use self::tree::ConfigTree;
use crate::default_paths::DefaultPaths;
use crate::model::NodePath;
use crate::{access, admin, format, guard, history, queue, register, source, store, thrift, withhold, worker};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub thrift: thrift::Config,
    pub access: access::Config,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<access::Rule>,
    pub zk_data: thrift::ZkData,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zookeeper: Vec<source::zookeeper::Config>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file: Vec<source::file::Config>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<format::Config>,
    pub guard: guard::Config,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<source::upstream::Config>,
    pub register: register::Config,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub worker: Vec<worker::Config>,
    pub admin: admin::Config,
    pub eject: withhold::Config,
    pub store: store::Config,
    pub shared: store::shared::Config,
    pub history: history::Config,
    pub queue: queue::Config,
    pub log: Log,
    pub sidecar: Sidecar,
    /// Its file, where it is one that a command can be told of.
    #[serde(skip)]
    pub read_from: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, and after commas the levels of single modules: `info,roster=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

/// `[sidecar]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sidecar {
    /// How long a stop waits for what is under way.
    #[serde(with = "crate::rule::WithinADay")]
    pub stop_timeout: Duration,
    /// The pid file; none: there is none.
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::default() }
    }
}

impl Default for Sidecar {
    fn default() -> Self {
        Self { stop_timeout: Duration::from_secs(10), pid_file: None }
    }
}

/// The layers over the defaults, each overriding the one before it.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// A file's path and its text.
    pub file: Option<(PathBuf, String)>,
    /// Names and values. Only names that begin with `ROSTER_` and have `__` between levels count:
    /// `ROSTER_ZOOKEEPER__0__CONNECT`.
    pub environment: Vec<(String, String)>,
    /// Keys with dots between levels, and values: `zookeeper.0.connect`.
    pub flags: Vec<(String, String)>,
    /// The defaults for the socket and the state, if no layer sets them.
    pub default_paths: DefaultPaths,
    /// Whether this process is in other groups than the sidecar, which also has those of its unit.
    pub has_other_groups: bool,
}

impl Config {
    /// The folder for what outlasts the sidecar, if there is one.
    pub(crate) fn state(&self) -> Option<PathBuf> {
        Some(self.shared.state.clone()).filter(|folder| !folder.as_os_str().is_empty())
    }

    /// The configuration from all layers; or all that is wrong with it.
    pub fn load(layers: &Layers) -> Result<Self, Diagnostics> {
        Self::load_and(layers, |_, _| Vec::new())
    }

    /// The same for a start, which needs the users and groups that it names.
    pub fn load_to_start(layers: &Layers) -> Result<Self, Diagnostics> {
        Self::load_and(layers, preflight::check_names)
    }

    /// The same, but also reports what this machine lacks and a start would wait for, or fail at. Possible problems
    /// that cannot be verified here go to `doubt`.
    pub fn check(layers: &Layers, mut doubt: impl FnMut(Diagnostic)) -> Result<Self, Diagnostics> {
        Self::load_and(layers, |config, tree| {
            preflight::doubts(config, tree).into_iter().for_each(&mut doubt);
            let (ungiven, mut diagnostics) = (preflight::ungiven(config, tree), preflight::check(config, tree));
            match layers.has_other_groups {
                true => ungiven.into_iter().for_each(doubt),
                false => diagnostics.extend(ungiven),
            }
            diagnostics
        })
    }

    fn load_and(
        layers: &Layers,
        check: impl FnOnce(&Self, &ConfigTree) -> Vec<Diagnostic>,
    ) -> Result<Self, Diagnostics> {
        let mut tree = ConfigTree::new(layers)?;
        let mut config = tree.read();
        for (key, path, default) in [
            ("thrift.unix", &mut config.thrift.unix, &layers.default_paths.socket),
            ("shared.state", &mut config.shared.state, &layers.default_paths.state),
        ] {
            if !tree.is_set(&key.into()) {
                path.clone_from(default);
            }
        }
        let mut diagnostics = check::check(&config, &tree);
        diagnostics.extend(check(&config, &tree));
        diagnostics.extend(tree.into_diagnostics());
        if diagnostics.is_empty() { Ok(config) } else { Err(Diagnostics::new(diagnostics)) }
    }

    /// Whether there is any source of nodes.
    pub fn has_source(&self) -> bool {
        !self.zookeeper.is_empty() || !self.file.is_empty()
    }

    /// Whether there are queues, on the disk or in Redis.
    pub fn has_queues(&self) -> bool {
        self.queue.path.is_some() || self.queue.backend.is_some()
    }

    /// The `[[services]]` registered below these roots.
    pub(crate) fn services_below(&self, roots: &[NodePath]) -> Vec<format::Config> {
        let is_below = |(_, it): &(usize, &format::Config)| roots.iter().any(|root| it.root.is_under(root));
        let services = self.services.iter().enumerate().filter(is_below);
        let guarded = |it: &format::Config| it.guard && self.guard.enabled;
        services.map(|(at, it)| format::Config { guard: guarded(it), rank: self.rank(at, it), ..it.clone() }).collect()
    }

    /// The rank of the `[[services]]` at this place.
    fn rank(&self, place: usize, services: &format::Config) -> usize {
        let has_same = |first: &format::Config| !first.writers.is_empty() && first.writers == services.writers;
        self.services.iter().position(has_same).unwrap_or(place)
    }

    /// The file for the token that Roster generates for masters, if it has to. Relative: none.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.shared.state.join("register.token")
    }
}

#[cfg(test)]
mod tests;
