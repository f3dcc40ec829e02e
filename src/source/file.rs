//! A static file of coordination nodes, read again when it is edited.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::NodePath;

/// `[[file]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What status, logs and metrics call it.
    #[serde(default = "Config::default_name")]
    pub name: String,
    /// The file: a table `[nodes]` from paths to their data.
    pub path: PathBuf,
    /// The subtree that is the file's own; all its nodes lie in it.
    #[serde(default = "NodePath::root")]
    pub root: NodePath,
}

impl Config {
    fn default_name() -> String {
        "file".into()
    }
}
