//! A subscriber: a sidecar that uses this register as an upstream. It follows our masters and calls them through us.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use nix::unistd::geteuid;
use rmpv::Value;
use tokio::select;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::RegisterState;
use super::report::{Reporter, follow};
use crate::model::{Answer, Answers, Arguments, Call, Command, Line, Refused};
use crate::net::User;
use crate::share::Share;
use crate::tunnel::upstream::{MIN_ROOM, Refusal, Request};
use crate::tunnel::value::memory_size;
use crate::tunnel::{Handle, InFlight, Message, Outlet, PHP_REFUSAL, RemoteError, Role, Status};

/// The longest timeout of a subscriber's call, which is the longest that any call may have.
const MAX_CALL_TIME: Duration = Duration::from_secs(24 * 3_600);

/// How many calls one subscriber may have under way.
const MAX_CALLS: usize = 16_384;

/// How many ended calls are kept beyond the number of those under way, before they are removed together.
const MAX_ENDED_CALLS: usize = 64;

/// Whether a peer follows this register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    /// If it subscribes and has reported no services, like followers of older versions, which do not announce
    /// themselves.
    Perhaps,
    No,
}

impl Follows {
    pub(super) fn of(role: Role, id: Option<&str>) -> Self {
        match (role, id) {
            (Role::Follower, _) => Self::Yes,
            // A Rust master has an id of its own.
            (Role::Native, None) => Self::Perhaps,
            (Role::Native, Some(_)) | (Role::Php, _) => Self::No,
        }
    }
}

pub(super) struct Subscriber {
    user: User,
    follows: Follows,
    memory: Arc<Share>,
    handle: Handle,
    state: Arc<RegisterState>,
    over: CancellationToken,
    _over: DropGuard,
    calls: HashMap<String, CancellationToken>,
    in_flight: InFlight,
    /// Ends the report of our masters.
    following: Option<DropGuard>,
    /// The last proof that it requested.
    asked: watch::Sender<Option<Duration>>,
    /// The last piece that it accepted.
    took: watch::Sender<u64>,
}

impl Subscriber {
    pub(super) fn new(
        user: User,
        follows: Follows,
        handle: Handle,
        in_flight: InFlight,
        state: Arc<RegisterState>,
    ) -> Self {
        let over = CancellationToken::new();
        let (asked, calls) = (watch::Sender::new(None), HashMap::new());
        let (following, took) = (None, watch::Sender::new(0));
        let _over = over.clone().drop_guard();
        let memory = state.memory.share(user);
        Self { user, follows, memory, handle, state, over, _over, calls, in_flight, following, asked, took }
    }

    /// Whether it is a follower: then it is not a master, and no services are expected.
    pub(super) fn follows(&self) -> bool {
        self.follows == Follows::Yes
    }

    /// Notes that it has reported services: it is a master, whatever it announces later.
    pub(super) fn offers(&mut self) {
        if self.follows == Follows::Perhaps {
            self.follows = Follows::No;
        }
    }

    /// Handles a message that is not about the peer's own services. What is returned is the application's.
    pub(super) fn take(&mut self, message: Message) -> Option<Value> {
        match message {
            Message::Close { uuid } => drop(self.calls.remove(&uuid).map(|call| call.cancel())),
            Message::Other(command) => match (self.follows, Request::decode_subscription(&command)) {
                (Follows::Yes, _) => self.serve(command),
                (Follows::Perhaps, Some(_)) => {
                    self.follows = Follows::Yes;
                    self.serve(command);
                }
                (Follows::Perhaps, None) | (Follows::No, _) => return Some(command),
            },
            Message::Callback { uuid, .. } => self.refuse(uuid, "callback not allowed"),
            Message::List { uuid } => self.refuse(uuid, "a register, which offers nothing"),
            Message::Call { uuid, .. } => self.refuse(uuid, "a register, which has no methods"),
            other => tracing::trace!(message = ?other, "a master's message that the register has no use for"),
        }
        None
    }

    fn refuse(&self, uuid: String, why: &str) {
        let error = RemoteError::thrown(why, Some(PHP_REFUSAL.to_owned()), 0);
        let _ = self.handle.send(Message::Error { uuid, error });
    }

    fn serve(&mut self, command: Value) {
        match Request::decode(command) {
            Some(Request::Subscribe { uuid, in_pieces, room }) => {
                self.subscribe(uuid, in_pieces, MIN_ROOM.max(room.unwrap_or(0) as usize));
            }
            Some(Request::Prove { at }) => drop(self.asked.send_replace(Some(at))),
            Some(Request::Took { piece }) => drop(self.took.send_replace(piece)),
            Some(Request::Call { uuid, master, service, method, arguments, timeout, is_windowed }) => {
                let until = timeout.map(|left| Instant::now() + left.min(MAX_CALL_TIME));
                let memory = self.memory.clone();
                let Some(arguments) = Arguments::charged(arguments, &memory) else {
                    let error = RemoteError::of(Status::Refused, Refused::NoMemory.to_string());
                    let _ = self.handle.send(Message::Error { uuid, error });
                    return;
                };
                let call = Call { service, method, arguments, until, input: None, memory };
                self.call(uuid, &master, call, is_windowed);
            }
            Some(Request::Send { master, message }) => self.send(&master, message),
            None => {}
        }
    }

    fn subscribe(&mut self, uuid: String, in_pieces: bool, room: usize) {
        let over = self.over.child_token();
        // After a second subscription it receives only the new report.
        self.following = Some(over.clone().drop_guard());
        let (state, handle) = (self.state.clone(), self.handle.clone());
        let asked = self.asked.subscribe();
        self.took.send_replace(0);
        let took = in_pieces.then(|| self.took.subscribe());
        self.state.tasks.short(async move {
            let mut reporter = Reporter::new(&handle, uuid, took, room, &state.reported);
            select! {
                _ = follow(&state, &mut reporter, asked) => {}
                () = over.cancelled() => {}
            }
        });
    }

    fn call(&mut self, uuid: String, master: &str, call: Call, is_windowed: bool) {
        // Not at each call, since it looks at all of them.
        if self.calls.len() > 2 * self.in_flight.get() + MAX_ENDED_CALLS {
            self.calls.retain(|_, call| !call.is_cancelled());
        }
        let answers = match self.line(master) {
            Some(line) => match self.in_flight.acquire(MAX_CALLS) {
                Some(guard) => {
                    let answers = line.call(call);
                    answers.map(|answers| (answers, guard)).map_err(|refused| match refused {
                        Refused::Overloaded | Refused::NoMemory => {
                            RemoteError::of(Status::Refused, refused.to_string())
                        }
                        Refused::Gone => RemoteError::of(Status::Unsent, refused.to_string()),
                    })
                }
                None => Err(RemoteError::of(Status::Refused, "too many calls are under way")),
            },
            None => Err(RemoteError::of(Status::Unsent, "the register does not know this master any more")),
        };
        let (answers, guard) = match answers {
            Ok(taken) => taken,
            Err(error) => {
                let _ = self.handle.send(Message::Error { uuid, error });
                return;
            }
        };
        let cancelled = self.over.child_token();
        self.calls.insert(uuid.clone(), cancelled.clone());
        let handle = self.handle.clone();
        let memory = self.memory.clone();
        self.state.tasks.short(async move {
            let _guard = guard;
            let outlet = Outlet::new(handle.clone(), uuid.clone(), is_windowed);
            select! {
                _ = relay(answers, &outlet, &handle, uuid, &memory) => cancelled.cancel(),
                () = cancelled.cancelled() => {}
            }
        });
    }

    fn send(&self, master: &str, message: Value) {
        if !may_command(self.user) {
            let (user, own) = (self.user, geteuid());
            let why = format!(
                "{user} may not command masters: root and the register's own user (uid {own}) may, and a sidecar that \
                 runs as one of them"
            );
            tracing::warn!(why, "a command for a master was refused");
            let _ = self.handle.send(Refusal { why }.encode());
            return;
        }
        if let Some(line) = self.line(master) {
            let _ = line.send(&Command::new(message));
        }
    }

    /// The line to a master, if it is connected here.
    fn line(&self, id: &str) -> Option<Arc<dyn Line>> {
        let snapshot = self.state.publisher.snapshot();
        snapshot.directory().master(id)?.line_of(self.state.publisher.number()).cloned()
    }
}

/// Whether a peer may command masters. On this machine only administrators may. A peer on another is a sidecar with
/// administrators of its own, or an operator with a token.
fn may_command(user: User) -> bool {
    match user {
        User::Uid(uid) => uid == 0 || uid == geteuid().as_raw(),
        User::Address(address) => !address.is_loopback(),
    }
}

/// Relays the answers of a call to the subscriber, for as long as that may take.
async fn relay(answers: Answers, outlet: &Outlet, handle: &Handle, uuid: String, memory: &Arc<Share>) {
    let ended = timeout(MAX_CALL_TIME, relay_values(answers, outlet, memory)).await;
    let late = || RemoteError::of(Status::Lost, format!("the call has not ended within {MAX_CALL_TIME:?}"));
    let ended = ended.unwrap_or_else(|_| Err(late()));
    let _ = handle.send(match ended {
        Ok(()) => Message::End { uuid },
        Err(error) => Message::Error { uuid, error },
    });
}

/// Relays the values; returns how the call ended.
async fn relay_values(mut answers: Answers, outlet: &Outlet, memory: &Arc<Share>) -> Result<(), RemoteError> {
    loop {
        let value = match answers.next().await {
            Some(Answer::Value(value)) => value,
            Some(Answer::Packed(packed)) => packed.read(memory).await.map_err(RemoteError::new)?,
            Some(Answer::End) => return Ok(()),
            Some(Answer::Failed { message, class, code }) => {
                return Err(RemoteError::thrown(message, class, code));
            }
            Some(Answer::Lost(why)) => return Err(RemoteError::of(Status::Lost, why)),
            Some(Answer::Unsent(why)) => return Err(RemoteError::of(Status::Unsent, why)),
            Some(Answer::Refused(why)) => return Err(RemoteError::of(Status::Refused, why)),
            None => return Err(RemoteError::of(Status::Lost, "the call was given up")),
        };
        // Until it has been sent.
        let _charged =
            memory.take(memory_size(&value)).ok_or_else(|| RemoteError::new(Refused::NoMemory.to_string()))?;
        outlet.send(value).await.map_err(|_| RemoteError::new("a value is too large to be passed on"))?;
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::share::Pool;
    use crate::tunnel::{Bounds, Conversation, Settings, StreamError, Wire};

    #[test]
    fn on_this_machine_root_and_the_own_user_command_masters_and_elsewhere_who_has_a_token() {
        let at = |address: &str| User::Address(address.parse().expect("an address"));
        let own = geteuid().as_raw();
        let may = [User::Uid(0), User::Uid(own), User::Uid(own + 1), at("127.0.0.1"), at("::1"), at("192.0.2.1")];
        assert_eq!(may.map(may_command), [true, true, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_end_is_given_up_and_the_subscriber_told() {
        let (here, there) = tokio::io::duplex(4096);
        let begin = |stream| {
            let wire = Wire::new(stream, Bounds::DEFAULT);
            let (handle, incoming, conversation) = Conversation::new(wire, Settings::default());
            tokio::spawn(conversation.run());
            (handle, incoming)
        };
        let ((handle, mut incoming), (subscriber, _incoming)) = (begin(here), begin(there));
        let mut call = subscriber.open(None, |uuid| Message::List { uuid }).expect("room to ask");
        let Some(Message::List { uuid }) = incoming.recv().await.map(|asked| asked.into_message()) else {
            panic!("nothing asked")
        };
        let outlet = Outlet::new(handle.clone(), uuid.clone(), false);
        let memory = Pool::new(1_000, 1).share(None);
        let relayed = timeout(2 * MAX_CALL_TIME, relay(stream::pending().boxed(), &outlet, &handle, uuid, &memory));
        relayed.await.expect("it does not wait for ever");
        let Err(StreamError::Failed(error)) = call.next().await else { panic!("the subscriber waits for ever") };
        assert_eq!(error.status, Status::Lost, "{error}");
    }

    #[tokio::test]
    async fn a_value_that_waits_to_be_passed_on_is_charged_to_who_follows() {
        let (here, _there) = tokio::io::duplex(4096);
        let (handle, _incoming, _conversation) =
            Conversation::new(Wire::new(here, Bounds::DEFAULT), Settings::default());
        let memory = Pool::new(100_000, 1).share(None);
        let outlet = Outlet::new(handle, "call".into(), false);
        let answers = |values: &[usize]| {
            let values: Vec<_> = values.iter().map(|bytes| Answer::Value("x".repeat(*bytes).into())).collect();
            stream::iter(values.into_iter().chain([Answer::End])).boxed()
        };
        assert_eq!(relay_values(answers(&[40_000, 40_000]), &outlet, &memory).await, Ok(()));
        let refused = relay_values(answers(&[200_000]), &outlet, &memory).await.expect_err("too much");
        assert!(refused.message.contains("max_memory"), "{refused}");
        assert_eq!(memory.taken(), 0);
    }
}
