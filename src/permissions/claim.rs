//! Claims: what no other process may have while this one does.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::own::{self, NotOwn};

/// How often to retry if a file is replaced before it could be locked.
const MAX_ATTEMPTS: usize = 3;

/// The maximum length of a claim's content: a process id and a path.
const MAX_BYTES: u64 = 8_192;

/// A lock that no other process can have while this lives.
#[derive(Debug)]
pub struct Claim {
    lock: Flock<File>,
    path: PathBuf,
}

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum NotClaimed {
    #[error("another sidecar{0} has it")]
    Held(Holder),
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The process that has a claim, by its own process id; none in the moment before it has written that down.
#[derive(Debug)]
pub struct Holder(Option<u32>);

impl Claim {
    /// Claims a file, a socket or a folder. Only our user may open the hidden file next to it that is locked for that:
    /// anyone who can open a file can lock it.
    pub fn of(path: &Path) -> Result<Self, NotClaimed> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".claim");
        let path = path.with_file_name(name);
        for _ in 0..MAX_ATTEMPTS {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = own::open_with(&path, &mut options).map_err(|why| refused(&path, why))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    let claim = Self { lock, path: path.clone() };
                    match claim.found() {
                        // Another user may have hard-linked a file of ours here: leave that file as it is.
                        Some(found) if found.nlink() > 1 => own::remove(&path)?,
                        Some(_) => {
                            let closed = claim.lock.set_permissions(fs::Permissions::from_mode(0o600));
                            closed.map_err(|error| refused(&path, NotOwn::Io(error)))?;
                            claim.sign()?;
                            return Ok(claim);
                        }
                        None => {}
                    }
                }
                Err((file, Errno::EWOULDBLOCK)) => {
                    let found = file.metadata()?;
                    let is_open_to_others = found.mode() & 0o077 != 0;
                    let (holder, place) = read(file);
                    // Another user may have hard-linked a file here that is locked for something else.
                    let is_elsewhere = found.nlink() > 1 && place != fs::canonicalize(&path).ok();
                    if !is_elsewhere && (!is_open_to_others || holder.is_alive()) {
                        return Err(NotClaimed::Held(holder));
                    }
                    // Another user has locked it, which no sidecar has to respect.
                    own::remove(&path)?;
                }
                Err((_, error)) => return Err(NotClaimed::Failed(error.into())),
            }
        }
        Err(NotClaimed::Held(Holder(None)))
    }

    /// Whether the locked file is still in its place.
    pub fn is_there(&self) -> bool {
        self.found().is_some()
    }

    /// What is in its place, if that is the locked file.
    fn found(&self) -> Option<fs::Metadata> {
        let (found, locked) = (fs::symlink_metadata(&self.path).ok()?, self.lock.metadata().ok()?);
        ((found.dev(), found.ino()) == (locked.dev(), locked.ino())).then_some(found)
    }

    /// Writes down the holder, and the claim's own place; a full disk does not matter.
    fn sign(&self) -> io::Result<()> {
        self.lock.set_len(0)?;
        let place = fs::canonicalize(&self.path).unwrap_or_default();
        let text = [format!("{}\n", std::process::id()).as_bytes(), place.as_os_str().as_bytes()].concat();
        let _ = (&*self.lock).write_all(&text);
        Ok(())
    }
}

impl Holder {
    /// Whether there is another process with this id that may have the claim: one of our user, or of root.
    fn is_alive(&self) -> bool {
        let process = self.0.filter(|process| *process != std::process::id());
        let owner = process.and_then(|process| fs::metadata(format!("/proc/{process}")).ok()).map(|it| it.uid());
        owner.is_some_and(|owner| owner == 0 || owner == geteuid().as_raw())
    }
}

impl Display for Holder {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |process| write!(to, " (process {process})"))
    }
}

/// The holder of a claim, and its place; none: the file does not contain it.
fn read(file: File) -> (Holder, Option<PathBuf>) {
    let mut text = Vec::new();
    // A file that cannot be read is like an empty one.
    let _ = file.take(MAX_BYTES).read_to_end(&mut text);
    let mut parts = text.splitn(2, |byte| *byte == b'\n');
    let process = parts.next().and_then(|process| str::from_utf8(process).ok()?.parse().ok());
    (Holder(process), parts.next().map(|place| OsStr::from_bytes(place).into()))
}

/// Why a claim is refused: one that another user left names its owner.
fn refused(path: &Path, why: NotOwn) -> io::Error {
    match (why, fs::symlink_metadata(path)) {
        (NotOwn::Io(error), Ok(left)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (path, owner, user) = (path.display(), own::name_of(left.uid()), own::name_of(geteuid().as_raw()));
            io::Error::other(format!(
                "{path} belongs to {owner}, and this is a process of {user}: remove it, as {owner}"
            ))
        }
        (NotOwn::Io(error), _) if error.kind() == io::ErrorKind::IsADirectory => io::Error::other(format!(
            "{} is a directory, in the place of a file that Roster locks: remove it",
            path.display()
        )),
        (why, _) => why.at(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    /// The user id of www-data, on Debian.
    const OTHER: u32 = 33;

    fn lock(path: &Path, user: u32) -> std::process::Child {
        let mut command = std::process::Command::new("flock");
        command
            .arg("--no-fork")
            .arg(path)
            .args(["sh", "-c", "echo; exec sleep 100"])
            .uid(user)
            .stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("flock");
        let _ = child.stdout.take().expect("its output").read(&mut [0]);
        child
    }

    #[test]
    fn nobody_but_our_user_can_hold_a_claim_also_where_a_mode_was_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
        let (path, hidden) = (folder.path().join("state"), folder.path().join(".state.claim"));
        let mode = || hidden.metadata().expect("a file").mode() & 0o777;
        drop(Claim::of(&path).expect("free"));
        assert_eq!(mode(), 0o600);
        let user = if geteuid().is_root() { OTHER } else { geteuid().as_raw() };
        if geteuid().is_root() {
            let mut refused = lock(&hidden, user);
            assert!(!refused.wait().expect("it ends").success(), "www-data may open it");
        }
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o644)).expect("ours");
        let mut holder = lock(&hidden, user);
        let claim = Claim::of(&path).expect("who only could open the file has no claim");
        assert_eq!(mode(), 0o600);
        let own = std::process::id();
        assert!(matches!(Claim::of(&path), Err(NotClaimed::Held(Holder(Some(process)))) if process == own));
        assert!(claim.is_there());
        holder.kill().and_then(|()| holder.wait()).expect("it lives");
    }

    #[test]
    fn a_living_process_of_our_user_keeps_its_claim_whatever_became_of_the_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, hidden) = (folder.path().join("state"), folder.path().join(".state.claim"));
        drop(Claim::of(&path).expect("free"));
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o644)).expect("ours");
        let mut holder = lock(&hidden, geteuid().as_raw());
        fs::write(&hidden, holder.id().to_string()).expect("ours");
        assert!(matches!(Claim::of(&path), Err(NotClaimed::Held(Holder(Some(process)))) if process == holder.id()));
        holder.kill().and_then(|()| holder.wait()).expect("it lives");
        Claim::of(&path).expect("whoever had it is gone");
    }

    #[test]
    fn a_file_that_has_the_name_of_a_claim_beside_its_own_is_not_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let (kept, hidden) = (folder.path().join("kept"), folder.path().join(".state.claim"));
        fs::write(&kept, "root:secret").and_then(|()| fs::hard_link(&kept, &hidden)).expect("made");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o644)).expect("ours");
        let claim = Claim::of(&folder.path().join("state")).expect("it is free");
        assert_eq!(fs::read_to_string(&kept).expect("a file"), "root:secret");
        assert_eq!(kept.metadata().expect("a file").mode() & 0o777, 0o644);
        assert!(claim.is_there() && hidden.metadata().expect("a file").nlink() == 1);
    }

    #[test]
    fn what_is_locked_for_something_else_is_no_claim_where_it_was_hard_linked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let own = std::process::id();
        let other = Claim::of(&path("other")).expect("it is free");
        fs::write(path("lock"), own.to_string()).expect("made");
        fs::set_permissions(path("lock"), fs::Permissions::from_mode(0o600)).expect("ours");
        let mut holder = lock(&path("lock"), geteuid().as_raw());
        for locked in [".other.claim", "lock"] {
            fs::hard_link(path(locked), path(".state.claim")).expect("made");
            let claim = Claim::of(&path("state")).expect("nobody has it");
            assert!(claim.is_there() && other.is_there(), "{locked}");
            fs::hard_link(path(".state.claim"), path("linked")).expect("made");
            assert!(
                matches!(Claim::of(&path("state")), Err(NotClaimed::Held(Holder(Some(process)))) if process == own)
            );
            fs::remove_file(path("linked")).and_then(|()| fs::remove_file(path(".state.claim"))).expect("ours");
        }
        holder.kill().and_then(|()| holder.wait()).expect("it lives");
    }

    #[test]
    fn a_directory_in_the_place_of_a_claim_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join(".state.claim")).expect("a directory");
        let refused = Claim::of(&folder.path().join("state")).expect_err("no file").to_string();
        assert!(refused.contains(".state.claim is a directory"), "{refused}");
    }

    #[test]
    fn a_claim_that_may_not_be_opened_names_itself_and_its_owner() {
        let denied = || NotOwn::Io(io::ErrorKind::PermissionDenied.into());
        let left = tempfile::NamedTempFile::new().expect("a file");
        let owner = own::name_of(geteuid().as_raw());
        let told = refused(left.path(), denied()).to_string();
        assert!(told.starts_with(&format!("{} belongs to {owner}, and", left.path().display())), "{told}");
        assert!(told.ends_with(&format!("remove it, as {owner}")), "{told}");
        let none = refused(&left.path().join("none"), denied());
        assert_eq!(none.kind(), io::ErrorKind::PermissionDenied);
    }
}
