//! Grants: what one rule allows a client.

use std::fmt;

use super::Rule;
use super::pattern::{CallPatterns, ReadPatterns};
use crate::model::NodePath;
use crate::wildcard::Wildcards;

/// What a client may do.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    read: ReadPatterns,
    call: CallPatterns,
    watch: bool,
    enqueue: Wildcards,
    perform: Wildcards,
    admin: bool,
}

impl Grant {
    /// Everything that does not change other processes.
    pub(super) fn reader(may_call: bool) -> Self {
        let call = if may_call { CallPatterns::everything() } else { CallPatterns::default() };
        let enqueue = if may_call { Wildcards::everything() } else { Wildcards::default() };
        Self { read: ReadPatterns::everything(), call, watch: true, enqueue, ..Self::default() }
    }

    pub(super) fn admin() -> Self {
        Self { admin: true, ..Self::reader(true) }
    }

    pub(super) fn of(rule: &Rule) -> Self {
        if rule.admin {
            return Self::admin();
        }
        let Rule { read, call, watch, enqueue, perform, .. } = rule.clone();
        Self { read, call, watch, enqueue, perform, admin: false }
    }

    pub fn reads(&self, path: &NodePath) -> bool {
        self.read.paths.covers(path)
    }

    pub fn reads_all(&self, paths: &[NodePath]) -> bool {
        paths.iter().all(|path| self.reads(path))
    }

    /// Whether the path may be read, or leads to one that may be.
    pub fn lists(&self, path: &NodePath) -> bool {
        self.reads(path) || self.read.paths.leads(path)
    }

    /// The subtrees at or below `path` that cover all that may be read there, in order, none inside another.
    pub fn roots(&self, path: &NodePath) -> Vec<NodePath> {
        self.read.paths.roots(path)
    }

    /// Whether only parts of what lies below the roots may be read, so that it has to be filtered.
    pub fn searches(&self) -> bool {
        self.read.paths.has_wildcards()
    }

    pub fn watches(&self) -> bool {
        self.watch
    }

    /// Whether the service may be read, or any of its methods called.
    pub fn sees(&self, service: &str) -> bool {
        self.read.services.iter().any(|pattern| pattern.is_match(service))
            || self.call.methods.iter().any(|(pattern, _)| pattern.is_match(service))
    }

    pub fn sees_all(&self) -> bool {
        self.admin || self.read.all_services
    }

    /// Whether the client may see a provider of these services: it sees one of them, or everything.
    pub fn sees_one_of<'a>(&self, mut services: impl Iterator<Item = &'a str>) -> bool {
        self.sees_all() || services.any(|service| self.sees(service))
    }

    /// Whether there may be a service that the client sees.
    pub fn sees_any(&self) -> bool {
        !self.read.services.is_empty() || !self.call.methods.is_empty()
    }

    pub fn calls(&self, service: &str, method: &str) -> bool {
        self.call.methods.iter().any(|(of, named)| of.is_match(service) && named.is_match(method))
    }

    pub fn enqueues(&self, queue: &str) -> bool {
        self.admin || self.enqueue.is_match(queue)
    }

    pub fn performs(&self, queue: &str) -> bool {
        self.admin || self.perform.is_match(queue)
    }

    pub fn sees_queue(&self, queue: &str) -> bool {
        self.enqueues(queue) || self.performs(queue)
    }

    pub fn is_admin(&self) -> bool {
        self.admin
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.admin {
            return f.write_str("may do everything, and command masters and workers");
        }
        let list = |name: &str, patterns: String| (!patterns.is_empty()).then(|| format!("{name} {patterns}"));
        let can = [
            list("read", self.read.to_string()),
            list("call", self.call.to_string()),
            self.watch.then(|| "watch".to_owned()),
            list("enqueue", self.enqueue.to_string()),
            list("perform", self.perform.to_string()),
        ];
        let can: Vec<String> = can.into_iter().flatten().collect();
        if can.is_empty() { f.write_str("may do nothing") } else { write!(f, "may {}", can.join("; ")) }
    }
}
