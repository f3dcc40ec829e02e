//! Scripted registers, and the bytes that they send and receive.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{Config, Event, Events, Master, RegisterAddr, Service, Value};
use roster_tunnel::value::{get, string, text};

pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const TOKEN: &str = "register-center-token-2024";

/// The bytes of a register's answers, as PHP packs them.
pub(super) const ACCEPTED: &[u8] = b"\x82\xa3cmd\xacauth-success\xa7message\xb9authentication successful";
pub(super) const REFUSED: &[u8] = b"\x82\xa3cmd\xabauth-failed\xa7message\xadInvalid token";

/// A register that accepts connections.
pub(super) struct Register {
    listener: TcpListener,
    pub(super) place: RegisterAddr,
}

impl Register {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = ("127.0.0.1", listener.local_addr().unwrap().port()).into();
        Self { listener, place }
    }

    /// The next connection.
    pub(super) async fn unmet(&self) -> Peer {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.expect("a master connects in time").unwrap();
        Peer { stream, id: String::new(), heard: Vec::new() }
    }

    /// The same, after its master has sent its id.
    pub(super) async fn met(&self) -> Peer {
        let mut peer = self.unmet().await;
        let auth = peer.hear().await;
        assert_eq!(said(&auth, "cmd"), "auth");
        assert_eq!(said(&auth, "token"), TOKEN);
        assert_eq!(get(&auth, "native"), Some(&1.into()));
        peer.id = said(&auth, "id");
        peer
    }

    /// The next connection, accepted.
    pub(super) async fn accepted(&self) -> Peer {
        let mut peer = self.met().await;
        peer.say_bytes(ACCEPTED).await;
        peer
    }
}

/// The register's end of a connection.
pub(super) struct Peer {
    stream: TcpStream,
    /// The master's id.
    pub(super) id: String,
    /// What was received and not examined yet.
    heard: Vec<u8>,
}

impl Peer {
    pub(super) async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn say(&mut self, message: &[(&str, Value)]) {
        self.say_bytes(&packed(&map(message))).await;
    }

    pub(super) async fn call(&mut self, uuid: &str, service: &str, method: &str, arguments: Value) {
        let data = map(&[("service", service.into()), ("method", method.into()), ("arguments", arguments)]);
        self.say(&[("cmd", "call".into()), ("uuid", uuid.into()), ("data", data)]).await;
    }

    /// The next message, whatever it is.
    pub(super) async fn hear(&mut self) -> Value {
        loop {
            let mut rest = self.heard.as_slice();
            if let Ok(message) = rmpv::decode::read_value(&mut rest) {
                self.heard = rest.to_vec();
                return message;
            }
            let read = timeout(SOON, self.stream.read_buf(&mut self.heard)).await.expect("a message in time").unwrap();
            assert!(read > 0, "the master has closed the connection");
        }
    }

    /// Expects exactly these bytes next.
    pub(super) async fn hear_bytes(&mut self, bytes: &[u8]) {
        while self.heard.len() < bytes.len() {
            let read = timeout(SOON, self.stream.read_buf(&mut self.heard)).await.expect("bytes in time").unwrap();
            assert!(read > 0, "closed after {}", String::from_utf8_lossy(&self.heard));
        }
        let rest = self.heard.split_off(bytes.len());
        let heard = std::mem::replace(&mut self.heard, rest);
        assert_eq!(heard, bytes, "{:?}", String::from_utf8_lossy(&heard));
    }

    /// The answers on a stream: values, and the error if it failed.
    pub(super) async fn answers(&mut self, uuid: &str) -> (Vec<Value>, Option<Value>) {
        let mut values = Vec::new();
        loop {
            let message = self.hear().await;
            assert_eq!(said(&message, "uuid"), uuid, "{message}");
            let data = get(&message, "data").cloned();
            match said(&message, "cmd").as_str() {
                "data" => values.push(data.unwrap()),
                "end" => return (values, None),
                "error" => return (values, data),
                other => panic!("not of a stream: {other}"),
            }
        }
    }

    /// Expects the connection to close, preceded by nothing but the report that the master no longer offers services.
    pub(super) async fn hear_the_end_after_goodbye(&mut self) {
        timeout(SOON, self.stream.read_to_end(&mut self.heard)).await.expect("an end in time").unwrap();
        let goodbye = b"\x81\xa3cmd\xa6remove";
        assert!(self.heard.is_empty() || self.heard == goodbye, "{:?}", String::from_utf8_lossy(&self.heard));
    }
}

pub(super) fn config() -> Config {
    let short = Duration::from_millis(10);
    Config { retry_delay: short, longest_retry_delay: short, drain: SOON, ..Config::new(TOKEN) }
}

/// A master with these services, accepted by a register.
pub(super) async fn meeting(config: Config, services: impl IntoIterator<Item = Service>) -> (Master, Register, Peer) {
    let (master, register) = (Master::start(config), Register::new().await);
    services.into_iter().for_each(|service| master.offer(service));
    master.connect(register.place.clone());
    let peer = register.accepted().await;
    (master, register, peer)
}

/// The next event.
pub(super) async fn next(events: &mut Events) -> Event {
    timeout(SOON, events.next()).await.expect("an event in time").expect("the master lives")
}

pub(super) fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(values.into_iter().collect())
}

pub(super) fn packed(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

/// The same with every string as binary, and every empty map as an empty list.
pub(super) fn as_bytes(value: Value) -> Value {
    match value {
        Value::String(text) => Value::Binary(text.into_bytes()),
        Value::Array(values) => values.into_iter().map(as_bytes).collect(),
        Value::Map(pairs) if pairs.is_empty() => Value::Array(Vec::new()),
        Value::Map(pairs) => {
            Value::Map(pairs.into_iter().map(|(key, value)| (as_bytes(key), as_bytes(value))).collect())
        }
        other => other,
    }
}

pub(super) fn said(message: &Value, key: &str) -> String {
    get(message, key).and_then(text).unwrap_or_default()
}

/// A PHP register's request.
pub(super) fn callback(uuid: &str, serialized: &[u8]) -> Value {
    let data = map(&[("serialized", string(serialized.to_vec()))]);
    map(&[("cmd", "callback".into()), ("uuid", uuid.into()), ("data", data)])
}
