//! `[access]` and `[[allow]]`: who may command masters, and what everybody else may do.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pattern::{CallPatterns, ReadPatterns};
use crate::wildcard::Wildcards;

/// `[access]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Subjects that may command masters, besides root and the sidecar's own user.
    pub admins: Vec<Subject>,
    /// Whether clients over TCP, which cannot be identified, may call masters. Has no effect if there are rules.
    pub tcp_calls: bool,
}

/// `[[allow]]`: what one subject may do. The first rule that matches a client decides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Applies to this user, by name or number; `*`: to every user of the Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Applies to this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Applies to all clients over TCP.
    pub tcp: bool,
    pub read: ReadPatterns,
    pub call: CallPatterns,
    pub watch: bool,
    /// The queues into which jobs may be enqueued,
    pub enqueue: Wildcards,
    /// and those whose jobs may be taken, performed and looked at.
    pub perform: Wildcards,
    /// Whether it grants everything, including commands to masters.
    pub admin: bool,
}

/// What a rule can apply to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    User(String),
    Group(String),
    /// Every user of the Unix socket.
    Everyone,
    Tcp,
}

impl Rule {
    /// The subject of the rule; `None` unless exactly one of its keys is set.
    pub fn subject(&self) -> Option<Subject> {
        match (self.user.as_deref(), self.group.clone(), self.tcp) {
            (Some("*"), None, false) => Some(Subject::Everyone),
            (Some(user), None, false) => Some(Subject::User(user.to_owned())),
            (None, Some(group), false) => Some(Subject::Group(group)),
            (None, None, true) => Some(Subject::Tcp),
            _ => None,
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("user", name)) if !name.is_empty() => Ok(Self::User(name.to_owned())),
            Some(("group", name)) if !name.is_empty() => Ok(Self::Group(name.to_owned())),
            _ => Err(format!("expected \"user:NAME\" or \"group:NAME\", found {text:?}")),
        }
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        subject.to_string()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Everyone => f.write_str("user:*"),
            Self::Tcp => f.write_str("tcp"),
        }
    }
}
