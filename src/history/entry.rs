//! Entries: what happened to an instance, when, and why; one line of the file.

use serde::{Deserialize, Serialize};

use crate::model::{NodePath, Revision, shortened};

/// The most characters of an instance's address or version, and of a reason.
const MAX_CHARACTERS: usize = 256;

/// The longest path that is kept.
const MAX_PATH_BYTES: usize = 1_024;

/// What happened to an instance, or to the record itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    /// Greater than that of the entry before, even across a restart.
    pub number: u64,
    /// When it was noticed, ms since 1970.
    pub time: i64,
    /// The revision with the change.
    pub revision: Revision,
    pub event: Event,
    /// Empty: it concerns no particular service.
    #[serde(rename = "serviceName", skip_serializing_if = "String::is_empty")]
    pub service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its address, or the id of a master. Empty: it concerns no particular instance.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The node that registers it, unless its path is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<NodePath>,
    /// Whose it is, for the limits alone: the root below which the node lies, the first of those with the same writers.
    /// Empty: it is of a master, or of the sidecar itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How many it stands for, if not one.
    #[serde(skip_serializing_if = "is_zero")]
    pub count: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Event {
    Appeared,
    Changed,
    Vanished,
    /// No node registers it any more, but it is still served;
    Held,
    /// until a node does.
    Returned,
    /// Its callers reported failures: it is not chosen,
    Ejected,
    /// until it is again.
    Admitted,
    /// An administrator keeps calls away from it,
    Drained,
    /// or no longer.
    Undrained,
    /// A node that should register an instance cannot be decoded.
    Undecodable,
    /// Everything a source holds became known at once, and is not recorded one by one.
    Read,
    /// The sidecar itself.
    Started,
    Stopped,
    /// Entries that are no longer kept, or were not recorded.
    Omitted,
    /// An event that only a newer sidecar records.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Entry {
    /// The same, cut to the limits of an entry.
    pub(super) fn within_bounds(self) -> Self {
        let cut = |text: String| shortened(&text, MAX_CHARACTERS).into_owned();
        Self {
            version: cut(self.version),
            instance: cut(self.instance),
            why: cut(self.why),
            path: self.path.filter(|path| path.as_str().len() <= MAX_PATH_BYTES),
            ..self
        }
    }

    /// The line in the file.
    pub(super) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("texts and numbers are JSON");
        line.push('\n');
        line
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
