//! Left jobs: those of an earlier configuration, which lie on the disk while Redis has the queues.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::Config;
use super::book::{Book, Counts};
use super::change::Now;
use super::engine::{Engine, EngineError, file_in, sound};
use super::keys;
use crate::clock::millis_since_1970;
use crate::permissions::Claim;
use crate::task::{Phase, Tasks};

/// Where the documentation has the jobs, below the folder of the state.
const USUAL: &str = "queue";

/// What lies in a folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// How many are to be performed,
    open: u64,
    dead: u64,
    /// and whether Redis is to have them.
    are_of_a_buffer: bool,
}

/// Warns, on a thread of its own, of jobs in the usual folder that nobody performs as Redis has the queues.
pub fn warn_of_left_jobs(config: &Config, state: Option<PathBuf>, tasks: &Tasks) {
    let folder = state.map(|state| state.join(USUAL)).filter(|folder| config.path.as_ref() != Some(folder));
    let Some(folder) = folder.filter(|_| config.backend.is_some()) else { return };
    let config = config.clone();
    look_beside(tasks, move || warn_of(&folder, &config));
}

/// Looks on a thread of its own, for which no stop waits: a file is read as a whole, from a disk that may hang.
fn look_beside(tasks: &Tasks, look: impl FnOnce() + Send + 'static) {
    let tasks = tasks.of(Phase::Sources);
    let stop = tasks.stop_signal();
    tasks.short(async move {
        tokio::select! {
            _ = spawn_blocking(look) => {}
            () = stop.requested() => {}
        }
    });
}

fn warn_of(folder: &Path, config: &Config) {
    let path = folder.display();
    match look_into(folder, config) {
        Ok(Left { open: 0, dead: 0, .. }) => {}
        Ok(Left { open, dead, are_of_a_buffer: false }) => tracing::warn!(
            %path,
            open,
            dead,
            "jobs of an earlier `queue.path` lie there, and nobody performs them while `queue.backend` is set: set \
             `queue.buffer`, and `queue.path` to that, which moves them to Redis (docs/queue.md, From the file to Redis)"
        ),
        Ok(Left { open, dead, are_of_a_buffer: true }) => tracing::warn!(
            %path,
            open,
            dead,
            "jobs of an earlier buffer lie there, and nobody delivers them: set `queue.buffer`, and `queue.path` to that, until \
             Redis has them"
        ),
        Err(why) => tracing::warn!(%path, why, "it is not known whether jobs of an earlier `queue.path` lie there"),
    }
}

fn look_into(folder: &Path, config: &Config) -> Result<Left, String> {
    let file = file_in(folder);
    if !fs::symlink_metadata(&file).is_ok_and(|found| found.is_file()) {
        return Ok(Left::default());
    }
    // Another sidecar that has it performs them.
    let Ok(_claim) = Claim::of(&file) else { return Ok(Left::default()) };
    let mut engine = Engine::open(folder, config).map_err(|error| error.to_string())?;
    read(&mut engine).map_err(|error| error.to_string())
}

fn read(engine: &mut Engine) -> Result<Left, EngineError> {
    let txn = engine.begin()?;
    let now = Now { wall: millis_since_1970(SystemTime::now()), since_boot: 0, uptime: 0 };
    let book = Book::load(&txn, now, &HashMap::new())?;
    let mut left = Left { are_of_a_buffer: sound(txn.get(keys::BUFFER))? != Some(None), ..Left::default() };
    for Counts { waiting, delayed, running, dead, .. } in book.queues.values().map(|queue| &queue.counts) {
        left.open += waiting + delayed + running;
        left.dead += dead;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_look_that_hangs() {
        let (tasks, _failed) = Tasks::new();
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        look_beside(&tasks, move || {
            let _ = hangs.recv();
        });
        let cut = tasks.stop(Duration::from_secs(10)).await;
        assert!(cut.is_empty(), "{cut}");
        drop(release);
    }
}
