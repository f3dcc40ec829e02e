//! `roster explain access`: what a user may do, and which rule of the configuration decides.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist, getgroups, getuid};
use roster::access::{Access, Client, Decision, Denied, Identity, Policy, uid};
use roster::config::Config;
use roster::default_paths::may_be_live;
use roster::model::NodePath;

use crate::cli::settings::{Loaded, Settings};

/// Explain what a user may do over the Thrift endpoint, and which rule decides
#[derive(Debug, Args)]
pub(super) struct ExplainAccess {
    /// The user, by name or number [default: yourself]
    #[arg(long, global = true, value_name = "USER", conflicts_with = "tcp")]
    user: Option<String>,
    /// A client over TCP
    #[arg(long, global = true)]
    tcp: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Whether it may read this node, or this service
    Read {
        #[arg(value_name = "PATH|SERVICE")]
        what: String,
    },
    /// Whether it may wait for changes at or below this node
    Watch {
        #[arg(value_parser = NodePath::parse)]
        path: NodePath,
    },
    /// Whether it may call this method
    Call {
        #[arg(value_name = "SERVICE.METHOD", value_parser = crate::cli::call::service_and_method)]
        method: (String, String),
    },
    /// Whether it may enqueue jobs into this queue
    Enqueue { queue: String },
    /// Whether it may perform jobs of this queue, and look at them
    Perform { queue: String },
    /// Whether it may command masters and workers
    Command,
}

/// The mode bits to open a socket, and to pass through a folder.
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

/// The answer that access is denied.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl ExplainAccess {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Loaded { config, origin } = self.settings.load()?;
        let (own, sidecar) = sidecar(&config);
        // If unknown, only root: to take the current user for the sidecar's would allow too much.
        let policy = Policy::of(&config.access, &config.allow, own.unwrap_or(Uid::from_raw(0)))?;
        let (client, groups) = client(self.tcp, self.user.as_deref())?;
        let decision = policy.decide(client, || groups.clone());
        let shut = shut_out(&config.thrift.unix, client, &groups);
        let identity = Access::new(policy).identify(client, || groups);
        let mut out = io::stdout().lock();
        let explained = format!("{origin}. {sidecar}.");
        // Whoever asks about a sidecar with a file would take the answer for its own.
        if origin.is_demo {
            writeln!(out, "{explained}")?;
        }
        writeln!(out, "{identity}")?;
        writeln!(out, "{}", reason(decision, &config))?;
        let is_shut = shut.is_some();
        if let Some(why) = shut {
            writeln!(out, "{why}")?;
        }
        if !origin.is_demo {
            writeln!(out, "{explained}")?;
        }
        if let Some(doubt) = in_force(&config.thrift.unix, origin.changed()) {
            writeln!(out, "{doubt}")?;
        }
        match self.action {
            None => {}
            Some(action) => {
                check(&identity, &action).map_err(|denied| Refused(denied.what))?;
                if is_shut {
                    return Err(Refused(format!("{client} is allowed by the rules, but cannot open the socket")).into());
                }
                writeln!(out, "allowed")?;
            }
        }
        Ok(())
    }
}

/// The user that the sidecar runs as, if known, and how it is known.
fn sidecar(config: &Config) -> (Option<Uid>, String) {
    let socket = &config.thrift.unix;
    let shown = socket.display();
    let others = "the user as whom it runs may do everything, too";
    if !may_be_live(socket) {
        // Traces of this user's own runs say nothing about another user's sidecar.
        let own = config.sidecar_user().filter(|user| *user != geteuid());
        let runs = own.map_or_else(|| others.into(), |own| format!("it would run as uid {own}"));
        return (own, format!("No sidecar runs at {shown}; {runs}"));
    }
    match fs::metadata(socket) {
        Ok(found) => {
            let own = Uid::from_raw(found.uid());
            (Some(own), format!("The sidecar at {shown} runs as uid {own}"))
        }
        Err(_) => (None, format!("{shown} cannot be looked at: ask as root; {others}")),
    }
}

/// A note that a running sidecar may have other rules in force than a file that was `changed` then.
fn in_force(socket: &Path, changed: Option<SystemTime>) -> Option<String> {
    let started = fs::metadata(socket).and_then(|found| found.modified()).ok().filter(|_| may_be_live(socket))?;
    let told = "The sidecar has in force what it read at its start, or at the last SIGHUP that its log accepts";
    Some(match changed {
        Some(changed) if changed >= started => {
            format!(
                "{told}. The file was changed after that start: without such a SIGHUP since, the rules before hold."
            )
        }
        Some(_) => format!("{told}; the times of the file show no change since that start."),
        None => format!("{told}; which file that was cannot be known here."),
    })
}

fn check(identity: &Identity, action: &Action) -> Result<(), Denied> {
    match action {
        Action::Read { what } => match NodePath::parse(what) {
            Ok(path) => identity.may_read(&path),
            Err(_) => identity.may_see(what),
        },
        Action::Watch { path } => identity.may_watch().and_then(|()| identity.may_list(path)),
        Action::Call { method: (service, method) } => identity.may_call(service, method),
        Action::Enqueue { queue } => identity.may_enqueue(queue),
        Action::Perform { queue } => identity.may_perform(queue),
        Action::Command => identity.may_command(),
    }
}

/// A client as the endpoint would identify it, with its supplementary groups.
fn client(tcp: bool, user: Option<&str>) -> anyhow::Result<(Client, Vec<u32>)> {
    let of = |uid: Uid, gid: Gid, groups: Vec<Gid>| {
        let client = Client::Unix { uid: uid.as_raw(), gid: gid.as_raw() };
        (client, groups.into_iter().map(Gid::as_raw).collect())
    };
    let Some(name) = user else {
        return Ok(if tcp { (Client::Tcp, Vec::new()) } else { of(getuid(), nix::unistd::getgid(), getgroups()?) });
    };
    let uid = uid(name)?;
    Ok(match User::from_uid(uid)? {
        Some(user) => of(uid, user.gid, getgrouplist(&CString::new(user.name)?, user.gid)?),
        // Known only by number: in no group.
        None => of(uid, Gid::from_raw(u32::MAX), Vec::new()),
    })
}

/// A note that the socket, or a folder on the way to it, is closed to a client, whatever the rules say.
fn shut_out(socket: &Path, client: Client, groups: &[u32]) -> Option<String> {
    let Client::Unix { uid, gid } = client else { return None };
    let is_missing = fs::metadata(socket).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if uid == 0 || is_missing {
        return None;
    }
    let may = |found: &Metadata, bit: u32| {
        let is_in = |group: u32| gid == group || groups.contains(&group);
        let class = if uid == found.uid() {
            6
        } else if is_in(found.gid()) {
            3
        } else {
            0
        };
        found.mode() & (bit << class) != 0
    };
    let of = |found: &Metadata| {
        let (owner, group, mode) = (found.uid(), found.gid(), found.mode() & 0o777);
        format!("it is of uid {owner} and gid {group}, mode {mode:04o}")
    };
    // Where links lead elsewhere, the folders on both paths matter.
    for way in [Some(socket.to_owned()), fs::canonicalize(socket).ok()].into_iter().flatten() {
        let folders: Vec<_> = way.ancestors().skip(1).filter_map(|it| Some((it, fs::metadata(it).ok()?))).collect();
        if let Some((folder, found)) = folders.iter().rev().find(|(_, found)| !may(found, EXECUTE)) {
            let (folder, of) = (folder.display(), of(found));
            return Some(format!(
                "but the folder {folder} is closed to it: {of}; let it pass (`chmod +x`), or see `[thrift] unix`"
            ));
        }
    }
    let found = fs::metadata(socket).ok().filter(|found| !may(found, WRITE))?;
    Some(format!("but {} refuses it: {}; see `[thrift] group`", socket.display(), of(&found)))
}

fn reason(decision: Decision, config: &Config) -> String {
    match decision {
        Decision::Own => "because it is root, or the user as which the sidecar runs".into(),
        Decision::Admin(number) => {
            format!("because of {:?} in `[access] admins`", config.access.admins[number].to_string())
        }
        Decision::Rule(number) => {
            let subject = config.allow[number].subject().map(|subject| subject.to_string()).unwrap_or_default();
            format!("because of `allow.{number}`, for {subject}")
        }
        Decision::NoRule => "because no `[[allow]]` is for it, and what none allows is denied".into(),
        Decision::Default => "because there is no `[[allow]]`".into(),
        Decision::Unmapped => {
            "because this number stands for all users whom the sidecar's user namespace cannot name".into()
        }
    }
}
