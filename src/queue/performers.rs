//! Performers: which processes of the sidecar's workers perform which queues and have which jobs, and how many clients ask for
//! jobs of which queue.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::job::{Job, JobId, State};
use super::turns::Sources;

#[derive(Debug, Default)]
pub(super) struct Performers(Mutex<Known>);

/// How many perform a queue, as far as this sidecar knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Performed {
    /// Processes of its workers.
    pub workers: usize,
    /// Clients that ask for jobs now.
    pub clients: usize,
}

/// A process that was handed a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub worker: String,
    pub pid: i32,
}

/// A job that a process has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub id: JobId,
    pub queue: String,
    pub name: String,
    pub since: SystemTime,
}

/// A process performs jobs for as long as this exists.
#[derive(Debug)]
pub struct Performing {
    performers: Arc<Performers>,
    number: u64,
}

/// A client asks for jobs for as long as this exists.
#[derive(Debug)]
pub(super) struct Asking<'p> {
    performers: &'p Performers,
    queues: Vec<String>,
}

#[derive(Debug, Default)]
struct Known {
    last: u64,
    processes: HashMap<u64, Process>,
    /// The process that was handed each job last.
    jobs: HashMap<JobId, u64>,
    queues: HashMap<String, Performed>,
}

#[derive(Debug)]
struct Process {
    holder: Holder,
    queues: Vec<String>,
    /// In the order in which they were handed over.
    jobs: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    id: JobId,
    attempt: u32,
    queue: String,
    name: String,
    begun: Option<SystemTime>,
}

impl Performers {
    pub(super) fn add(self: &Arc<Self>, holder: Holder) -> Performing {
        let mut known = self.known();
        known.last += 1;
        let number = known.last;
        known.processes.insert(number, Process { holder, queues: Vec::new(), jobs: VecDeque::new() });
        Performing { performers: self.clone(), number }
    }

    pub(super) fn ask(&self, sources: &Sources) -> Asking<'_> {
        let queues = names(sources);
        let mut known = self.known();
        queues.iter().for_each(|queue| known.count(queue, |it| it.clients += 1));
        Asking { performers: self, queues }
    }

    pub(super) fn of(&self, queue: &str) -> Performed {
        self.known().queues.get(queue).copied().unwrap_or_default()
    }

    /// None: no process of these workers has it.
    pub(super) fn holder_of(&self, job: &Job) -> Option<Holder> {
        let known = self.known();
        let process = known.processes.get(known.jobs.get(&job.id)?)?;
        let has_it = process.jobs.iter().any(|held| (held.id, held.attempt) == (job.id, job.attempt));
        (has_it && matches!(job.state, State::Running { .. })).then(|| process.holder.clone())
    }

    /// By the pids of those that have begun one.
    pub(super) fn begun(&self) -> HashMap<i32, Begun> {
        let known = self.known();
        let begun = |it: &Process| Some((it.holder.pid, it.jobs.iter().find_map(Held::begun)?));
        known.processes.values().filter_map(begun).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Performing {
    /// It performs jobs of these queues, and of no others.
    pub fn performs(&self, sources: &Sources) {
        let mut known = self.performers.known();
        let Some(process) = known.processes.get_mut(&self.number) else { return };
        if process.queues.iter().map(String::as_str).eq(sources.names()) {
            return;
        }
        let now = names(sources);
        let before = mem::replace(&mut process.queues, now.clone());
        before.iter().for_each(|queue| known.count(queue, |it| it.workers -= 1));
        now.iter().for_each(|queue| known.count(queue, |it| it.workers += 1));
    }

    /// It is handed a job.
    pub fn hold(&self, job: &Job) {
        let Job { id, attempt, queue, name, .. } = job;
        let held = Held { id: *id, attempt: *attempt, queue: queue.clone(), name: name.clone(), begun: None };
        let mut known = self.performers.known();
        known.jobs.insert(*id, self.number);
        if let Some(process) = known.processes.get_mut(&self.number) {
            process.jobs.push_back(held);
        }
    }

    /// It begins one that it has.
    pub fn begin(&self, id: JobId) {
        let mut known = self.performers.known();
        let process = known.processes.get_mut(&self.number);
        if let Some(held) = process.and_then(|it| it.jobs.iter_mut().find(|held| held.id == id)) {
            held.begun = Some(SystemTime::now());
        }
    }

    /// It has a job no more.
    pub fn forget(&self, id: JobId) {
        let mut known = self.performers.known();
        if let Some(process) = known.processes.get_mut(&self.number) {
            process.jobs.retain(|held| held.id != id);
        }
        known.forget(id, self.number);
    }
}

impl Drop for Performing {
    fn drop(&mut self) {
        let mut known = self.performers.known();
        let Some(process) = known.processes.remove(&self.number) else { return };
        process.queues.iter().for_each(|queue| known.count(queue, |it| it.workers -= 1));
        process.jobs.iter().for_each(|held| known.forget(held.id, self.number));
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut known = self.performers.known();
        self.queues.iter().for_each(|queue| known.count(queue, |it| it.clients -= 1));
    }
}

impl Known {
    fn count(&mut self, queue: &str, change: impl FnOnce(&mut Performed)) {
        let performed = self.queues.entry(queue.to_owned()).or_default();
        change(performed);
        if *performed == Performed::default() {
            self.queues.remove(queue);
        }
    }

    /// Another process may have it by now.
    fn forget(&mut self, id: JobId, process: u64) {
        if self.jobs.get(&id) == Some(&process) {
            self.jobs.remove(&id);
        }
    }
}

impl Held {
    fn begun(&self) -> Option<Begun> {
        let Self { id, queue, name, .. } = self;
        Some(Begun { id: *id, queue: queue.clone(), name: name.clone(), since: self.begun? })
    }
}

fn names(sources: &Sources) -> Vec<String> {
    sources.names().map(str::to_owned).collect()
}
