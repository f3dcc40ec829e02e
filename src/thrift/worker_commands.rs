//! Commands for workers: carried out concurrently, each with its own answer.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rmpv::Value;

use super::Peer;
use super::api::{Api, denied, invalid};
use super::idl::{Overloaded, WorkerAnswer, WorkerCommand, WorkerCommandReply};
use super::request;
use crate::call::{Budget, Encoding, OVERLOADED, Values};
use crate::model::{Arguments, shortened};
use crate::tunnel::StreamError;
use crate::worker::{Addressee, Command, NoAnswer, Which};

/// How many of these requests one user may have under way.
const MAX_UNDER_WAY: usize = 16;

/// The longest name of a command, in bytes.
const MAX_NAME: usize = 256;

/// The most characters of a worker's error.
const MAX_ERROR: usize = 1_000;

/// A request of `commandWorkers`, validated except for its data.
#[derive(Debug)]
pub(super) struct WorkersCommand {
    group: Option<String>,
    which: Which,
    name: String,
    data: Vec<u8>,
    encoding: Encoding,
    within: Duration,
}

/// How to encode the answers to one command.
struct Answers<'a> {
    peer: &'a Peer,
    encoding: Encoding,
    budget: Arc<Budget>,
    /// The most bytes of one, so that there is room for each.
    most: usize,
}

impl WorkersCommand {
    pub(super) fn memory_size(&self) -> usize {
        self.data.len() + self.name.len()
    }
}

impl Api {
    /// Validates a request of `commandWorkers`.
    pub(super) fn command_workers(&self, peer: &Peer, request: WorkerCommand) -> thrift::Result<WorkersCommand> {
        peer.identity.may_control_workers().map_err(denied)?;
        let WorkerCommand { group, number, name, data, encoding, timeout_ms } = request;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(invalid("name", &format!("a command's name has between 1 and {MAX_NAME} bytes")));
        }
        let which = self.which_of(group.as_deref(), number)?;
        let (encoding, within) = (request::encoding(encoding)?, request::timeout(timeout_ms)?);
        let within = within.min(self.config.max_call_time);
        Ok(WorkersCommand { group, which, name, data: data.unwrap_or_default(), encoding, within })
    }

    /// Makes each worker carry it out.
    pub(super) async fn commanded(&self, peer: &Peer, asked: WorkersCommand) -> thrift::Result<WorkerCommandReply> {
        let overloaded = |message: String| {
            self.metrics.overloaded.increment();
            thrift::Error::from(Overloaded { message })
        };
        let Some(_under_way) = peer.account.commands.acquire(MAX_UNDER_WAY) else {
            let message = format!("this user has {MAX_UNDER_WAY} commands for workers under way; try again");
            return Err(overloaded(message));
        };
        let WorkersCommand { group, which, name, data, encoding, within } = asked;
        let (user, weight) = (peer.account.memory.clone(), data.len());
        let read = move || match data.is_empty() {
            true => Ok(Some(Arguments::new(Value::Nil))),
            false => encoding.read(&data).map(|value| Arguments::charged(value, &user)),
        };
        let data = peer.account.memory.work(weight, read).await;
        let data = data.map_err(|why| invalid("data", &why))?.ok_or_else(|| overloaded(OVERLOADED.to_owned()))?;
        let addressees = self.workers.addressees(group.as_deref(), which);
        let (client, workers) = (peer.identity.client(), addressees.len());
        tracing::info!(%client, group, ?which, command = name, workers, "workers are commanded");
        let command = Command { name, data, within };
        let most = self.max_reply() / 2 / workers.max(1);
        let answers = Answers { peer, encoding, budget: self.budget(peer), most };
        let answers = addressees.iter().map(|addressee| answers.answer(addressee, &command));
        Ok(WorkerCommandReply { answers: join_all(answers).await })
    }
}

impl Answers<'_> {
    async fn answer(&self, addressee: &Addressee, command: &Command) -> WorkerAnswer {
        let worker = addressee.worker.clone();
        match self.value(addressee, command).await {
            Ok(value) => WorkerAnswer { worker, value, error: None, class_name: None },
            Err((why, class)) => {
                let short = |text: &str| shortened(text, MAX_ERROR).into_owned();
                WorkerAnswer { worker, value: None, error: Some(short(&why)), class_name: class.as_deref().map(short) }
            }
        }
    }

    /// The command's result; or why there is none, and the class of the worker's exception.
    async fn value(
        &self,
        addressee: &Addressee,
        command: &Command,
    ) -> Result<Option<Vec<u8>>, (String, Option<String>)> {
        let (memory, encoding) = (&self.peer.account.memory, self.encoding);
        let error = |why: String| (why, None);
        self.peer.let_others_work().await;
        let given = addressee.carry_out(command, memory).await.map_err(|why| match why {
            NoAnswer::Failed(StreamError::Failed(why)) => (why.message, why.class),
            why => (why.to_string(), None),
        })?;
        let Some((value, charged)) = given else { return Ok(None) };
        let write = move || encoding.write(&value);
        let written = memory.work(charged.amount(), write).await.map_err(error)?;
        if written.len() > self.most {
            let (bytes, most) = (written.len(), self.most);
            return Err(error(format!("its answer has {bytes} bytes, and its part of max_reply {most}")));
        }
        let values = Values::new(&self.budget);
        values.put(written).await.map_err(|why| error(why.to_string()))?;
        Ok(values.into_all().pop())
    }
}
