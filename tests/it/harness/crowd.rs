//! A crowd: very many scripted masters, which speak as PHP's do and come back when they are cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rmpv::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::master::{map, packed, text};
use super::runtime;

/// Masters that are there until this is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    cut: watch::Sender<()>,
    /// How often one of them has had to knock.
    knocks: Arc<AtomicUsize>,
    _masters: JoinSet<()>,
}

impl Crowd {
    /// So many masters of a register, each of which offers `greeter` and other services, and comes back so long after
    /// it was cut off or not let in.
    pub(crate) fn start(port: u16, token: &str, masters: usize, services: usize, retry: Duration) -> Self {
        let auth = packed(&map([("cmd", "auth".into()), ("token", token.into())]));
        let (cut, is_cut) = watch::channel(());
        let knocks = Arc::new(AtomicUsize::new(0));
        let mut all = JoinSet::new();
        for _ in 0..masters {
            let (auth, told, mut is_cut, knocks) = (auth.clone(), offer(services), is_cut.clone(), knocks.clone());
            let master = async move {
                loop {
                    knocks.fetch_add(1, Ordering::Relaxed);
                    is_cut.mark_unchanged();
                    tokio::select! {
                        _ = live(port, &auth, &told) => {}
                        _ = is_cut.changed() => {}
                    }
                    tokio::time::sleep(retry).await;
                }
            };
            all.spawn_on(master, runtime().handle());
        }
        Self { cut, knocks, _masters: all }
    }

    /// Cuts them all off at once.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }

    /// How often they have tried to connect, all together.
    pub(crate) fn knocks(&self) -> usize {
        self.knocks.load(Ordering::Relaxed)
    }
}

fn offer(services: usize) -> Value {
    let names = (0..services).map(|number| if number == 0 { "greeter".into() } else { format!("service-{number}") });
    let metadata = || map([("version", "1.0.0".into())]);
    Value::Map(
        names.map(|name| (name.clone().into(), map([("name", name.into()), ("metadata", metadata())]))).collect(),
    )
}

/// One connection, until it ends.
async fn live(port: u16, auth: &[u8], offer: &Value) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(auth).await?;
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        loop {
            let mut rest = received.as_slice();
            let Ok(message) = rmpv::decode::read_value(&mut rest) else { break };
            received = rest.to_vec();
            if let Some(answer) = answer(&message, offer) {
                stream.write_all(&answer).await?;
            }
        }
    }
}

/// What a master says to a message: to the question for its services, or to a call, which is a greeting.
fn answer(message: &Value, offer: &Value) -> Option<Vec<u8>> {
    let uuid = || text(message, "uuid");
    match text(message, "cmd").as_str() {
        "ping" => Some(packed(&map([("cmd", "pong".into()), ("uuid", uuid().into())]))),
        "data" => {
            let words = super::master::field(message, "data").as_array()?;
            let value = match words.first()?.as_str()? {
                "list" => map([("services", offer.clone())]),
                "call" => "hello".into(),
                _ => return None,
            };
            let last = Value::Array(vec!["last".into(), words.get(1)?.clone(), Value::Binary(packed(&value))]);
            Some(packed(&map([("cmd", "data".into()), ("uuid", uuid().into()), ("data", last)])))
        }
        _ => None,
    }
}
