//! Calls from the API to in-memory masters, and over a connection.

mod calls;
mod client;
mod costs;
mod endpoint;
mod history;
mod masters;
mod nodes;
mod resolve;
mod several;
mod streaming_call;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use rmpv::Value;
use tokio::sync::mpsc;

use super::accounts::Accounts;
use super::api::Api;
use super::idl;
use super::{Config, Peer, ZkData};
use crate::call::Request;
use crate::metrics::Metrics;
use crate::model::{Answer, Answers, Call, Change, Command, Line, Master, Refused, Service};
use crate::store::{Feed, Publisher, Store};

/// How an in-memory master answers.
#[derive(Clone, Debug)]
enum Manner {
    /// With these, and then ends.
    Answers(Vec<Answer>),
    /// With the call's method and arguments.
    Echoes,
    Refuses(Refused),
    /// After this delay.
    Tarries(Duration, Answer),
    /// With endless values.
    Floods,
    Silent,
    /// Takes an input, and gives nothing.
    Listens,
}

/// A line to a master that remembers what was sent on it.
#[derive(Debug)]
struct Way {
    manner: Manner,
    calls: Mutex<Vec<Call>>,
    commands: Mutex<Vec<Command>>,
    open: Mutex<Vec<mpsc::Sender<Answer>>>,
}

impl Way {
    fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self { manner, calls: Mutex::default(), commands: Mutex::default(), open: Mutex::default() })
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no panic").clone()
    }

    fn answers(&self, call: &Call) -> Vec<Answer> {
        let echo = || Value::Array(vec![call.method.as_str().into(), call.arguments.read()]);
        match &self.manner {
            Manner::Answers(answers) => answers.clone(),
            Manner::Echoes => vec![Answer::Value(echo()), Answer::End],
            _ => vec![],
        }
    }
}

impl Line for Way {
    fn call(&self, call: Call) -> Result<Answers, Refused> {
        if let Manner::Refuses(why) = self.manner {
            return Err(why);
        }
        let answers = self.answers(&call);
        self.calls.lock().expect("no panic").push(call);
        let (sender, mut receiver) = mpsc::channel(answers.len().max(1));
        answers.into_iter().for_each(|answer| sender.try_send(answer).expect("room"));
        let manner = self.manner.clone();
        self.open.lock().expect("no panic").push(sender.clone());
        match manner {
            Manner::Tarries(delay, answer) => drop(tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = sender.send(answer).await;
            })),
            Manner::Floods => drop(tokio::spawn(async move {
                while sender.send(Answer::Value("x".repeat(1_000).into())).await.is_ok() {}
            })),
            _ => {}
        }
        Ok(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed())
    }

    fn send(&self, command: &Command) -> Result<(), Refused> {
        if let Manner::Refuses(why) = self.manner {
            return Err(why);
        }
        self.commands.lock().expect("no panic").push(command.clone());
        Ok(())
    }

    fn takes_input(&self) -> bool {
        matches!(self.manner, Manner::Listens)
    }

    fn outstanding(&self) -> usize {
        self.open.lock().expect("no panic").iter().filter(|sender| !sender.is_closed()).count()
    }
}

/// An API, and the publishers that fill its store with masters.
struct House {
    api: Api,
    peer: Peer,
    feeds: Vec<Publisher>,
    metrics: Arc<Metrics>,
}

impl House {
    /// With this many feeds that report masters.
    fn new(feeds: usize, config: &Config) -> Self {
        let feed = |number| Feed::of_instances(format!("register-{number}"), "register");
        Self::of((0..feeds).map(feed).collect(), config)
    }

    fn of(feeds: Vec<Feed>, config: &Config) -> Self {
        let (metrics, count) = (Arc::<Metrics>::default(), feeds.len());
        let store = Store::new(&Default::default(), feeds, metrics.clone());
        let feeds = (0..count).map(|feed| store.publisher(feed)).collect();
        let api = Api::new(config, &ZkData::default(), store, Accounts::new(config), metrics.clone());
        Self { peer: Peer::of(&api, None), api, feeds, metrics }
    }

    /// With one feed, whole, and masters that offer one service each.
    fn with(masters: &[(&str, &str, &Arc<Way>)]) -> Self {
        let house = Self::new(1, &Config::default());
        house.feeds[0].publish_whole(masters.iter().map(|(id, service, way)| join(id, &[service], way)).collect());
        house
    }

    fn request(&self, method: &str, change: impl FnOnce(&mut idl::Call)) -> Request {
        self.api.request(&self.peer, call(method, "[]", change)).expect("a request")
    }
}

fn join(id: &str, services: &[&str], way: &Arc<Way>) -> Change {
    let metadata = Value::Map(vec![("zone".into(), id.into()), ("size".into(), 7.into())]);
    let service = |name: &&str| Service { name: (*name).to_owned(), metadata: metadata.clone().into() };
    let services = services.iter().map(service).collect();
    Change::Join(
        Arc::new(Master { id: id.into(), peer_address: "here:1".into(), connected_at: 7, services }),
        way.clone(),
    )
}

fn call(method: &str, arguments: &str, change: impl FnOnce(&mut idl::Call)) -> idl::Call {
    let mut call = idl::Call::of("mail", method, arguments);
    change(&mut call);
    call
}

fn exception<T: std::error::Error + Clone + 'static>(error: &thrift::Error) -> T {
    let thrift::Error::User(exception) = error else { panic!("{error:?}") };
    exception.downcast_ref::<T>().unwrap_or_else(|| panic!("another exception: {exception:?}")).clone()
}
