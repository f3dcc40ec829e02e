//! `[[services]]`: below which node services are registered, and in which format.

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use crate::model::{Format, NodePath};
use crate::wildcard::Wildcards;

/// `[[services]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Required: the node below which they are registered, which must lie in a source.
    pub root: NodePath,
    /// Required.
    pub format: Format,
    /// The name of the service at the root itself, if the format takes names from paths. Empty: the root's last part.
    pub name: String,
    /// Which services may be registered below the root, by name.
    #[serde(deserialize_with = "some_names")]
    pub names: Wildcards,
    /// Who may write below the root: those with the same are one root to the guard, at one address and in the limits. Empty:
    /// it is one of its own.
    pub writers: String,
    /// Whether instances that vanish in numbers are held.
    pub guard: bool,
    /// For the format `raw`.
    pub fields: Fields,
    /// Its place among all of them, or that of the first with the same writers: of several that register one address of a
    /// service, the first decides.
    #[serde(skip)]
    pub rank: usize,
}

/// `[services.fields]`: the JSON keys that describe an instance in the format `raw`. Nested keys are written with dots:
/// `address.host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fields {
    /// A host, or `host:port`.
    pub host: String,
    pub port: String,
    pub protocol: String,
    pub version: String,
    pub group: String,
    pub zone: String,
    pub weight: String,
}

fn some_names<'de, D: Deserializer<'de>>(value: D) -> Result<Wildcards, D::Error> {
    let names = Wildcards::deserialize(value)?;
    if names.texts().next().is_none() {
        return Err(Error::custom("is empty, so that nodes could register nothing: leave the key out for any name"));
    }
    Ok(names)
}

impl Default for Config {
    fn default() -> Self {
        let (root, format, name) = (NodePath::root(), Format::Raw, String::new());
        let (names, writers, fields) = (Wildcards::everything(), String::new(), Fields::default());
        Self { root, format, name, names, writers, guard: true, fields, rank: 0 }
    }
}

impl Default for Fields {
    fn default() -> Self {
        let [host, port, protocol, version, group, zone, weight] =
            ["host", "port", "protocol", "version", "group", "zone", "weight"].map(str::to_owned);
        Self { host, port, protocol, version, group, zone, weight }
    }
}
