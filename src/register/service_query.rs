//! The query for a master's services: repeated until it is answered.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::line::MasterLine;
use crate::model::{MAX_MASTER_BYTES, MAX_SERVICE_BYTES, MAX_SERVICE_DEPTH, MAX_SERVICES, Service, cut_to_bounds};
use crate::tunnel::value::{get, text};
use crate::tunnel::{Message, Request, SendError, Stream, StreamError};

/// A master that has not reported its services by then counts as silent, but its answer is still accepted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// When to ask a master again if its queue was full, or its answer invalid.
const QUEUE_RETRY_DELAY: Duration = Duration::from_secs(1);
const ANSWER_RETRY_DELAY: Duration = Duration::from_secs(60);

/// How soon a master that reports a change of its services is asked again: one that always does is not always asked.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest process id that is accepted.
const MAX_PROCESS_ID_BYTES: usize = 64;

/// The class, of laravel/serializable-closure, by which PHP refuses code that is unsigned, or signed with another key.
const UNSIGNED: &str = "\\InvalidSignatureException";

pub(super) struct ServiceQuery {
    line: Arc<MasterLine>,
    state: State,
    /// When the master may be asked again.
    rested: Instant,
}

/// What a master offers.
pub(super) struct Offer {
    /// For PHP: the process's own id, which is the same at every register.
    pub(super) process: Option<String>,
    pub(super) services: Vec<Service>,
    /// A message that some of its services are omitted.
    pub(super) left_out: Option<String>,
}

enum State {
    Due(Instant),
    /// Until when an answer is awaited: first a timely one, then a late one. `once_more`: then it is asked again.
    Asked {
        stream: Stream,
        until: Instant,
        is_late: bool,
        once_more: bool,
    },
    Answered,
}

impl ServiceQuery {
    pub(super) fn new(line: Arc<MasterLine>) -> Self {
        Self { line, state: State::Due(Instant::now()), rested: Instant::now() }
    }

    /// Asks again; if an answer may be on its way, after that: otherwise a master whose services change faster than it
    /// answers would never be heard.
    pub(super) fn ask(&mut self) {
        match &mut self.state {
            State::Asked { is_late: false, once_more, .. } => *once_more = true,
            _ => self.state = State::Due(self.rested),
        }
    }

    /// Asks again after a while, unless that is planned already: the answer was of no use.
    pub(super) fn ask_later(&mut self) {
        if matches!(self.state, State::Answered) {
            self.state = State::Due(Instant::now() + ANSWER_RETRY_DELAY);
        }
    }

    pub(super) fn withdraw(&mut self) {
        self.state = State::Answered;
    }

    /// The services, or why there are none; once they have been reported, waits forever. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Result<Offer, String> {
        loop {
            match &mut self.state {
                State::Answered => std::future::pending().await,
                State::Due(at) => {
                    sleep_until(*at).await;
                    self.rested = Instant::now() + ASK_INTERVAL;
                    self.state = match self.put() {
                        Ok(stream) => State::Asked {
                            stream,
                            until: Instant::now() + ANSWER_TIMEOUT,
                            is_late: false,
                            once_more: false,
                        },
                        Err(_) => State::Due(Instant::now() + QUEUE_RETRY_DELAY),
                    };
                }
                State::Asked { stream, until, is_late, once_more } => match timeout_at(*until, stream.next()).await {
                    Ok(answer) => {
                        let offer = offer(answer, &self.line);
                        self.state = match &offer {
                            _ if *once_more => State::Due(self.rested),
                            Ok(_) => State::Answered,
                            Err(_) => State::Due(Instant::now() + ANSWER_RETRY_DELAY),
                        };
                        return offer;
                    }
                    Err(_) if *is_late => self.state = State::Due(self.rested),
                    Err(_) => {
                        *is_late = true;
                        *until += if *once_more { Duration::ZERO } else { ANSWER_RETRY_DELAY };
                        return Err(format!("no answer within {ANSWER_TIMEOUT:?}"));
                    }
                },
            }
        }
    }

    fn put(&self) -> Result<Stream, SendError> {
        let handle = &self.line.handle;
        if self.line.native {
            return handle.open(None, |uuid| Message::List { uuid });
        }
        self.line.ask(None, Request::List)
    }
}

fn offer(answer: Result<Option<Value>, StreamError>, line: &MasterLine) -> Result<Offer, String> {
    let mut answer = answer.map_err(why_not)?;
    let mut process = None;
    if !line.native {
        let packed = answer.unwrap_or(Value::Nil);
        let unpacked = line.secrets.load().closures.unpack(&packed).map_err(|error| error.to_string())?;
        process = get(&unpacked, "id").and_then(text).filter(|id| (1..=MAX_PROCESS_ID_BYTES).contains(&id.len()));
        answer = get(&unpacked, "services").cloned();
    }
    let entries = match answer {
        Some(Value::Map(entries)) => entries,
        Some(Value::Array(none)) if none.is_empty() => Vec::new(),
        None => Vec::new(),
        Some(_) => return Err("its answer is not a map of services".into()),
    };
    if entries.len() > MAX_SERVICES {
        return Err(format!("it offers more than {MAX_SERVICES} services"));
    }
    let (offered, service) = (entries.len(), |(name, service)| Some(service_of(text(&name)?, service)));
    let mut services: Vec<Service> = entries.into_iter().filter_map(service).collect();
    let unnamed = offered - services.len();
    let nameless = (unnamed > 0).then(|| format!("{unnamed} of its services have no name"));
    let left_out = cut_to_bounds(&mut services).map(|(name, count)| {
        format!(
            "{count} of its services, `{name}` first, are left out: a service may have {MAX_SERVICE_BYTES} bytes of name \
             and metadata, which may be {MAX_SERVICE_DEPTH} levels deep, all of a master {MAX_MASTER_BYTES}"
        )
    });
    let left_out = left_out.or(nameless);
    Ok(Offer { process, services, left_out })
}

fn why_not(error: StreamError) -> String {
    match &error {
        StreamError::Failed(refused) if refused.class.as_deref().is_some_and(|class| class.ends_with(UNSIGNED)) => {
            format!("its TunnelStream::$secretKey is not the [register] signing_key: {error}")
        }
        _ => error.to_string(),
    }
}

fn service_of(name: String, service: Value) -> Service {
    let metadata = get(&service, "metadata").cloned();
    Service { name, metadata: metadata.unwrap_or_else(|| Value::Map(Vec::new())).into() }
}
