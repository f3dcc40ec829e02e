//! The open call of a connection, whose values are fetched as they arrive.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt, MaybeDone, maybe_done};
use rmpv::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Peer;
use super::accounts::Account;
use super::api::{Api, overloaded};
use super::idl::{CallValues, SendValuesRequest, SentValuesReply};
use super::request::invalid;
use crate::call::{Caller, Completion, Encoding, Failure, Request, Values};
use crate::model::Input;
use crate::share::Taken;
use crate::tunnel::value::memory_size;

/// The call, if there is one; aborted when dropped. It only progresses while polled here.
#[derive(Default)]
pub(super) struct StreamingCall(Option<Box<Running>>);

struct Running {
    /// The client's values go here to the method, until there are no more.
    input: Option<mpsc::Sender<Value>>,
    encoding: Encoding,
    /// The memory of values on their way there.
    charged: Taken,
    call: MaybeDone<BoxFuture<'static, Result<Completion, Failure>>>,
    values: Arc<Values>,
    /// Until when unfetched values are kept.
    until: Instant,
}

impl StreamingCall {
    /// Like `start`, for a method with streamed input.
    pub(super) fn start_with_input(&mut self, api: &Api, peer: &Peer, request: Request) -> thrift::Result<CallValues> {
        let (sender, input) = Input::new();
        self.start(api, peer, request.with_input(input))?;
        self.0.iter_mut().for_each(|open| open.input = Some(sender.clone()));
        Ok(CallValues::new(Vec::new(), None))
    }

    /// Starts a call whose values are all wanted.
    pub(super) fn start(&mut self, api: &Api, peer: &Peer, request: Request) -> thrift::Result<()> {
        if self.is_some() {
            return Err(invalid("call", "the connection has one open already: fetch the rest of its values").into());
        }
        let values = Arc::new(Values::fetched(&api.budget(peer)));
        let until = Instant::now() + request.timeout + api.config.idle_timeout;
        let (encoding, charged) = (request.encoding, peer.account.memory.nothing());
        let request = Request { all_values: true, ..request };
        let call = carry_out(api.caller.clone(), peer.account.clone(), request, values.clone());
        let call = maybe_done(call.boxed());
        self.0 = Some(Box::new(Running { input: None, encoding, charged, call, values, until }));
        Ok(())
    }

    /// Sends values to the method until it has returned some; returns how many were sent, and those values.
    pub(super) async fn send(&mut self, peer: &Peer, request: SendValuesRequest) -> thrift::Result<SentValuesReply> {
        let (values, is_last) = (request.values.unwrap_or_default(), request.is_last.unwrap_or(false));
        let Some(open) = &mut self.0 else { return Err(none_open("openCall")) };
        let Some(input) = open.input.clone() else {
            return Err(invalid("values", "the call that is open takes none, or no more").into());
        };
        let (mut accepted, mut given) = (0, None);
        let number = values.len();
        for value in values {
            let value = match open.read(&peer.account, value).await {
                Ok(value) => value,
                Err(why) if accepted == 0 => return Err(why),
                // The client hears how many were sent, and why no more, when it sends the rest.
                Err(_) => break,
            };
            tokio::select! {
                biased;
                Ok(()) = input.send(value) => accepted += 1,
                next = poll_fn(|context| open.poll_next(context)) => {
                    given = Some(next);
                    break;
                }
            }
        }
        let is_all = accepted as usize == number;
        if is_all && is_last {
            open.input = None;
        }
        drop(input);
        let given = given.or_else(|| poll_fn(|context| open.poll_next(context)).now_or_never());
        let given = given.unwrap_or_else(|| Ok(CallValues::new(Vec::new(), None)));
        Ok(SentValuesReply::new(accepted, self.give_out(given)?))
    }

    /// Waits for values, or the end. After the end or an error, no call is open.
    pub(super) async fn next(&mut self) -> thrift::Result<CallValues> {
        let Some(open) = &mut self.0 else { return Err(none_open("startCall")) };
        let next = poll_fn(|context| open.poll_next(context)).await;
        self.give_out(next)
    }

    fn give_out(&mut self, next: Result<CallValues, Failure>) -> thrift::Result<CallValues> {
        if !matches!(next, Ok(CallValues { completion: None, .. })) {
            self.give_up();
        }
        Ok(next?)
    }

    /// Lets the call progress while this is polled; and aborts it if its values are not fetched in time.
    pub(super) async fn go_on(&mut self) -> Infallible {
        let Some(open) = &mut self.0 else { return pending().await };
        poll_fn(|context| open.poll(context).map(|()| ())).await;
        sleep_until(open.until).await;
        self.give_up();
        pending().await
    }

    /// Lets the call progress while waiting for something else. Boxed: otherwise each request that waits would take, and move,
    /// as much memory as the largest that there is.
    pub(super) fn beside<'a, T: 'a>(&'a mut self, other: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        if !self.is_some() {
            return Box::pin(other);
        }
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = other => answer,
                never = self.go_on() => match never {},
            }
        })
    }

    pub(super) fn give_up(&mut self) {
        self.0 = None;
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

fn none_open(by: &str) -> thrift::Error {
    invalid("call", format!("the connection has none open: start one with {by}")).into()
}

impl Running {
    /// Reads a value to send. Two of them may be in flight in addition to those at the master.
    async fn read(&mut self, account: &Account, bytes: Vec<u8>) -> thrift::Result<Value> {
        let encoding = self.encoding;
        let value = account.memory.work(bytes.len(), move || encoding.read(&bytes)).await;
        let value = value.map_err(|why| invalid("values", why))?;
        let size = 2 * memory_size(&value);
        if size > self.charged.amount() && !self.charged.resize(size) {
            return Err(overloaded());
        }
        Ok(value)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.call).poll(context)
    }

    /// What has arrived, and the end if that has arrived too. A failure is returned alone, after the values.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<CallValues, Failure>> {
        let is_done = self.poll(context).is_ready();
        let values = self.values.give_out();
        if !is_done && values.is_empty() {
            return Poll::Pending;
        }
        let is_told = is_done && (values.is_empty() || matches!(self.call, MaybeDone::Done(Ok(_))));
        let ended = if is_told { Pin::new(&mut self.call).take_output() } else { None };
        Poll::Ready(ended.transpose().map(|ended| CallValues { values, completion: ended.map(Into::into) }))
    }
}

async fn carry_out(
    caller: Arc<Caller>,
    account: Arc<Account>,
    request: Request,
    values: Arc<Values>,
) -> Result<Completion, Failure> {
    let bounds = account.bounds(Instant::now() + request.timeout, &values);
    caller.call(&request, bounds).await
}
