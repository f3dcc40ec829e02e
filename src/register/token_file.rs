//! The token that Roster generates if the configuration names none.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use uuid::Uuid;

use super::SecretError;
use crate::default_paths;
use crate::permissions::own::{self, NotOwn};
use crate::secret;
use crate::store::shared::STATE_MODE;

/// The owner writes it; masters in its group read it.
const MODE: u32 = 0o640;

/// Creates the file with a random token, unless it exists.
pub(super) fn make(path: &Path) -> Result<(), SecretError> {
    if is_there(path)? {
        tracing::info!(path = %path.display(), "the token for masters is in this file: register.tokens is not set");
        return Ok(());
    }
    let failed = |reason| SecretError::Make { path: path.to_owned(), reason };
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        DirBuilder::new().mode(STATE_MODE).create(folder).map_err(failed)?;
    }
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let written = write(&fresh).and_then(|()| fs::hard_link(&fresh, path));
    let _ = fs::remove_file(&fresh);
    match written {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.exists() => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => {
            tracing::info!(path = %path.display(), "made a token for masters to show: register.tokens is not set");
            Ok(())
        }
    }
}

/// Whether the file exists, or could be created.
pub(super) fn check(path: &Path) -> Result<(), SecretError> {
    if is_there(path)? {
        return Ok(());
    }
    let failed = |reason| SecretError::Make { path: path.to_owned(), reason };
    let folder = path.parent().unwrap_or(Path::new("/"));
    // A start creates the user's own folder with its ancestors, but only the last level of any other.
    let levels = if default_paths::is_users_state(folder) { usize::MAX } else { 2 };
    let existing = folder.ancestors().take(levels).find(|folder| folder.is_dir());
    access(existing.unwrap_or(folder), AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| failed(error.into()))
}

/// Whether the file exists, which must be the sidecar's own: anyone else who could have put it there would know the
/// token.
fn is_there(path: &Path) -> Result<bool, SecretError> {
    if path.is_relative() {
        return Err(SecretError::Nowhere);
    }
    match own::open(path) {
        Ok(_) => Ok(true),
        Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A start reads it anyway, and reports why it cannot.
        Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => Ok(true),
        Err(NotOwn::Io(reason)) => Err(SecretError::Make { path: path.to_owned(), reason }),
        Err(why) => Err(SecretError::NotOwn { path: path.to_owned(), why }),
    }
}

/// The content of the file, if it is the sidecar's own.
pub(super) fn read(path: &Path) -> Result<String, SecretError> {
    secret::warn_if_open("register.tokens", path);
    let text = own::open(path).and_then(|file| io::read_to_string(file).map_err(NotOwn::Io));
    text.map_err(|why| match why {
        NotOwn::Io(reason) => SecretError::Read { key: "tokens", path: path.to_owned(), reason },
        why => SecretError::NotOwn { path: path.to_owned(), why },
    })
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = own::create(path, MODE)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    writeln!(file, "{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/register.token");
        check(&path).expect("it can be made");
        make(&path).expect("made");
        let token = fs::read_to_string(&path).expect("a token");
        assert!(token.trim().len() >= 32, "{token}");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, MODE);
        make(&path).expect("it is there");
        assert_eq!(fs::read_to_string(&path).expect("a token"), token);
        assert_eq!(fs::read_dir(folder.path().join("state")).expect("a folder").count(), 1);
    }

    #[test]
    fn where_no_token_can_be_made_the_cure_is_told() {
        let path = Path::new("/proc/none/at-all/register.token");
        for error in [check(path).expect_err("no folder"), make(path).expect_err("no folder")] {
            assert!(error.to_string().contains("set register.tokens to a file"), "{error}");
        }
    }
}
