//! The history: what happened to instances, when, and why; kept across restarts, for operators.
//!
//! It follows the store like any other subscriber: it compares the last snapshot it saw with the newest. Another thread
//! writes the file, and nothing waits for that: a slow or full disk delays nothing, and once it can be written again,
//! everything that is still kept is in the file.

mod allowance;
mod compare;
mod entry;
mod file;
mod kept;
mod owners;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::sleep;

use self::allowance::Allowances;
use self::compare::{Comparison, root_of};
pub use self::entry::{Entry, Event};
use self::file::{HistoryFile, Loaded};
pub use self::kept::Kept;
use self::owners::Owners;
use crate::clock::millis_since_1970;
use crate::metrics::Metrics;
use crate::model::Revision;
use crate::store::{Snapshot, Store};
use crate::task::{Phase, Stop, Tasks};

/// The name of the file in the state folder.
const FILE: &str = "history.jsonl";

/// How long to rest after a look: four times as long as it took, so that constant change does not take a whole
/// processor.
const MIN_REST: Duration = Duration::from_millis(5);
const MAX_REST: Duration = Duration::from_millis(250);

/// How often to check whether omitted entries are due to be counted.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How many entries of a service are searched for one of an instance.
const MAX_SEEN: usize = 64;

/// How long entries are gathered before they are written, and how soon a failed write is retried.
const GATHERED: Duration = Duration::from_millis(50);
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// `[history]`: how much of what happened to instances is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The maximum size of its file in `[shared] state`. Half of it is kept.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 64>")]
    pub max_size: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_size: ByteSize::mib(8) }
    }
}

/// What is known of the past.
#[derive(Debug, Default)]
pub struct History {
    /// None: what an earlier process left is not known yet.
    kept: ArcSwapOption<Kept>,
    /// Why the file does not hold it.
    trouble: ArcSwapOption<String>,
    added: Notify,
}

impl History {
    /// Follows the store from its current state on, and keeps a file in the state folder, if there is one.
    pub fn start(
        config: &Config,
        folder: Option<&Path>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> io::Result<Arc<Self>> {
        let history = Arc::new(Self::default());
        let max_bytes = config.max_size.as_u64();
        let file = folder.map(|folder| HistoryFile::new(folder.join(FILE), max_bytes));
        let (loading, loaded) = tokio::sync::oneshot::channel();
        let recorder = Recorder {
            history: history.clone(),
            known: store.snapshot(),
            owners: Owners::default(),
            allowances: Allowances::default(),
            kept: Kept::new(max_bytes as usize / 2),
            next: 1,
        };
        let (follower, following) = (store.clone(), tasks.of(Phase::Sources));
        let stop = following.stop_signal();
        following.thread("the history", move |_| async move {
            let loaded = tokio::select! {
                loaded = loaded => loaded.unwrap_or_default(),
                () = stop.requested() => return,
            };
            recorder.follow(&follower, loaded, &stop).await;
        })?;
        let (history_, metrics, writing) = (history.clone(), metrics.clone(), tasks.of(Phase::SharedFile));
        let stop = writing.stop_signal();
        writing.thread("the history's file", move |_| async move {
            let Some(mut file) = file else {
                drop(loading);
                return stop.requested().await;
            };
            // If the receiver is gone, the process is about to end.
            let _ = loading.send(load(&mut file));
            keep(file, &history_, &metrics, &stop).await;
        })?;
        Ok(history)
    }

    /// A history with these entries that follows nothing.
    #[cfg(test)]
    pub(crate) fn of(entries: impl IntoIterator<Item = Entry>) -> Arc<Self> {
        let mut kept = Kept::new(1 << 20);
        entries.into_iter().for_each(|entry| kept.push(entry));
        Arc::new(Self { kept: ArcSwapOption::from_pointee(kept), ..Self::default() })
    }

    /// The kept entries. None: not known yet.
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.load_full()
    }

    /// Whether it remembers an instance of a service, also of before the start.
    pub fn has_listed(&self, service: &str) -> bool {
        let is_of_instance = |entry: &Arc<Entry>| !matches!(entry.event, Event::Undecodable | Event::Omitted);
        self.kept().is_some_and(|kept| kept.after(Some(service), 0).take(MAX_SEEN).any(is_of_instance))
    }

    /// Why the file does not hold the kept entries; None: it does, or there should be none.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }
}

/// What an earlier process left, with an entry about what could not be read.
fn load(file: &mut HistoryFile) -> Loaded {
    match file.load() {
        Ok(mut loaded) if loaded.unreadable_bytes + loaded.torn_bytes > 0 => {
            let why = match loaded.unreadable_bytes {
                0 => format!("the last line of its file was cut off after {} bytes, as by a crash", loaded.torn_bytes),
                bytes => format!("{bytes} bytes of its file could not be read; it is set aside"),
            };
            tracing::warn!(path = %file.path().display(), why, "cannot read a part of the history; the rest is kept");
            let (number, time) = loaded.entries.last().map_or((0, 0), |last| (last.number, last.time));
            let omitted = Entry { number: number + 1, time, event: Event::Omitted, why, ..Entry::default() };
            loaded.entries.push(omitted);
            loaded
        }
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(path = %file.path().display(), %error, "cannot read the history of an earlier process; it is set aside, and begins anew");
            let why = format!("the file of an earlier process could not be read ({error}); it is set aside");
            let time = millis_since_1970(SystemTime::now()) as i64;
            let omitted = Entry { number: 1, time, event: Event::Omitted, why, ..Entry::default() };
            Loaded { entries: vec![omitted], ..Loaded::default() }
        }
    }
}

/// Keeps the file up to date until the stop.
async fn keep(mut file: HistoryFile, history: &History, metrics: &Metrics, stop: &Stop) {
    let mut is_last = false;
    while !is_last {
        let is_failing = history.trouble.load().is_some();
        tokio::select! {
            () = history.added.notified(), if !is_failing => {}
            () = sleep(RETRY_DELAY), if is_failing => {}
            () = stop.requested() => is_last = true,
        }
        let Some(kept) = history.kept() else { continue };
        let written = file.write(&kept);
        if written.is_err() {
            metrics.history_failures.increment();
        }
        match written {
            Ok(()) if is_failing => {
                tracing::info!(path = %file.path().display(), "the history is written again");
                history.trouble.store(None);
            }
            Err(error) if !is_failing => {
                tracing::error!(path = %file.path().display(), %error, "cannot write the history; it is kept in memory until that can be");
                history.trouble.store(Some(Arc::new(format!("cannot write {}: {error}", file.path().display()))));
            }
            _ => {}
        }
        tokio::select! {
            () = sleep(GATHERED) => {}
            () = stop.requested() => {}
        }
    }
}

/// Creates the entries.
struct Recorder {
    history: Arc<History>,
    /// The last snapshot that was compared.
    known: Arc<Snapshot>,
    owners: Owners,
    allowances: Allowances,
    kept: Kept,
    /// The number of the next entry.
    next: u64,
}

impl Recorder {
    async fn follow(mut self, store: &Store, loaded: Loaded, stop: &Stop) {
        self.take_up(loaded);
        self.owners = Owners::of(&self.known);
        let revisions = store.subscribe_to_revisions();
        let mut is_last = false;
        while !is_last {
            let began = Instant::now();
            self.look(&store.snapshot());
            self.publish();
            tokio::select! {
                () = sleep((began.elapsed() * 4).clamp(MIN_REST, MAX_REST)) => {}
                () = stop.requested() => {}
            }
            tokio::select! {
                () = revisions.changed() => {}
                () = sleep(LOOK_INTERVAL), if self.allowances.have_omitted() => {}
                () = stop.requested() => is_last = true,
            }
        }
        self.look(&store.snapshot());
        self.tell_omitted(true);
        self.add(Entry { event: Event::Stopped, ..Entry::default() });
        self.publish();
    }

    /// Begins with what an earlier process left.
    fn take_up(&mut self, loaded: Loaded) {
        let last = loaded.entries.iter().rfind(|entry| entry.event != Event::Omitted).cloned();
        for mut entry in loaded.entries {
            // An earlier version did not write it down.
            if let Some(path) = entry.path.as_ref().filter(|_| entry.root.is_empty()) {
                entry.root = root_of(&self.known, path).unwrap_or_default().to_owned();
            }
            self.kept.push(entry);
        }
        // So that they grow even if the file is lost.
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        self.next = micros.max(self.kept.last() + 1);
        let why = match last {
            Some(last) if last.event == Event::Stopped => "what changed since the stop is found when sources are read",
            Some(_) => {
                "the process before has not stopped by itself; what changed since is found when sources are read"
            }
            None => "nothing is known of before",
        };
        self.add(Entry { event: Event::Started, why: why.into(), ..Entry::default() });
    }

    /// Records what happened to instances since the last look.
    fn look(&mut self, newest: &Arc<Snapshot>) {
        let known = std::mem::replace(&mut self.known, newest.clone());
        if known.revision() != newest.revision() {
            let lost = self.owners.follow(&known, newest);
            let comparison = Comparison { old: &known, new: newest, owners: &self.owners, lost: &lost };
            let (now, allowances) = (Instant::now(), &mut self.allowances);
            for entry in comparison.entries(|root, service| allowances.allows(root, service, now)) {
                self.add(entry);
            }
        }
        self.tell_omitted(false);
    }

    fn tell_omitted(&mut self, is_last: bool) {
        for (root, service, count) in self.allowances.take_omitted(Instant::now(), is_last) {
            let why = "too many at once to be told one by one".into();
            self.add(Entry { event: Event::Omitted, service, root, why, count, ..Entry::default() });
        }
    }

    fn add(&mut self, entry: Entry) {
        let time = millis_since_1970(SystemTime::now()) as i64;
        let revision: Revision = self.known.revision();
        self.kept.push(Entry { number: self.next, time, revision, ..entry.within_bounds() });
        self.next += 1;
    }

    fn publish(&self) {
        let is_new = self.history.kept.load().as_ref().is_none_or(|kept| kept.last() != self.kept.last());
        if is_new {
            self.history.kept.store(Some(Arc::new(self.kept.clone())));
            self.history.added.notify_one();
        }
    }
}
