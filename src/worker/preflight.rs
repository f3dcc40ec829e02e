//! Preflight: what a worker needs of the machine, and would not find there.

use std::env::split_paths;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups};

use super::config::Config;
use super::launch::{Identity, explain};
use super::process::{environment, identity};

/// What is wrong with a setting of a worker on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub(crate) struct Flaw {
    pub(crate) key: &'static str,
    pub(crate) why: String,
}

impl Flaw {
    pub(super) fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }

    /// That there is no user, or no group, of a name.
    pub(super) fn none(key: &'static str, name: &str) -> Self {
        Self::new(key, format!("there is no {key} {name:?} on this machine"))
    }
}

/// What would keep its processes from being started, but for its sockets.
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
            flaw_of_program(config, &directory, &path.map_or_else(String::new, |(_, path)| path), &user)
        }
        _ => None,
    };
    runs.err().into_iter().chain(no_directory).chain(no_program).collect()
}

fn flaw_of_program(config: &Config, directory: &Path, path: &str, user: &Identity) -> Option<Flaw> {
    let program = config.command.first()?;
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![directory.join(program)],
        false => split_paths(path).map(|folder| directory.join(folder).join(program)).collect(),
    };
    let mut error = Errno::ENOENT;
    for found in places.iter().map(fs::metadata) {
        match found {
            Ok(found) if found.is_file() && may_execute(&found, user) => return None,
            Ok(_) => error = Errno::EACCES,
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => error = Errno::EACCES,
            Err(_) => {}
        }
    }
    Some(Flaw::new("command", explain(program, path, Uid::from_raw(user.uid), error)))
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
        assert!(command(&script)[0].ends_with(" may not execute it"), "{:?}", command(&script));
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("it is ours");
        assert_eq!(command(&script), Vec::<String>::new());
    }
}
