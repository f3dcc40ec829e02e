//! Default paths: where a sidecar keeps its socket and its state if not configured, and where clients look for it.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};

/// The folder of the system's sidecar. Only root, or systemd, can create it.
const SYSTEM: &str = "/run/roster";
const SYSTEM_STATE: &str = "/var/lib/roster";
const SOCKET: &str = "roster.sock";
const SHARED_FILE: &str = "shared.mdb";

/// What a sidecar uses if its configuration does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultPaths {
    pub socket: PathBuf,
    pub state: PathBuf,
}

/// The system's paths.
impl Default for DefaultPaths {
    fn default() -> Self {
        Self { socket: system_socket(), state: SYSTEM_STATE.into() }
    }
}

impl DefaultPaths {
    /// The system's if this process may write there, else the user's own.
    pub fn of_this_process() -> Self {
        let socket = if may_write(SYSTEM) { system_socket() } else { user_socket() };
        let state = if may_write(SYSTEM_STATE) { None } else { user_state() };
        Self { socket, state: state.unwrap_or_else(|| SYSTEM_STATE.into()) }
    }

    /// Those of the sidecar that a client finds here, even if this process may not open its socket; if there is none,
    /// those that this process would start one with.
    pub fn of_the_running() -> Self {
        let own = Self::of_this_process();
        let sockets = trusted_sockets();
        let running =
            sockets.iter().find(|socket| is_live(socket)).or_else(|| sockets.iter().find(|it| may_be_live(it)));
        match running {
            Some(socket) if *socket == system_socket() => Self::default(),
            Some(socket) => Self { socket: socket.clone(), ..own },
            None => own,
        }
    }
}

/// The socket of a sidecar that a user runs without a configuration.
pub fn user_socket() -> PathBuf {
    user_folder().join(SOCKET)
}

/// Whether this is the folder of the user's own state, which a start creates.
pub fn is_users_state(folder: &Path) -> bool {
    folder != Path::new(SYSTEM_STATE) && folder == DefaultPaths::of_this_process().state
}

/// Whether this is the folder of the system's sidecar, which its unit creates.
pub fn is_systems(folder: &Path) -> bool {
    folder == Path::new(SYSTEM)
}

/// The folder of that sidecar.
pub fn user_folder() -> PathBuf {
    user_folders().swap_remove(0)
}

/// Where clients look for a sidecar, in order.
pub fn sockets() -> Vec<PathBuf> {
    let folders = [PathBuf::from(SYSTEM)].into_iter().chain(user_folders());
    folders.map(|folder| folder.join(SOCKET)).collect()
}

/// Those that no other user can have created.
fn trusted_sockets() -> Vec<PathBuf> {
    sockets().into_iter().filter(|socket| check_owner(socket).is_ok()).collect()
}

/// The socket where a client finds a sidecar, or would find its shared file: the first one with a listener; else the
/// first one next to a shared file, of a sidecar that is gone: preferably a readable one.
pub fn found() -> Option<PathBuf> {
    let sockets = trusted_sockets();
    let is_readable = |socket: &&PathBuf| File::open(shared_file_beside(socket)).is_ok();
    let is_left = |socket: &&PathBuf| shared_file_beside(socket).exists();
    let first = sockets.iter().find(|socket| is_live(socket)).or_else(|| sockets.iter().find(is_readable));
    first.or_else(|| sockets.iter().find(is_left)).cloned()
}

/// Whether there is a listener on a socket.
pub fn is_live(socket: &Path) -> bool {
    connect(socket).is_ok()
}

/// Whether there is a listener on a socket, as far as this process may know: it may not have access.
pub fn may_be_live(socket: &Path) -> bool {
    connect(socket).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |()| true)
}

/// Connects to a socket, or fails if the listener's queue is full: waiting for room could take forever.
fn connect(socket: &Path) -> io::Result<()> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_nonblocking(true)?;
    match stream.connect(&SockAddr::unix(socket)?) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Where a sidecar with this socket has its shared file, unless its configuration says otherwise.
pub fn shared_file_beside(socket: &Path) -> PathBuf {
    socket.with_file_name(SHARED_FILE)
}

/// Checks that no other user can have put something at one of these sockets: `/run` is root's, while in `/tmp` anybody
/// may have created a folder with our name.
pub fn check_owner(socket: &Path) -> io::Result<()> {
    let folder = socket.parent().unwrap_or(socket);
    if folder == Path::new(SYSTEM) || is_own(folder) {
        return Ok(());
    }
    let found = fs::symlink_metadata(folder)?;
    let why = if found.uid() == geteuid().as_raw() {
        format!("{} is not a folder that only its owner can write", folder.display())
    } else {
        format!(
            "{} was made by uid {}, not by you: nothing in it is used; remove it (as root), or set XDG_RUNTIME_DIR",
            folder.display(),
            found.uid()
        )
    };
    // Not `PermissionDenied`: nobody should join the group of a refused socket.
    Err(io::Error::other(why))
}

/// Creates the folder of the user's sidecar, if necessary.
pub fn make_user_folder() -> io::Result<()> {
    let folder = user_folder();
    if !folder.exists() {
        make(&folder)?;
    }
    check_owner(&user_socket())
}

/// Creates a folder for this user alone.
pub fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn system_socket() -> PathBuf {
    Path::new(SYSTEM).join(SOCKET)
}

/// The user's folders, at least one. A process without a login's environment also has those of the login.
fn user_folders() -> Vec<PathBuf> {
    let uid = geteuid();
    let login = [env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(format!("/run/user/{uid}").into())];
    let login = login.into_iter().flatten().filter(|folder| folder.is_absolute() && is_own(folder));
    let mut folders: Vec<_> = login.map(|folder| folder.join("roster")).collect();
    folders.dedup();
    folders.push(format!("/tmp/roster-{uid}").into());
    folders
}

fn user_state() -> Option<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let states = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    states.map(|folder| folder.join("roster"))
}

/// Whether a folder is ours, and only writable by us.
fn is_own(folder: &Path) -> bool {
    let own = geteuid().as_raw();
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own && found.mode() & 0o022 == 0)
}

/// Root creates what does not exist.
fn may_write(folder: &str) -> bool {
    geteuid().is_root() || access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_behind_a_link_or_that_others_may_write_is_not_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        assert!(is_own(folder.path()));
        assert!(!is_own(&link));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        assert!(!is_own(folder.path()));
        let why = check_owner(&folder.path().join(SOCKET)).expect_err("anybody can make a socket there").to_string();
        assert!(why.contains("is not a folder that only its owner can write"), "{why}");
    }

    #[test]
    fn a_socket_at_which_too_many_wait_is_live() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(SOCKET);
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&SockAddr::unix(&path).expect("an address")).expect("it is free");
        assert!(!is_live(&path), "nobody listens yet");
        listener.listen(0).expect("it listens");
        let first = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        first.connect(&SockAddr::unix(&path).expect("an address")).expect("it waits");
        assert!(is_live(&path));
        drop(listener);
        assert!(!is_live(&path));
    }

    #[test]
    fn a_client_looks_at_the_system_first_and_then_where_the_user_would_have_a_sidecar() {
        let sockets = sockets();
        assert_eq!(sockets[0], Path::new("/run/roster/roster.sock"));
        assert_eq!(sockets[1], user_socket());
        assert!(sockets.last().is_some_and(|last| last.starts_with("/tmp")));
    }
}
