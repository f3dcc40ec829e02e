//! A scripted master: speaks the register's protocol by hand, packed as PHP packs.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, setfsuid};
use rmpv::Value;

use super::read_some;

/// A connection to a register.
#[derive(Debug)]
pub(crate) struct Scripted {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// The stream that the register's closure was given, over which it asks.
    pub(crate) trunk: String,
}

/// What the register asks over the trunk.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) kind: String,
    pub(crate) id: u64,
    /// Of a call: service, method, arguments.
    pub(crate) rest: Vec<Value>,
}

trait Stream: Read + Write + Debug + Send {}

impl<S: Read + Write + Debug + Send> Stream for S {}

const PATIENCE: Duration = Duration::from_secs(20);

impl Scripted {
    pub(crate) fn connect(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).expect("the register accepts"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self { stream: Box::new(stream), received: Vec::new(), trunk: String::new() }
    }

    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the register accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream: Box::new(stream), received: Vec::new(), trunk: String::new() }
    }

    /// A connection whose socket is this user's, which only root can make.
    pub(crate) fn connect_as(user: Uid, port: u16) -> Self {
        let connect = move || {
            // Of this thread alone.
            setfsuid(user);
            Self::connect(port)
        };
        std::thread::spawn(connect).join().expect("a connection")
    }

    /// One that has shown its token, and has told these services when it was asked.
    pub(crate) fn join(port: u16, token: &str, services: &[(&str, Value)]) -> Self {
        let mut master = Self::authenticated(port, token).expect("it has a place");
        master.tells(services);
        master
    }

    /// One that has shown its token; an error: its place was given to another before.
    pub(crate) fn authenticated(port: u16, token: &str) -> Result<Self, String> {
        let mut master = Self::connect(port);
        master.try_say(map([("cmd", "auth".into()), ("token", token.into())]));
        let answer = master.hears().ok_or("it was closed before it was let in")?;
        assert_eq!(text(&answer, "cmd"), "auth-success");
        Ok(master)
    }

    /// A sidecar that follows the register, and has not subscribed.
    pub(crate) fn follow(port: u16, token: &str) -> Self {
        Self::connect(port).follows(token)
    }

    pub(crate) fn follows(mut self, token: &str) -> Self {
        self.say(map([("cmd", "auth".into()), ("token", token.into()), ("native", 1.into()), ("follows", 1.into())]));
        assert_eq!(text(&self.hears().expect("an answer"), "cmd"), "auth-success");
        self
    }

    /// Answers the question for its services.
    pub(crate) fn tells(&mut self, services: &[(&str, Value)]) {
        let question = self.asked("list");
        let service = |(name, metadata): &(&str, Value)| {
            ((*name).into(), map([("name", (*name).into()), ("metadata", metadata.clone())]))
        };
        // An empty array of PHP's is a list.
        let told = match services {
            [] => Value::Array(Vec::new()),
            some => Value::Map(some.iter().map(service).collect()),
        };
        self.answers(question.id, [map([("services", told)])]);
    }

    /// The next request of this kind over the trunk; all else is passed over.
    pub(crate) fn asked(&mut self, kind: &str) -> Asked {
        loop {
            let message = self.hears().unwrap_or_else(|| panic!("closed before {kind}"));
            if let Some(asked) = self.request(&message)
                && asked.kind == kind
            {
                return asked;
            }
        }
    }

    /// The same; meanwhile it answers pings, as whoever is not held up.
    pub(crate) fn asked_alive(&mut self, kind: &str) -> Asked {
        loop {
            let message = self.hears().unwrap_or_else(|| panic!("closed before {kind}"));
            if text(&message, "cmd") == "ping" {
                self.say(map([("cmd", "pong".into()), ("uuid", text(&message, "uuid").into())]));
            }
            if let Some(asked) = self.request(&message)
                && asked.kind == kind
            {
                return asked;
            }
        }
    }

    /// What a message asks, if it comes over the trunk; one that opens it is noted.
    pub(crate) fn request(&mut self, message: &Value) -> Option<Asked> {
        match text(message, "cmd").as_str() {
            "callback" => {
                assert!(text(field(message, "data"), "serialized").contains("getServiceNameAndMetadata"));
                self.trunk = text(message, "uuid");
                None
            }
            "data" if text(message, "uuid") == self.trunk => {
                let words = field(message, "data").as_array().expect("a list").clone();
                let [kind, id, rest @ ..] = words.as_slice() else { panic!("no request: {message}") };
                let (kind, id) = (kind.as_str().expect("a word").to_owned(), id.as_u64().expect("a number"));
                Some(Asked { kind, id, rest: rest.to_vec() })
            }
            _ => None,
        }
    }

    /// Gives these values to a request.
    pub(crate) fn answers(&mut self, id: u64, values: impl IntoIterator<Item = Value>) {
        for value in values {
            self.gives(id, &value);
        }
        self.says("end", id, None);
    }

    pub(crate) fn gives(&mut self, id: u64, value: &Value) {
        self.says("value", id, Some(Value::Binary(packed(value))));
    }

    /// Ends a request with an error of this class.
    pub(crate) fn fails(&mut self, id: u64, class: &str, message: &str, code: i64) {
        let error = map([("class", class.into()), ("message", message.into()), ("code", code.into())]);
        self.says("error", id, Some(error));
    }

    fn says(&mut self, kind: &str, id: u64, what: Option<Value>) {
        let words = Value::Array([kind.into(), id.into()].into_iter().chain(what).collect());
        self.say(map([("cmd", "data".into()), ("uuid", self.trunk.as_str().into()), ("data", words)]));
    }

    pub(crate) fn say(&mut self, message: Value) {
        self.write(&packed(&message));
    }

    /// The same; false: the connection is closed.
    pub(crate) fn try_say(&mut self, message: Value) -> bool {
        self.stream.write_all(&packed(&message)).is_ok()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the register reads");
    }

    /// The next message of this command; others are passed over.
    pub(crate) fn hears_command(&mut self, command: &str) -> Value {
        loop {
            let message = self.hears().unwrap_or_else(|| panic!("closed before {command}"));
            if text(&message, "cmd") == command {
                return message;
            }
        }
    }

    /// The next message; None: the register has closed the connection.
    pub(crate) fn hears(&mut self) -> Option<Value> {
        loop {
            let mut rest = self.received.as_slice();
            if let Ok(message) = rmpv::decode::read_value(&mut rest) {
                self.received = rest.to_vec();
                return Some(message);
            }
            let mut some = [0; 4096];
            match read_some(&mut self.stream, &mut some) {
                Ok(0) => return None,
                Ok(count) => self.received.extend(&some[..count]),
                Err(error) if is_closed(&error) => return None,
                Err(error) => panic!("nothing from the register: {error}"),
            }
        }
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
}

pub(crate) fn packed(message: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, message).expect("a vector takes all");
    bytes
}

pub(crate) fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

pub(crate) fn field<'a>(map: &'a Value, key: &str) -> &'a Value {
    let entries = map.as_map().unwrap_or_else(|| panic!("not a map: {map}"));
    entries.iter().find(|(name, _)| name.as_str() == Some(key)).map_or(&Value::Nil, |(_, value)| value)
}

pub(crate) fn text(map: &Value, key: &str) -> String {
    field(map, key).as_str().unwrap_or_default().to_owned()
}
