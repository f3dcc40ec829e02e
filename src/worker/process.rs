//! One process of a worker: launched, watched, asked to end, and killed with all that it started.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, User, getegid, geteuid, getgrouplist};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use uuid::Uuid;

use super::channel::{Members, Progress};
use super::config::Config;
use super::launch::{self, FIRST_DESCRIPTOR, Identity, Spec};
use super::orphans::{self, MARK};
use super::output::Output;
use super::pass::{self, Passing};
use super::preflight::Flaw;
use super::reaper::{End, Ended, Reaper};
use super::record::Record;
use super::slot::Shared;
use super::sockets::Bound;
use crate::permissions::gid_of;
use crate::permissions::own::name_of;
use crate::task::Tasks;
use crate::tunnel::worker::{CHANNEL, Channel, EVENT_QUEUE, WORKER};

/// This very binary, also where another one has taken its name since.
const OWN_BINARY: &str = "/proc/self/exe";

/// How long a process may take to become its program.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the output of a process is read that has ended, should somebody else still have its pipe.
const OUTPUT_LINGER: Duration = Duration::from_secs(1);

/// Where programs are looked for if the sidecar has no PATH itself.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that says by which descriptor a process is handed connections.
const CONNECTIONS: &str = "ROSTER_CONNECTIONS";

/// What all processes are launched with.
#[derive(Debug)]
pub(super) struct Launcher {
    pub(super) reaper: Arc<Reaper>,
    pub(super) record: Record,
    /// Where the register takes over the sockets by which processes are masters.
    pub(super) channels: mpsc::UnboundedSender<Channel>,
    pub(super) tasks: Tasks,
    /// Where slots and their processes live, whichever thread asks for them.
    pub(super) runtime: Handle,
}

/// A process whose program has begun.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    ended: Ended,
    launcher: Arc<Launcher>,
    members: Arc<Members>,
    pub(super) progress: watch::Receiver<Progress>,
    /// By which it is handed connections, where it is.
    connections: Option<(Arc<Passing>, Arc<tokio::net::UnixStream>)>,
    mark: String,
}

impl Launcher {
    /// Starts a task that ends by itself, there.
    pub(super) fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        self.tasks.short(task);
    }

    /// Starts a process of this name; or why it cannot be had, in words.
    pub(super) async fn start(
        self: &Arc<Self>,
        name: &str,
        group: &Shared,
        sockets: &Bound,
    ) -> Result<Process, String> {
        let Shared { config, output, members, .. } = group;
        let (user, identity) = identity(config).map_err(|flaw| flaw.to_string())?;
        let failed = |error: io::Error| format!("cannot start a process: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mark = Uuid::new_v4().simple().to_string();
        let handed = group.passing.as_ref().map(|_| pass::pair()).transpose().map_err(failed)?;
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
        if let Some((_, theirs)) = &handed {
            environment.push((CONNECTIONS.into(), (channel + 1).to_string()));
            descriptors.push(theirs.as_fd());
        }
        let uid = identity.as_ref().map_or_else(|| geteuid().as_raw(), |identity| identity.uid);
        let gid = identity.as_ref().map_or_else(|| getegid().as_raw(), |identity| identity.gid);
        let spec = Spec {
            command: config.command.clone(),
            environment,
            identity,
            directory: config.directory.clone().unwrap_or_else(|| PathBuf::from("/")),
            umask: config.umask.0,
            max_files: config.max_files,
            max_processes: config.max_processes,
            listens,
            descriptors: descriptors.len(),
        };
        let (pid, ended, socket) = self.spawn(name, output).map_err(failed)?;
        let (reaching, progress) = watch::channel(Progress::Started);
        let connections = group.passing.clone().zip(handed.as_ref().map(|(ours, _)| ours.clone()));
        let (launcher, members) = (self.clone(), members.clone());
        let process = Process { pid, ended, launcher, members: members.clone(), progress, connections, mark };
        self.record.add(pid, name, &process.mark);
        match timeout(LAUNCH_TIMEOUT, become_program(&spec, socket, &descriptors)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(why))) => return Err(why),
            Ok(Err(error)) => return Err(format!("cannot launch it: {error}")),
            Err(_) => return Err(format!("cannot launch it: not within {LAUNCH_TIMEOUT:?}")),
        }
        ours.set_nonblocking(true).map_err(failed)?;
        let stream = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
        let (events, heard) = mpsc::channel(EVENT_QUEUE);
        let pid = pid.as_raw();
        // Without a register, which ends after the workers, nobody hears it.
        let _ = self.channels.send(Channel { stream, worker: name.to_owned(), pid, uid, gid, events });
        let (output, name) = (output.clone(), name.to_owned());
        self.tasks.short(async move { members.hear(&name, pid, heard, reaching, &output).await });
        Ok(process)
    }

    /// Starts what is to become the program, whose output is read from now on.
    fn spawn(&self, name: &str, output: &Arc<Output>) -> io::Result<(Pid, Ended, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let [(out, stdout), (err, stderr)] = [io::pipe()?, io::pipe()?];
        let mut command = Command::new(OWN_BINARY);
        command.arg0("roster").arg(launch::COMMAND).env_clear();
        command.stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr);
        let (pid, ended) = self.reaper.spawn(&mut command)?;
        for (pipe, is_error) in [(out, false), (err, true)] {
            let (output, name, mut ended) = (output.clone(), name.to_owned(), ended.clone());
            self.tasks.short(async move {
                let ended = async {
                    let _ = ended.wait_for(Option::is_some).await;
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

/// Tells a process what it is to become, and waits until it has; or why it has not.
async fn become_program(spec: &Spec, socket: UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<Option<String>> {
    let text = spec.announce(&socket, descriptors)?;
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    socket.write_all(&text).await?;
    let mut why = String::new();
    socket.read_to_string(&mut why).await?;
    Ok(Some(why).filter(|why| !why.is_empty()))
}

impl Process {
    /// Says that it is ready: it is handed connections from now on, where it is.
    pub(super) fn is_ready(&self) {
        if let Some((passing, socket)) = &self.connections {
            passing.add(self.pid.as_raw(), socket.clone());
        }
    }

    /// Hands it no more connections: it finds the end of them.
    fn hand_no_more(&mut self) {
        if let Some((passing, _)) = self.connections.take() {
            passing.remove(self.pid.as_raw());
        }
    }

    /// Waits until it has ended, and nothing of it is left.
    pub(super) async fn ended(&mut self) -> End {
        let ended = self.ended.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        let end = match ended {
            Some(end) => end,
            // The reaper is gone, and this process with it.
            None => std::future::pending().await,
        };
        let (pid, mark) = (self.pid, self.mark.clone());
        let _ = spawn_blocking(move || orphans::kill_left_by(pid, &mark)).await;
        end
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), nix::errno::Errno> {
        self.launcher.reaper.signal(self.pid, signal)
    }

    /// Asks it to end, and kills it if it has not within this time. One that has joined over its channel is asked there;
    /// by the signal too, which may cut what is under way, only for the last quarter of that time.
    pub(super) async fn stop(&mut self, signal: Signal, patience: Duration) -> End {
        self.hand_no_more();
        let mut left = patience;
        if self.members.stop(self.pid.as_raw()) {
            left = patience / 4;
            if let Ok(end) = timeout(patience - left, self.ended()).await {
                return end;
            }
        }
        let _ = self.signal(signal);
        if let Ok(end) = timeout(left, self.ended()).await {
            return end;
        }
        tracing::warn!(pid = self.pid.as_raw(), ?patience, "a worker did not end in time, and is killed");
        self.kill().await
    }

    pub(super) async fn kill(&mut self) -> End {
        self.launcher.reaper.kill(self.pid);
        self.ended().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.hand_no_more();
        self.launcher.record.remove(self.pid);
        self.launcher.reaper.kill(self.pid);
    }
}

/// The user as whom a process runs; and as the kernel knows them, unless it is the sidecar's own.
pub(super) fn identity(config: &Config) -> Result<(Option<User>, Option<Identity>), Flaw> {
    let failed = |error: nix::errno::Errno| Flaw::new("user", error.desc());
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

/// A value of TOML as JSON, where a date is a text.
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
