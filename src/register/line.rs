//! The line to one connected master: calls go through its tunnel.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;
use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use rmpv::Value;

use super::secrets::Secrets;
use crate::model::{Answer, Answers, Call, Command, Input, Line, Packed, Refused};
use crate::share::Share;
use crate::tunnel::worker::CallsUnderWay;
use crate::tunnel::{CallError, Feeder, Handle, InFlight, Message, Request, SendError, Status, Stream, answers};

#[derive(Clone, Debug)]
pub(super) struct MasterLine {
    pub(super) handle: Handle,
    /// Whether the master understands calls; otherwise it runs PHP closures.
    pub(super) native: bool,
    pub(super) secrets: Arc<ArcSwap<Secrets>>,
    pub(super) in_flight: InFlight,
    pub(super) max_calls: usize,
    /// For a worker, the calls under way.
    pub(super) under_way: Option<Arc<CallsUnderWay>>,
}

impl Line for MasterLine {
    fn call(&self, call: Call) -> Result<Answers, Refused> {
        let guard = self.in_flight.acquire(self.max_calls).ok_or(Refused::Overloaded)?;
        let under_way = self.under_way.as_ref().map(|calls| calls.begin(&call.service, &call.method));
        let held = (guard, under_way, call.until.map(|until| self.handle.wait_until(until)));
        if self.native {
            return answers(self.open(call), &[Status::Refused], held);
        }
        let (secrets, input) = (self.secrets.load_full(), call.input.clone());
        let stream = self.open(call);
        let feeder = stream.as_ref().map(Stream::feeder).ok();
        let answers = answers(stream, &[], held)?.map(move |answer| match answer {
            Answer::Value(value) => packed(value, &secrets),
            other => other,
        });
        let answers = answers.boxed();
        Ok(match feeder.zip(input) {
            Some((feeder, input)) => fed(answers, feed(feeder, input)),
            None => answers,
        })
    }

    fn takes_input(&self) -> bool {
        !self.native
    }

    fn send(&self, command: &Command) -> Result<(), Refused> {
        self.handle.send_command(command).map_err(Refused::from)
    }

    fn outstanding(&self) -> usize {
        self.in_flight.get()
    }

    fn is_connected(&self) -> bool {
        self.handle.ended().is_none()
    }

    fn is_answering(&self) -> bool {
        self.handle.is_answering()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

impl MasterLine {
    fn open(&self, call: Call) -> Result<Stream, CallError> {
        let has_input = call.input.is_some();
        let Call { service, method, arguments, memory, .. } = call;
        if self.native {
            let request = |uuid| Message::Call { uuid, service, method, arguments: Value::Nil, is_windowed: true };
            return Ok(self.handle.open_with(Some(&memory), arguments.packed().clone(), request)?);
        }
        Ok(self.ask(Some(&memory), Request::call(service, method, &arguments, has_input)?)?)
    }

    /// Sends a request to a PHP master.
    pub(super) fn ask(&self, memory: Option<&Arc<Share>>, request: Request) -> Result<Stream, SendError> {
        self.handle.ask(memory, || self.secrets.load().closures.master(), request)
    }
}

/// A value from a PHP master.
fn packed(value: Value, secrets: &Arc<Secrets>) -> Answer {
    let (bytes, secrets) = (value.as_slice().map_or(0, <[u8]>::len), secrets.clone());
    Answer::Packed(Packed::new(bytes, move || secrets.closures.unpack(&value).map_err(|error| error.to_string())))
}

/// Sends the caller's values to the method, until there are no more. A lost connection is reported by the answers.
async fn feed(feeder: Feeder, input: Input) -> Result<(), CallError> {
    while let Some(value) = input.next().await {
        feeder.send(value).await?;
    }
    feeder.end().await
}

/// The same answers, with the feeding driven by whoever polls them. What cannot be sent ends the call.
fn fed(mut answers: Answers, feed: impl Future<Output = Result<(), CallError>> + Send + 'static) -> Answers {
    let mut feed = Some(feed.boxed());
    stream::poll_fn(move |context| {
        if let Some(feeding) = &mut feed
            && let Poll::Ready(fed) = feeding.poll_unpin(context)
        {
            feed = None;
            if let Err(unfit @ (CallError::NotPhp(_) | CallError::Send(SendError::Unfit(_)))) = fed {
                let message = format!("a value cannot be sent to the master: {unfit}");
                return Poll::Ready(Some(Answer::Failed { message, class: None, code: 0 }));
            }
        }
        answers.poll_next_unpin(context)
    })
    .boxed()
}
