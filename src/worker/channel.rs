//! The channel of a process: the socket that it inherited, over which it is a master, and over which the supervisor hears
//! of it and speaks to it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmpv::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::output::Output;
use crate::tunnel::worker::{Event, Report, Request};
use crate::tunnel::{Handle, StreamError};

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    Started,
    /// It has reported its services.
    Connected,
    /// It says that it is ready.
    Ready,
}

/// The processes of a group that can be spoken to, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<HashMap<i32, Member>>);

#[derive(Clone, Debug)]
struct Member {
    worker: String,
    handle: Handle,
}

impl Members {
    /// Hears what a process says, until it has no more to say.
    pub(super) async fn hear(
        &self,
        worker: &str,
        pid: i32,
        mut events: mpsc::Receiver<Event>,
        progress: watch::Sender<Progress>,
        output: &Output,
    ) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Opened(handle) => drop(self.members().insert(pid, Member { worker: worker.to_owned(), handle })),
                Event::Offered => reach(&progress, Progress::Connected),
                Event::Said(Report::Ready) => reach(&progress, Progress::Ready),
                Event::Said(Report::Log { level, message, context }) => {
                    output.log_record(worker, pid, &level, &message, &context);
                }
                Event::Said(Report::Broadcast(data)) => self.broadcast(worker, pid, &data),
                // The register passes it on itself.
                Event::Said(Report::Send(_)) => {}
            }
        }
        self.members().remove(&pid);
    }

    fn broadcast(&self, from: &str, pid: i32, data: &Value) {
        let others: Vec<Member> =
            self.members().iter().filter(|(other, _)| **other != pid).map(|(_, member)| member.clone()).collect();
        for Member { worker, handle } in others {
            let message = Request::Message { from: from.to_owned(), data: data.clone() };
            if let Err(error) = handle.send(message.encode()) {
                tracing::debug!(worker, from, %error, "a worker misses a message of its group");
            }
        }
    }

    /// Asks a process to end what it has under way and leave. Whether it can be asked.
    pub(super) fn stop(&self, pid: i32) -> bool {
        self.handle(pid).is_some_and(|handle| handle.send(Request::Stop.encode()).is_ok())
    }

    /// Has a process carry out a command, within this time; or why it has not, in words.
    pub(super) async fn command(&self, pid: i32, name: &str, data: Value, within: Duration) -> Result<Value, String> {
        let handle = self.handle(pid).ok_or("it has not connected over its channel")?;
        let request = |uuid| Request::Command { uuid, name: name.to_owned(), data }.encode();
        let mut stream = handle.open(None, request).map_err(|error| error.to_string())?;
        let answer = async {
            let value = stream.next().await?.unwrap_or(Value::Nil);
            while stream.next().await?.is_some() {}
            Ok::<_, StreamError>(value)
        };
        match timeout(within, answer).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it did not answer within {within:?}")),
        }
    }

    fn handle(&self, pid: i32) -> Option<Handle> {
        self.members().get(&pid).map(|member| member.handle.clone()).filter(|handle| handle.ended().is_none())
    }

    fn members(&self) -> MutexGuard<'_, HashMap<i32, Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It never goes back.
fn reach(progress: &watch::Sender<Progress>, reached: Progress) {
    progress.send_if_modified(|progress| {
        let further = *progress < reached;
        *progress = reached.max(*progress);
        further
    });
}

/// Waits until a process has come so far.
pub(super) async fn reached(progress: &mut watch::Receiver<Progress>, wanted: Progress) {
    if progress.wait_for(|progress| *progress >= wanted).await.is_err() {
        // It says nothing more; its end is another's concern.
        std::future::pending().await
    }
}
