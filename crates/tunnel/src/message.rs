//! Messages: what the two ends send each other, and its wire format.
//!
//! A message is one MessagePack map with the key `cmd`. Reading is lenient, writing is what PHP peers expect.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::frame::Wrong;
use super::status::Status;
use super::value::{Value, bytes_in, get, normalize, string, take, text, text_in};

/// The commands of the tunnel itself. One of them from a client or a peer could be mistaken for the register's own: a
/// `callback` contains code that PHP masters run.
const RESERVED: [&str; 17] = [
    "auth",
    "auth-success",
    "auth-failed",
    "callback",
    "data",
    "end",
    "close",
    "error",
    "ping",
    "pong",
    "list",
    "call",
    "stream-window",
    "stream-taken",
    "worker-command",
    "worker-message",
    "worker-stop",
];

/// One message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// A peer sends the register a token, and its role.
    Auth {
        token: Token,
        role: Role,
        /// The master's own id, the same at every register.
        id: Option<String>,
    },
    AuthSuccess {
        message: String,
    },
    AuthFailed {
        message: String,
    },
    /// Asks a PHP master to run a closure, with the stream `uuid` as its argument.
    Callback {
        uuid: String,
        serialized: Vec<u8>,
    },
    /// One value of a stream.
    Data {
        uuid: String,
        data: Value,
    },
    /// The stream is complete.
    End {
        uuid: String,
    },
    /// The stream was closed before its end.
    Close {
        uuid: String,
    },
    /// The stream failed.
    Error {
        uuid: String,
        error: RemoteError,
    },
    Ping {
        uuid: String,
    },
    Pong {
        uuid: String,
    },
    /// From a master: its services changed. To a master: connect to these registers too.
    Register(Option<Vec<RegisterAddr>>),
    /// From a master: it no longer offers anything. To a master: leave these registers.
    Remove(Option<Vec<RegisterAddr>>),
    /// Asks a native master for its services.
    List {
        uuid: String,
    },
    /// Asks a native master to call a method.
    Call {
        uuid: String,
        service: String,
        method: String,
        arguments: Value,
        /// Whether the caller reports, if asked to, which values it has taken.
        is_windowed: bool,
    },
    /// From the answering end: asks for reports of how many values of the stream were taken.
    Window {
        uuid: String,
    },
    /// This many more values of a stream were taken.
    Taken {
        uuid: String,
        count: usize,
    },
    /// An application-defined command: the whole map.
    Other(Value),
    /// What a sidecar sends to a worker that it supervises, by names reserved for that: the whole map. Never received
    /// in this form.
    ToWorker(Value),
}

/// The longest name of a stream. Requests with a longer one are ignored: the name is kept as long as the stream.
const MAX_UUID_BYTES: usize = 1_024;

/// What a master authenticates with. It never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The role in which a peer connects to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A master that runs PHP closures.
    Php,
    /// A master that understands `list` and `call`.
    Native,
    /// A sidecar that follows the register, by a protocol of their own. For a register of an older version it is a
    /// native master, until it subscribes.
    Follower,
}

impl Role {
    fn of(auth: &Value) -> Self {
        let is_set = |key| get(auth, key).is_some_and(|set| *set == Value::from(1) || *set == true.into());
        match (is_set("follows"), is_set("native")) {
            (true, _) => Self::Follower,
            (false, true) => Self::Native,
            (false, false) => Self::Php,
        }
    }

    /// The keys by which a peer announces its role.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Php => &[],
            Self::Native => &["native"],
            Self::Follower => &["native", "follows"],
        }
    }
}

/// The class of the errors by which a PHP peer is refused.
pub const PHP_REFUSAL: &str = "RuntimeException";

/// What went wrong at the other end, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct RemoteError {
    pub status: Status,
    pub message: String,
    pub class: Option<String>,
    pub code: i64,
}

impl RemoteError {
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(Status::Failed, message)
    }

    pub fn of(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), ..Self::default() }
    }

    /// What a method failed with: an exception of this class, with this code.
    pub fn thrown(message: impl Into<String>, class: Option<String>, code: i64) -> Self {
        Self { class, code, ..Self::new(message) }
    }

    fn from_frame(frame: &Value) -> Self {
        let error = Self::from_value(get(frame, "data").unwrap_or(&Value::Nil));
        let status = Status::decode(frame, error.class.as_deref());
        Self { status, class: error.class.filter(|_| status == Status::Failed), ..error }
    }

    /// From PHP's map for an exception. Its other contents, above all the serialized exception, are ignored.
    pub(super) fn from_value(value: &Value) -> Self {
        let class = get(value, "class").and_then(text).filter(|class| !class.is_empty());
        let code = get(value, "code").and_then(Value::as_i64).unwrap_or_default();
        Self { status: Status::Failed, message: text_in(value, "message"), class, code }
    }

    fn into_value(self) -> Value {
        // With the class by which we refuse, which PHP has: it prefers the exception to the message.
        let exception = (self.class.as_deref() == Some(PHP_REFUSAL)).then(|| ("exception", self.serialized().into()));
        // PHP's register warns if there is none.
        let class = self.status.class(self.class).unwrap_or_default();
        let error = [("message", self.message.into()), ("code", self.code.into()), ("class", class.into())];
        Value::Map(error.into_iter().chain(exception).map(|(key, value)| (key.into(), value)).collect())
    }

    /// An exception with the same message and code, as PHP's `serialize()` writes it.
    fn serialized(&self) -> String {
        let Self { message, code, .. } = self;
        let message = format!("s:10:\"\0*\0message\";s:{}:\"{message}\";", message.len());
        let (class, length) = (PHP_REFUSAL, PHP_REFUSAL.len());
        format!("O:{length}:\"{class}\":2:{{{message}s:7:\"\0*\0code\";i:{code};}}")
    }
}

/// The address of a register. A host that begins with `tls://` means TLS; one that is `unix:///path` is a socket, whose
/// port is 1: PHP masters require one, and Roster creates a link to its socket with `:1` appended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RegisterAddr {
    pub host: String,
    pub port: u16,
}

const UNIX: &str = "unix://";
const UNIX_PORT: u16 = 1;

/// A text that is not an address of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `host:port`, `tls://host:port` or `unix:///path`")]
pub struct ParseRegisterError;

impl RegisterAddr {
    /// The register that listens on this socket.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self { host: format!("{UNIX}{}", path.as_ref().display()), port: UNIX_PORT }
    }

    fn is_unix(&self) -> bool {
        self.host.starts_with(UNIX)
    }
}

impl<H: Into<String>> From<(H, u16)> for RegisterAddr {
    fn from((host, port): (H, u16)) -> Self {
        let register = Self { host: host.into(), port };
        if register.is_unix() { Self { port: UNIX_PORT, ..register } } else { register }
    }
}

impl FromStr for RegisterAddr {
    type Err = ParseRegisterError;

    fn from_str(text: &str) -> Result<Self, ParseRegisterError> {
        if text.starts_with(UNIX) {
            return Ok((text, UNIX_PORT).into());
        }
        let (host, port) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).ok_or(ParseRegisterError)?;
        match port.parse() {
            Ok(port @ 1..) => Ok((host, port).into()),
            _ => Err(ParseRegisterError),
        }
    }
}

impl fmt::Display for RegisterAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unix() { f.write_str(&self.host) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl Message {
    /// Decodes the message of one frame. None: it is not a message, and is ignored.
    pub fn decode(mut frame: &[u8]) -> Result<Option<Self>, Wrong> {
        let mut map = rmpv::decode::read_value(&mut frame).map_err(|_| Wrong::Marker)?;
        if !map.is_map() {
            return Err(Wrong::NotAMap);
        }
        normalize(&mut map);
        let Some(command) = get(&map, "cmd").and_then(text) else { return Ok(None) };
        let data = get(&map, "data").unwrap_or(&Value::Nil);
        let uuid = text_in(&map, "uuid");
        if uuid.len() > MAX_UUID_BYTES {
            return Ok(None);
        }
        Ok(Some(match command.as_str() {
            "auth" => {
                let Some(Value::String(token)) = get(&map, "token") else { return Err(Wrong::Token) };
                let id = get(&map, "id").and_then(text);
                Self::Auth { token: Token(token.as_str().unwrap_or_default().to_owned()), role: Role::of(&map), id }
            }
            "auth-success" => Self::AuthSuccess { message: text_in(&map, "message") },
            "auth-failed" => {
                let message = get(&map, "message").or_else(|| get(&map, "reason")).and_then(text);
                Self::AuthFailed { message: message.unwrap_or_default() }
            }
            "callback" => Self::Callback { uuid, serialized: bytes_in(data, "serialized") },
            "data" => Self::Data { uuid, data: take(map, "data").unwrap_or(Value::Nil) },
            "end" => Self::End { uuid },
            "close" => Self::Close { uuid },
            "error" => Self::Error { uuid, error: RemoteError::from_frame(&map) },
            "ping" => Self::Ping { uuid },
            "pong" => Self::Pong { uuid },
            "register" => Self::Register(places(&map)),
            "remove" => Self::Remove(places(&map)),
            "list" => Self::List { uuid },
            "call" => Self::Call {
                uuid,
                service: text_in(data, "service"),
                method: text_in(data, "method"),
                is_windowed: get(data, "window").and_then(Value::as_bool).unwrap_or(false),
                arguments: take(map, "data").and_then(|data| take(data, "arguments")).unwrap_or(Value::Nil),
            },
            "stream-window" => Self::Window { uuid },
            "stream-taken" => {
                Self::Taken { uuid, count: get(&map, "count").and_then(Value::as_u64).unwrap_or(0) as usize }
            }
            _ => Self::Other(map),
        }))
    }

    /// The message as one frame.
    pub fn encode(self) -> Vec<u8> {
        let mut frame = Vec::new();
        rmpv::encode::write_value(&mut frame, &self.into_value()).expect("a vector takes all that is written to it");
        frame
    }

    fn into_value(self) -> Value {
        match self {
            Self::Auth { token, role, id } => {
                let role = role.keys().iter().map(|key| (*key, 1.into()));
                let id = id.map(|id| ("id", id.into()));
                command("auth", [("token", token.0.into())].into_iter().chain(role).chain(id))
            }
            Self::AuthSuccess { message } => command("auth-success", [("message", message.into())]),
            // Some masters read the one key, some the other.
            Self::AuthFailed { message } => {
                command("auth-failed", [("message", message.clone().into()), ("reason", message.into())])
            }
            Self::Callback { uuid, serialized } => {
                let data = Value::Map(vec![("serialized".into(), string(serialized))]);
                command("callback", [("uuid", uuid.into()), ("data", data)])
            }
            Self::Data { uuid, data } => command("data", [("uuid", uuid.into()), ("data", data)]),
            Self::End { uuid } => command("end", [("uuid", uuid.into())]),
            Self::Close { uuid } => command("close", [("uuid", uuid.into())]),
            Self::Error { uuid, error } => {
                let status = error.status.encode();
                let error = [("uuid", uuid.into()), ("data", error.into_value())];
                command("error", error.into_iter().chain(status))
            }
            Self::Ping { uuid } => command("ping", [("uuid", uuid.into())]),
            Self::Pong { uuid } => command("pong", [("uuid", uuid.into())]),
            Self::Register(places) => command("register", registers(places)),
            Self::Remove(places) => command("remove", registers(places)),
            Self::List { uuid } => command("list", [("uuid", uuid.into())]),
            Self::Call { uuid, service, method, arguments, is_windowed } => {
                let call = [("service", service.into()), ("method", method.into())];
                let window = is_windowed.then_some(("window", true.into()));
                // Last, since many calls may share them.
                let arguments = [("arguments", arguments)];
                let data = call.into_iter().chain(window).chain(arguments);
                let data = data.map(|(key, value)| (key.into(), value)).collect();
                command("call", [("uuid", uuid.into()), ("data", Value::Map(data))])
            }
            Self::Window { uuid } => command("stream-window", [("uuid", uuid.into())]),
            Self::Taken { uuid, count } => command("stream-taken", [("uuid", uuid.into()), ("count", count.into())]),
            Self::Other(map) | Self::ToWorker(map) => map,
        }
    }
}

/// Checks that a map is an application-defined command. With a second `cmd`, the receiver might use that one.
pub fn check_command(map: &Value) -> Result<(), Wrong> {
    let entries = map.as_map().ok_or(Wrong::NotAMap)?;
    let mut names = entries.iter().filter(|(key, _)| key.as_slice() == Some(b"cmd")).map(|(_, name)| name.as_slice());
    let (Some(Some(name)), None) = (names.next(), names.next()) else { return Err(Wrong::Nameless) };
    let reserved = RESERVED.into_iter().find(|reserved| reserved.as_bytes() == name);
    reserved.map_or(Ok(()), |reserved| Err(Wrong::Reserved(reserved)))
}

/// A map with the key `cmd`, and others after it.
pub fn command(name: &str, rest: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let rest = rest.into_iter().map(|(key, value)| (key.into(), value));
    Value::Map(std::iter::once(("cmd".into(), name.into())).chain(rest).collect())
}

fn places(map: &Value) -> Option<Vec<RegisterAddr>> {
    let list = get(map, "registers")?.as_array()?;
    let place = |place| {
        let port: u16 = text_in(place, "port").parse().ok()?;
        Some((get(place, "host").and_then(text)?, port).into())
    };
    Some(list.iter().filter_map(place).collect())
}

fn registers(places: Option<Vec<RegisterAddr>>) -> Option<(&'static str, Value)> {
    let place =
        |place: RegisterAddr| Value::Map(vec![("host".into(), place.host.into()), ("port".into(), place.port.into())]);
    places.map(|places| ("registers", Value::Array(places.into_iter().map(place).collect())))
}
