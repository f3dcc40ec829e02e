//! A scripted master: speaks the register's protocol by hand, packed as PHP packs.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, setfsuid};
use rmpv::Value;

/// A connection to a register.
#[derive(Debug)]
pub(crate) struct Scripted {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
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
        Self { stream: Box::new(stream), received: Vec::new() }
    }

    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the register accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream: Box::new(stream), received: Vec::new() }
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
        let mut master = Self::connect(port);
        master.say(map([("cmd", "auth".into()), ("token", token.into())]));
        assert_eq!(text(&master.hears().expect("an answer"), "cmd"), "auth-success");
        master.tells(services);
        master
    }

    /// Answers the question for its services.
    pub(crate) fn tells(&mut self, services: &[(&str, Value)]) {
        let question = self.hears_command("callback");
        assert!(text(field(&question, "data"), "serialized").contains("getServiceNameAndMetadata"));
        let service = |(name, metadata): &(&str, Value)| {
            ((*name).into(), map([("name", (*name).into()), ("metadata", metadata.clone())]))
        };
        // An empty array of PHP's is a list.
        let told = match services {
            [] => Value::Array(Vec::new()),
            some => Value::Map(some.iter().map(service).collect()),
        };
        self.answers(&text(&question, "uuid"), [map([("value", told)])]);
    }

    /// Gives these values to a question.
    pub(crate) fn answers(&mut self, uuid: &str, values: impl IntoIterator<Item = Value>) {
        for value in values {
            self.say(map([("cmd", "data".into()), ("uuid", uuid.into()), ("data", value)]));
        }
        self.say(map([("cmd", "end".into()), ("uuid", uuid.into())]));
    }

    pub(crate) fn say(&mut self, message: Value) {
        self.write(&packed(&message));
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
            match self.stream.read(&mut some) {
                Ok(0) => return None,
                Ok(count) => self.received.extend(&some[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing from the register: {error}"),
            }
        }
    }
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
