//! Preflight: what a worker needs and this machine lacks.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups};

use super::config::Config;
use super::launch::{Identity, explain, no_interpreter, places};
use super::launcher::{environment, identity};
use super::log_file;
use crate::permissions::own::name_of;

/// What is wrong with a worker's setting on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub(crate) struct Flaw {
    pub(crate) key: &'static str,
    pub(crate) why: String,
    /// Whether the machine is just short of a resource.
    pub(crate) is_short: bool,
}

impl Flaw {
    pub(super) fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into(), is_short: false }
    }

    /// There is no user, or no group, with this name.
    pub(super) fn none(key: &'static str, name: &str) -> Self {
        Self::new(key, format!("there is no {key} {name:?} on this machine"))
    }
}

/// What would prevent its processes from being started, apart from its sockets.
pub(crate) fn flaws(config: &Config) -> Vec<Flaw> {
    let runs = identity(config);
    let directory = config.directory.clone().unwrap_or_else(|| PathBuf::from("/"));
    let no_directory = (!directory.is_dir()).then(|| {
        let why = format!("there is no directory {}; have it made, or choose another", directory.display());
        Flaw::new("directory", why)
    });
    let no_program = match (&runs, &no_directory) {
        (Ok((user, identity)), None) => {
            let path = environment(config, user.as_ref()).into_iter().find(|(name, _)| name == "PATH");
            let user = identity.clone().unwrap_or_else(own_identity);
            let path = path.map_or_else(String::new, |(_, path)| path);
            flaw_of_directory(&directory, &user).or_else(|| flaw_of_program(config, &directory, &path, &user))
        }
        _ => None,
    };
    let too_many_files = flaw_of_max_files(config);
    let no_log = config.log.as_deref().and_then(log_file::flaw).map(|why| Flaw::new("log", why));
    runs.err().into_iter().chain(no_directory).chain(no_program).chain(too_many_files).chain(no_log).collect()
}

fn flaw_of_program(config: &Config, directory: &Path, path: &str, user: &Identity) -> Option<Flaw> {
    let program = config.command.first()?;
    let mut error = Errno::ENOENT;
    for place in places(program, directory, path) {
        match fs::metadata(&place) {
            Ok(found) if found.is_file() && may_execute(&found, user) => {
                let why = no_interpreter(&place)?;
                return Some(Flaw::new("command", format!("cannot start {program:?}: {why}")));
            }
            Ok(_) => error = Errno::EACCES,
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => error = Errno::EACCES,
            Err(_) => {}
        }
    }
    Some(Flaw::new("command", explain(program, directory, path, Uid::from_raw(user.uid), error)))
}

/// The flaw if the user may not enter the directory, or one above it.
fn flaw_of_directory(directory: &Path, user: &Identity) -> Option<Flaw> {
    let is_closed = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| !may_execute(&found, user));
    let closed = directory.ancestors().filter(is_closed).last().filter(|_| user.uid != 0)?;
    let why = format!("{} may not enter {}", name_of(user.uid), closed.display());
    Some(Flaw::new("directory", format!("{why}; choose another, or have it opened")))
}

/// The flaw if a process cannot have this many descriptors.
fn flaw_of_max_files(config: &Config) -> Option<Flaw> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let most = config.max_files.filter(|most| *most > hard && !geteuid().is_root())?;
    let why = format!(
        "{most} is more than the sidecar itself may have, {hard}; lower it, or raise `LimitNOFILE=` of its unit"
    );
    Some(Flaw::new("max_files", why))
}

fn may_execute(program: &fs::Metadata, user: &Identity) -> bool {
    let is_of = |group: u32| user.gid == group || user.groups.contains(&group);
    let bits = match program.uid() {
        _ if user.uid == 0 => 0o111,
        owner if owner == user.uid => 0o100,
        _ if is_of(program.gid()) => 0o010,
        _ => 0o001,
    };
    program.mode() & bits != 0
}

fn own_identity() -> Identity {
    let groups = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
    Identity { uid: geteuid().as_raw(), gid: getegid().as_raw(), groups }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_cannot_be_had_is_told_by_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").expect("written");
        let of = |change: &dyn Fn(&mut Config)| {
            let mut config = Config { command: vec!["sh".into()], ..Config::default() };
            change(&mut config);
            flaws(&config).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let command = |program: &str| {
            let program = program.to_owned();
            of(&|config| config.command[0].clone_from(&program))
        };
        assert_eq!(of(&|_| {}), Vec::<String>::new());
        assert_eq!(
            of(&|it| it.user = "nobody-at-all".into()),
            ["user: there is no user \"nobody-at-all\" on this machine"]
        );
        assert_eq!(
            of(&|it| it.group = "none-at-all".into()),
            ["group: there is no group \"none-at-all\" on this machine"]
        );
        let wrong = of(&|it| it.directory = Some("/nowhere".into()));
        assert_eq!(wrong, ["directory: there is no directory /nowhere; have it made, or choose another"]);
        assert_eq!(command("/nowhere/php"), ["command: cannot start \"/nowhere/php\": there is no such file"]);
        let wrong = of(&|it| {
            it.command[0] = "no-such-program".into();
            it.environment.insert("PATH".into(), "/bin:/usr/bin".into());
        });
        let why = "it is in no folder of PATH, /bin:/usr/bin";
        assert_eq!(wrong, [format!("command: cannot start \"no-such-program\": {why}")]);
        let script = script.display().to_string();
        fs::set_permissions(&script, Permissions::from_mode(0o644)).expect("it is ours");
        assert!(command(&script)[0].ends_with("name its interpreter before it"), "{:?}", command(&script));
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("it is ours");
        assert_eq!(command(&script), Vec::<String>::new());
        fs::write(&script, "#!/nowhere/php\n").expect("written");
        assert!(command(&script)[0].contains("is not there, \"/nowhere/php\""), "{:?}", command(&script));
    }

    #[test]
    fn a_directory_that_its_user_may_not_enter_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("made");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("it is ours");
        let stranger = Identity { uid: 54_321, gid: 54_321, groups: Vec::new() };
        let told = flaw_of_directory(&inner, &stranger).map(|flaw| flaw.to_string());
        let closed = folder.path().display();
        let why = format!("directory: uid 54321 may not enter {closed}; choose another, or have it opened");
        assert_eq!(told, Some(why));
        assert_eq!(flaw_of_directory(&inner, &own_identity()), None);
    }
}
