//! Orphans: what a worker started and did not take along when it ended. They have its session, or carry its mark in their
//! environment, however often they forked.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::spawn_blocking;

use super::process_stat::ProcessStat;
use super::reaper::Reaper;

/// The variable that holds the mark of a process.
pub(super) const MARK: &str = "ROSTER_PROCESS";

/// How much of an environment is read: any process can make its own as large as it likes.
const MAX_ENVIRONMENT_BYTES: u64 = 256 * 1024;

/// How many threads of a process are asked for its environment whose first one has ended.
const MAX_THREADS: usize = 64;

/// How long it is looked for more of them, and what is waited in between: one that is killed may have started another in
/// the moment before.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long one look at environments may take: a process can have the reader of its own wait for ever.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How many processes are named that cannot be ended.
const MAX_NAMED: usize = 10;

/// A process of ours that is to leave nothing behind.
#[derive(Clone, Debug)]
pub(super) struct Leaver {
    pub(super) pid: Pid,
    pub(super) mark: String,
    /// Whether its number may be another's by now.
    pub(super) is_reaped: bool,
}

/// Kills what processes leave behind: for all that ended since it looked last at once.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    leavers: Mutex<Vec<Leaver>>,
    turn: tokio::sync::Mutex<()>,
    reader: Arc<Reader>,
}

/// Reads environments, on a thread for which nobody waits too long, and which is one at a time.
#[derive(Debug, Default)]
struct Reader(Mutex<Option<Arc<AtomicI32>>>);

/// A process, whose number is another's once it has ended.
#[derive(Clone, Copy, Debug)]
struct Found {
    pid: Pid,
    stat: ProcessStat,
}

impl Sweeper {
    /// Kills what a process left behind, until nothing of it is left, or for as long as that may take.
    pub(super) async fn sweep(&self, leaver: Leaver, reaper: &Arc<Reaper>) {
        self.leavers().push(leaver);
        let _turn = self.turn.lock().await;
        let leavers = std::mem::take(&mut *self.leavers());
        // Whoever had the turn before may have taken it along.
        if !leavers.is_empty() {
            let (reader, reaper) = (self.reader.clone(), reaper.clone());
            let _ = spawn_blocking(move || kill_left_by(&leavers, || reaper.pids(), &reader)).await;
        }
    }

    fn leavers(&self) -> MutexGuard<'_, Vec<Leaver>> {
        self.leavers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill_left_by(leavers: &[Leaver], living: impl Fn() -> HashSet<Pid>, reader: &Reader) {
    let marks: Vec<&str> = leavers.iter().map(|leaver| leaver.mark.as_str()).collect();
    let is_marked = marked_by(&marks);
    let killed = kill_all(|kill| {
        // Nobody else's processes are looked at. Whatever a worker started descends from this process, which reaps its
        // orphans; and whatever is in a living worker's session was started by that one.
        let all = descendants();
        let is_another = |leaver: &Leaver| leaver.is_reaped && all.iter().any(|found| found.pid == leaver.pid);
        let ended: HashSet<Pid> =
            leavers.iter().filter(|leaver| !is_another(leaver)).map(|leaver| leaver.pid).collect();
        let (left, others): (Vec<_>, Vec<_>) = all.iter().partition(|found| ended.contains(&found.stat.session));
        left.into_iter().for_each(&mut *kill);
        let living = living();
        let unknown = others.into_iter().filter(|found| !living.contains(&found.stat.session)).collect();
        reader.find(unknown, is_marked.clone(), kill)
    });
    if killed > 0 {
        tracing::warn!(count = killed, "killed what processes left behind when they ended");
    }
}

/// Kills what processes of an earlier sidecar, or of this one, left behind; blocks meanwhile.
pub(super) fn kill_marked(marks: &[&str]) {
    let (is_marked, reader) = (marked_by(marks), Reader::default());
    let killed = kill_all(|kill| reader.find(living().collect(), is_marked.clone(), kill));
    if killed > 0 {
        tracing::warn!(count = killed, "killed what workers left behind");
    }
}

/// Kills what is found until nothing is found any more; how many that were. An error of a look: this process has the reader
/// of its environment wait.
fn kill_all(look: impl Fn(&mut dyn FnMut(Found)) -> Result<(), Pid>) -> usize {
    let until = Instant::now() + PATIENCE;
    let mut all_killed = HashSet::new();
    loop {
        let (mut killed, mut refused) = (Vec::new(), Vec::new());
        let looked = look(&mut |found| match found.kill() {
            Ok(()) => killed.push(found.pid),
            Err(Errno::ESRCH) => {}
            Err(_) => refused.push(found.pid),
        });
        all_killed.extend(killed.iter().copied());
        let is_late = Instant::now() >= until;
        if !killed.is_empty() && !is_late {
            sleep(LOOK_INTERVAL);
            continue;
        }
        if let Err(pid) = looked {
            let cure = "what else was left is not found; end that process";
            tracing::error!(pid = pid.as_raw(), "a process does not let its environment be read: {cure}");
        }
        refused.extend(killed);
        if !refused.is_empty() {
            let (count, first) = (refused.len(), refused.iter().take(MAX_NAMED).map(|pid| pid.as_raw()));
            let first: Vec<i32> = first.collect();
            tracing::error!(count, ?first, "cannot end all that workers left behind; end it as its user, or as root");
        }
        return all_killed.len();
    }
}

impl Reader {
    /// Has those found that are marked. An error: the look takes too long at this process, or one before it still does.
    fn find(
        &self,
        among: Vec<Found>,
        is_marked: impl Fn(Pid) -> bool + Send + 'static,
        each: &mut dyn FnMut(Found),
    ) -> Result<(), Pid> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = reading.get_or_insert_default().clone();
        let held = |at: &AtomicI32| match at.load(Ordering::Relaxed) {
            0 => Ok(()),
            pid => Err(Pid::from_raw(pid)),
        };
        held(&at)?;
        let Some(first) = among.first() else { return Ok(()) };
        at.store(first.pid.as_raw(), Ordering::Relaxed);
        let (tell, told) = mpsc::channel();
        let reads = at.clone();
        let started = thread::Builder::new().name("environments".to_owned()).spawn(move || {
            for found in among {
                reads.store(found.pid.as_raw(), Ordering::Relaxed);
                if is_marked(found.pid) {
                    // Who waited too long does not hear it.
                    let _ = tell.send(found);
                }
            }
            reads.store(0, Ordering::Relaxed);
        });
        if let Err(error) = started {
            tracing::error!(%error, "cannot look for what workers left behind");
            at.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let until = Instant::now() + READ_TIMEOUT;
        loop {
            match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(found) => each(found),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => return held(&at),
            }
        }
    }
}

impl Found {
    fn new(pid: Pid) -> Option<Self> {
        Some(Self { pid, stat: ProcessStat::of(pid).filter(|stat| !stat.is_over)? })
    }

    /// Kills it, unless it has ended.
    fn kill(&self) -> Result<(), Errno> {
        match Self::new(self.pid) {
            Some(now) if now.stat.started == self.stat.started => kill(self.pid, Signal::SIGKILL),
            _ => Err(Errno::ESRCH),
        }
    }
}

fn marked_by(marks: &[&str]) -> impl Fn(Pid) -> bool + Clone + Send + use<> {
    let entries: HashSet<Vec<u8>> = marks.iter().map(|mark| format!("{MARK}={mark}").into_bytes()).collect();
    let entries = Arc::new(entries);
    move |pid| environment(pid).split(|byte| *byte == 0).any(|variable| entries.contains(variable))
}

/// All processes that live.
fn living() -> impl Iterator<Item = Found> {
    processes().filter_map(Found::new)
}

/// Those that descend from this one.
fn descendants() -> Vec<Found> {
    let stats: HashMap<Pid, ProcessStat> = living().map(|Found { pid, stat }| (pid, stat)).collect();
    let is_ours = |pid: &Pid| {
        // Numbers are used again while one looks: no chain is followed for ever.
        let mut above = stats.get(pid).map(|stat| stat.parent);
        for _ in 0..stats.len() {
            match above {
                Some(parent) if parent == Pid::this() => return true,
                Some(parent) => above = stats.get(&parent).map(|stat| stat.parent),
                None => return false,
            }
        }
        false
    };
    stats.iter().filter(|(pid, _)| is_ours(pid)).map(|(pid, stat)| Found { pid: *pid, stat: *stat }).collect()
}

/// The environment of a process; empty where it has ended or may not be read.
fn environment(pid: Pid) -> Vec<u8> {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        // What cannot be read to the end says what it says until there.
        let _ = File::open(path).map(|file| file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes));
        bytes
    };
    let whole = read(&format!("/proc/{pid}/environ"));
    if !whole.is_empty() {
        return whole;
    }
    // Its first thread may have ended without the others.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().take(MAX_THREADS);
    let read_of = |thread: fs::DirEntry| read(&thread.path().join("environ").to_string_lossy());
    threads.map(read_of).find(|environment| !environment.is_empty()).unwrap_or_default()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process in a session of its own.
    fn marked(mark: &str) -> Child {
        let child = Command::new("setsid").args(["sleep", "60"]).env(MARK, mark).spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        let until = Instant::now() + Duration::from_secs(60);
        while Found::new(pid).is_some_and(|found| found.stat.session != pid) || !marked_by(&[mark])(pid) {
            assert!(Instant::now() < until, "it does not begin");
            sleep(LOOK_INTERVAL);
        }
        child
    }

    fn lives(child: &Child) -> bool {
        Found::new(Pid::from_raw(child.id() as i32)).is_some()
    }

    fn ends(mut child: Child) {
        let _ = child.kill();
        child.wait().expect("it ends");
    }

    /// One that has ended.
    fn leaver(mark: &str) -> Leaver {
        Leaver { pid: Pid::from_raw(i32::MAX), mark: mark.to_owned(), is_reaped: true }
    }

    #[test]
    fn only_what_descends_from_this_process_is_looked_at_and_no_environment_is_read_whole() {
        let mut child = Command::new("sleep").arg("60").env("LARGE", "x".repeat(100_000)).spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        let is_found = |pid| descendants().iter().any(|found| found.pid == pid);
        assert!(is_found(pid) && !is_found(Pid::from_raw(1)) && !is_found(Pid::this()));
        assert!((1..=MAX_ENVIRONMENT_BYTES as usize).contains(&environment(pid).len()));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(!is_found(pid) && environment(pid).is_empty());
    }

    #[test]
    fn what_is_in_the_session_of_a_living_worker_is_not_looked_at() {
        let child = marked("of-the-living");
        let pid = Pid::from_raw(child.id() as i32);
        kill_left_by(&[leaver("of-the-living")], || [pid].into(), &Reader::default());
        assert!(lives(&child));
        kill_left_by(&[leaver("of-the-living")], HashSet::new, &Reader::default());
        assert!(!lives(&child));
        ends(child);
    }

    #[test]
    fn whoever_has_the_number_of_one_that_has_ended_is_another() {
        let child = marked("the-next");
        let of = |is_reaped| Leaver { pid: Pid::from_raw(child.id() as i32), mark: "the-first".to_owned(), is_reaped };
        kill_left_by(&[of(true)], HashSet::new, &Reader::default());
        assert!(lives(&child));
        kill_left_by(&[of(false)], HashSet::new, &Reader::default());
        assert!(!lives(&child));
        ends(child);
    }

    #[tokio::test]
    async fn what_several_leave_that_end_together_is_gone() {
        let children = ["one", "two", "three"].map(|mark| (mark, marked(mark)));
        let (sweeper, reaper) = (Sweeper::default(), Arc::<Reaper>::default());
        futures::future::join_all(children.iter().map(|(mark, _)| sweeper.sweep(leaver(mark), &reaper))).await;
        for (_, child) in children {
            assert!(!lives(&child));
            ends(child);
        }
    }

    #[test]
    fn nobody_waits_for_a_process_that_does_not_let_its_environment_be_read_and_what_was_found_is_killed() {
        let (first, second) = (marked("first"), marked("second"));
        let [one, two] = [&first, &second].map(|child| Found::new(Pid::from_raw(child.id() as i32)).expect("it lives"));
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let is_marked = move |pid| pid == one.pid || held.lock().is_ok_and(|held| held.recv().is_ok());
        let reader = Reader::default();
        let look = |kill: &mut dyn FnMut(Found)| reader.find(vec![one, two], is_marked.clone(), kill);
        assert_eq!(kill_all(look), 1);
        assert!(!lives(&first) && lives(&second));
        assert_eq!(look(&mut |_| panic!("no second reader")), Err(two.pid));
        drop(release);
        let until = Instant::now() + Duration::from_secs(60);
        while look(&mut |_| {}).is_err() {
            assert!(Instant::now() < until, "it is read again");
            sleep(LOOK_INTERVAL);
        }
        [first, second].into_iter().for_each(ends);
    }
}
