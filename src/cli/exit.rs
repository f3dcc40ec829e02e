//! Exit codes: what the end of a command means to a script.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{Group, User};
use roster::access::UnknownName;
use roster::config::Diagnostics;
use roster::default_paths::DefaultPaths;
use roster::net::Address;
use roster::store::shared::{InvalidFile, ReadError, begins_as_lmdb};
use roster::thrift::client::Error;

use super::call::{GivenTwice, SomeFailed, Unreadable as NoCall};
use super::drain::{StillCalled, Uncounted};
use super::explain::Refused;
use super::queue::NoPayload;
use super::settings::{Origin, Unreadable};
use super::shared::NoFile;
use super::text;
use super::worker::{Misused, Unfinished};

pub(crate) const HELP: &str = "\
Exit codes:
    0  done
    1  there is no such node, master, service, worker, queue or job; or the sidecar itself failed
    2  the command line, a path or the configuration is wrong
    3  the sidecar cannot be reached, or broke off; or the shared file cannot be read
    4  the data is older than --max-age
    5  nothing is known yet: the first sync is not done
    6  the sidecar or a called master did not answer within --timeout; or --wait is over
    7  the call failed: nobody to call, an error of its own, too many calls; or a worker failed
    8  access is denied
  130  interrupted";

/// The mode bit that lets the group read a file.
const MAY_READ: u32 = 0o040;
const MAY_WRITE: u32 = 0o020;
const MAY_SEARCH: u32 = 0o010;

const FAILED: u8 = 1;
const WRONG: u8 = 2;
const UNREACHABLE: u8 = 3;
const TOO_STALE: u8 = 4;
const NOT_READY: u8 = 5;
const TIMED_OUT: u8 = 6;
const CALL_FAILED: u8 = 7;
const DENIED: u8 = 8;
const INTERRUPTED: u8 = 130;

/// Ended by an interrupt. (Commands that do not catch it are killed by it, which a shell also reports as 130.)
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Prints an error on stderr, and returns its exit code.
pub(crate) fn code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::from(of(&error))
        }
    }
}

fn tell(error: &anyhow::Error) {
    match error.downcast_ref::<Diagnostics>() {
        // Each line begins with its file and line, as editors expect.
        Some(diagnostics) => eprintln!("{}", text::printable(diagnostics.to_string().as_bytes())),
        None => eprintln!("roster: {}", told(error)),
    }
    if let Some(origin) = error.downcast_ref::<Origin>() {
        let verdict = match error.downcast_ref().map(|Diagnostics(found)| found.len()) {
            None => String::new(),
            Some(1) => ": it is not in order".to_owned(),
            Some(count) => format!(": it is not in order, for {count} reasons"),
        };
        eprintln!("{}", text::printable(format!("{origin}{verdict}").as_bytes()));
    }
    match error.downcast_ref() {
        Some(Error::Unreachable { address, source }) => eprintln!("{}", way_in([(address, source)])),
        Some(Error::NotFoundAnywhere(failures)) => {
            eprintln!("{}", way_in(failures.iter().map(|(address, why)| (address, why))));
        }
        Some(Error::Closed { .. }) => {
            eprintln!("Is it the Thrift endpoint? --address or ROSTER_ADDRESS says where it is.")
        }
        _ => {}
    }
    if let Some(cure) = error.downcast_ref().and_then(cure) {
        eprintln!("{cure}");
    }
}

/// What to do about a sidecar that cannot be reached.
fn way_in<'e>(failures: impl IntoIterator<Item = (&'e Address, &'e io::Error)>) -> String {
    let closed = |(address, error): (&'e Address, &io::Error)| match address {
        Address::Unix(path) if error.kind() == io::ErrorKind::PermissionDenied => Some(path),
        _ => None,
    };
    match failures.into_iter().find_map(closed) {
        Some(path) => open_to(path, MAY_WRITE, "[thrift]"),
        None => "Is it running? `roster serve` starts it; --address or ROSTER_ADDRESS says where it is.".into(),
    }
}

/// The group for which a socket or file is open that this user may not open, or not even see.
fn open_to(path: &Path, right: u32, table: &str) -> String {
    // Seeing it requires search permission on its folder, and on those above.
    let visible = visible(path);
    let folder = visible.as_ref().map(|(folder, _)| *folder).filter(|folder| *folder != path);
    let right = if folder.is_some() { MAY_SEARCH } else { right };
    let path = path.display();
    match (visible, folder) {
        (Some((_, found)), _) if found.mode() & right != 0 => {
            let group = Group::from_gid(found.gid().into()).ok().flatten();
            let group = group.map_or(found.gid().to_string(), |group| group.name);
            if is_of_own_group(&found) {
                format!(
                    "{path} is for the sidecar's own group {group}, which may read the register's token: do not join it, \
                     but use sudo. Or give the sidecar a group that no client is in, and what clients open to one of \
                     theirs: `Group=roster` and `SupplementaryGroups=www-data` in its unit, and `group = \"www-data\"` \
                     under `[thrift]` and `[shared]`."
                )
            } else {
                format!(
                    "{path} is for the group {group}: join it (`sudo usermod -aG {group} $USER`, then log in again), \
                     or use sudo."
                )
            }
        }
        (_, Some(folder)) => {
            let (folder, key) = (folder.display(), if table == "[shared]" { "path" } else { "unix" });
            format!(
                "The folder {folder} is closed to you, whatever the mode of {path}: use sudo, have its owner let others \
                 pass (`chmod o+x {folder}`), or put what is in it elsewhere (`{table} {key}`)."
            )
        }
        (_, None) => format!("{path} is for its owner alone: use sudo, or see `{table} group` and `mode`."),
    }
}

/// A path that this user may look at; or else the nearest folder above it, whose content is closed to the user.
fn visible(path: &Path) -> Option<(&Path, Metadata)> {
    path.ancestors().find_map(|it| Some((it, fs::metadata(it).ok()?)))
}

/// Whether a socket, file or folder of the sidecar belongs to the group that it runs with, as does its token. If no
/// sidecar of its user is visible, that is the group of this user, or of the state directory that systemd created.
fn is_of_own_group(found: &Metadata) -> bool {
    let running = groups_of_sidecars(found.uid());
    if !running.is_empty() {
        return running.contains(&found.gid());
    }
    let primary = User::from_uid(found.uid().into()).ok().flatten().map(|user| user.gid.as_raw());
    let state = fs::metadata(DefaultPaths::default().state).ok().map(|state| state.gid());
    [primary, state].contains(&Some(found.gid()))
}

fn groups_of_sidecars(user: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    let sidecars = processes.filter(|it| fs::read(it.join("comm")).is_ok_and(|name| name == b"roster\n"));
    let of_user = sidecars.filter_map(|it| fs::metadata(it).ok()).filter(|it| it.uid() == user);
    of_user.map(|process| process.gid()).collect()
}

/// What to do about a shared file.
fn cure(error: &ReadError) -> Option<String> {
    let ReadError::InvalidFile { path, source } = error;
    Some(match source {
        InvalidFile::Unreadable(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            open_to(path, MAY_READ, "[shared]")
        }
        InvalidFile::Unreadable(why) if why.kind() == io::ErrorKind::NotFound => {
            "There is no such file. A sidecar that runs has one beside its Unix socket, or where its `[shared] path` says."
                .into()
        }
        InvalidFile::Unreadable(_) => {
            "Does a sidecar run, and is this its `[shared] path`? It lies beside the Unix socket.".into()
        }
        InvalidFile::Damaged(_) if !begins_as_lmdb(path) => {
            "It does not begin as a shared file does: is it the one that is meant? If it is a sidecar's, its next start \
             sets it aside, and makes it anew."
                .into()
        }
        _ => "The next start of its sidecar sets it aside, and makes it anew.".into(),
    })
}

/// An error as a terminal can show it: some contain a master's own text.
fn told(error: &anyhow::Error) -> String {
    text::printable(whole(error).as_bytes())
}

/// An error with its causes, as far as it does not include them itself.
fn whole(error: &anyhow::Error) -> String {
    // The configuration it is about is on a line of its own.
    let mut words = error.chain().skip(usize::from(error.is::<Origin>())).map(ToString::to_string);
    let first = words.next().unwrap_or_default();
    words.fold(first, |told, cause| if told.ends_with(&cause) { told } else { format!("{told}: {cause}") })
}

/// The reader of our output has had enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Error::NotFound(_)) => FAILED,
        Some(Error::Invalid(_)) => WRONG,
        Some(Error::Unreachable { .. } | Error::NotFoundAnywhere(_)) => UNREACHABLE,
        Some(Error::Refused { .. } | Error::Closed { .. } | Error::Broken { .. }) => UNREACHABLE,
        Some(Error::TooStale(_)) => TOO_STALE,
        Some(Error::NotReady(_)) => NOT_READY,
        Some(Error::TimedOut { .. } | Error::CallTimedOut(_)) => TIMED_OUT,
        Some(Error::NoMaster(_) | Error::CallFailed(_) | Error::Overloaded(_)) => CALL_FAILED,
        Some(Error::Denied(_)) => DENIED,
        None if error.is::<Refused>() => DENIED,
        None if error.is::<UnknownName>() => WRONG,
        None if error.is::<Diagnostics>() || error.is::<Unreadable>() => WRONG,
        None if error.is::<GivenTwice>() || error.is::<NoCall>() || error.is::<Misused>() => WRONG,
        None if error.is::<Uncounted>() || error.is::<NoPayload>() => WRONG,
        None if error.is::<ReadError>() || error.is::<NoFile>() => UNREACHABLE,
        None if error.is::<SomeFailed>() => CALL_FAILED,
        None if matches!(error.downcast_ref(), Some(Unfinished::TimedOut(_))) => TIMED_OUT,
        None if error.is::<StillCalled>() => TIMED_OUT,
        None if error.is::<Unfinished>() => CALL_FAILED,
        None if error.is::<Interrupted>() => INTERRUPTED,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use clap::CommandFactory;
    use roster::thrift::idl::CallFailed;

    #[test]
    fn the_help_of_the_binary_and_of_each_reading_command_lists_the_exit_codes() {
        let mut roster = crate::cli::Cli::command();
        roster.build();
        assert!(roster.render_help().to_string().contains(HELP));
        for words in [
            "get",
            "ls",
            "watch",
            "masters",
            "services",
            "resolve",
            "call",
            "broadcast",
            "registers",
            "worker",
            "worker list",
            "worker restart",
            "worker logs",
            "status",
            "serve",
            "explain",
            "explain access",
            "history",
            "diff",
            "export",
            "shared",
            "shared check",
            "config",
            "config check",
            "config show",
        ] {
            let found = words.split(' ').try_fold(&mut roster, |command, word| command.find_subcommand_mut(word));
            assert!(found.expect(words).render_help().to_string().contains(HELP), "{words}");
        }
    }

    #[test]
    fn a_closed_folder_is_named_though_it_is_further_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("roster/roster.sock");
        let found = |path: &Path| visible(path).map(|(found, _)| found.to_owned());
        assert_eq!(found(&path).as_deref(), Some(folder.path()));
        fs::create_dir(folder.path().join("roster")).expect("a folder in it");
        assert_eq!(found(&path).as_deref(), path.parent());
        fs::write(&path, "").expect("a file");
        assert_eq!(found(&path).as_deref(), Some(&*path));
        fs::remove_file(&path).expect("it is there");
        fs::set_permissions(folder.path().join("roster"), PermissionsExt::from_mode(0o700)).expect("it is ours");
        let told = open_to(&path, MAY_WRITE, "[thrift]");
        let shown = folder.path().join("roster").display().to_string();
        assert!(told.starts_with(&format!("The folder {shown} is closed to you")), "{told}");
        assert!(told.contains(&format!("`chmod o+x {shown}`")) && told.contains("`[thrift] unix`"), "{told}");
    }

    #[test]
    fn a_shared_file_that_is_not_there_is_said_not_to_be() {
        let source = InvalidFile::Unreadable(io::ErrorKind::NotFound.into());
        let told = cure(&ReadError::InvalidFile { path: "/backup/shared.mdb".into(), source });
        assert!(told.is_some_and(|told| told.starts_with("There is no such file")));
    }

    #[test]
    fn a_file_of_another_kind_is_not_said_to_be_made_anew_by_a_sidecar() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let told = |bytes: &[u8]| {
            fs::write(file.path(), bytes).expect("written");
            let source = InvalidFile::Damaged("it is cut off");
            cure(&ReadError::InvalidFile { path: file.path().to_owned(), source }).expect("a cure")
        };
        assert!(told(b"[queue]\n").starts_with("It does not begin as a shared file does"));
        let lmdb = [&[0_u8; 16][..], &0xBEEF_C0DE_u32.to_ne_bytes()].concat();
        assert!(told(&lmdb).starts_with("The next start of its sidecar"));
    }

    #[test]
    fn no_cause_is_told_twice() {
        let address = roster::net::Address::Tcp("there:1".into());
        let source = io::Error::other("refused");
        let error = anyhow::Error::from(Error::Unreachable { address, source });
        assert_eq!(whole(&error), "cannot reach the sidecar at there:1: refused");
        assert_eq!(whole(&anyhow::anyhow!("b").context("a")), "a: b");
    }

    #[test]
    fn no_error_of_a_master_moves_the_cursor_of_a_terminal() {
        let failed = CallFailed::new("m\u{1b}[2J".into(), "gone\r\u{9b}A".into(), None, 0, false);
        let error = anyhow::Error::from(Error::CallFailed(failed));
        assert_eq!(told(&error), "master m\\u{1b}[2J: gone\\r\\u{9b}A");
    }

    #[test]
    fn only_a_reader_that_left_is_no_failure() {
        let error = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind));
        assert!(is_broken_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(io::ErrorKind::StorageFull)));
        assert_eq!(of(&error(io::ErrorKind::StorageFull)), FAILED);
    }
}
