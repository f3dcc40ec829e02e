//! Adding and removing groups while the sidecar runs.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::config::Config;
use super::group::{Group, Outcomes};
use super::machine::Outcome;
use super::preflight::flaws;
use super::sockets::{Sockets, parse};
use super::{BoundGroup, Controlled, Parts, Workers};
use crate::net::{Address, is_one_place};

/// How many groups may exist when one is added, and how many processes in all of them.
const MAX_GROUPS: usize = 256;
const MAX_PROCESSES: u32 = 4_000;

/// How often to check whether a removed group has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum size of one worker's settings, as JSON.
const MAX_SETTINGS_BYTES: usize = 64 * 1024;

/// Reads the settings of an added worker like those of a `[[worker]]`; or returns all that is wrong with them, each
/// with its key.
pub struct ReadSettings(Box<Read>);

type Read = dyn Fn(&Value) -> Result<Config, Vec<String>> + Send + Sync;

/// Why a worker was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdded {
    /// Its settings are wrong.
    #[error("{0}")]
    Settings(String),
    /// None can be added, whatever its settings.
    #[error("{0}")]
    Full(String),
}

/// Why a worker was not removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRemoved {
    #[error("there is no such worker")]
    NoGroup,
    #[error("it is not saved")]
    NotSaved,
    #[error("cannot forget what was saved of it: {0}")]
    Kept(String),
}

/// The result of a removal.
#[derive(Clone, Debug)]
pub struct Removed {
    pub controlled: Controlled,
    /// Whether it is in the configuration, so that it is back after the next start.
    pub is_configured: bool,
}

impl ReadSettings {
    pub fn new(read: impl Fn(&Value) -> Result<Config, Vec<String>> + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }

    pub(super) fn read(&self, settings: &Value) -> Result<Config, Vec<String>> {
        (self.0)(settings)
    }
}

impl fmt::Debug for ReadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadSettings")
    }
}

impl Workers {
    /// Adds a worker with these settings, a JSON object, even if the caller does not wait for the result: its name, and
    /// the outcome for its processes. If it is to be saved, that happens before it starts; after an error everything is
    /// as before.
    pub fn add(
        self: &Arc<Self>,
        settings: String,
        is_saved: bool,
    ) -> oneshot::Receiver<Result<(String, Outcomes), NotAdded>> {
        let (done, added) = oneshot::channel();
        let workers = self.clone();
        self.begin(async move {
            let added = match workers.add_group(settings, is_saved).await {
                Ok((group, begun)) => Ok((group.name().to_owned(), join_all(begun).await)),
                Err(why) => Err(why),
            };
            // The caller may be gone.
            let _ = done.send(added);
        });
        added
    }

    async fn add_group(
        self: &Arc<Self>,
        settings: String,
        is_saved: bool,
    ) -> Result<(Arc<Group>, Vec<BoxFuture<'static, (u32, Outcome)>>), NotAdded> {
        let Some(parts) = &self.parts else { return Err(NotAdded::stops()) };
        if !parts.has_register {
            let why = "this sidecar has no register, by which workers speak to it: set `[register] listen` or `unix`, or have \
                       a `[[worker]]` in its configuration, and restart it";
            return Err(NotAdded::Settings(why.into()));
        }
        let failed = |error: JoinError| NotAdded::Full(error.to_string());
        // It looks up users and files, which may not answer; others are added and removed meanwhile.
        let workers = self.clone();
        let (config, settings) = spawn_blocking(move || workers.check(&settings)).await.map_err(failed)??;
        let _turn = parts.adding.lock().await;
        let workers = self.clone();
        let bound = spawn_blocking(move || workers.bind(config, settings, is_saved)).await.map_err(failed)??;
        let (name, count) = (bound.config.name.clone(), bound.count);
        let group = match self.have(bound) {
            Ok(Some(group)) => group,
            not_had => {
                // It should not be back after the next start.
                let _ = parts.forget(&name, is_saved, false).await;
                return Err(not_had.map_or_else(|error| NotAdded::Full(error.to_string()), |_| NotAdded::stops()));
            }
        };
        tracing::info!(worker = name, count, is_saved, "a worker was added");
        let begun = group.resize(count, Instant::now());
        Ok((group, begun))
    }

    /// Reads and checks settings by themselves.
    fn check(&self, settings: &str) -> Result<(Config, Value), NotAdded> {
        let Some(parts) = &self.parts else { return Err(NotAdded::stops()) };
        if settings.len() > MAX_SETTINGS_BYTES {
            let why = format!("the settings have {} bytes, and may have {MAX_SETTINGS_BYTES}", settings.len());
            return Err(NotAdded::Settings(why));
        }
        let settings = serde_json::from_str(settings).map_err(|error| {
            NotAdded::Settings(format!("expected an object of JSON with the keys of a [[worker]]: {error}"))
        })?;
        let config = parts.read.read(&settings).map_err(|mistakes| NotAdded::Settings(mistakes.join("; ")))?;
        let flaws: Vec<String> = flaws(&config).iter().map(ToString::to_string).collect();
        if !flaws.is_empty() {
            return Err(NotAdded::Settings(flaws.join("; ")));
        }
        for address in &config.listen {
            if let Some(Address::Unix(path)) = parse(address) {
                // Whether it is there does not matter, but that its folder answers.
                let _ = fs::symlink_metadata(path);
            }
        }
        Ok((config, settings))
    }

    /// Checks settings together with those of all existing workers, listens for them, and saves them.
    fn bind(&self, mut config: Config, settings: Value, is_saved: bool) -> Result<BoundGroup, NotAdded> {
        let Some(parts) = &self.parts else { return Err(NotAdded::stops()) };
        self.check_beside(&config)?;
        // Also for those that have no process now there is room.
        let promised: usize = self.all().iter().map(|group| group.shared.config.descriptors()).sum();
        let free = parts.launcher.descriptors.available_permits().min(parts.descriptors.saturating_sub(promised));
        config.fit(free).map_err(NotAdded::Full)?;
        let sockets = Sockets::at_once(&config).map_err(|error| NotAdded::Settings(error.to_string()))?;
        if is_saved {
            let kept = parts.added.keep(&config.name, settings);
            kept.map_err(|error| NotAdded::Full(format!("it cannot be saved: {error}")))?;
        }
        let count = config.count.number();
        Ok(BoundGroup { config, sockets, count, is_configured: false })
    }

    /// Checks that it can exist besides the others.
    fn check_beside(&self, config: &Config) -> Result<(), NotAdded> {
        let groups = self.all();
        if let Some(group) = groups.iter().find(|group| group.name() == config.name) {
            let cure = match group.is_removed() {
                true => "it is being removed, and `roster worker list` tells how far that is".to_owned(),
                false => format!("take another name, or `roster worker remove {}` first", config.name),
            };
            return Err(NotAdded::Settings(format!("name: there is a worker {:?} already; {cure}", config.name)));
        }
        for (nth, address) in config.listen.iter().enumerate() {
            let Some(place) = parse(address) else { continue };
            let at_one_place = |other: &&String| parse(other).is_some_and(|other| is_one_place(&place, &other));
            let other = groups.iter().find(|group| group.shared.config.listen.iter().any(|other| at_one_place(&other)));
            if let Some(other) = other {
                let why =
                    format!("listen.{nth}: {address} is where the worker {} listens; choose another", other.name());
                return Err(NotAdded::Settings(why));
            }
        }
        if let Some(log) = &config.log
            && let Some(other) = groups.iter().find(|group| group.shared.config.log.as_ref() == Some(log))
        {
            let why = format!("log: {} is the file of the worker {} too; choose another", log.display(), other.name());
            return Err(NotAdded::Settings(why));
        }
        let count = config.count.number();
        let processes: usize = groups.iter().map(|group| group.reports().len()).sum();
        if groups.len() >= MAX_GROUPS || processes + count as usize > MAX_PROCESSES as usize {
            let there_are = format!("there are {} workers with {processes} processes", groups.len());
            let why =
                format!("{there_are}, and may be {MAX_GROUPS} with {MAX_PROCESSES}; `roster worker remove` makes room");
            return Err(NotAdded::Full(why));
        }
        Ok(())
    }

    /// Removes a group, even if the caller does not wait for the result: ends its processes, as many at once as in a
    /// rolling restart, removes it, and forgets what was saved of it.
    pub fn remove(self: &Arc<Self>, name: &str, only_saved: bool) -> oneshot::Receiver<Result<Removed, NotRemoved>> {
        let (done, removed) = oneshot::channel();
        let (workers, name) = (self.clone(), name.to_owned());
        self.begin(async move {
            let _ = done.send(workers.remove_group(&name, only_saved).await);
        });
        removed
    }

    async fn remove_group(self: &Arc<Self>, name: &str, only_saved: bool) -> Result<Removed, NotRemoved> {
        let Some(parts) = &self.parts else { return Err(NotRemoved::NoGroup) };
        let (group, not_forgotten) = {
            let _turn = parts.adding.lock().await;
            let (group, is_saved) = (self.group(name), parts.added.has(name));
            if only_saved && !is_saved && !parts.scaled.has(name) {
                return Err(NotRemoved::NotSaved);
            }
            if !only_saved && group.is_none() {
                return Err(NotRemoved::NoGroup);
            }
            let is_configured = group.as_ref().is_some_and(|group| group.is_configured);
            let not_forgotten = parts.forget(name, is_saved, !is_configured || only_saved).await.err();
            (group.filter(|_| !only_saved), not_forgotten)
        };
        let Some(group) = group else {
            return match not_forgotten {
                Some(why) => Err(NotRemoved::Kept(why)),
                None => Ok(Removed { controlled: (Outcomes::new(), None), is_configured: false }),
            };
        };
        // It may wait for a socket whose folder does not answer.
        group.close(&parts.metrics).await;
        let (outcomes, is_configured) = (group.drain().await, group.is_configured);
        if group.is_gone() {
            self.gone(&group);
        } else {
            // If one cannot be killed, the group is listed until it has ended.
            let workers = self.clone();
            self.begin(async move {
                while !group.is_gone() {
                    sleep(LOOK_INTERVAL).await;
                }
                workers.gone(&group);
            });
        }
        Ok(Removed { controlled: (outcomes, not_forgotten), is_configured })
    }

    fn gone(&self, group: &Arc<Group>) {
        self.groups().all.retain(|other| !Arc::ptr_eq(other, group));
        self.news.tell();
        tracing::info!(worker = group.name(), "a worker was removed");
    }

    fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Without a launcher there are no watchers.
        if let Some(parts) = &self.parts {
            parts.launcher.begin(task);
        }
    }
}

impl Parts {
    /// Forgets what was saved of a group, including its scale; or says why that is impossible.
    async fn forget(&self, name: &str, is_saved: bool, with_scale: bool) -> Result<(), String> {
        let (added, scaled, name) = (self.added.clone(), self.scaled.clone(), name.to_owned());
        let forget = move || {
            if is_saved {
                added.forget(&name)?;
            }
            if with_scale && scaled.has(&name) {
                scaled.keep(&name, None)?;
            }
            std::io::Result::Ok(())
        };
        let forgotten = spawn_blocking(forget).await.map_err(|error| error.to_string())?;
        forgotten.map_err(|error| error.to_string())
    }
}

impl NotAdded {
    fn stops() -> Self {
        Self::Full("the sidecar stops".into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::net::TakenPorts;
    use crate::task::Tasks;
    use crate::worker::{Accept, Added, BoundWorkers, Count, Surroundings};

    #[test]
    fn those_that_are_saved_take_no_descriptors_at_a_start_that_others_were_promised() {
        let folder = tempfile::tempdir().expect("a folder");
        let added = Added::read(Some(folder.path().to_owned()));
        for (name, count) in [("large", 100), ("passed", 1), ("small", 2)] {
            added.keep(name, json!({ "name": name, "count": count })).expect("kept");
        }
        let read = ReadSettings::new(|settings| {
            let name = settings["name"].as_str().unwrap_or_default().to_owned();
            let accept = if name == "passed" { Accept::Sidecar } else { Accept::Worker };
            let listen = vec!["tcp://127.0.0.1:0".to_owned()];
            let count = Count::Number(settings["count"].as_u64().unwrap_or_default() as u32);
            Ok(Config { name, count, accept, listen, ..Config::default() })
        });
        let web = Config { name: "web".into(), count: Count::Number(10), ..Config::default() };
        let descriptors = web.descriptors() + 64;
        let bound = BoundWorkers::bind(&[web], added, read, None, descriptors, TakenPorts::Fail).expect("free ports");
        let groups = bound.groups.iter().map(|group| (group.config.name.as_str(), group.config.max_waiting));
        assert_eq!(groups.collect::<Vec<_>>(), [("web", 1_024), ("passed", 64 / 8), ("small", 45 / 8)]);
        let taken: usize = bound.groups.iter().map(|group| group.config.descriptors()).sum();
        assert!(taken <= descriptors, "{taken} of {descriptors}");
    }

    #[tokio::test]
    async fn one_that_hangs_while_it_is_added_keeps_no_other_from_being_added_or_removed() {
        let ((begins, mut begun), (release, held)) = (mpsc::unbounded_channel(), std::sync::mpsc::channel::<()>());
        let held = Mutex::new(held);
        let read = ReadSettings::new(move |settings| {
            if settings["name"] == "hangs" {
                let _ = begins.send(());
                let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            Err(vec![format!("{} is wrong", settings["name"])])
        });
        let bound = BoundWorkers::bind(&[], Added::read(None), read, None, 100, TakenPorts::Fail).expect("none");
        let surroundings = Surroundings {
            channels: Some(mpsc::unbounded_channel().0),
            performers: mpsc::unbounded_channel().0,
            patience: Duration::ZERO,
            metrics: &Arc::default(),
            tasks: &Tasks::new().0,
        };
        let workers = bound.start(surroundings).expect("there are none");
        let add = |name: &str| workers.add(format!("{{\"name\": {name:?}}}"), false);
        let wrong = |name: &str| Some(NotAdded::Settings(format!("{name:?} is wrong")));
        let hangs = add("hangs");
        begun.recv().await.expect("it is read");
        let soon = Duration::from_secs(60);
        let other = timeout(soon, add("other")).await.expect("it waits for no other").expect("an answer");
        assert_eq!(other.err(), wrong("other"));
        let removed = timeout(soon, workers.remove("third", false)).await.expect("it waits for no other");
        assert_eq!(removed.expect("an answer").err(), Some(NotRemoved::NoGroup));
        drop(release);
        assert_eq!(hangs.await.expect("an answer").err(), wrong("hangs"));
    }
}
