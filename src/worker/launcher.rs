//! Launching a process of a worker: its sockets, its user and its environment, and the fork.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Pid, User, getegid, geteuid, getgrouplist};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::config::{Config, Ready};
use super::fork_server::ForkServer;
use super::launch::{self, FIRST_DESCRIPTOR, Identity, Refusal, Said, Spec};
use super::limits;
use super::machine::Ending;
use super::orphans::{MARK, Sweeper};
use super::output::Output;
use super::pass;
use super::precedence::{self, Beginning};
use super::preflight::Flaw;
use super::process::{Process, end};
use super::reaper::{Ended, Reaper, WorkerError};
use super::record::Record;
use super::requested;
use super::slot::Shared;
use super::sockets::Bound;
use crate::net::{SharedSocket, refuse_descriptors};
use crate::permissions::gid_of;
use crate::permissions::own::name_of;
use crate::rule;
use crate::task::{Phase, Tasks};
use crate::tunnel::worker::{CHANNEL, CallsUnderWay, Channel, EVENT_QUEUE, Event, WORKER};

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

/// A process that is about to execute its program.
pub(super) struct Launch {
    pub(super) process: Process,
    /// What it reads from that socket, before it answers.
    pub(super) text: Vec<u8>,
    pub(super) socket: UnixStream,
    pub(super) channel: Channel,
    pub(super) events: mpsc::Receiver<Event>,
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
    ) -> Result<(Pid, Ended, UnixStream), Refusal> {
        let failed = |error| Refusal::of("cannot start a process", &error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let [(out, stdout), (err, stderr)] = [io::pipe().map_err(failed)?, io::pipe().map_err(failed)?];
        // Many programs reopen them, as /dev/stdout and /dev/stderr.
        launch::give_to(identity, [stdout.as_fd(), stderr.as_fd()]).map_err(failed)?;
        let (pid, ended) = self.fork_server.fork(&self.reaper, &[theirs.into(), stdout.into(), stderr.into()])?;
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

/// Starts a process with this name that will execute the program, with its sockets; or returns why it cannot.
pub(super) async fn launch_one(group: &Arc<Shared>, name: &str) -> Result<Launch, Ending> {
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
        let (pid, ended, socket) = launcher.spawn(name, output, identity.as_ref())?;
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
pub(super) async fn become_program(text: &[u8], socket: UnixStream) -> io::Result<Said> {
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
    environment.push(("ROSTER_PARAMS".into(), rule::json(&toml::Value::Table(config.params.clone())).to_string()));
    environment
}
