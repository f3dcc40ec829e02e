//! Orphans: what a worker started and left running when it ended. They are in its session, or carry its mark in their
//! environment, however often they forked.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::precedence;
use super::process_stat::{ProcessStat, children_by_thread, if_any};
use super::reaper::Reaper;
use crate::task::unawaited;

/// The environment variable with the mark of a process.
pub(super) const MARK: &str = "ROSTER_PROCESS";

/// How much of an environment is read: any process can make its own as large as it likes.
const MAX_ENVIRONMENT_BYTES: u64 = 256 * 1024;

/// For how many threads of a process the environment is tried if the first thread has ended.
const MAX_THREADS: usize = 64;

/// How long to look for more of them, and the pause in between: a killed one may have started another a moment before.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long one look at environments may take: a process can have the reader of its own wait for ever. After the second
/// time another one goes on behind that process, while there are no more readers than that, and no more at processes of
/// one user: so nobody hides what others left.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
const STALL_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_READERS: usize = 32;
const MAX_READERS_OF_USER: usize = 4;

/// For how long a process outside of all living sessions may hold its reader, until it is killed for that.
const HELD_PATIENCE: Duration = Duration::from_secs(10);

/// How many ended processes are kept for another look at what they left.
const MAX_MISSED: usize = 4_096;

/// How many processes that cannot be ended are named.
const MAX_NAMED: usize = 10;

/// A process of ours that must leave nothing behind.
#[derive(Clone, Debug)]
pub(super) struct Leaver {
    pub(super) pid: Pid,
    pub(super) mark: String,
    /// Whether another process may have its pid by now.
    pub(super) is_reaped: bool,
}

/// Kills what processes leave behind: for all that ended since the last look at once.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    leavers: Mutex<Vec<Leaver>>,
    /// Those for which it could not look.
    missed: Mutex<Vec<Leaver>>,
    turn: tokio::sync::Mutex<()>,
    reader: Arc<Reader>,
}

/// Reads environments on threads that nobody waits for too long, each of which handles one process.
#[derive(Debug, Default)]
struct Reader(Arc<Mutex<Readings>>);

/// What is read now, by the number and the start of the process.
type Readings = HashMap<(Pid, u64), Reading>;

#[derive(Clone, Copy, Debug)]
struct Reading {
    user: u32,
    began: Instant,
}

/// A process, whose pid may be reused once it has ended.
#[derive(Clone, Copy, Debug)]
struct Found {
    pid: Pid,
    stat: ProcessStat,
    user: u32,
}

/// Why not all could be checked.
#[derive(Debug)]
enum Missed {
    /// These block the readers of their environments, and this many others were not read.
    Held(Vec<Found>, usize),
    Failed(io::Error),
}

impl Sweeper {
    /// Kills what a process left behind, until nothing is left, or the time is over.
    pub(super) async fn sweep(&self, leaver: Leaver, reaper: &Arc<Reaper>) {
        lock(&self.leavers).push(leaver);
        self.look(reaper).await;
    }

    /// Looks again where it could not, so that nothing is started alongside.
    pub(super) async fn catch_up(&self, reaper: &Arc<Reaper>) {
        if !lock(&self.missed).is_empty() {
            self.look(reaper).await;
        }
    }

    async fn look(&self, reaper: &Arc<Reaper>) {
        let _turn = self.turn.lock().await;
        let mut leavers = std::mem::take(&mut *lock(&self.leavers));
        leavers.append(&mut lock(&self.missed));
        // The previous holder of the lock may have done it already.
        if leavers.is_empty() {
            return;
        }
        let (reader, of_look, looked_for) = (self.reader.clone(), reaper.clone(), leavers.clone());
        let look = move || kill_left_by(&looked_for, || of_look.pids(), &reader);
        let looked = precedence::on_yielding_thread("orphans", look).await;
        if !matches!(looked, Ok(Ok(()))) {
            let mut missed = lock(&self.missed);
            let living = reaper.pids();
            let by_now =
                |leaver: Leaver| Leaver { is_reaped: leaver.is_reaped || !living.contains(&leaver.pid), ..leaver };
            missed.extend(leavers.into_iter().map(by_now));
            let excess = missed.len().saturating_sub(MAX_MISSED);
            missed.drain(..excess);
        }
    }
}

/// Kills what they left behind. An error: it could not look for all of that.
fn kill_left_by(leavers: &[Leaver], living: impl Fn() -> HashSet<Pid>, reader: &Reader) -> Result<(), ()> {
    let marks: Vec<&str> = leavers.iter().map(|leaver| leaver.mark.as_str()).collect();
    let is_marked = marked_by(&marks, "");
    kill_all("killed what processes left behind when they ended", |kill| {
        // What holds one that does not die may be a child of its own still.
        if leavers.iter().all(|leaver| leaver.is_reaped) && has_only(&living()) {
            return Ok(());
        }
        // Only descendants are considered. Whatever a worker started descends from this process, which is the
        // subreaper; and whatever is in a living worker's session was started by that worker.
        let all = descending_from(Pid::this(), processes().map_err(Missed::Failed)?);
        let is_another = |leaver: &Leaver| leaver.is_reaped && all.iter().any(|found| found.pid == leaver.pid);
        let ended: HashSet<Pid> =
            leavers.iter().filter(|leaver| !is_another(leaver)).map(|leaver| leaver.pid).collect();
        let (left, others): (Vec<_>, Vec<_>) = all.iter().partition(|found| ended.contains(&found.stat.session));
        left.into_iter().for_each(&mut *kill);
        let living = living();
        let unknown = others.into_iter().filter(|found| !living.contains(&found.stat.session)).collect();
        reader.find_left(unknown, &is_marked, kill)
    })
}

/// Kills what processes of an earlier sidecar, or of this one, left behind; blocks meanwhile: what has one of these marks,
/// or any of a folder; and what is in one of these sessions, each with when its first process started.
pub(super) fn kill_marked(marks: &[&str], of_folder: &str, sessions: &HashMap<Pid, u64>) {
    let (is_marked, reader) = (marked_by(marks, of_folder), Reader::default());
    let look = |kill: &mut dyn FnMut(Found)| {
        let mut all = processes().map_err(Missed::Failed)?;
        // This one may itself have been started by what an earlier one left.
        all.retain(|found| found.pid != Pid::this());
        let is_others = |found: &Found| sessions.get(&found.pid).is_some_and(|started| *started != found.stat.started);
        let others: HashSet<Pid> = all.iter().filter(|found| is_others(found)).map(|found| found.pid).collect();
        let is_in_one = |found: &Found| sessions.contains_key(&found.stat.session);
        let (left, unknown): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|found| is_in_one(found) && !others.contains(&found.stat.session));
        left.into_iter().for_each(&mut *kill);
        reader.find(unknown, &is_marked, kill)
    };
    // It has been logged.
    let _ = kill_all("killed what workers left behind", look);
}

/// Kills what is found until nothing is found any more, and logs what came of it. An error: it could not look for all of
/// that, also when it tried again.
fn kill_all(done: &str, look: impl Fn(&mut dyn FnMut(Found)) -> Result<(), Missed>) -> Result<(), ()> {
    let until = Instant::now() + PATIENCE;
    let mut all_killed = HashSet::new();
    loop {
        let (mut killed, mut refused, mut failed) = (Vec::new(), Vec::new(), None);
        let looked = look(&mut |found| match found.kill() {
            Ok(()) => killed.push(found.pid),
            Err(Errno::ESRCH) => {}
            Err(Errno::EPERM) => refused.push(found.pid),
            Err(error) => failed = Some(Missed::Failed(error.into())),
        });
        let looked = looked.and(failed.map_or(Ok(()), Err));
        all_killed.extend(killed.iter().copied());
        let is_over = killed.is_empty() && !matches!(looked, Err(Missed::Failed(_)));
        if !is_over && Instant::now() < until {
            sleep(LOOK_INTERVAL);
            continue;
        }
        if !all_killed.is_empty() {
            tracing::warn!(count = all_killed.len(), "{done}");
        }
        refused.extend(killed);
        if !refused.is_empty() {
            let (count, first) = (refused.len(), numbers(&refused));
            tracing::error!(count, ?first, "cannot end all that workers left behind; end it as its user, or as root");
        }
        return match looked {
            Ok(()) => Ok(()),
            Err(Missed::Held(held, unread)) => {
                let held = numbers(&held.iter().map(|found| found.pid).collect::<Vec<_>>());
                tracing::error!(?held, unread, "processes do not let their environments be read; end them");
                Err(())
            }
            Err(Missed::Failed(error)) => {
                tracing::error!(%error, "cannot look for what workers left behind, which may run on");
                Err(())
            }
        };
    }
}

fn numbers(pids: &[Pid]) -> Vec<i32> {
    pids.iter().take(MAX_NAMED).map(|pid| pid.as_raw()).collect()
}

impl Reader {
    /// Finds the marked ones, except those that already block a reader.
    fn find(
        &self,
        among: Vec<Found>,
        is_marked: &(impl Fn(Pid) -> io::Result<bool> + Clone + Send + 'static),
        each: &mut dyn FnMut(Found),
    ) -> Result<(), Missed> {
        let asked = among.clone();
        let is_free = |found: &Found, read: &Readings| !read.contains_key(&found.key()) && has_reader(found.user, read);
        let among: VecDeque<Found> = {
            let read = lock(&self.0);
            among.into_iter().filter(|found| is_free(found, &read)).collect()
        };
        let (free, mut told) = (among.len(), 0);
        let among = Arc::new(Mutex::new(among));
        let (tell, hear) = mpsc::channel();
        let (until, mut failed) = (Instant::now() + READ_TIMEOUT, None);
        while told < free && Instant::now() < until {
            if Arc::strong_count(&self.0) <= MAX_READERS {
                self.start(among.clone(), is_marked.clone(), tell.clone()).map_err(Missed::Failed)?;
            }
            while told < free
                && let Ok((found, is_marked)) = hear.recv_timeout(STALL_TIMEOUT)
            {
                told += 1;
                match is_marked {
                    Ok(true) => each(found),
                    Ok(false) => {}
                    Err(error) => failed = Some(error),
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        if let Some(error) = failed {
            return Err(Missed::Failed(error));
        }
        if told == asked.len() {
            return Ok(());
        }
        let read = lock(&self.0);
        let held: Vec<Found> = asked.iter().filter(|found| read.contains_key(&found.key())).copied().collect();
        let unread = (asked.len() - told).saturating_sub(held.len());
        Err(Missed::Held(held, unread))
    }

    /// The same, and those that have held a reader for too long, as no honest one does.
    fn find_left(
        &self,
        among: Vec<Found>,
        is_marked: &(impl Fn(Pid) -> io::Result<bool> + Clone + Send + 'static),
        each: &mut dyn FnMut(Found),
    ) -> Result<(), Missed> {
        let looked = self.find(among, is_marked, each);
        if let Err(Missed::Held(held, _)) = &looked {
            let read = lock(&self.0).clone();
            let is_overdue =
                |found: &&Found| read.get(&found.key()).is_some_and(|reading| reading.began.elapsed() >= HELD_PATIENCE);
            held.iter().filter(is_overdue).for_each(|found| each(*found));
        }
        looked
    }

    /// Starts a thread that reads the remaining ones, for as long as somebody waits for that.
    fn start(
        &self,
        among: Arc<Mutex<VecDeque<Found>>>,
        is_marked: impl Fn(Pid) -> io::Result<bool> + Send + 'static,
        tell: mpsc::Sender<(Found, io::Result<bool>)>,
    ) -> io::Result<()> {
        let read = self.0.clone();
        let next = move |read: &Mutex<Readings>| {
            let (mut among, mut read) = (lock(&among), lock(read));
            let at = among.iter().position(|found| has_reader(found.user, &read))?;
            let found = among.remove(at)?;
            read.insert(found.key(), Reading { user: found.user, began: Instant::now() });
            Some(found)
        };
        let reads = move || {
            while let Some(found) = next(&read) {
                let is_marked = is_marked(found.pid);
                lock(&read).remove(&found.key());
                if tell.send((found, is_marked)).is_err() {
                    return;
                }
            }
        };
        unawaited("environments", reads)
    }
}

/// Whether there is a reader left for a process of a user.
fn has_reader(user: u32, read: &Readings) -> bool {
    read.values().filter(|reading| reading.user == user).count() < MAX_READERS_OF_USER
}

impl Found {
    fn at(pid: Pid) -> io::Result<Option<Self>> {
        let Some(stat) = ProcessStat::of(pid)? else { return Ok(None) };
        // No process can hide the owner of this folder, unlike its content.
        let folder = if_any(fs::metadata(format!("/proc/{pid}")))?;
        Ok(folder.map(|folder| Self { pid, stat, user: folder.uid() }))
    }

    fn key(&self) -> (Pid, u64) {
        (self.pid, self.stat.started)
    }

    /// Kills it, unless it has ended.
    fn kill(&self) -> Result<(), Errno> {
        let now = Self::at(self.pid).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        match now {
            Some(now) if now.stat.started == self.stat.started => kill(self.pid, Signal::SIGKILL),
            _ => Err(Errno::ESRCH),
        }
    }
}

/// Whether a process has one of these marks, or any of a folder, unless that is empty.
fn marked_by(marks: &[&str], of_folder: &str) -> impl Fn(Pid) -> io::Result<bool> + Clone + Send + use<> {
    let entry = |mark: &str| format!("{MARK}={mark}").into_bytes();
    let entries: Arc<HashSet<Vec<u8>>> = Arc::new(marks.iter().map(|mark| entry(mark)).collect());
    let of_folder = Some(of_folder).filter(|folder| !folder.is_empty()).map(entry);
    move |pid| {
        let is_of_folder = |variable: &[u8]| of_folder.as_ref().is_some_and(|folder| variable.starts_with(folder));
        let is_one = |variable: &[u8]| entries.contains(variable) || is_of_folder(variable);
        Ok(environment(pid)?.split(|byte| *byte == 0).any(is_one))
    }
}

/// Whether this process has no children but these, as is usual: what a worker left behind is its child by now, or descends
/// from one. Some may be missing where others end at the same time, so it looks twice.
fn has_only(living: &HashSet<Pid>) -> bool {
    let children = || -> Option<HashSet<Pid>> {
        let lists: Option<Vec<_>> = children_by_thread(Pid::this())?.collect();
        Some(lists?.into_iter().flatten().collect())
    };
    children().is_some_and(|first| first.is_subset(living) && children() == Some(first))
}

/// All living processes.
fn processes() -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        all.extend(pid.map(|pid| Found::at(Pid::from_raw(pid))).transpose()?.flatten());
    }
    Ok(all)
}

/// The descendants of a process.
fn descending_from(ancestor: Pid, all: Vec<Found>) -> Vec<Found> {
    let mut children = HashMap::<Pid, Vec<Found>>::new();
    // Pids may be reused during the listing, so that it may seem to descend from itself.
    for found in all.into_iter().filter(|found| found.pid != ancestor) {
        children.entry(found.stat.parent).or_default().push(found);
    }
    let (mut descendants, mut parents) = (Vec::new(), vec![ancestor]);
    while let Some(parent) = parents.pop() {
        let children = children.remove(&parent).unwrap_or_default();
        parents.extend(children.iter().map(|child| child.pid));
        descendants.extend(children);
    }
    descendants
}

/// The environment of a process; empty if it has ended or is unreadable.
fn environment(pid: Pid) -> io::Result<Vec<u8>> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = if_any(File::open(path))? {
            // If it cannot be read to the end, use what was read.
            let _ = file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes);
        }
        Ok(bytes)
    };
    let mut environment = read(Path::new(&format!("/proc/{pid}/environ")))?;
    if environment.is_empty() {
        // The first thread may have ended before the others.
        let threads = if_any(fs::read_dir(format!("/proc/{pid}/task")))?;
        let mut threads = threads.into_iter().flatten().flatten().take(MAX_THREADS);
        while environment.is_empty()
            && let Some(thread) = threads.next()
        {
            environment = read(&thread.path().join("environ"))?;
        }
    }
    Ok(environment)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::slice;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A process in its own session.
    fn marked(mark: &str) -> Child {
        let child = Command::new("setsid").args(["sleep", "60"]).env(MARK, mark).spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        let until = Instant::now() + Duration::from_secs(60);
        while found(pid).is_some_and(|found| found.stat.session != pid)
            || !marked_by(&[mark], "")(pid).expect("it is read")
        {
            assert!(Instant::now() < until, "it does not begin");
            sleep(LOOK_INTERVAL);
        }
        child
    }

    fn found(pid: Pid) -> Option<Found> {
        Found::at(pid).expect("there are descriptors")
    }

    fn lives(child: &Child) -> bool {
        found(Pid::from_raw(child.id() as i32)).is_some()
    }

    /// Waits for the end of one that was killed, which takes a moment.
    fn is_killed(child: &Child) {
        let until = Instant::now() + Duration::from_secs(60);
        while lives(child) {
            assert!(Instant::now() < until, "it lives");
            sleep(LOOK_INTERVAL);
        }
    }

    /// Looks for what one left until that could be done: on a slow machine environments are not always read in time.
    fn looks(leaver: &Leaver, living: &HashSet<Pid>) {
        let until = Instant::now() + Duration::from_secs(60);
        while kill_left_by(slice::from_ref(leaver), || living.clone(), &Reader::default()).is_err() {
            assert!(Instant::now() < until, "it cannot look");
        }
    }

    fn ends(mut child: Child) {
        let _ = child.kill();
        child.wait().expect("it ends");
    }

    #[test]
    fn a_child_that_is_none_of_those_that_live_is_noticed() {
        let child = marked("of-a-stranger");
        let living = || processes().expect("they are listed").iter().map(|found| found.pid).collect::<HashSet<_>>();
        let stranger = Pid::from_raw(child.id() as i32);
        // Other tests start and end processes meanwhile.
        let until = Instant::now() + Duration::from_secs(60);
        while !has_only(&living()) {
            assert!(Instant::now() < until, "all that live are known");
        }
        assert!(!has_only(&living().into_iter().filter(|pid| *pid != stranger).collect()));
        ends(child);
    }

    /// One that has ended.
    fn leaver(mark: &str) -> Leaver {
        Leaver { pid: Pid::from_raw(i32::MAX), mark: mark.to_owned(), is_reaped: true }
    }

    #[test]
    fn only_what_descends_from_this_process_is_looked_at_and_no_environment_is_read_whole() {
        let mut child = Command::new("sleep").arg("60").env("LARGE", "x".repeat(100_000)).spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        let all = || processes().expect("there are descriptors");
        let is_found = |pid| descending_from(Pid::this(), all()).iter().any(|found| found.pid == pid);
        assert!(is_found(pid) && !is_found(Pid::from_raw(1)) && !is_found(Pid::this()));
        assert!((1..=MAX_ENVIRONMENT_BYTES as usize).contains(&environment(pid).expect("it is read").len()));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(!is_found(pid) && environment(pid).expect("nobody's").is_empty());
    }

    #[test]
    fn however_deep_others_descend_from_each_other_a_look_costs_by_their_number() {
        let own = ProcessStat::of(Pid::this()).expect("it is told").expect("it lives");
        let at = |pid: i32, parent: i32| {
            let mut stat = own;
            stat.parent = Pid::from_raw(parent);
            Found { pid: Pid::from_raw(pid), stat, user: 0 }
        };
        let chain = (10..100_000).map(|pid| at(pid, pid - 1));
        // The pids of 4 to 6 are reused, so that these seem to form a cycle.
        let ours = [at(2, 1), at(3, 2), at(4, 3), at(5, 6), at(6, 5), at(2, 4)];
        let all = chain.chain(ours).collect();
        let descendants = descending_from(Pid::from_raw(2), all);
        assert_eq!(descendants.iter().map(|found| found.pid.as_raw()).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_look_that_fails_is_made_again_and_what_was_missed_is_known() {
        let child = marked("missed");
        let one = found(Pid::from_raw(child.id() as i32)).expect("it lives");
        let short = || Missed::Failed(Errno::EMFILE.into());
        let looks = AtomicUsize::new(0);
        let look = |kill: &mut dyn FnMut(Found)| match looks.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(short()),
            _ => {
                kill(one);
                Ok(())
            }
        };
        assert_eq!(kill_all("killed it", look), Ok(()));
        assert!(!lives(&child));
        ends(child);
        assert_eq!(kill_all("killed it", |_| Err(short())), Err(()));
    }

    #[test]
    fn what_is_in_the_session_of_a_living_worker_is_not_looked_at() {
        let child = marked("of-the-living");
        let pid = Pid::from_raw(child.id() as i32);
        looks(&leaver("of-the-living"), &[pid].into());
        assert!(lives(&child));
        looks(&leaver("of-the-living"), &HashSet::new());
        is_killed(&child);
        ends(child);
    }

    #[test]
    fn whoever_has_the_number_of_one_that_has_ended_is_another() {
        let child = marked("the-next");
        let of = |is_reaped| Leaver { pid: Pid::from_raw(child.id() as i32), mark: "the-first".to_owned(), is_reaped };
        looks(&of(true), &HashSet::new());
        assert!(lives(&child));
        looks(&of(false), &HashSet::new());
        is_killed(&child);
        ends(child);
    }

    #[test]
    fn one_that_does_not_die_is_freed_of_its_own_children_though_the_sidecar_has_no_other() {
        let mut holder = Command::new("setsid");
        let mut holder = holder.args(["sh", "-c", "sleep 300 & echo; wait"]).stdout(Stdio::piped()).spawn();
        let holder = holder.as_mut().expect("it starts");
        holder.stdout.take().expect("a pipe").read_exact(&mut [0; 1]).expect("it has a child");
        let pid = Pid::from_raw(holder.id() as i32);
        let children_of = |pid| children_by_thread(pid).into_iter().flatten().flatten().flatten();
        let child = children_of(pid).next().expect("one");
        let leaver = Leaver { pid, mark: "holder".to_owned(), is_reaped: false };
        looks(&leaver, &children_of(Pid::this()).collect());
        let until = Instant::now() + Duration::from_secs(60);
        while found(child).is_some() {
            assert!(Instant::now() < until, "it lives");
            sleep(LOOK_INTERVAL);
        }
        holder.kill().and_then(|()| holder.wait()).expect("it ends");
    }

    #[tokio::test]
    async fn what_several_leave_that_end_together_is_gone() {
        let children = ["one", "two", "three"].map(|mark| (mark, marked(mark)));
        let (sweeper, reaper) = (Sweeper::default(), Arc::<Reaper>::default());
        futures::future::join_all(children.iter().map(|(mark, _)| sweeper.sweep(leaver(mark), &reaper))).await;
        // What it could not look for in time it looks for before the next start.
        let until = Instant::now() + Duration::from_secs(60);
        while children.iter().any(|(_, child)| lives(child)) {
            assert!(Instant::now() < until, "it is left");
            sweeper.catch_up(&reaper).await;
            sleep(LOOK_INTERVAL);
        }
        children.into_iter().for_each(|(_, child)| ends(child));
    }

    #[test]
    fn nobody_waits_for_processes_that_do_not_let_their_environments_be_read_and_what_is_behind_them_is_killed() {
        let (first, second) = (marked("first"), marked("second"));
        let [one, two] = [&first, &second].map(|child| found(Pid::from_raw(child.id() as i32)).expect("it lives"));
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let is_marked = move |pid| Ok(pid == two.pid || lock(&held).recv().is_ok());
        let reader = Reader::default();
        let look = |kill: &mut dyn FnMut(Found)| reader.find(vec![one, two], &is_marked, kill);
        assert_eq!(kill_all("killed it", look), Err(()), "it is looked again");
        is_killed(&second);
        assert!(lives(&first));
        let looked = reader.find(vec![one], &is_marked, &mut |_| panic!("no second reader"));
        assert!(matches!(&looked, Err(Missed::Held(held, 0)) if held[0].pid == one.pid), "{looked:?}");
        drop(release);
        let until = Instant::now() + Duration::from_secs(60);
        while reader.find(vec![one], &is_marked, &mut |_| {}).is_err() {
            assert!(Instant::now() < until, "it is read again");
            sleep(LOOK_INTERVAL);
        }
        [first, second].into_iter().for_each(ends);
    }
    #[test]
    fn whoever_holds_all_readers_of_a_user_hides_nothing_of_another_and_is_killed_for_it() {
        let (holder, other) = (marked("holder"), marked("other"));
        let [mut one, mut two] =
            [&holder, &other].map(|child| found(Pid::from_raw(child.id() as i32)).expect("it lives"));
        (one.user, two.user) = (1_001, 1_002);
        // As many as all users together may have.
        let mut among: Vec<Found> = (0..MAX_READERS as u64).map(|_| one).collect();
        among.iter_mut().zip(0..).for_each(|(found, nth)| found.stat.started += nth);
        among.push(two);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let is_marked = move |pid| Ok(pid == two.pid || lock(&held).recv().is_ok());
        let (reader, mut left) = (Reader::default(), Vec::new());
        let unread = MAX_READERS - MAX_READERS_OF_USER;
        let until = Instant::now() + Duration::from_secs(60);
        // On a slow machine the other one is not always read within one look.
        loop {
            let looked = reader.find_left(among.clone(), &is_marked, &mut |found| left.push(found.pid));
            if matches!(&looked, Err(Missed::Held(held, it)) if held[0].pid == one.pid && *it == unread) {
                break;
            }
            assert!(Instant::now() < until, "{looked:?}");
        }
        left.dedup();
        assert_eq!(left, [two.pid]);
        // Nobody waits for them again.
        let (before, spare) = (among.clone(), lock(&reader.0).len());
        reader.find_left(before, &is_marked, &mut |_| {}).expect_err("they are held");
        assert_eq!((spare, lock(&reader.0).len()), (MAX_READERS_OF_USER, MAX_READERS_OF_USER));
        let long_ago = Instant::now().checked_sub(HELD_PATIENCE).expect("the machine runs for longer");
        lock(&reader.0).values_mut().for_each(|reading| reading.began = long_ago);
        let look = |kill: &mut dyn FnMut(Found)| match found(one.pid) {
            Some(living) => reader.find_left(vec![Found { user: one.user, ..living }], &is_marked, kill),
            None => Ok(()),
        };
        assert_eq!(kill_all("killed it", look), Ok(()));
        is_killed(&holder);
        assert!(lives(&other));
        drop(release);
        [holder, other].into_iter().for_each(ends);
    }
}
