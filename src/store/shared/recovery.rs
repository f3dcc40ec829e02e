//! Recovery: what an earlier process left is taken over, or set aside if unusable.

use std::borrow::Borrow;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::contents;
use super::image::{Image, InvalidFile};
use super::{Contents, lock_file, with_end};
use crate::permissions::own::remove;
use crate::store::Feed;

/// What an earlier process left in a file. An unusable one is set aside; and one that was set aside because it belongs
/// to another cluster comes back when that is ours.
pub(super) fn recover(path: &Path, feeds: &[impl Borrow<Feed>]) -> io::Result<Option<Contents>> {
    let began = Instant::now();
    let (left, why) = match Contents::load(path) {
        Ok(left) => match left.check_cluster(feeds) {
            Ok(()) => {
                let ms = began.elapsed().as_millis() as u64;
                let (nodes, revision) = (left.nodes.len(), left.status.fresh.revision);
                tracing::info!(path = %path.display(), nodes, revision, ms, "read what an earlier process left");
                return Ok(Some(left));
            }
            Err(why) => (Some(left), why),
        },
        Err(InvalidFile::Unreadable(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(why) => (None, why),
    };
    let (other, spare) = (with_end(path, ".other-cluster"), with_end(path, ".back"));
    // There is a spare if an earlier exchange was interrupted.
    let fits = |from: &Path| Contents::load(from).ok().filter(|back| back.check_cluster(feeds).is_ok());
    let back = fits(&spare).or_else(|| fits(&other).filter(|_| fs::rename(&other, &spare).is_ok()));
    let aside = if left.is_some() { other } else { with_end(path, ".set-aside") };
    // An empty file may be in the way of one with content.
    if is_new(path) || left.is_some_and(|left| left.is_empty()) {
        remove(path)?;
    } else {
        fs::rename(path, &aside)?;
        let (path, aside) = (path.display(), aside.display());
        tracing::warn!(%path, %aside, %why, "set a shared file aside; a new one takes its place");
    }
    // A reader table belongs to one file.
    remove(&lock_file(path))?;
    if let Some(back) = &back {
        fs::rename(&spare, path)?;
        let (nodes, revision) = (back.nodes.len(), back.status.fresh.revision);
        tracing::info!(path = %path.display(), nodes, revision, "took back the shared file that had been set aside");
    }
    Ok(back)
}

/// Whether there is no file yet, or nothing was written to it.
fn is_new(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) => found.is_file() && found.len() == 0 || Image::open_own(path).is_ok_and(|image| image.is_empty()),
        Err(_) => true,
    }
}

/// A copy that is newer than `here`.
pub(super) fn recover_newer(copy: &Path, here: Option<&Contents>, feeds: &[impl Borrow<Feed>]) -> Option<Contents> {
    let is_newer = |revision| here.is_none_or(|here| revision > here.status.fresh.revision);
    let told = Image::open_own(copy).and_then(|image| contents::status(&image));
    if told.is_ok_and(|status| !is_newer(status.fresh.revision)) {
        return None;
    }
    let left = recover(copy, feeds);
    let left = left.inspect_err(|error| tracing::warn!(path = %copy.display(), %error, "cannot use the copy")).ok()?;
    left.filter(|left| is_newer(left.status.fresh.revision))
}
