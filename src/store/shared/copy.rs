//! The copy in the state directory, which also makes a start after a reboot warm.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Env;
use crate::metrics::Metrics;
use crate::model::Revision;
use crate::permissions::own;

/// How soon to look again for a file that is not mapped.
const UNMAPPED_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What was written last, and to which file, if that is mapped.
pub(super) type Written = (Revision, Option<Arc<Env>>);

/// Copies the file every `interval` if it holds another revision, and when its writer has ended.
pub(super) async fn keep(
    path: PathBuf,
    interval: Duration,
    mut written: watch::Receiver<Written>,
    metrics: Arc<Metrics>,
) {
    let (mut copied, mut failing, mut patience) = (None, false, interval);
    // A killed process may have left an unfinished one, as large as the disk.
    let _ = own::remove(&half(&path));
    loop {
        let is_last = tokio::time::timeout(patience, written.wait_for(|_| false)).await.is_ok();
        let (revision, env) = written.borrow().clone();
        let env = env.filter(|_| is_last || copied != Some(revision));
        patience =
            if env.is_none() && copied != Some(revision) { UNMAPPED_RETRY_DELAY.min(interval) } else { interval };
        match env.map(|env| copy(&env, &path)) {
            None => {}
            Some(Ok(())) => (copied, failing) = (Some(revision), false),
            Some(Err(error)) => {
                metrics.shared_failures.increment();
                if !failing {
                    tracing::warn!(path = %path.display(), %error, "cannot copy the shared file: a reboot will start with an older one");
                }
                failing = true;
            }
        }
        if is_last {
            return;
        }
    }
}

/// The copy is written under another name, and replaces the old one when it is complete and on disk.
pub(super) fn copy(env: &Env, path: &Path) -> io::Result<()> {
    let fresh = half(path);
    let result = write(env, &fresh).and_then(|()| fs::rename(&fresh, path));
    if result.is_err() {
        // It may be what fills the disk.
        let _ = fs::remove_file(&fresh);
    }
    result?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The name of a copy before it is complete.
fn half(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn write(env: &Env, path: &Path) -> io::Result<()> {
    let file = own::create(path, 0o600)?;
    env.copy_to(&file).map_err(|error| io::Error::other(error.to_string()))?;
    file.sync_all()
}
