//! One process of a worker: launched, watched, asked to end, and killed with everything it started.

use std::convert::Infallible;
use std::env;
use std::future::pending;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Pid, User, getegid, geteuid, getgrouplist};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::channel::{Progress, reached};
use super::config::{Config, Ready};
use super::fork_server::ForkServer;
use super::launch::{self, FIRST_DESCRIPTOR, Identity, Refusal, Said, Spec};
use super::limits::{self, Passed};
use super::machine::Ending;
use super::orphans::{Leaver, MARK, Sweeper};
use super::output::Output;
use super::pass::{self, Passing};
use super::precedence::{self, Beginning};
use super::preflight::Flaw;
use super::reaper::{End, Ended, Reaper, WorkerError};
use super::record::Record;
use super::requested;
use super::slot::Shared;
use super::sockets::Bound;
use crate::net::{SharedSocket, refuse_descriptors};
use crate::permissions::gid_of;
use crate::permissions::own::name_of;
use crate::task::{Phase, Tasks};
use crate::tunnel::worker::{CHANNEL, CallsUnderWay, Channel, EVENT_QUEUE, Event, WORKER};

/// How long a process may take to execute its program.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process that reports being ready may take to report its services.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer launching may take if the process is to end.
const LAUNCH_GRACE: Duration = Duration::from_secs(1);

/// How long a killed process may take to end before that is logged.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the output of an ended process is still read, in case others have its pipe open.
const OUTPUT_LINGER: Duration = Duration::from_secs(1);

/// Where to look for programs if the sidecar itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NO_DESCRIPTORS: &str = "the sidecar has no descriptors left for another process of workers; have fewer of them, or raise \
                              the limit (`LimitNOFILE=` of its unit, `ulimit -Hn`)";

/// The environment variable with the descriptor for receiving connections,
const CONNECTIONS: &str = "ROSTER_CONNECTIONS";

/// and the one with the descriptor for requesting sockets.
const REQUESTS: &str = "ROSTER_REQUESTS";

/// What launching any process requires.
#[derive(Debug)]
pub(super) struct Launcher {
    pub(super) reaper: Arc<Reaper>,
    pub(super) fork_server: ForkServer,
    pub(super) record: Record,
    pub(super) sweeper: Sweeper,
    /// Where the register receives the sockets by which processes are masters.
    pub(super) channels: mpsc::UnboundedSender<Channel>,
    /// Where those that perform jobs are reported.
    pub(super) performers: mpsc::UnboundedSender<super::Performer>,
    pub(super) tasks: Tasks,
    /// The changes of workers.
    pub(super) news: Arc<super::news::News>,
    /// The runtime of slots and their processes, whichever thread requests something.
    pub(super) runtime: Handle,
    /// How many of the sidecar's descriptors are left for them.
    pub(super) descriptors: Arc<Semaphore>,
    /// Whether ends of processes are detected, which begins with the first group.
    pub(super) is_reaped: Mutex<bool>,
}

/// What a slot learns about a process that has not ended.
#[derive(Debug)]
pub(super) enum News {
    /// It executes its program.
    Began(i32),
    Ready,
    Passed(Passed),
    /// It was killed but does not end, and why.
    Stuck(String),
}

/// The deadline for a process to end, once there is one.
pub(super) type Deadline = watch::Receiver<Option<Instant>>;

/// A process; dropping it kills it, with what it started.
#[derive(Debug)]
struct Process {
    pid: Pid,
    ended: Ended,
    group: Arc<Shared>,
    /// The name of its slot.
    name: String,
    /// Its channel, which nobody can use once it has ended.
    channel: SharedSocket,
    /// The socket for handing it connections, if it gets any.
    connections: Option<(Arc<Passing>, Arc<SharedSocket>)>,
    /// Counts its requests.
    calls: Arc<CallsUnderWay>,
    /// Its user, unless that is the sidecar's own.
    identity: Option<Identity>,
    mark: String,
    /// By which is said that it need not yield any more.
    yields: Option<oneshot::Sender<()>>,
    _descriptors: OwnedSemaphorePermit,
}

/// A process that is about to execute its program.
struct Launch {
    process: Process,
    /// What it reads from that socket, before it answers.
    text: Vec<u8>,
    socket: UnixStream,
    channel: Channel,
    events: mpsc::Receiver<Event>,
}

impl Launcher {
    /// Detects ends of processes from now on.
    pub(super) fn reap(&self) -> Result<(), WorkerError> {
        let mut is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_reaped {
            let _entered = self.runtime.enter();
            // Processes that end after the workers are reaped as well.
            self.reaper.start(&self.tasks.of(Phase::SharedFile))?;
            *is_reaped = true;
        }
        Ok(())
    }

    /// Starts a task that ends by itself on that runtime.
    pub(super) fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        self.tasks.short(task);
    }

    /// Starts the process that will execute the program; its output is read from now on.
    fn spawn(
        &self,
        name: &str,
        output: &Arc<Output>,
        identity: Option<&Identity>,
    ) -> io::Result<(Pid, Ended, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let [(out, stdout), (err, stderr)] = [io::pipe()?, io::pipe()?];
        // Many programs reopen them, as /dev/stdout and /dev/stderr.
        launch::give_to(identity, [stdout.as_fd(), stderr.as_fd()])?;
        let (pid, ended) = self.fork_server.fork(&self.reaper, [theirs.into(), stdout.into(), stderr.into()])?;
        for (pipe, is_error) in [(out, false), (err, true)] {
            let (output, name, ended) = (output.clone(), name.to_owned(), ended.clone());
            self.begin(async move {
                let ended = async {
                    end(ended).await;
                    tokio::time::sleep(OUTPUT_LINGER).await;
                };
                tokio::select! {
                    () = output.read(pipe.into(), &name, pid.as_raw(), is_error) => {}
                    () = ended => {}
                }
            });
        }
        Ok((pid, ended, ours))
    }
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
            // Without a register, which ends after the workers, nobody receives it.
            let _ = launcher.channels.send(channel);
            let (group, name, pid) = (group.clone(), name.to_owned(), process.pid.as_raw());
            launcher.begin(async move {
                let performers = &group.launcher.performers;
                group.members.hear(&name, pid, events, reaching, &group.output, performers).await
            });
            tell(News::Began(pid));
            process.run(progress, &mut asked, tell).await
        }
    };
    process.over().await;
    ending
}

/// Starts a process with this name that will execute the program, with its sockets; or returns why it cannot.
async fn launch_one(group: &Arc<Shared>, name: &str) -> Result<Launch, Ending> {
    let Shared { config, sockets, launcher, metrics, .. } = &**group;
    launcher.sweeper.catch_up(&launcher.reaper).await;
    let sockets = sockets.get(config, metrics).await.map_err(Ending::NoSocket)?;
    if let Some(passing) = &group.passing {
        passing.start(config, sockets.listeners(), metrics, &launcher.tasks);
    }
    // It looks up users, and writes to the disk.
    let (group, name) = (group.clone(), name.to_owned());
    let launched = precedence::on_yielding_thread("launch", move || Launch::start(&group, &name, &sockets)).await;
    launched.unwrap_or_else(|error| Err(Refusal::of("cannot start a process", &error).into()))
}

impl Launch {
    /// Starts a process that will execute the program; or returns why it cannot. Blocks meanwhile.
    fn start(group: &Arc<Shared>, name: &str, sockets: &Bound) -> Result<Self, Ending> {
        let Shared { config, output, launcher, .. } = &**group;
        let (user, identity) = identity(config).map_err(|flaw| match flaw.is_short {
            true => Ending::Short(flaw.to_string()),
            false => Ending::Failed(flaw.to_string()),
        })?;
        let failed = |error: io::Error| Ending::from(Refusal::of("cannot start a process", &error));
        let permit = launcher.descriptors.clone().try_acquire_many_owned(config.descriptors_of_each() as u32);
        let permit = permit.map_err(|_| Ending::Short(NO_DESCRIPTORS.to_owned()))?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        refuse_descriptors(&ours);
        ours.set_nonblocking(true).map_err(failed)?;
        let stream = ours.try_clone().and_then(tokio::net::UnixStream::from_std).map_err(failed)?;
        let mark = launcher.record.mark();
        let (handed, taken) = group.passing.as_ref().map(|_| pass::pair()).transpose().map_err(failed)?.unzip();
        let inherited = group.passing.is_none().then(|| sockets.descriptors());
        let mut descriptors: Vec<BorrowedFd<'_>> = inherited.into_iter().flatten().collect();
        let channel = FIRST_DESCRIPTOR + descriptors.len() as RawFd;
        let mut environment = environment(config, user.as_ref());
        let own = [(MARK, mark.clone()), (WORKER, name.to_owned()), (CHANNEL, channel.to_string())];
        environment.extend(own.map(|(key, value)| (key.to_owned(), value)));
        let listens = !descriptors.is_empty();
        if listens {
            environment.push(("LISTEN_FDS".into(), descriptors.len().to_string()));
            environment.push(("LISTEN_FDNAMES".into(), sockets.names()));
        }
        descriptors.push(theirs.as_fd());
        if let Some(theirs) = &taken {
            environment.push((CONNECTIONS.into(), (channel + 1).to_string()));
            descriptors.push(theirs.as_fd());
        }
        let requests = (!config.may_listen.is_empty()).then(pass::pair).transpose().map_err(failed)?;
        let (requests, requesting) = requests.unzip();
        if let Some(theirs) = &requesting {
            environment.push((REQUESTS.into(), (FIRST_DESCRIPTOR + descriptors.len() as RawFd).to_string()));
            descriptors.push(theirs.as_fd());
        }
        launch::give_to(identity.as_ref(), descriptors.iter().copied()).map_err(failed)?;
        let uid = identity.as_ref().map_or_else(|| geteuid().as_raw(), |identity| identity.uid);
        let gid = identity.as_ref().map_or_else(|| getegid().as_raw(), |identity| identity.gid);
        let spec = Spec {
            command: config.command.clone(),
            environment,
            identity: identity.clone(),
            directory: config.directory.clone().unwrap_or_else(|| PathBuf::from("/")),
            umask: config.umask.0,
            max_files: config.max_files,
            max_processes: config.max_processes,
            beginning: Beginning::of_a_process(config.ready != Ready::StaysUp),
            listens,
            descriptors: descriptors.len(),
        };
        let (pid, ended, socket) = launcher.spawn(name, output, identity.as_ref()).map_err(failed)?;
        let (yields, is_ready) = oneshot::channel();
        launcher.begin(precedence::lift(pid, is_ready, launcher.reaper.clone()));
        let calls = CallsUnderWay::of_at_most(limits::requests(config));
        let connections = group.passing.clone().zip(handed.map(SharedSocket::connection).map(Arc::new));
        let process = Process {
            pid,
            ended,
            group: group.clone(),
            name: name.to_owned(),
            channel: SharedSocket::connection(ours),
            connections,
            calls: calls.clone(),
            identity,
            mark,
            yields: Some(yields),
            _descriptors: permit,
        };
        launcher.record.add(pid, name, &process.mark);
        if let Some(ours) = requests {
            let ours = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
            let (group, identity) = (group.clone(), process.identity.clone());
            let ended = process.ended.clone();
            launcher.begin(async move {
                tokio::select! {
                    () = requested::serve(group, ours, identity) => {}
                    // Processes that it left behind may not request anything.
                    _ = end(ended) => {}
                }
            });
        }
        let text = spec.announce(&socket, &descriptors).map_err(failed)?;
        let (events, heard) = mpsc::channel(EVENT_QUEUE);
        let channel = Channel { stream, worker: name.to_owned(), pid: pid.as_raw(), uid, gid, events, calls };
        Ok(Self { process, text, socket, channel, events: heard })
    }
}

/// Sends a process its spec, and waits until it executes the program; or returns why it does not.
async fn become_program(text: &[u8], socket: UnixStream) -> io::Result<Said> {
    // A process that has ended may have reported why.
    let unless_over = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    };
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    socket.write_all(text).await.or_else(unless_over)?;
    let mut said = Vec::new();
    socket.read_to_end(&mut said).await.map(drop).or_else(unless_over)?;
    Said::read(&said)
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
async fn end(mut ended: Ended) -> End {
    match ended.wait_for(Option::is_some).await.ok().and_then(|end| *end) {
        Some(end) => end,
        // The reaper is gone, and this process is ending.
        None => pending().await,
    }
}

impl Process {
    /// Watches a process that executes its program until it has ended.
    async fn run(&mut self, progress: watch::Receiver<Progress>, asked: &mut Deadline, tell: impl Fn(News)) -> Ending {
        let (group, pid, ended) = (self.group.clone(), self.pid.as_raw(), self.ended.clone());
        let (config, calls) = (&group.config, self.calls.clone());
        let mut hard = pin!(async {
            let passed = tokio::select! {
                passed = limits::hard(config, pid) => passed,
                passed = limits::silent(config, || group.members.silence(pid)) => passed,
                passed = limits::overdue(config, &calls) => passed,
                never = tell_of_silence(&group, pid) => match never {},
            };
            tell(News::Passed(passed));
            pending::<Infallible>().await
        });
        let outcome = tokio::select! {
            ready = is_ready(config, &progress) => ready,
            end = end(ended.clone()) => return Ending::Ended(end),
            never = &mut hard => match never {},
            () = is_asked(asked) => Ok(()),
        };
        if let Err(why) = outcome {
            return self.give_up(Ending::Failed(why), &tell).await;
        }
        let mut shut_out = None;
        if asked.borrow().is_none() {
            if let Some(yields) = self.yields.take() {
                // It may have been lifted before.
                let _ = yields.send(());
            }
            shut_out = self.take_connections();
            tell(News::Ready);
        }
        let soft = async {
            let passed = tokio::select! {
                passed = limits::soft(config, pid, &self.calls) => passed,
                () = is_shut_out(shut_out) => Passed::Connections("it has closed the socket of ROSTER_CONNECTIONS".into()),
            };
            tell(News::Passed(passed));
            pending::<Infallible>().await
        };
        tokio::select! {
            end = end(ended) => return Ending::Ended(end),
            never = soft => match never {},
            never = &mut hard => match never {},
            () = is_asked(asked) => {}
        }
        tokio::select! {
            end = self.stop(asked, &tell) => Ending::Ended(end),
            never = &mut hard => match never {},
        }
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

    /// Asks it to end, and kills it after the deadline. A process that is connected over its channel is asked there;
    /// the signal, which may cut off what is under way, is also sent in the last quarter of the time.
    async fn stop(&mut self, asked: &mut Deadline, tell: &impl Fn(News)) -> End {
        self.hand_no_more();
        let (begun, pid, ended) = (Instant::now(), self.pid.as_raw(), self.ended.clone());
        let signal = self.group.config.stop_signal.0;
        let mut is_signalled = false;
        let is_told = self.group.members.stop(pid);
        loop {
            let until = asked.borrow_and_update().unwrap_or(begun).max(begun);
            if !is_signalled && (!is_told || Instant::now() >= until - (until - begun) / 4) {
                let _ = self.launcher().reaper.signal(self.pid, signal);
                is_signalled = true;
            }
            let next = if is_signalled { until } else { until - (until - begun) / 4 };
            tokio::select! {
                end = end(ended.clone()) => return end,
                changed = asked.changed() => if changed.is_err() {
                    return self.kill(tell).await;
                },
                () = sleep_until(next) => if is_signalled {
                    if until > begun {
                        let (worker, after) = (&self.name, until - begun);
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
async fn is_shut_out(told: Option<oneshot::Receiver<()>>) {
    let is_told = match told {
        Some(told) => told.await.is_ok(),
        None => false,
    };
    if !is_told {
        pending().await
    }
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

/// The user that a process runs as; and the kernel's view of it, unless it is the sidecar's own.
pub(super) fn identity(config: &Config) -> Result<(Option<User>, Option<Identity>), Flaw> {
    let failed = |error: nix::errno::Errno| Flaw {
        is_short: launch::is_shortage(Some(error as i32)),
        ..Flaw::new("user", error.desc())
    };
    let user = match config.user.as_str() {
        "" => User::from_uid(geteuid()).map_err(failed)?,
        name => Some(User::from_name(name).map_err(failed)?.ok_or_else(|| Flaw::none("user", name))?),
    };
    let group = match config.group.as_str() {
        "" => None,
        name => Some(gid_of(name).map_err(failed)?.ok_or_else(|| Flaw::none("group", name))?),
    };
    let Some(known) = &user else { return Ok((None, None)) };
    let own_group = if config.user.is_empty() { getegid() } else { known.gid };
    let gid = group.unwrap_or(own_group);
    let is_own = known.uid == geteuid() && gid == getegid();
    if is_own {
        return Ok((user, None));
    }
    if !geteuid().is_root() {
        let (own, key) = (name_of(geteuid().as_raw()), if config.user.is_empty() { "group" } else { "user" });
        let wanted = format!("{} of the group {gid}", known.name);
        return Err(Flaw::new(key, format!("the sidecar runs as {own}; only root can start a process as {wanted}")));
    }
    let name = std::ffi::CString::new(known.name.as_str()).map_err(|error| Flaw::new("user", error.to_string()))?;
    let groups = getgrouplist(&name, gid).map_err(failed)?;
    let identity =
        Identity { uid: known.uid.as_raw(), gid: gid.as_raw(), groups: groups.into_iter().map(Gid::as_raw).collect() };
    Ok((user, Some(identity)))
}

pub(super) fn environment(config: &Config, user: Option<&User>) -> Vec<(String, String)> {
    let mut environment = vec![("PATH".to_owned(), env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into()))];
    for name in ["LANG", "TZ"] {
        environment.extend(env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    if let Some(user) = user {
        let own =
            [("HOME", user.dir.display().to_string()), ("USER", user.name.clone()), ("LOGNAME", user.name.clone())];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
    }
    environment.retain(|(name, _)| !config.environment.contains_key(name));
    environment.extend(config.environment.clone());
    environment.push(("ROSTER_PARAMS".into(), json(&toml::Value::Table(config.params.clone())).to_string()));
    environment
}

/// A TOML value as JSON; dates become strings.
fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(entries) => entries.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::super::added::Added;
    use super::super::adding::ReadSettings;
    use super::super::requested::Requested;
    use super::super::sockets::Sockets;
    use super::super::{BoundWorkers, Surroundings};
    use super::*;
    use crate::net::TakenPorts;
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
