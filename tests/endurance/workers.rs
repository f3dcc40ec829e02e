//! Workers of the first sidecar, and visitors who connect to the socket on which it listens for them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Roster, SOON, ensure};
use crate::idl::{TRosterSyncClient, Worker, WorkerAction, WorkerControl, WorkerState, WorkersQuery};

/// The group's name.
const GROUP: &str = "web";

/// How many processes are to be kept alive; each starts another one.
const COUNT: usize = 3;

/// What each of these processes, and nobody else, has in its environment, with the folder of its sidecar.
const MARK: &str = "ENDURANCE_WORKER_OF";

/// Who connect at once, and what each rests in between.
const VISITORS: usize = 2;
const REST: Duration = Duration::from_millis(20);

/// How long an answer may take to come on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the sidecar is configured with.
pub(crate) fn settings() -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/endurance/worker.php");
    format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = [\"php\", {program:?}]\ncount = {COUNT}\n\
         params = {{ folder = \"{{folder}}\" }}\nenvironment = {{ {MARK} = \"{{folder}}\" }}\n\
         listen = [\"unix://{{folder}}/web.sock\"]\nready = \"message\"\nready_timeout = \"30s\"\n\
         restart_delay = \"20ms\"\nmax_restart_delay = \"500ms\"\nstart_retries = 10000\n"
    )
}

/// The workers, and who visits them. Nothing of them outlives this.
#[derive(Debug)]
pub(crate) struct Workers {
    folder: PathBuf,
    visits: Arc<Visits>,
    visitors: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Visits {
    stop: AtomicBool,
    answered: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Times in which visitors may be lost; without an end: it lasts.
    excused: Vec<(Instant, Option<Instant>)>,
    lost: Vec<Lost>,
}

/// A visit without an answer.
#[derive(Clone, Debug)]
struct Lost {
    came: Instant,
    left: Instant,
    why: String,
}

impl Workers {
    pub(crate) fn start(roster: &Roster) -> Self {
        let (folder, visits) = (roster.folder().to_owned(), Arc::<Visits>::default());
        // Until all are there once.
        visits.excuse();
        let visitor = |_| {
            let (socket, visits) = (folder.join("web.sock"), visits.clone());
            std::thread::spawn(move || visits.make(&socket))
        };
        let visitors = (0..VISITORS).map(visitor).collect();
        Self { folder, visits, visitors }
    }

    /// How many visitors were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.visits.answered.load(Ordering::Relaxed)
    }

    /// From now on until all is well visitors may be lost.
    pub(crate) fn excuse(&self) {
        self.visits.excuse();
    }

    pub(crate) fn is_excused(&self) -> bool {
        self.visits.kept().excused.iter().any(|(_, to)| to.is_none())
    }

    /// From now on its code boots no more; or does again.
    pub(crate) fn is_broken(&self, is_broken: bool) {
        let file = self.folder.join("broken");
        if is_broken {
            std::fs::write(file, "").expect("a file");
        } else {
            // It may not be broken.
            let _ = std::fs::remove_file(file);
        }
    }

    /// Whether all run, each with the process that it has started, and nothing else is left of any, not even unburied.
    pub(crate) fn are_well(&self, roster: &Roster) -> Result<(), String> {
        let workers = told(roster)?;
        let run = workers.iter().filter(|worker| worker.state == WorkerState::RUNNING).count();
        ensure(workers.len() == COUNT && run == COUNT, format!("workers: {workers:?}"))?;
        let marked = self.marked();
        ensure(marked.len() == 2 * COUNT, format!("processes of workers: {marked:?}; {workers:?}"))?;
        let zombies = zombies_of(roster.process().id());
        ensure(zombies.is_empty(), format!("zombies: {zombies:?}"))
    }

    /// All is well: from now on no visitor may be lost. `Err` with the first who was before, without an excuse.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut kept = self.visits.kept();
        let now = Instant::now();
        kept.excused.iter_mut().for_each(|(_, to)| *to = to.or(Some(now)));
        let is_excused = |lost: &Lost| {
            kept.excused.iter().any(|(from, to)| lost.left >= *from && to.is_none_or(|to| lost.came <= to))
        };
        let wrong = kept.lost.iter().find(|lost| !is_excused(lost)).cloned();
        kept.lost.clear();
        wrong.map_or(Ok(()), |lost| {
            let took = lost.left.duration_since(lost.came);
            Err(format!("{} after {took:.1?}, {:.1?} ago", lost.why, lost.left.elapsed()))
        })
    }

    /// Waits until no process is left of them. `Err`: some are.
    pub(crate) fn are_gone(&self) -> Result<(), String> {
        let until = Instant::now() + SOON;
        while Instant::now() < until && !self.marked().is_empty() {
            std::thread::sleep(REST);
        }
        ensure(self.marked().is_empty(), format!("{:?}", self.marked()))
    }

    /// Those of their processes that have not ended, with what each runs.
    fn marked(&self) -> Vec<(i32, String)> {
        let mark = format!("{MARK}={}", self.folder.display()).into_bytes();
        let read = |pid: i32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is_marked = |pid: &i32| read(*pid, "environ").split(|byte| *byte == 0).any(|entry| entry == mark);
        let named = |pid: i32| (pid, String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " "));
        processes().filter(is_marked).map(named).collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.visits.stop.store(true, Ordering::Relaxed);
        self.visitors.drain(..).for_each(|visitor| visitor.join().expect("a visitor does not panic"));
        for (pid, _) in self.marked() {
            // It may just have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Visits {
    fn make(&self, socket: &Path) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let came = Instant::now();
            match visit(socket, number) {
                Ok(()) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(why) => self.kept().lost.push(Lost { came, left: Instant::now(), why }),
            }
            number += 1;
            std::thread::sleep(REST);
        }
    }

    fn excuse(&self) {
        self.kept().excused.push((Instant::now(), None));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn visit(socket: &Path, number: u64) -> Result<(), String> {
    let answer = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{number}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).map(|_| answer)
    };
    let answer = answer().map_err(|error: std::io::Error| format!("a visitor: {error}"))?;
    ensure(answer == format!("answer to {number}\n"), format!("a visitor was answered {answer:?}"))
}

/// What a sidecar tells of its workers.
pub(crate) fn told(roster: &Roster) -> Result<Vec<Worker>, String> {
    let mut client = roster.try_client(crate::harness::Dialect::ALL[0]).map_err(|error| format!("{error:?}"))?;
    client.workers(WorkersQuery::default()).map(|reply| reply.workers).map_err(|error| format!("{error:?}"))
}

/// Replaces them all, one after the other; or why not.
pub(crate) fn roll(roster: &Roster) -> Result<(), String> {
    let request = WorkerControl::new(GROUP.into(), None, WorkerAction::ROLL, None, None, 30_000, None);
    let mut client = roster.try_client(crate::harness::Dialect::ALL[0]).map_err(|error| format!("{error:?}"))?;
    let reply = client.control_workers(request).map_err(|error| format!("{error:?}"))?;
    ensure(!reply.timed_out, "it is not done in time")?;
    let failed = reply.outcomes.into_iter().find_map(|outcome| Some(format!("{}: {}", outcome.name, outcome.error?)));
    failed.map_or(Ok(()), Err)
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of a process that have ended and that nobody has buried.
fn zombies_of(parent: u32) -> Vec<i32> {
    let is_one = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().take(2).eq(["Z", &parent.to_string()])
    };
    processes().filter(is_one).collect()
}
