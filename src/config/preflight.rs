//! What a configuration requires of the machine it is checked on.

use std::io;
use std::path::Path;

use nix::unistd::geteuid;

use super::diagnostic::{Diagnostic, Key};
use super::tree::ConfigTree;
use super::{Config, runs_as};
use crate::access::{Match, Subject, uid};
use crate::default_paths;
use crate::model::NodePath;
use crate::net::tls::{TlsError, authorities_of, chain_of, client, key_of};
use crate::net::{Address, Listener, PathOccupied, Setting};
use crate::permissions::{Folder, gid_of, own};
use crate::queue::Server;
use crate::register::{self, SecretError};
use crate::secret;
use crate::source;
use crate::worker;
use crate::zookeeper::{credentials, kerberos};

/// The groups and users in the configuration that this machine does not have.
pub(super) fn check_names(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for (key, group) in [
        ("thrift.group", &config.thrift.group),
        ("register.group", &config.register.group),
        ("shared.group", &config.shared.group),
    ] {
        if !group.is_empty() && matches!(gid_of(group), Ok(None)) {
            diagnostics.push(tree.diagnostic(key.into(), format!("there is no group {group:?} on this machine")));
        }
    }
    for (key, subject) in subjects(config, tree) {
        if let Err(unknown) = subject.find() {
            diagnostics.push(tree.diagnostic(key, unknown.to_string()));
        }
    }
    for (number, name) in config.eject.reporters.iter().enumerate() {
        if let Err(unknown) = uid(name) {
            diagnostics.push(tree.diagnostic(tree.element(&"eject.reporters".into(), number), unknown.to_string()));
        }
    }
    diagnostics
}

/// Everything in the configuration that this machine does not have, or that this user may not read.
pub(super) fn check(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let mut diagnostics = check_names(config, tree);
    diagnostics.extend(foreign_folders(config).map(|(key, why)| tree.diagnostic(key.into(), why)));
    let is_own = config.sidecar_user().is_none_or(|user| user == geteuid());
    for (key, path) in [("thrift.unix", &config.thrift.unix), ("register.unix", &config.register.unix)] {
        diagnostics.extend(no_socket(path, is_own, true).map(|why| tree.diagnostic(key.into(), why)));
    }
    let pid_file = config.sidecar.pid_file.as_deref().filter(|_| is_own);
    let no_pid_file = pid_file.and_then(|path| {
        let folder = path.parent().filter(|folder| !is_to_come(folder))?;
        let misled = || Folder::of_ours(path).err().map(|why| format!("cannot write {}: {why}", path.display()));
        runs_as::cannot_make("file", folder).or_else(misled)
    });
    diagnostics.extend(no_pid_file.map(|why| tree.diagnostic("sidecar.pid_file".into(), why)));
    for (number, file) in config.file.iter().enumerate() {
        if let Some(Err(error)) = is_set(&file.path).then(|| file.check()) {
            diagnostics.push(tree.diagnostic(tree.element(&"file".into(), number).child("path"), error.to_string()));
        }
    }
    for (key, path) in files(config, tree) {
        if let Err(error) = look(path) {
            diagnostics.push(tree.diagnostic(key, format!("cannot read {}: {error}", path.display())));
        }
    }
    if config.register.is_on()
        && let Err(error) = config.register.check_secrets(&config.token_file())
        && !matches!(error, SecretError::Read { .. })
    {
        // Unreadable files are reported below.
        diagnostics.push(tree.diagnostic(Key::new(["register", error.key()]), error.to_string()));
    }
    for (number, location) in of_ensembles(config) {
        let key = tree.element(&"zookeeper".into(), number).child("credentials");
        diagnostics
            .extend(credentials::flaws(location).iter().map(|flaw| tree.diagnostic(key.clone(), flaw.to_string())));
    }
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        let Some((part, why)) = kerberos::flaw(&ensemble.session()) else { continue };
        let key = tree.element(&"zookeeper".into(), number).child("kerberos");
        diagnostics.push(tree.diagnostic(part.map_or(key.clone(), |part| key.child(part)), why));
    }
    let ensembles = config.zookeeper.iter().map(source::zookeeper::Config::session).enumerate();
    for (number, ensemble) in ensembles.filter(|(_, ensemble)| ensemble.has_tls()) {
        let Err(error) = client(ensemble.tls()) else { continue };
        let key = tree.element(&"zookeeper".into(), number).child(part_of(&error));
        diagnostics.push(tree.diagnostic(key, error.to_string()));
    }
    if config.queue.backend.as_ref().is_some_and(Server::is_tls)
        && let Err(error) = client(config.queue.tls())
    {
        diagnostics.push(tree.diagnostic(Key::new(["queue", part_of(&error)]), error.to_string()));
    }
    diagnostics.extend((0..config.worker.len()).flat_map(|number| of_worker(config, tree, number, is_own)));
    for error in config.register.tls.as_ref().map(of_tls).unwrap_or_default() {
        let part = if matches!(error, TlsError::Key { .. }) { "key" } else { "certificate" };
        diagnostics.push(tree.diagnostic(Key::new(["register", "tls", part]), error.to_string()));
    }
    for (number, upstream) in config.upstream.iter().enumerate() {
        if let Some(Err(error)) = upstream.ca.as_deref().filter(|path| is_set(path)).map(authorities_of) {
            diagnostics.push(tree.diagnostic(tree.element(&"upstream".into(), number).child("ca"), error.to_string()));
        }
    }
    diagnostics
}

/// What a worker needs and this machine lacks, or this user may not have. The worker would wait for it, without
/// delaying the start of others.
fn of_worker(config: &Config, tree: &ConfigTree, number: usize, is_own: bool) -> Vec<Diagnostic> {
    let (worker, at) = (&config.worker[number], tree.element(&"worker".into(), number));
    let mut diagnostics: Vec<_> =
        worker::flaws(worker).into_iter().map(|flaw| tree.diagnostic(at.child(flaw.key), flaw.why)).collect();
    let group = &worker.socket_group;
    if !group.is_empty() && matches!(gid_of(group), Ok(None)) {
        diagnostics
            .push(tree.diagnostic(at.child("socket_group"), format!("there is no group {group:?} on this machine")));
    }
    for (nth, address) in worker.listen.iter().enumerate() {
        let key = tree.element(&at.child("listen"), nth);
        let why = match worker::parse_listen(address) {
            Some(Address::Unix(path)) => no_socket(&path, is_own, false),
            Some(Address::Tcp(address)) => no_port(config, Setting::of_worker(&worker.name, key.to_string()), &address),
            None => None,
        };
        diagnostics.extend(why.map(|why| tree.diagnostic(key, why)));
    }
    diagnostics
}

/// Why this user cannot create a socket there: either with a link and all folders above it, or with neither.
fn no_socket(path: &Path, is_own: bool, has_link: bool) -> Option<String> {
    let folder = path.parent().filter(|_| path.is_absolute())?;
    match PathOccupied::none_at(path, has_link) {
        Err(error) => Some(error.to_string()),
        Ok(()) if !has_link && folder.parent().is_some_and(|above| !above.exists()) => Some(format!(
            "neither {} nor the folder above it is there; have it made, or choose another place",
            folder.display()
        )),
        Ok(()) => runs_as::cannot_make("socket", folder).filter(|_| is_own && !is_to_come(folder)),
    }
}

/// Why this user cannot keep the state in a directory, of which a start makes the last part alone.
fn no_state(folder: &Path) -> Option<String> {
    match folder.parent() {
        Some(above) if !folder.exists() && !above.exists() => Some(format!(
            "neither {} nor the folder above it is there; have it made, or choose another place",
            folder.display()
        )),
        _ => runs_as::cannot_make("file", folder),
    }
}

/// Why this user cannot listen on a port, unless the sidecar of this very configuration already may.
fn no_port(config: &Config, setting: Setting, address: &str) -> Option<String> {
    let error = Listener::tcp(setting, address).err()?;
    let may_be_ours = error.is_taken() && default_paths::may_be_live(&config.thrift.unix);
    (!may_be_ours).then(|| error.without_setting())
}

/// Folders in which another user could replace what the sidecar trusts, with the settings that name them.
pub(crate) fn foreign_folders(config: &Config) -> impl Iterator<Item = (&'static str, String)> {
    let folders = [
        ("thrift.unix", config.thrift.unix.parent()),
        ("register.unix", config.register.unix.parent()),
        ("shared.path", config.shared.path.parent().filter(|folder| folder.is_absolute())),
        ("shared.state", Some(config.shared.state.as_path()).filter(|path| is_set(path))),
        ("queue.path", config.queue.path.as_deref()),
    ];
    let folders = folders.into_iter().filter_map(|(key, folder)| Some((key, folder?)));
    folders.filter_map(|(key, folder)| {
        let (folder, owner, user) = own::foreign_folder(folder)?;
        let folder = folder.display();
        let why = format!(
            "{folder} belongs to {owner}, and this is a process of {user}: run it as {owner}, or choose another folder"
        );
        Some((key, why))
    })
}

/// The subjects in the access rules, with their keys.
fn subjects(config: &Config, tree: &ConfigTree) -> Vec<(Key, Subject)> {
    let admins = config.access.admins.iter().cloned().enumerate();
    let admins = admins.map(|(number, subject)| (tree.element(&"access.admins".into(), number), subject));
    let rules = config.allow.iter().enumerate();
    let rules = rules.filter_map(|(number, rule)| Some((tree.element(&"allow".into(), number), rule.subject()?)));
    admins.chain(rules).collect()
}

/// The groups to which the sidecar's user cannot give its files.
pub(super) fn ungiven(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let all = [
        ("thrift.group", &config.thrift.group, &config.thrift.unix),
        ("register.group", &config.register.group, &config.register.unix),
        ("shared.group", &config.shared.group, &config.shared.path),
    ];
    let made = all.into_iter().filter(|(_, group, path)| !group.is_empty() && is_set(path));
    // The groups of its unit are not listed anywhere; if the socket has one, the sidecar is in it.
    let ungiven = made.filter(|(_, group, _)| !runs_as::is_of_group(&config.thrift.unix, group));
    ungiven.filter_map(|(key, group, _)| Some(tree.diagnostic(key.into(), runs_as::cannot_give(group)?))).collect()
}

/// Whether it is the folder that the system's unit creates at a start.
fn is_to_come(folder: &Path) -> bool {
    default_paths::is_systems(folder) && !folder.exists()
}

/// What a start accepts, but may be a mistake all the same.
pub(super) fn doubts(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let is_for_others = config.shared.mode.0 & 0o077 != 0 && is_set(&config.shared.path);
    let by_file = !config.allow.is_empty() && is_for_others;
    let by_file = by_file.then(|| {
        let why = "`[[allow]]` does not hold for the shared file, whose group reads all of it; `mode = \"0600\"` or \
         `path = \"\"` under `[shared]` leaves nobody else to read it";
        tree.diagnostic("shared.mode".into(), why)
    });
    let of_credentials = of_ensembles(config).flat_map(|(number, location)| {
        let key = tree.element(&"zookeeper".into(), number).child("credentials");
        credentials::doubts(location).into_iter().map(move |doubt| tree.diagnostic(key.clone(), doubt))
    });
    let to_come = config
        .thrift
        .unix
        .parent()
        .filter(|folder| is_to_come(folder) && tree.is_set(&"thrift.unix".into()) && !geteuid().is_root());
    let to_come = to_come.map(|folder| {
        let why = format!("{} is not there: the unit makes it (RuntimeDirectory=), else root", folder.display());
        tree.diagnostic("thrift.unix".into(), why)
    });
    let shared = config.shared.path.parent().filter(|folder| folder.is_absolute() && !is_to_come(folder));
    let is_own = config.sidecar_user().is_none_or(|user| user == geteuid());
    let shared = shared.filter(|_| is_own).and_then(|folder| runs_as::cannot_make("file", folder));
    let shared = shared.map(|why| {
        let why = format!("{why}; until then, the sidecar goes on without the shared file");
        tree.diagnostic("shared.path".into(), why)
    });
    let missing = config.shared.path.parent().filter(|folder| folder.is_absolute() && !folder.exists());
    let missing =
        missing.filter(|folder| tree.is_set(&"shared.path".into()) && !is_to_come(folder) && shared.is_none());
    let missing = missing.map(|folder| {
        let why = format!(
            "there is no folder {}: the sidecar makes it, and clients look there only if they are told to",
            folder.display()
        );
        tree.diagnostic("shared.path".into(), why)
    });
    let state = config.shared.state.as_path();
    let state = Some(state).filter(|state| is_own && is_set(state) && tree.is_set(&"shared.state".into()));
    let state = state.and_then(no_state).map(|why| {
        let why = format!(
            "{why}; until then, the sidecar keeps no copy of the shared file, and the history and what is drained do not \
             outlast a restart"
        );
        tree.diagnostic("shared.state".into(), why)
    });
    // Another user's folder is no mere doubt.
    let queue = config.queue.path.as_deref().filter(|path| is_own && own::foreign_folder(path).is_none());
    let queue = queue.and_then(|folder| runs_as::cannot_make("file", folder)).map(|why| {
        tree.diagnostic("queue.path".into(), format!("{why}; until then, the sidecar goes on, and keeps no jobs there"))
    });
    let shared = shared.into_iter().chain(missing).chain(state).chain(queue);
    let of_rules = paths_without_slash(config, tree).into_iter().chain(for_nobody(config, tree));
    let of_workers =
        workers_of_root(config, tree).chain(workers_in_root(config, tree)).chain(without_script(config, tree));
    of_credentials.chain(by_file).chain(to_come).chain(shared).chain(of_rules).chain(of_workers).collect()
}

/// The workers whose `watch` starts in the root folder, since they have no directory of their own.
fn workers_in_root(config: &Config, tree: &ConfigTree) -> impl Iterator<Item = Diagnostic> {
    let workers = config.worker.iter().enumerate().filter(|(_, worker)| worker.directory.is_none());
    let relative = workers.filter(|(_, worker)| worker.watch.iter().any(|pattern| !pattern.starts_with('/')));
    relative.map(|(number, _)| {
        let key = tree.element(&"worker".into(), number).child("watch");
        tree.diagnostic(key, "it starts in `/`: set `directory`, or write whole paths")
    })
}

/// The workers whose script in PHP is not there.
fn without_script(config: &Config, tree: &ConfigTree) -> impl Iterator<Item = Diagnostic> {
    config.worker.iter().enumerate().filter_map(|(number, worker)| {
        let script = worker.command.get(1).filter(|word| word.ends_with(".php") && !word.starts_with('-'))?;
        let path = worker.directory.as_deref().unwrap_or(Path::new("/")).join(script);
        let key = tree.element(&"worker".into(), number).child("command");
        (!path.exists()).then(|| tree.diagnostic(key, format!("there is no {}", path.display())))
    })
}

/// The workers that root's sidecar would run as root.
fn workers_of_root(config: &Config, tree: &ConfigTree) -> impl Iterator<Item = Diagnostic> {
    let is_root = geteuid().is_root() && config.sidecar_user().is_none_or(|user| user.is_root());
    let workers = config.worker.iter().enumerate().filter(move |(_, worker)| is_root && worker.user.is_empty());
    workers.map(|(number, worker)| {
        let key = tree.element(&"worker".into(), number);
        let why = format!(
            "without `user`, {} runs as the sidecar does: as root, it may do whatever an administrator may; name another user",
            worker.name
        );
        tree.diagnostic(key, why)
    })
}

/// The subjects in the access rules that no client ever matches.
fn for_nobody(config: &Config, tree: &ConfigTree) -> impl Iterator<Item = Diagnostic> {
    let unmapped = subjects(config, tree).into_iter();
    let unmapped = unmapped.filter(|(_, subject)| subject.find().is_ok_and(Match::is_unmapped));
    unmapped.map(|(key, subject)| {
        let why = format!(
            "\"{subject}\" is for nobody: its number stands for all whom a user namespace cannot name; name another user \
             or group"
        );
        tree.diagnostic(key, why)
    })
}

/// Services in rules that look like parts of a mirrored path.
fn paths_without_slash(config: &Config, tree: &ConfigTree) -> Vec<Diagnostic> {
    let roots = || config.zookeeper.iter().flat_map(|ensemble| &ensemble.roots);
    let root_of = |name: &str| roots().find(|root| root.as_str().split('/').any(|part| part == name));
    let rules = config.allow.iter().enumerate().flat_map(|(number, rule)| {
        let key = tree.element(&"allow".into(), number).child("read");
        rule.read.services().filter_map(move |name| Some((key.clone(), name, root_of(name)?)))
    });
    let doubt = |(key, name, root): (Key, &str, &NodePath)| {
        let why =
            format!("{name:?} is a service; if it is to be of the nodes of {root}, write their path, with a `/` first");
        tree.diagnostic(key, why)
    };
    rules.map(doubt).collect()
}

/// The credential files, with the numbers of their ensembles.
fn of_ensembles(config: &Config) -> impl Iterator<Item = (usize, &Path)> {
    let all = config.zookeeper.iter().enumerate();
    let all = all.filter_map(|(number, ensemble)| Some((number, ensemble.credentials.as_deref()?)));
    all.filter(|(_, location)| is_set(location))
}

/// The setting of a client's files that is at fault.
fn part_of(error: &TlsError) -> &'static str {
    match error {
        TlsError::Certificate { .. } => "certificate",
        TlsError::Key { .. } => "key",
        TlsError::Authorities { .. } | TlsError::NoAuthorities(_) => "ca",
    }
}

/// What is wrong with a certificate and its key, each alone, or else both together.
fn of_tls(tls: &register::Tls) -> Vec<TlsError> {
    let chain = is_set(&tls.certificate).then(|| chain_of(&tls.certificate));
    let key = is_set(&tls.key).then(|| key_of(&tls.key));
    match (chain, key) {
        (Some(Ok(_)), Some(Ok(_))) => tls.read().err().into_iter().collect(),
        (chain, key) => chain.and_then(Result::err).into_iter().chain(key.and_then(Result::err)).collect(),
    }
}

/// The files whose content is not checked here, with their keys.
fn files<'c>(config: &'c Config, tree: &ConfigTree) -> Vec<(Key, &'c Path)> {
    let element = |kind: &str, number, name| tree.element(&kind.into(), number).child(name);
    let named = [
        ("register.tokens", &config.register.tokens),
        ("register.signing_key", &config.register.signing_key),
        ("queue.password_file", &config.queue.password_file),
    ];
    let named = named.into_iter().filter_map(|(key, path)| Some((key.into(), path.as_deref()?)));
    let of_upstreams = config.upstream.iter().enumerate();
    let of_upstreams = of_upstreams.map(|(number, it)| (element("upstream", number, "token"), it.token.as_path()));
    named.chain(of_upstreams).filter(|(_, path)| is_set(path)).collect()
}

fn look(path: &Path) -> io::Result<()> {
    secret::read(path).map(drop)
}

/// Whether a path is more than the marker that there should be one.
fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}
