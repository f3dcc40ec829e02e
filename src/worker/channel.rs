//! The channel of a process: the inherited socket over which it is a master, and over which it and the supervisor
//! communicate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::unistd::{getegid, geteuid};
use rmpv::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::launch::Identity;
use super::output::Output;
use super::reaper::Ended;
use crate::access::Client;
use crate::model::Arguments;
use crate::share::{Share, Taken};
use crate::tunnel::value::memory_size;
use crate::tunnel::worker::{CallUnderWay, CallsUnderWay, Event, JobReport, JobUnderWay, Performed, Report, Request};
use crate::tunnel::{Handle, SendError, Silence, StreamError};

/// How much memory one process's log messages and broadcasts may take per period; beyond that they wait, and their
/// process with them, for less than the register waits for an answer.
const MAX_SAID_BYTES: usize = 1024 * 1024;
const PERIOD: Duration = Duration::from_millis(250);

/// Of how many queues a process may perform jobs, and how many at once.
const MAX_PERFORMED: usize = 64;
const MAX_AT_ONCE: u64 = 64;

/// How far the start of a process has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// It has reported its services.
    pub(super) is_connected: bool,
    /// It has reported being ready.
    pub(super) is_ready: bool,
}

/// The connected processes of a group, by pid.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<HashMap<i32, Member>>);

#[derive(Clone, Debug)]
struct Member {
    worker: String,
    handle: Handle,
    calls: Arc<CallsUnderWay>,
    /// Closed when its connection ends, and changed when it is asked to stop: true once it is ended for reasons that are not
    /// its own.
    life: watch::Sender<bool>,
}

/// A command for workers, with a timeout for each.
#[derive(Clone, Debug)]
pub struct Command {
    pub name: String,
    pub data: Arguments,
    pub within: Duration,
}

/// A worker that can be sent commands.
#[derive(Debug)]
pub struct Addressee {
    pub worker: String,
    member: Result<(Handle, Arc<CallsUnderWay>), NoAnswer>,
}

/// A process that performs jobs.
#[derive(Debug)]
pub struct Performer {
    pub addressee: Addressee,
    pub pid: i32,
    pub user: Client,
    /// The other groups of its user.
    pub groups: Vec<u32>,
    /// What it says of jobs.
    pub said: mpsc::UnboundedReceiver<OfJobs>,
    /// Closed when its connection ends, and changed when it is asked to stop: true once it is ended for reasons that are not
    /// its own.
    pub life: watch::Receiver<bool>,
    pub ended: Ended,
    /// Whether it is ready: what it is handed before, it would have while it starts, and lose where it fails.
    pub ready: watch::Receiver<bool>,
}

/// What a process says of jobs.
#[derive(Debug)]
pub enum OfJobs {
    /// It performs jobs of a queue, by turns with its others, and has a number of them at once.
    Performs { queue: String, at_once: usize, weight: Option<u32> },
    /// Something of one that it has.
    Of(JobReport),
}

/// Why a worker has not answered a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("it has no process")]
    NoProcess,
    #[error("it has not connected over its channel")]
    NotConnected,
    #[error(transparent)]
    Unsent(#[from] SendError),
    #[error(transparent)]
    Failed(#[from] StreamError),
    #[error("its answer takes more memory than the user who asked may have")]
    NoMemory,
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
}

impl Members {
    /// Handles a process's messages until there are no more. Without an identity its user is the sidecar's own.
    pub(super) async fn hear(
        &self,
        (worker, pid, ended, ready): (&str, i32, Ended, watch::Receiver<bool>),
        identity: Option<&Identity>,
        mut events: mpsc::Receiver<Event>,
        progress: watch::Sender<Progress>,
        output: &Output,
        performers: &mpsc::UnboundedSender<Performer>,
    ) {
        let (mut pace, mut own) = (Pace::default(), None);
        let (alive, life) = watch::channel(false);
        let (mut performed, mut jobs) = (0, None);
        while let Some(event) = events.recv().await {
            match event {
                Event::Opened(handle, calls) => {
                    own = Some((handle.clone(), calls.clone()));
                    let member = Member { worker: worker.to_owned(), handle, calls, life: alive.clone() };
                    self.members().insert(pid, member);
                }
                Event::Offered => progress.send_modify(|it| it.is_connected = true),
                Event::Said(Report::Ready) => progress.send_modify(|it| it.is_ready = true),
                Event::Said(Report::Log { level, message, context, said }) => {
                    pace.keep(said).await;
                    output.log_record(worker, pid, &level, &message, &context);
                }
                Event::Said(Report::Broadcast(data)) => {
                    pace.keep(memory_size(&data)).await;
                    if let Some((handle, _)) = &own {
                        self.broadcast(worker, pid, handle, data);
                    }
                }
                Event::Said(Report::Perform { queue, at_once, weight }) => {
                    performed += 1;
                    if let Some((handle, calls)) = own.clone().filter(|_| performed <= MAX_PERFORMED) {
                        let jobs = jobs.get_or_insert_with(|| {
                            let addressee = Addressee { worker: worker.to_owned(), member: Ok((handle, calls)) };
                            let (jobs, said) = mpsc::unbounded_channel();
                            // Where nobody takes it, there are no queues.
                            let (user, groups) = user_of(identity);
                            let (life, ended, ready) = (life.clone(), ended.clone(), ready.clone());
                            let performer = Performer { addressee, pid, user, groups, said, life, ended, ready };
                            let _ = performers.send(performer);
                            jobs
                        });
                        let at_once = at_once.clamp(1, MAX_AT_ONCE) as usize;
                        let weight = weight.map(|weight| u32::try_from(weight).unwrap_or(u32::MAX));
                        let _ = jobs.send(OfJobs::Performs { queue, at_once, weight });
                    }
                }
                Event::Said(Report::Job(report)) => {
                    pace.keep(size_of::<JobReport>() + report.progress.as_ref().map_or(0, |(_, note)| note.len()))
                        .await;
                    if let Some(jobs) = &jobs {
                        // Where nobody hears it, the process is to stop.
                        let _ = jobs.send(OfJobs::Of(report));
                    }
                }
                // The register passes it on itself.
                Event::Said(Report::Send(_)) => {}
            }
        }
        // Another process may have its pid by now.
        let mut members = self.members();
        if members.get(&pid).zip(own).is_some_and(|(member, (_, own))| Arc::ptr_eq(&member.calls, &own)) {
            members.remove(&pid);
        }
    }

    /// The message is packed once for all: one with many values takes milliseconds.
    fn broadcast(&self, from: &str, pid: i32, own: &Handle, data: Value) {
        let message = Request::Message { from: from.to_owned(), data }.encode();
        let frame = match own.share(message) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(from, %error, "a group misses a message of one of its workers");
                return;
            }
        };
        let others: Vec<Member> =
            self.members().iter().filter(|(other, _)| **other != pid).map(|(_, member)| member.clone()).collect();
        for Member { worker, handle, .. } in others {
            if let Err(error) = handle.send_shared(&frame) {
                tracing::debug!(worker, from, %error, "a worker misses a message of its group");
            }
        }
    }

    /// Asks a process to finish what is under way and exit. Returns whether it can be asked.
    pub(super) fn stop(&self, pid: i32) -> bool {
        self.member(pid).is_some_and(|member| {
            member.life.send_replace(false);
            member.handle.send_first(Request::Stop.encode()).is_ok()
        })
    }

    /// A process is ended for reasons that are not its own: the jobs that it has are given back then.
    pub(super) fn give_back_jobs(&self, pid: i32) {
        if let Some(member) = self.member(pid) {
            member.life.send_replace(true);
        }
    }

    /// The means to send a process commands.
    pub(super) fn addressee(&self, worker: String, pid: Option<i32>) -> Addressee {
        let member = pid.ok_or(NoAnswer::NoProcess).and_then(|pid| self.member(pid).ok_or(NoAnswer::NotConnected));
        Addressee { worker, member: member.map(|member| (member.handle, member.calls)) }
    }

    /// How many calls a process has under way, and the longest one. None: it has not connected.
    pub(super) fn calls(&self, pid: i32) -> Option<(usize, Option<CallUnderWay>)> {
        self.members().get(&pid).map(|member| member.calls.look())
    }

    /// Whether, and for how long, a connected process has not answered over its channel.
    pub(super) fn silence(&self, pid: i32) -> Option<Silence> {
        self.member(pid)?.handle.silence()
    }

    /// Since when.
    pub(super) fn silent_since(&self, pid: i32) -> Option<SystemTime> {
        Some(self.silence(pid)?.since)
    }

    fn member(&self, pid: i32) -> Option<Member> {
        self.members().get(&pid).filter(|member| member.handle.ended().is_none()).cloned()
    }

    fn members(&self) -> MutexGuard<'_, HashMap<i32, Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Addressee {
    /// Makes it carry out a command; returns the last value of the result, with the memory charged to its user.
    pub async fn carry_out(&self, command: &Command, memory: &Arc<Share>) -> Result<Option<(Value, Taken)>, NoAnswer> {
        let Command { name, data, within } = command;
        timeout(*within, self.answer(name, data, memory)).await.unwrap_or(Err(NoAnswer::TimedOut(*within)))
    }

    /// The same, however long it takes. It is sent at the first poll.
    pub async fn answer(
        &self,
        name: &str,
        data: &Arguments,
        memory: &Arc<Share>,
    ) -> Result<Option<(Value, Taken)>, NoAnswer> {
        let (handle, calls) = self.member.as_ref().map_err(Clone::clone)?;
        calls.count();
        let name = name.to_owned();
        let request = |uuid| Request::Command { uuid, name, data: Value::Nil }.encode();
        let mut stream = handle.open_with(Some(memory), data.packed().clone(), request)?;
        let mut last = None;
        while let Some(value) = stream.next().await? {
            let taken = memory.take(memory_size(&value)).ok_or(NoAnswer::NoMemory)?;
            last = Some((value, taken));
        }
        Ok(last)
    }

    /// Notes that it is handed a job, which it has for as long as what is returned exists: it is not given up for what that
    /// does to it.
    pub fn begin_job(&self) -> Option<JobUnderWay> {
        self.member.as_ref().ok().map(|(_, calls)| calls.begin_job())
    }

    /// Notes that it begins a job,
    pub fn performs(&self, job: Performed) {
        if let Ok((_, calls)) = &self.member {
            calls.performs(job);
        }
    }

    /// and that it is done with one.
    pub fn has_performed(&self, id: u64) {
        if let Ok((_, calls)) = &self.member {
            calls.has_performed(id);
        }
    }

    /// Notes whether it takes longer for a job than it may, or to end after one: after a while, it is killed then.
    pub fn set_late(&self, is_late: bool) {
        if let Ok((_, calls)) = &self.member {
            calls.set_late(is_late);
        }
    }

    #[cfg(test)]
    pub(crate) fn of_tests(handle: Handle, calls: Arc<CallsUnderWay>) -> Self {
        Self { worker: "mail/1".to_owned(), member: Ok((handle, calls)) }
    }
}

fn user_of(identity: Option<&Identity>) -> (Client, Vec<u32>) {
    match identity {
        Some(Identity { uid, gid, groups }) => (Client::Unix { uid: *uid, gid: *gid }, groups.clone()),
        None => (Client::Unix { uid: geteuid().as_raw(), gid: getegid().as_raw() }, Vec::new()),
    }
}

/// How much a process has sent since a moment.
#[derive(Debug, Default)]
struct Pace {
    since: Option<Instant>,
    bytes: usize,
}

impl Pace {
    /// Waits until this much more may be sent.
    async fn keep(&mut self, bytes: usize) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.bytes > MAX_SAID_BYTES {
            sleep_until(since + PERIOD).await;
        }
        if since.elapsed() >= PERIOD {
            (self.since, self.bytes) = (None, 0);
        }
        self.bytes += bytes;
    }
}

/// Waits until a process has come this far.
pub(super) async fn reached(progress: &mut watch::Receiver<Progress>, wanted: fn(&Progress) -> bool) {
    if progress.wait_for(wanted).await.is_err() {
        // There will be no more messages; its end is handled elsewhere.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Pool;
    use crate::tunnel::value::text_in;
    use crate::tunnel::worker::EVENT_QUEUE;
    use crate::tunnel::{Bounds, Conversation, Message, Settings, Wire};

    #[tokio::test]
    async fn what_a_process_broadcasts_is_packed_and_charged_once_for_all_its_group() {
        let (members, memory) = (Members::default(), Pool::new(1_000_000, 1).share(None));
        let mut settings = Settings::default();
        settings.memory = Some(memory.clone());
        // Nothing that is sent to them leaves.
        let conversation = |_| Conversation::new(Wire::new(tokio::io::duplex(1).0, Bounds::STRANGER), settings.clone());
        let conversations: Vec<_> = (0..3).map(conversation).collect();
        for (pid, (handle, ..)) in (0..).zip(&conversations) {
            let (worker, calls) = (format!("web/{pid}"), Arc::default());
            let member = Member { worker, handle: handle.clone(), calls, life: watch::channel(false).0 };
            members.members().insert(pid, member);
        }
        let (own, ..) = conversations.first().expect("three");
        members.broadcast("web/0", 0, own, "x".repeat(100_000).into());
        assert!((100_000..110_000).contains(&memory.taken()), "{}", memory.taken());
        drop((members, conversations));
        assert_eq!(memory.taken(), 0);
    }

    #[tokio::test]
    async fn a_process_is_asked_to_stop_before_all_that_waits_for_it_and_where_that_has_no_room() {
        let (members, mut settings) = (Members::default(), Settings::default());
        settings.queue_frames = 1;
        let (here, there) = tokio::io::duplex(1 << 16);
        let (handle, _incoming, conversation) = Conversation::new(Wire::new(here, Bounds::STRANGER), settings);
        let (worker, calls, life) = ("web/1".to_owned(), Arc::default(), watch::channel(true).0);
        members.members().insert(1, Member { worker, handle: handle.clone(), calls, life });
        let waits = || Request::Message { from: "web/2".to_owned(), data: Value::Nil }.encode();
        handle.send(waits()).expect("there is room");
        assert_eq!(handle.send(waits()), Err(SendError::Full));
        assert!(members.stop(1));
        tokio::spawn(conversation.run());
        let mut wire = Wire::new(there, Bounds::STRANGER);
        for expected in ["worker-stop", "worker-message"] {
            match wire.receive().await {
                Ok(Message::Other(map)) => assert_eq!(text_in(&map, "cmd"), expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_says_too_much_waits() {
        let (members, output) = (Members::default(), Output::default());
        let (said, heard) = mpsc::channel(EVENT_QUEUE);
        let begun = Instant::now();
        let say = async {
            for _ in 0..16 {
                let (level, message, context) = ("info".to_owned(), "{".repeat(1_000), String::new());
                let log = Report::Log { level, message, context, said: 1024 * 1024 };
                said.send(Event::Said(log)).await.expect("it is heard");
            }
            drop(said);
        };
        let (progress, performers) = (watch::channel(Progress::default()).0, mpsc::unbounded_channel().0);
        let process = ("web/1", 1, watch::channel(None).1, watch::channel(true).1);
        tokio::join!(say, members.hear(process, None, heard, progress, &output, &performers));
        assert!(begun.elapsed() >= 3 * PERIOD, "{:?}", begun.elapsed());
        assert_eq!(output.after(0, None).lines.len(), 16, "none is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_says_too_much_is_heard_again_long_before_the_register_gives_its_channel_up() {
        let mut pace = Pace::default();
        for _ in 0..64 {
            let begun = Instant::now();
            pace.keep(1024 * 1024).await;
            assert!(begun.elapsed() <= Duration::from_millis(300), "of 1 s, {:?}", begun.elapsed());
        }
    }
}
