//! Entry: what became of an instance, when, and why; a line of the file.

use serde::{Deserialize, Serialize};

use crate::model::{NodePath, Revision, shortened};

/// The most characters of an instance's address or version, and of a reason.
const MAX_CHARACTERS: usize = 256;

/// The longest path that is kept.
const MAX_PATH_BYTES: usize = 1_024;

/// What became of an instance, or of what is told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    /// Greater than that of the entry before, also across a restart.
    pub number: u64,
    /// When it was noticed, ms since 1970.
    pub time: i64,
    /// The one that has it.
    pub revision: Revision,
    pub event: Event,
    /// Empty: it is of no service alone.
    #[serde(rename = "serviceName", skip_serializing_if = "String::is_empty")]
    pub service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its address, or the id of a master. Empty: it is of no instance alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The node that registers it, unless its path is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<NodePath>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How many it stands for, where it is not one.
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
    /// No node registers it any more, and it is served all the same;
    Held,
    /// until one does.
    Returned,
    /// Its callers reported failures: it is not chosen,
    Ejected,
    /// until it is again.
    Admitted,
    /// An administrator wants it to have no calls,
    Drained,
    /// or no longer.
    Undrained,
    /// A node is to register an instance, and cannot be read.
    Undecodable,
    /// All that a source holds is known for the first time, and was not told one by one.
    Read,
    /// The sidecar itself.
    Started,
    Stopped,
    /// Entries that are not kept, or were not made.
    Omitted,
    /// One that only a newer sidecar writes.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Entry {
    /// The same within the bounds of an entry.
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

    /// As it stands in the file.
    pub(super) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("texts and numbers are JSON");
        line.push('\n');
        line
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
