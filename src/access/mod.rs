//! Access: who may read, watch, call, and command masters and workers, by what the kernel knows of a client.

mod config;
mod grant;
mod pattern;
mod policy;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use self::config::{Config, Rule, Subject};
pub use self::grant::Grant;
pub use self::policy::{Decision, Match, Policy, UnknownName, uid};
use crate::model::NodePath;

/// The identity of a client. Over TCP there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Tcp,
    /// The effective user and group of the process that connected to a Unix socket.
    Unix {
        uid: u32,
        gid: u32,
    },
}

/// The policy in force, which a reload replaces.
#[derive(Debug)]
pub struct Access {
    policy: ArcSwap<Policy>,
    replaced: watch::Sender<()>,
}

/// One client, and what the policy grants it.
#[derive(Clone, Debug)]
pub struct Identity {
    access: Arc<Access>,
    client: Client,
    policy: Arc<Policy>,
    grant: Arc<Grant>,
}

const UNMAPPED_CURE: &str = "this number, often called `nobody`, stands for all users whom a user namespace does not map, \
    so it may do nothing: run the client as a user of its own";

/// A denied request. Decided by names alone, so that it does not reveal whether a thing exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {cure}")]
pub struct Denied {
    /// Which client may not do what.
    pub what: String,
    cure: String,
}

impl Access {
    pub fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self { policy: ArcSwap::from_pointee(policy), replaced: watch::Sender::new(()) })
    }

    /// Puts another policy in force. It also applies to open connections, from their next request on.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.replaced.send_replace(());
    }

    pub fn has_rules(&self) -> bool {
        self.policy.load().has_rules()
    }

    /// Identifies a client that has connected. `groups` are the supplementary groups of its process.
    pub fn identify(self: &Arc<Self>, client: Client, groups: impl FnOnce() -> Vec<u32>) -> Identity {
        let policy = self.policy.load_full();
        let grant = policy.grant(client, groups);
        Identity { access: self.clone(), client, policy, grant }
    }
}

impl Identity {
    /// Identifies the client again if another policy has come into force.
    pub fn refresh(&mut self, groups: impl FnOnce() -> Vec<u32>) {
        if !self.is_current() {
            *self = self.access.identify(self.client, groups);
        }
    }

    /// Whether the policy by which the client was identified is still in force.
    pub fn is_current(&self) -> bool {
        Arc::ptr_eq(&self.access.policy.load(), &self.policy)
    }

    /// Signals when another policy comes into force, from now on.
    pub fn replaced(&self) -> watch::Receiver<()> {
        self.access.replaced.subscribe()
    }

    pub fn client(&self) -> Client {
        self.client
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    pub fn may_read(&self, path: &NodePath) -> Result<(), Denied> {
        self.check(self.grant.reads(path), || format!("may not read {path}"))
    }

    /// Like `may_read`, but also allows paths that only lead to something readable.
    pub fn may_list(&self, path: &NodePath) -> Result<(), Denied> {
        self.check(self.grant.lists(path), || format!("may not read {path}"))
    }

    pub fn may_watch(&self) -> Result<(), Denied> {
        self.check(self.grant.watches(), || "may not watch".into())
    }

    pub fn may_see(&self, service: &str) -> Result<(), Denied> {
        self.check(self.grant.sees(service), || format!("may not see the service {}", service.escape_debug()))
    }

    /// Whether the client may see any service at all: otherwise an empty list would look like an answer.
    pub fn may_see_any(&self) -> Result<(), Denied> {
        self.check(self.grant.sees_any(), || "may not see any service".into())
    }

    pub fn may_call(&self, service: &str, method: &str) -> Result<(), Denied> {
        let what = || format!("may not call {}.{}", service.escape_debug(), method.escape_debug());
        if self.client == Client::Tcp && !self.policy.has_rules() {
            let cure = "set `[access] tcp_calls = true`, or call over the Unix socket";
            return self.check_or(self.grant.calls(service, method), what, || cure.to_owned());
        }
        self.check(self.grant.calls(service, method), what)
    }

    /// Whether the client may see the workers, which requires the right to see all masters.
    pub fn may_see_workers(&self) -> Result<(), Denied> {
        self.check(self.grant.sees_all(), || "may not see workers, which takes `read = [\"*\"]`".into())
    }

    /// Whether the client may command masters.
    pub fn may_command(&self) -> Result<(), Denied> {
        self.check_administrator("may not command masters")
    }

    /// Whether the client may drain instances.
    pub fn may_drain(&self) -> Result<(), Denied> {
        self.check_administrator("may not drain instances")
    }

    /// Whether the client may have the guard release what it holds.
    pub fn may_control_guard(&self) -> Result<(), Denied> {
        self.check_administrator("may not control the guard")
    }

    /// Whether the client may control workers.
    pub fn may_control_workers(&self) -> Result<(), Denied> {
        self.check_administrator("may not control workers")
    }

    /// Whether the client may add and remove workers. A worker can run any program as the sidecar's user, so only that
    /// user and root may.
    pub fn may_add_workers(&self) -> Result<(), Denied> {
        let is_own = matches!(self.client, Client::Unix { uid, .. } if self.policy.is_own(uid));
        let cure = || format!("over the Unix socket {} may", self.policy.own());
        self.check_or(is_own, || "may not add or remove workers".to_owned(), cure)
    }

    /// Whether the client may read the output of workers, which may hold secrets.
    pub fn may_read_output(&self) -> Result<(), Denied> {
        self.check_administrator("may not read what workers print")
    }

    pub fn may_enqueue(&self, queue: &str) -> Result<(), Denied> {
        let what = || format!("may not enqueue jobs into {}", queue.escape_debug());
        if self.client == Client::Tcp && !self.policy.has_rules() {
            let cure = "set `[access] tcp_calls = true`, or enqueue over the Unix socket";
            return self.check_or(self.grant.enqueues(queue), what, || cure.to_owned());
        }
        self.check(self.grant.enqueues(queue), what)
    }

    /// Whether the client may take jobs of a queue from whoever else performs them, and read what is in them.
    pub fn may_perform(&self, queue: &str) -> Result<(), Denied> {
        self.check_perform(queue, "perform jobs of")
    }

    pub fn may_peek(&self, queue: &str) -> Result<(), Denied> {
        self.check_perform(queue, "look at jobs of")
    }

    fn check_perform(&self, queue: &str, what: &str) -> Result<(), Denied> {
        let cure = || "administrators may, and whom an `[[allow]]` with `perform` names".to_owned();
        self.check_or(self.grant.performs(queue), || format!("may not {what} {}", queue.escape_debug()), cure)
    }

    /// Whether the client may pause and purge queues, and have dead jobs retried.
    pub fn may_control_queues(&self) -> Result<(), Denied> {
        self.check_administrator("may not control queues")
    }

    fn check_administrator(&self, what: &str) -> Result<(), Denied> {
        let cure = || match self.client {
            Client::Tcp => format!("use the Unix socket as one of the administrators: {}", self.policy.admins()),
            Client::Unix { .. } => format!("the administrators may: {}", self.policy.admins()),
        };
        self.check_or(self.grant.is_admin(), || what.to_owned(), cure)
    }

    fn check(&self, is_allowed: bool, what: impl FnOnce() -> String) -> Result<(), Denied> {
        self.check_or(is_allowed, what, || {
            let subject = match self.client {
                Client::Tcp => "--tcp".to_owned(),
                Client::Unix { uid, .. } => format!("--user {uid}"),
            };
            // Where it lies is nobody's business over a network.
            let file = if self.client == Client::Tcp { String::new() } else { self.policy.file_option() };
            format!("`roster explain access {subject}{file}`, as root, shows which rule decides")
        })
    }

    fn check_or(
        &self,
        is_allowed: bool,
        what: impl FnOnce() -> String,
        cure: impl FnOnce() -> String,
    ) -> Result<(), Denied> {
        if is_allowed {
            return Ok(());
        }
        let cure = if self.policy.is_unmapped(self.client) { UNMAPPED_CURE.to_owned() } else { cure() };
        Err(Denied { what: format!("{} {}", self.client, what()), cure })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("a client over TCP"),
            Self::Unix { uid, .. } => write!(f, "uid {uid}"),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.client, self.grant)
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl Identity {
    /// A client that may do everything.
    pub(crate) fn root() -> Self {
        let policy = Policy::new(&Config::default(), &[]).expect("nobody is named");
        Access::new(policy).identify(Client::Unix { uid: 0, gid: 0 }, Vec::new)
    }
}

#[cfg(test)]
mod tests;
