//! Policies: the rules, with users and groups resolved to the kernel's numbers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::{Client, Config, Grant, Rule, Subject};
use crate::model::shell_argument;

/// The ID of all users, or groups, that a namespace does not map, unless Linux reports another.
const OVERFLOW: u32 = 65_534;

/// The configuration file that `roster explain access` finds by itself, whoever asks.
const DEFAULT_FILE: &str = "/etc/roster/roster.toml";

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    /// Root, and the user that the sidecar runs as.
    own: [u32; 2],
    admins: Vec<(Subject, Match)>,
    rules: Vec<(Match, Arc<Grant>)>,
    unmapped: u32,
    unmapped_group: u32,
    admin: Arc<Grant>,
    /// The grant where no rule matches a client.
    user: Arc<Grant>,
    tcp: Arc<Grant>,
    /// The file that it was read from, unless that is the default one.
    file: Option<PathBuf>,
}

/// A subject as the kernel identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Uid(u32),
    Gid(u32),
    Everyone,
    Tcp,
}

/// A user or group that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {name:?} on this machine")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
}

/// Which part of a policy decides about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is root, or the sidecar's own user.
    Own,
    /// This one of `[access] admins`.
    Admin(usize),
    /// This one of the rules.
    Rule(usize),
    /// No rule is for it, though there are some.
    NoRule,
    /// There are no rules.
    Default,
    /// The user is of another namespace, so the kernel cannot identify it. It may do nothing.
    Unmapped,
}

impl Policy {
    /// The policy of a sidecar that runs as the current user.
    pub fn new(config: &Config, rules: &[Rule]) -> Result<Self, UnknownName> {
        Self::of(config, rules, geteuid())
    }

    /// The policy of a sidecar that runs as this user.
    pub fn of(config: &Config, rules: &[Rule], own: Uid) -> Result<Self, UnknownName> {
        let admins = config.admins.iter().map(|subject| Ok((subject.clone(), subject.find()?)));
        let granted = rules.iter().filter_map(|rule| Some((rule.subject()?, rule)));
        let granted = granted.map(|(subject, rule)| Ok((subject.find()?, Arc::new(Grant::of(rule)))));
        let (user, tcp) = match rules.is_empty() {
            true => (Grant::reader(true), Grant::reader(config.tcp_calls)),
            false => (Grant::default(), Grant::default()),
        };
        Ok(Self {
            own: [0, own.as_raw()],
            admins: admins.collect::<Result<_, _>>()?,
            rules: granted.collect::<Result<_, _>>()?,
            unmapped: unmapped("uid"),
            unmapped_group: unmapped("gid"),
            admin: Arc::new(Grant::admin()),
            user: Arc::new(user),
            tcp: Arc::new(tcp),
            file: None,
        })
    }

    /// The same policy, known to be of this configuration file.
    pub fn read_from(self, file: Option<&Path>) -> Self {
        Self { file: file.filter(|file| *file != Path::new(DEFAULT_FILE)).map(Path::to_owned), ..self }
    }

    /// The option of `roster explain access` that names the policy's file, where it has to be named, after a space.
    pub(super) fn file_option(&self) -> String {
        let Some(file) = &self.file else { return String::new() };
        format!(" --config {}", shell_argument(&file.to_string_lossy()))
    }

    /// The grant of a client. `groups` are the supplementary groups of its process; they are looked up only if needed.
    pub(super) fn grant(&self, client: Client, groups: impl FnOnce() -> Vec<u32>) -> Arc<Grant> {
        match self.decide(client, groups) {
            Decision::Own | Decision::Admin(_) => self.admin.clone(),
            Decision::Rule(number) => self.rules[number].1.clone(),
            Decision::Unmapped => Arc::default(),
            Decision::NoRule | Decision::Default => match client {
                Client::Tcp => self.tcp.clone(),
                Client::Unix { .. } => self.user.clone(),
            },
        }
    }

    /// Which part of the policy decides about a client.
    pub fn decide(&self, client: Client, groups: impl FnOnce() -> Vec<u32>) -> Decision {
        let mut groups = Groups::Unknown(Some(groups));
        let unruled = if self.has_rules() { Decision::NoRule } else { Decision::Default };
        match client {
            Client::Unix { uid, .. } if self.own.contains(&uid) => return Decision::Own,
            _ if self.is_unmapped(client) => return Decision::Unmapped,
            _ => {}
        }
        let mut is_for = |subject: Match| match (subject, client) {
            (Match::Tcp, Client::Tcp) | (Match::Everyone, Client::Unix { .. }) => true,
            (Match::Uid(of), Client::Unix { uid, .. }) => of == uid,
            (Match::Gid(of), Client::Unix { .. }) if of == self.unmapped_group => false,
            (Match::Gid(of), Client::Unix { gid, .. }) => of == gid || groups.contain(of),
            _ => false,
        };
        if let Some(number) = self.admins.iter().position(|(_, subject)| is_for(*subject)) {
            return Decision::Admin(number);
        }
        self.rules.iter().position(|(subject, _)| is_for(*subject)).map_or(unruled, Decision::Rule)
    }

    /// Whether the kernel cannot identify the client here, as its user is of another namespace.
    pub(super) fn is_unmapped(&self, client: Client) -> bool {
        matches!(client, Client::Unix { uid, .. } if uid == self.unmapped && !self.own.contains(&uid))
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether a user is root or the sidecar's own, and not one that the kernel cannot map here.
    pub fn is_own(&self, uid: u32) -> bool {
        self.own.contains(&uid) && uid != self.unmapped
    }

    /// Root and the sidecar's own user, in words.
    pub fn own(&self) -> String {
        match self.own[1] {
            0 => "root".to_owned(),
            own => format!("root, the sidecar's own user ({own})"),
        }
    }

    /// The subjects that may command masters, in words.
    pub fn admins(&self) -> String {
        let named = self.admins.iter().map(|(subject, _)| subject.to_string());
        let all: Vec<String> = std::iter::once(self.own()).chain(named).collect();
        format!("{} (`[access] admins`, `[[allow]] admin`)", all.join(", "))
    }
}

/// The groups of a client, once they have been looked up.
enum Groups<Ask> {
    Unknown(Option<Ask>),
    Known(Vec<u32>),
}

impl<Ask: FnOnce() -> Vec<u32>> Groups<Ask> {
    fn contain(&mut self, gid: u32) -> bool {
        if let Self::Unknown(ask) = self {
            *self = Self::Known(ask.take().map(|ask| ask()).unwrap_or_default());
        }
        matches!(self, Self::Known(groups) if groups.contains(&gid))
    }
}

impl Match {
    /// Whether this number stands for all users, or groups, that a user namespace does not map: no rule matches it.
    pub fn is_unmapped(self) -> bool {
        match self {
            Self::Uid(number) => number == unmapped("uid"),
            Self::Gid(number) => number == unmapped("gid"),
            Self::Everyone | Self::Tcp => false,
        }
    }
}

impl Subject {
    /// Resolves the name to the kernel's number.
    pub fn find(&self) -> Result<Match, UnknownName> {
        Ok(match self {
            Self::User(name) => Match::Uid(uid(name)?.as_raw()),
            Self::Group(name) => Match::Gid(gid(name)?.as_raw()),
            Self::Everyone => Match::Everyone,
            Self::Tcp => Match::Tcp,
        })
    }
}

/// A user, by name or by number.
pub fn uid(name: &str) -> Result<Uid, UnknownName> {
    if let Ok(number) = name.parse() {
        return Ok(Uid::from_raw(number));
    }
    let user = User::from_name(name).ok().flatten();
    user.map(|user| user.uid).ok_or_else(|| UnknownName { kind: "user", name: name.to_owned() })
}

fn gid(name: &str) -> Result<Gid, UnknownName> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(name).ok().flatten();
    group.map(|group| group.gid).ok_or_else(|| UnknownName { kind: "group", name: name.to_owned() })
}

fn unmapped(kind: &str) -> u32 {
    let told = std::fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}")).ok();
    told.and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW)
}
