//! `[[services]]`: below which node services are registered, and how.

use serde::{Deserialize, Serialize};

use crate::model::{Format, NodePath};

/// `[[services]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Required: the node below which they are, which a source mirrors.
    pub root: NodePath,
    /// Required.
    pub format: Format,
    /// Where only the path tells the name of a service: that of the one at the root itself. Empty: the root's last part.
    pub name: String,
    /// Whether instances are held that vanish in numbers.
    pub guard: bool,
    /// Of the format `raw`.
    pub fields: Fields,
}

/// `[services.fields]`: by which keys JSON of the format `raw` tells of an instance. One within another is written with
/// dots: `address.host`.
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

impl Default for Config {
    fn default() -> Self {
        let (root, format, name) = (NodePath::root(), Format::Raw, String::new());
        Self { root, format, name, guard: true, fields: Fields::default() }
    }
}

impl Default for Fields {
    fn default() -> Self {
        let [host, port, protocol, version, group, zone, weight] =
            ["host", "port", "protocol", "version", "group", "zone", "weight"].map(str::to_owned);
        Self { host, port, protocol, version, group, zone, weight }
    }
}
