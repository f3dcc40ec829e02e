//! One process of a worker: launched, watched, asked to end, and killed with everything it started.

use std::convert::Infallible;
use std::future::pending;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use nix::unistd::Pid;
use socket2::SockRef;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::channel::{Progress, reached};
use super::config::{Config, Ready};
use super::launch::{Identity, Refusal, Said};
use super::launcher::{Launch, Launcher, become_program, launch_one};
use super::limits::{self, Passed};
use super::machine::Ending;
use super::orphans::Leaver;
use super::pass::Passing;
use super::reaper::{End, Ended};
use super::slot::Shared;
use crate::net::SharedSocket;
use crate::tunnel::worker::{CallsUnderWay, Performed};

/// How long a process may take to execute its program.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process that reports being ready may take to report its services.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process whose connection over its channel has ended may take to end by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer launching may take if the process is to end.
const LAUNCH_GRACE: Duration = Duration::from_secs(1);

/// How long a killed process may take to end before that is logged.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a slot learns about a process that has not ended.
#[derive(Debug)]
pub(super) enum News {
    /// It executes its program.
    Began(i32),
    Ready,
    Passed(Passed),
    /// It has ended, and was handed jobs: the one with which it has, if any.
    HadJobs(Option<Performed>),
    /// It was killed but does not end, and why.
    Stuck(String),
}

/// The deadline for a process to end, once there is one.
pub(super) type Deadline = watch::Receiver<Option<Instant>>;

/// When a process that is asked to end is sent the signal, and killed.
#[derive(Debug)]
struct Times {
    /// When it was asked,
    asked: Instant,
    /// and when it ended a job last.
    job_ended: Instant,
    stop_timeout: Duration,
}

/// A process; dropping it kills it, with what it started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) ended: Ended,
    pub(super) group: Arc<Shared>,
    /// The name of its slot.
    pub(super) name: String,
    /// Its channel, which nobody can use once it has ended.
    pub(super) channel: SharedSocket,
    /// The socket for handing it connections, if it gets any.
    pub(super) connections: Option<(Arc<Passing>, Arc<SharedSocket>)>,
    /// Counts its requests.
    pub(super) calls: Arc<CallsUnderWay>,
    /// Its user, unless that is the sidecar's own.
    pub(super) identity: Option<Identity>,
    pub(super) mark: String,
    /// By which is said that it need not yield any more.
    pub(super) yields: Option<oneshot::Sender<()>>,
    pub(super) _descriptors: OwnedSemaphorePermit,
}

/// Runs a process with this name: from its start until nothing of it is left.
pub(super) async fn live(group: &Arc<Shared>, name: &str, mut asked: Deadline, tell: impl Fn(News)) -> Ending {
    let launcher = &group.launcher;
    let launched = tokio::select! {
        launched = launch_one(group, name) => launched,
        // Looking up its user may take forever. What it still returns is dropped.
        () = async { is_asked(&mut asked.clone()).await; sleep(LAUNCH_GRACE).await } => {
            Err(Ending::Failed("it was asked to end before it could be launched".to_owned()))
        }
    };
    let launch = match launched {
        Ok(launch) => launch,
        Err(ending) => return ending,
    };
    let Launch { mut process, text, socket, channel, events } = launch;
    let said = tokio::select! {
        said = timeout(LAUNCH_TIMEOUT, become_program(&text, socket)) => match said {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => Said::Refused(Refusal::of("cannot launch it", &error)),
            Err(_) => {
                let why = format!("cannot launch it: not within {LAUNCH_TIMEOUT:?}");
                Said::Refused(Refusal { why, is_short: false })
            }
        },
        () = is_asked(&mut asked) => Said::Begun,
    };
    let ending = match said {
        Said::Refused(refusal) => process.give_up(refusal.into(), &tell).await,
        Said::Nothing => {
            let end = process.kill(&tell).await;
            let as_where = "as where memory or descriptors are short";
            Ending::Short(format!("cannot launch it: it {end} before it could become its program, {as_where}"))
        }
        Said::Begun => {
            if group.config.ready == Ready::StaysUp {
                // It has ended that itself.
                process.yields = None;
            }
            let (reaching, progress) = watch::channel(Progress::default());
            let (readiness, ready) = watch::channel(false);
            // Without a register, which ends after the workers, nobody receives it.
            let _ = launcher.channels.send(channel);
            let (group, name, pid) = (group.clone(), name.to_owned(), process.pid.as_raw());
            let (identity, ended) = (process.identity.clone(), process.ended.clone());
            launcher.begin(async move {
                let performers = &group.launcher.performers;
                let identity = identity.as_ref();
                let process = (&*name, pid, ended, ready);
                group.members.hear(process, identity, events, reaching, &group.output, performers).await
            });
            tell(News::Began(pid));
            process.run((progress, readiness), &mut asked, &tell).await
        }
    };
    let calls = process.calls.clone();
    process.over().await;
    // What it has sent last is heard by now.
    if calls.had_job() {
        tell(News::HadJobs(calls.performed()));
    }
    ending
}

impl From<Refusal> for Ending {
    fn from(Refusal { why, is_short }: Refusal) -> Self {
        if is_short { Self::Short(why) } else { Self::Failed(why) }
    }
}

/// Waits until a process is asked to end.
async fn is_asked(asked: &mut Deadline) {
    // Without a slot it is not wanted either.
    let _ = asked.wait_for(Option::is_some).await;
}

/// Waits until a process has ended.
pub(super) async fn end(mut ended: Ended) -> End {
    match ended.wait_for(Option::is_some).await.ok().and_then(|end| *end) {
        Some(end) => end,
        // The reaper is gone, and this process is ending.
        None => pending().await,
    }
}

impl Process {
    /// Watches a process that executes its program until it has ended, and says when it is ready.
    async fn run(
        &mut self,
        (progress, readiness): (watch::Receiver<Progress>, watch::Sender<bool>),
        asked: &mut Deadline,
        tell: &impl Fn(News),
    ) -> Ending {
        let (group, pid, ended) = (self.group.clone(), self.pid.as_raw(), self.ended.clone());
        let (config, calls) = (&group.config, self.calls.clone());
        let is_to_blame = AtomicBool::new(false);
        let tell_passed = |passed: Passed| {
            is_to_blame.fetch_or(passed.is_its_doing(), Relaxed);
            tell(News::Passed(passed));
        };
        let mut hard = pin!(async {
            let passed = tokio::select! {
                passed = limits::hard(config, pid) => passed,
                passed = limits::silent(config, || group.members.silence(pid)) => passed,
                passed = limits::overdue(config, &calls) => passed,
                never = tell_of_silence(&group, pid) => match never {},
            };
            tell_passed(passed);
            pending::<Infallible>().await
        });
        let outcome = tokio::select! {
            ready = is_ready(config, &progress) => ready,
            end = end(ended.clone()) => return Ending::Ended(end),
            never = &mut hard => match never {},
            () = is_asked(asked) => Ok(()),
        };
        if let Err(why) = outcome {
            return self.give_up(Ending::Failed(why), tell).await;
        }
        let mut shut_out = None;
        if asked.borrow().is_none() {
            if let Some(yields) = self.yields.take() {
                // It may have been lifted before.
                let _ = yields.send(());
            }
            shut_out = self.take_connections();
            readiness.send_replace(true);
            tell(News::Ready);
        }
        let mut soft = limits::soft(config, pid, &self.calls);
        soft.push(is_shut_out(shut_out).boxed());
        soft.push(self.lost_channel(progress).boxed());
        let soft = async move {
            while let Some(passed) = soft.next().await {
                tell_passed(passed);
            }
            pending::<Infallible>().await
        };
        tokio::select! {
            end = end(ended) => return Ending::Ended(end),
            never = soft => match never {},
            never = &mut hard => match never {},
            () = is_asked(asked) => {}
        }
        tokio::select! {
            end = self.stop(asked, &is_to_blame, tell) => Ending::Ended(end),
            never = &mut hard => match never {},
        }
    }

    /// Waits until a process goes on although its connection over its channel, which it had, has ended.
    async fn lost_channel(&self, mut progress: watch::Receiver<Progress>) -> Passed {
        reached(&mut progress, |it| it.is_connected).await;
        while progress.changed().await.is_ok() {}
        // It reads the end of the stream, unless it does so by itself already.
        let _ = SockRef::from(&self.channel).shutdown(Shutdown::Both);
        sleep(LEAVE_TIMEOUT).await;
        Passed::Connections("its connection over its channel has ended, and it goes on".into())
    }

    /// From now on it is handed connections, if it gets any. The receiver is signalled once it has closed that socket.
    fn take_connections(&self) -> Option<oneshot::Receiver<()>> {
        let (passing, socket) = self.connections.as_ref()?;
        Some(passing.add(self.pid.as_raw(), socket.clone(), self.identity.clone(), self.calls.clone()))
    }

    /// Hands it no more connections: it reads the end of the stream.
    fn hand_no_more(&mut self) {
        if let Some((passing, socket)) = self.connections.take() {
            passing.remove(&socket);
        }
    }

    /// Asks it to end, and kills it after the deadline, or when it has had no job for its `stop_timeout`. A process that is
    /// connected over its channel is asked there; the signal, which may cut off what is under way, is also sent, for the last
    /// quarter of that time.
    async fn stop(&mut self, asked: &mut Deadline, is_to_blame: &AtomicBool, tell: &impl Fn(News)) -> End {
        self.hand_no_more();
        let (pid, ended) = (self.pid.as_raw(), self.ended.clone());
        let (signal, stop_timeout) = (self.group.config.stop_signal.0, self.group.config.stop_timeout);
        let mut times = Times::new(Instant::now(), stop_timeout);
        let (mut is_signalled, mut jobs) = (false, self.calls.jobs());
        let is_told = self.group.members.stop(pid);
        loop {
            let (signalled, killed) = times.until(*asked.borrow_and_update(), *jobs.borrow_and_update() > 0);
            if !is_signalled && (!is_told || Instant::now() >= signalled) {
                if !is_to_blame.load(Relaxed) {
                    self.group.members.give_back_jobs(pid);
                }
                let _ = self.launcher().reaper.signal(self.pid, signal);
                is_signalled = true;
            }
            tokio::select! {
                end = end(ended.clone()) => return end,
                changed = asked.changed() => match changed {
                    Ok(()) => times = Times::new(Instant::now(), stop_timeout),
                    Err(_) => return self.kill(tell).await,
                },
                Ok(()) = jobs.changed() => times.job_ends(Instant::now()),
                () = sleep_until(if is_signalled { killed } else { signalled }) => if is_signalled {
                    if killed > times.asked {
                        let (worker, after) = (&self.name, killed - times.asked);
                        tracing::warn!(worker, pid, ?after, "a worker did not end in time, and is killed");
                    }
                    return self.kill(tell).await;
                },
            }
        }
    }

    async fn kill(&self, tell: &impl Fn(News)) -> End {
        self.launcher().reaper.kill(self.pid);
        if let Ok(end) = timeout(KILL_TIMEOUT, end(self.ended.clone())).await {
            return end;
        }
        // A tracer may be one of its own processes, and would hold it forever.
        self.sweep(false).await;
        if let Ok(end) = timeout(KILL_TIMEOUT, end(self.ended.clone())).await {
            return end;
        }
        let why = format!("it cannot be killed: {}", what_holds(self.pid));
        tracing::error!(pid = self.pid.as_raw(), why, "a worker's process does not end");
        tell(News::Stuck(why));
        end(self.ended.clone()).await
    }

    /// Ends a process that cannot become ready.
    async fn give_up(&self, ending: Ending, tell: &impl Fn(News)) -> Ending {
        self.kill(tell).await;
        ending
    }

    /// Ends everything that an ended process left: whatever it started, nobody is responsible for it any more.
    async fn over(mut self) {
        self.hand_no_more();
        // What it has sent is still processed.
        let _ = SockRef::from(&self.channel).shutdown(Shutdown::Read);
        self.sweep(true).await;
        // It writes to the disk.
        let _ = spawn_blocking(move || drop(self)).await;
    }

    async fn sweep(&self, is_reaped: bool) {
        let Launcher { sweeper, reaper, .. } = self.launcher();
        sweeper.sweep(Leaver { pid: self.pid, mark: self.mark.clone(), is_reaped }, reaper).await;
    }

    fn launcher(&self) -> &Launcher {
        &self.group.launcher
    }
}

impl Times {
    fn new(asked: Instant, stop_timeout: Duration) -> Self {
        Self { asked, job_ended: asked, stop_timeout }
    }

    fn job_ends(&mut self, now: Instant) {
        self.job_ended = now;
    }

    /// When it is sent the signal, and when it is killed.
    fn until(&self, deadline: Option<Instant>, has_jobs: bool) -> (Instant, Instant) {
        let mut killed = deadline.unwrap_or(self.asked).max(self.asked);
        if !has_jobs {
            killed = killed.min(self.job_ended + self.stop_timeout);
        }
        (killed - (killed - self.asked).min(self.stop_timeout) / 4, killed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.hand_no_more();
        self.launcher().record.remove(self.pid, &self.mark);
        // Another process may have the pid of one that has ended.
        if self.ended.borrow().is_none() {
            self.launcher().reaper.kill(self.pid);
        }
    }
}

/// Signals news when a process stops answering, or answers again: nothing else happens to it then.
async fn tell_of_silence(group: &Shared, pid: i32) -> Infallible {
    let mut known = None;
    loop {
        sleep(limits::LOOK_INTERVAL).await;
        let since = group.members.silent_since(pid);
        if std::mem::replace(&mut known, since) != since {
            group.launcher.news.tell();
        }
    }
}

/// Waits until a process has closed the socket for receiving connections, if it gets any.
async fn is_shut_out(told: Option<oneshot::Receiver<()>>) -> Passed {
    let is_told = match told {
        Some(told) => told.await.is_ok(),
        None => false,
    };
    if !is_told {
        return pending().await;
    }
    Passed::Connections("it has closed the socket of ROSTER_CONNECTIONS".into())
}

/// Why a killed process does not end.
fn what_holds(pid: Pid) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
    match (field("TracerPid:"), field("State:")) {
        (Some(tracer), _) if tracer != "0" => format!("process {tracer} traces it; end that"),
        (_, Some(state)) => format!("the kernel says of it: {state}"),
        _ => "the kernel says nothing of it".to_owned(),
    }
}

/// Waits until a process is ready; or returns why it is not.
async fn is_ready(config: &Config, progress: &watch::Receiver<Progress>) -> Result<(), String> {
    let mut until = progress.clone();
    let awaited = match config.ready {
        Ready::StaysUp => {
            sleep(config.ready_after).await;
            return Ok(());
        }
        Ready::Connected => reached(&mut until, |it| it.is_connected),
        Ready::Message => reached(&mut until, |it| it.is_ready),
    };
    timeout(config.ready_timeout, awaited).await.map_err(|_| {
        let (time, has_connected) = (config.ready_timeout, progress.borrow().is_connected);
        match config.ready {
            Ready::Message if has_connected => {
                format!("it did not report within {time:?} that it is ready, as by Roster\\Worker::ready()")
            }
            _ => format!(
                "it did not connect over its channel within {time:?}; for a program without Roster\\Worker \
                 `ready` is \"stays-up\""
            ),
        }
    })?;
    // Its predecessor leaves once it is ready, and its services are to be offered by then.
    let _ = timeout(OFFER_TIMEOUT, reached(&mut until, |it| it.is_connected)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use tokio::sync::mpsc;

    use super::super::added::Added;
    use super::super::adding::ReadSettings;
    use super::super::output::Output;
    use super::super::requested::Requested;
    use super::super::sockets::Sockets;
    use super::super::{BoundWorkers, Surroundings};
    use super::*;
    use crate::net::TakenPorts;
    use crate::task::Tasks;
    use crate::task::stuck::lingering;

    const SOON: Duration = Duration::from_secs(60);

    /// A group without slots.
    fn group() -> Arc<Shared> {
        let read = ReadSettings::new(|_| Err(Vec::new()));
        let bound = BoundWorkers::bind(&[], Added::read(None), read, None, 100, TakenPorts::Fail).expect("none");
        let tasks = Tasks::new().0;
        let surroundings = Surroundings {
            channels: None,
            performers: mpsc::unbounded_channel().0,
            patience: Duration::ZERO,
            metrics: &Arc::default(),
            tasks: &tasks,
        };
        let launcher =
            bound.start(surroundings).expect("there are none").parts.as_ref().expect("it has").launcher.clone();
        let config = Arc::new(Config::default());
        Arc::new(Shared {
            sockets: Sockets::at_once(&config).expect("it has none"),
            output: Arc::new(Output::start(&config, &tasks)),
            config,
            members: Arc::default(),
            requested: Requested::default(),
            passing: None,
            launcher,
            metrics: Arc::default(),
            restarts: Default::default(),
            configured: 0,
            _descriptors: None,
        })
    }

    #[test]
    fn the_signal_comes_for_the_last_quarter_however_many_jobs_have_ended_and_who_has_none_has_no_longer() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut times = Times::new(start, 10 * second);
        let deadline = start + 10 * second;
        for ended in 0..10 {
            times.job_ends(start + ended * second);
            for has_jobs in [true, false] {
                let until = times.until(Some(deadline), has_jobs);
                assert_eq!(until, (start + second * 15 / 2, deadline), "{ended} {has_jobs}");
            }
        }
        let hours = start + 3_600 * second;
        assert_eq!(times.until(Some(hours), true), (hours - second * 5 / 2, hours));
        assert_eq!(times.until(Some(hours), false), (start + second * 33 / 2, start + 19 * second));
        assert_eq!(times.until(None, true), (start, start));
    }

    #[tokio::test]
    async fn a_process_that_has_sent_a_lingering_socket_is_over_soon() {
        let (group, (ours, theirs), (sent, _peer)) = (group(), UnixStream::pair().expect("sockets"), lingering());
        let rights = [sent.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        // As before Linux 6.16, it is not refused.
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).expect("sent");
        drop((sent, theirs));
        let process = Process {
            pid: Pid::from_raw(i32::MAX),
            ended: watch::channel(Some(End::Exited(0))).1,
            name: "web/1".to_owned(),
            channel: SharedSocket::connection(ours),
            connections: None,
            calls: Arc::default(),
            identity: None,
            mark: group.launcher.record.mark(),
            yields: None,
            _descriptors: group.launcher.descriptors.clone().try_acquire_owned().expect("there are some"),
            group,
        };
        timeout(SOON, process.over()).await.expect("it waits for nobody");
    }
}
