//! Sessions: one conversation with a register, and the calls under way for it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::MethodError;
use super::event::Event;
use super::service::Values;
use super::{Services, Shared};
use roster_net::Remote;
use roster_tunnel::{
    Handle, Incoming, Message, Outlet, PHP_REFUSAL, RegisterAddr, RemoteError, SendError, Status, Value,
};

/// A PHP register's request for the services: the only closure that can be answered without running it.
const SERVICES: &[u8] = b"ServiceRegistry::getServiceNameAndMetadata()";

/// How long a leaving master still receives calls that are on their way to it: refused, they can go elsewhere.
const LEAVE_GRACE: Duration = Duration::from_millis(300);

/// Answers a register's requests, each in its own task, so that none delays another.
pub(super) struct Session {
    shared: Arc<Shared>,
    register: RegisterAddr,
    handle: Handle,
    /// The requests being answered, each with a token that ends it early.
    running: HashMap<String, CancellationToken>,
    /// Ends them all, with the session.
    over: CancellationToken,
    done: mpsc::UnboundedSender<String>,
    finished: mpsc::UnboundedReceiver<String>,
    /// Since when the master is leaving.
    leaving: Option<Instant>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, register: RegisterAddr, handle: Handle) -> Self {
        let (done, finished) = mpsc::unbounded_channel();
        let (running, over) = (HashMap::new(), CancellationToken::new());
        Self { shared, register, handle, running, over, done, finished, leaving: None }
    }

    /// Runs until the conversation has ended, or closes it when the master leaves and its calls have completed.
    pub(super) async fn answer(
        mut self,
        incoming: &mut Incoming,
        mut services: watch::Receiver<Services>,
        leave: &CancellationToken,
    ) {
        let handle = self.handle.clone();
        // The report of the services, once the register has room for it.
        let mut news = None;
        loop {
            let until = self.leaving.and_then(|since| since.checked_add(self.patience(news.is_none())));
            tokio::select! {
                message = incoming.recv() => match message.map(|arrived| arrived.into_message()) {
                    Some(message) => self.hear(message),
                    None => return,
                },
                Some(uuid) = self.finished.recv() => drop(self.running.remove(&uuid)),
                Ok(()) = services.changed() => news = Some(self.news()),
                told = tell(&handle, &news), if news.is_some() => match told {
                    Ok(()) => news = None,
                    Err(_) => return,
                },
                () = leave.cancelled(), if self.leaving.is_none() => {
                    self.leaving = Some(Instant::now());
                    news = Some(self.news());
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        self.handle.close();
    }

    /// How long after the request to leave the master may go.
    fn patience(&self, has_told: bool) -> Duration {
        let drain = self.shared.config.drain;
        if has_told && self.running.is_empty() { drain.min(LEAVE_GRACE) } else { drain }
    }

    fn news(&self) -> Message {
        let offers = self.leaving.is_none() && !self.shared.services.borrow().is_empty();
        if offers { Message::Register(None) } else { Message::Remove(None) }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::List { uuid } => self.list(uuid),
            Message::Callback { uuid, serialized } if is_within(SERVICES, &serialized) => self.list(uuid),
            Message::Callback { uuid, .. } => {
                let refused = MethodError::new("callback not allowed").class(PHP_REFUSAL);
                end(&self.handle, uuid, Err(refused));
            }
            Message::Call { uuid, service, method, arguments, is_windowed } => {
                let values = self.values(&uuid, is_windowed);
                self.call(uuid, &service, &method, arguments, values);
            }
            Message::Close { uuid } => {
                if let Some(call) = self.running.get(&uuid) {
                    call.cancel();
                }
            }
            Message::Register(Some(places)) => {
                let most = self.shared.config.most_registers;
                let may_know = places.into_iter().filter(|place| may_share(&self.register, place));
                may_know.for_each(|place| self.shared.join(place, most));
            }
            Message::Remove(Some(places)) => places.iter().for_each(|place| self.shared.leave(place)),
            Message::AuthFailed { message: reason } => {
                self.shared.tell(Event::Refused { register: self.register.clone(), reason });
            }
            Message::Other(command) => self.shared.tell(Event::Command { register: self.register.clone(), command }),
            // Everything else is sent by masters, or by the tunnel itself.
            _ => {}
        }
    }

    /// Room for this is separate from that for calls.
    fn list(&mut self, uuid: String) {
        let services = self.shared.services.borrow().clone();
        let offered = services.iter().filter(|_| self.leaving.is_none());
        let list = offered.map(|(name, service)| (name.as_str().into(), service.describe())).collect();
        let values = self.values(&uuid, false);
        let most = self.shared.config.most_calls.saturating_mul(2);
        self.start(uuid, most, async move { values.put(Value::Map(list)).await });
    }

    fn call(&mut self, uuid: String, service: &str, method: &str, arguments: Value, values: Values) {
        if self.leaving.is_some() {
            return self.refuse(uuid, "the master is leaving");
        }
        let found = self.shared.services.borrow().get(service).cloned();
        let missing = MethodError::new(format!("Service '{service}' not found")).class("NotFound");
        let method = method.to_owned();
        // The method may also panic before its first await, so that belongs in the task too.
        let run = async move { found.ok_or(missing)?.run(&method, arguments, values)?.await };
        self.start(uuid, self.shared.config.most_calls, run);
    }

    /// Answers in a task, unless there are too many.
    fn start(
        &mut self,
        uuid: String,
        most: usize,
        run: impl Future<Output = Result<(), MethodError>> + Send + 'static,
    ) {
        if self.running.len() >= most {
            return self.refuse(uuid, "the master has too many calls under way");
        }
        if self.running.contains_key(&uuid) {
            tracing::debug!(uuid, "a request whose uuid is taken is passed over");
            return;
        }
        let cancelled = self.over.child_token();
        self.running.insert(uuid.clone(), cancelled.clone());
        let (handle, done) = (self.handle.clone(), self.done.clone());
        self.shared.tasks.spawn(async move {
            let run = AssertUnwindSafe(run).catch_unwind();
            if let Some(result) = cancelled.run_until_cancelled(run).await {
                let result = result.unwrap_or_else(|panic| Err(MethodError::panicked(&*panic)));
                end(&handle, uuid.clone(), result);
            }
            // The session may have ended.
            let _ = done.send(uuid);
        });
    }

    /// Reports that a request was not executed, so that it can go elsewhere.
    fn refuse(&self, uuid: String, why: &str) {
        let _ = self.handle.send(Message::Error { uuid, error: RemoteError::of(Status::Refused, why) });
    }

    fn values(&self, uuid: &str, is_windowed: bool) -> Values {
        Values(Outlet::new(self.handle.clone(), uuid.to_owned(), is_windowed))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

async fn tell(handle: &Handle, news: &Option<Message>) -> Result<(), SendError> {
    match news {
        Some(news) => handle.send_when_room(news.clone()).await,
        None => Ok(()),
    }
}

/// Ends a stream. If the conversation has ended, nobody waits for it.
fn end(handle: &Handle, uuid: String, result: Result<(), MethodError>) {
    let _ = handle.send(match result {
        Ok(()) => Message::End { uuid },
        Err(error) => Message::Error { uuid, error: error.told() },
    });
}

/// Whether a token sent to one register may be sent to another: what was encrypted must not be sent in the clear.
fn may_share(register: &RegisterAddr, with: &RegisterAddr) -> bool {
    let [register, with] = [register, with].map(|place| place.to_string().parse::<Remote>());
    let may = register.is_ok_and(|register| with.is_ok_and(|with| register.may_share_with(&with)));
    if !may {
        tracing::warn!("not joined: a register without an address, or without TLS as the one that told of it");
    }
    may
}

fn is_within(text: &[u8], bytes: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
