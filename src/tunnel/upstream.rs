//! The upstream protocol: what a register and a sidecar that follows it send each other.
//!
//! Whoever follows says so when it authenticates, as [`Role::Follower`](super::Role). The commands of this protocol are
//! read on its connection alone, over which nothing of an application's own comes; so a master may give its commands
//! any of these names. (A follower of an older version subscribes first.) What a newer peer sends besides is passed by.
//!
//! The follower sends a [`Request`]. The register sends each [`Report`] as a value of the subscription's stream,
//! answers a call as a master does, and sends a [`Refusal`]; and as a master, the follower is sent `register` and
//! `remove`.

use std::sync::Arc;
use std::time::Duration;

use super::message::{Message, command};
use super::value::{Value, get, take, text, text_in};
use crate::model::{MAX_SERVICES, Master, Service, split_name, view};

/// The longest id and address of a master. A register takes an id in a frame of 4 KiB, and an address is of an IP.
const MAX_ID_BYTES: usize = 4 * 1024;
const MAX_ADDRESS_BYTES: usize = 256;

/// The longest reason of a refusal that is read, in characters.
const MAX_REASON: usize = 500;

/// What a follower asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `{cmd:"subscribe", uuid, pieces: 1}`: report your masters on this stream, in the place of an earlier
    /// subscription. With `pieces`, wait after each [`Report::Piece`] until it is taken.
    Subscribe { uuid: String, in_pieces: bool },
    /// `{cmd:"prove", at}`: report when you have sent all that is true now. `at` is the follower's time, in ms.
    Prove { at: Duration },
    /// `{cmd:"took", piece}`: this piece is taken.
    Took { piece: u64 },
    /// `{cmd:"call-on", uuid, master, service, method, arguments, timeout, window}`: call a master of yours.
    Call {
        uuid: String,
        master: String,
        service: String,
        method: String,
        arguments: Value,
        /// How long the caller waits, in ms on the wire; none: nobody says.
        timeout: Option<Duration>,
        /// Whether the caller reports what it has taken of the values, if that is wanted.
        is_windowed: bool,
    },
    /// `{cmd:"send-to", master, message}`: send a master of yours a command.
    Send { master: String, message: Value },
}

/// What a register reports of its masters: all of them, [`Report::Whole`], and then every change.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// `{reset: true}`: all is reported anew.
    Reset,
    /// `{put: {…, expected}}`: a master; `expected`, where it was there before a restart and has not come back. Some of
    /// its services may be such that they cannot be read.
    Put { master: Arc<Master>, is_expected: bool, unreadable: usize },
    /// `{leftOut: id}`: a master is there that cannot be reported. (Followers of an older version pass that over.)
    LeftOut(String),
    /// `{drop: id}`: a master is gone.
    Drop(String),
    /// `{whole: true}`: all have been reported.
    Whole,
    /// `{settling: true}`: masters besides those reported may be on their way back; until `false`.
    Settling(bool),
    /// `{piece: number}`: that was a piece. Nothing follows before it is taken.
    Piece(u64),
    /// `{proven: at}`: all that was true when that was asked has been reported.
    Proven(Duration),
}

/// `{cmd:"refused", why}`: a command for a master was not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
}

/// Why a report is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is none, or one that only newer versions know.
    Unknown,
    /// A master by its id, however long that is, and what of it is not as it must be, in words.
    Master { id: String, why: String },
}

impl Request {
    /// None: it is none, or one that only newer versions know.
    pub fn decode(map: Value) -> Option<Self> {
        let uuid = || get(&map, "uuid").and_then(text);
        let number = |key| get(&map, key).and_then(Value::as_u64);
        Some(match text_in(&map, "cmd").as_str() {
            "subscribe" => return Self::decode_subscription(&map),
            "prove" => Self::Prove { at: Duration::from_millis(number("at")?) },
            "took" => Self::Took { piece: number("piece")? },
            "call-on" => Self::Call {
                uuid: uuid()?,
                master: text_in(&map, "master"),
                service: text_in(&map, "service"),
                method: text_in(&map, "method"),
                timeout: number("timeout").map(Duration::from_millis),
                is_windowed: get(&map, "window").and_then(Value::as_bool).unwrap_or(false),
                arguments: take(map, "arguments").unwrap_or(Value::Nil),
            },
            "send-to" => Self::Send { master: text_in(&map, "master"), message: take(map, "message")? },
            _ => return None,
        })
    }

    /// A subscription, by which a follower of an older version shows that it is one.
    pub fn decode_subscription(map: &Value) -> Option<Self> {
        let uuid = get(map, "uuid").and_then(text).filter(|_| text_in(map, "cmd") == "subscribe")?;
        Some(Self::Subscribe { uuid, in_pieces: get(map, "pieces").is_some() })
    }

    pub fn encode(self) -> Message {
        Message::Other(match self {
            Self::Subscribe { uuid, in_pieces } => {
                let pieces = in_pieces.then(|| ("pieces", 1.into()));
                command("subscribe", [("uuid", uuid.into())].into_iter().chain(pieces))
            }
            Self::Prove { at } => command("prove", [("at", millis(at))]),
            Self::Took { piece } => command("took", [("piece", piece.into())]),
            Self::Call { uuid, master, service, method, arguments, timeout, is_windowed } => command(
                "call-on",
                [
                    ("uuid", uuid.into()),
                    ("master", master.into()),
                    ("service", service.into()),
                    ("method", method.into()),
                    ("timeout", timeout.map_or(Value::Nil, millis)),
                    ("window", is_windowed.into()),
                    // Last, since many calls may share them.
                    ("arguments", arguments),
                ],
            ),
            Self::Send { master, message } => command("send-to", [("master", master.into()), ("message", message)]),
        })
    }
}

impl Report {
    pub fn decode(report: Value) -> Result<Self, Unread> {
        let flag = |key| get(&report, key).and_then(Value::as_bool);
        let number = |key| get(&report, key).and_then(Value::as_u64);
        if let Some(id) = get(&report, "drop").and_then(text) {
            Ok(Self::Drop(id))
        } else if let Some(id) = get(&report, "leftOut").and_then(text) {
            Ok(Self::LeftOut(id))
        } else if get(&report, "whole").is_some() {
            Ok(Self::Whole)
        } else if let Some(at) = number("proven") {
            Ok(Self::Proven(Duration::from_millis(at)))
        } else if let Some(is_settling) = flag("settling") {
            Ok(Self::Settling(is_settling))
        } else if let Some(piece) = number("piece") {
            Ok(Self::Piece(piece))
        } else if get(&report, "reset").is_some() {
            Ok(Self::Reset)
        } else {
            take(report, "put").ok_or(Unread::Unknown).and_then(decode_master)
        }
    }

    /// As a value of the subscription's stream.
    pub fn encode(&self) -> Value {
        let (key, value) = match self {
            Self::Reset => ("reset", true.into()),
            Self::Put { master, is_expected, .. } => ("put", encode_master(master, *is_expected)),
            Self::LeftOut(id) => ("leftOut", id.as_str().into()),
            Self::Drop(id) => ("drop", id.as_str().into()),
            Self::Whole => ("whole", true.into()),
            Self::Settling(is_settling) => ("settling", (*is_settling).into()),
            Self::Piece(piece) => ("piece", (*piece).into()),
            Self::Proven(at) => ("proven", millis(*at)),
        };
        Value::Map(vec![(key.into(), value)])
    }
}

impl Refusal {
    /// None: it is none.
    pub fn decode(map: &Value) -> Option<Self> {
        let is_one = text_in(map, "cmd") == "refused";
        is_one.then(|| Self { why: text_in(map, "why").chars().take(MAX_REASON).collect() })
    }

    pub fn encode(self) -> Message {
        Message::Other(command("refused", [("why", self.why.into())]))
    }
}

/// What versions before this one call the address that the master connected from.
const OLD_ADDRESS: &str = "address";
const ADDRESS: &str = "peerAddress";

/// A master, and what older versions read in the place of some of it.
fn encode_master(master: &Master, is_expected: bool) -> Value {
    let service = |service: &Service| {
        // With its version, where that is in the name: older versions look for it nowhere else.
        map([
            ("name", service.name.as_str().into()),
            ("version", service.version().to_string().into()),
            ("metadata", Value::clone(&service.metadata)),
        ])
    };
    let fields = [
        ("id", master.id.as_str().into()),
        (ADDRESS, master.peer_address.as_str().into()),
        ("connectedAt", master.connected_at.into()),
        ("services", master.services.iter().map(service).collect::<Vec<_>>().into()),
        ("ways", 0.into()),
        (OLD_ADDRESS, master.peer_address.as_str().into()),
    ];
    map(fields.into_iter().chain(is_expected.then(|| ("expected", true.into()))))
}

fn map<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn decode_master(mut master: Value) -> Result<Report, Unread> {
    let is_expected = get(&master, "expected").and_then(Value::as_bool).unwrap_or(false);
    if get(&master, ADDRESS).is_none()
        && let Value::Map(fields) = &mut master
        && let Some((key, _)) = fields.iter_mut().rev().find(|(key, _)| key.as_str() == Some(OLD_ADDRESS))
    {
        *key = ADDRESS.into();
    }
    check_size(&master)?;
    let (id, offered) = (text_in(&master, "id"), services_of(&master));
    let unread = |id: &str, why: String| Unread::Master { id: id.to_owned(), why };
    let view: Result<view::Master, _> = rmpv::ext::from_value(master);
    let mut view = view.map_err(|error| unread(&id, error.to_string().chars().take(MAX_REASON).collect()))?;
    if view.id.is_empty() {
        return Err(unread("", "it has no id".into()));
    }
    // A register's names are whole.
    for service in view.services.iter_mut().filter(|service| split_name(&service.name).1.is_some()) {
        service.version.clear();
    }
    let unreadable = offered.saturating_sub(view.services.len());
    Ok(Report::Put { master: Arc::new(view.into()), is_expected, unreadable })
}

/// That no part of a master is larger than it may be.
fn check_size(master: &Value) -> Result<(), Unread> {
    let bytes = |key| get(master, key).and_then(Value::as_slice).map_or(0, <[u8]>::len);
    let services = services_of(master);
    let why = if bytes("id") > MAX_ID_BYTES {
        format!("its id has more than {MAX_ID_BYTES} bytes")
    } else if bytes(ADDRESS) > MAX_ADDRESS_BYTES {
        format!("its address has more than {MAX_ADDRESS_BYTES} bytes")
    } else if services > MAX_SERVICES {
        format!("it offers more than {MAX_SERVICES} services")
    } else {
        return Ok(());
    };
    Err(Unread::Master { id: text_in(master, "id"), why })
}

fn services_of(master: &Value) -> usize {
    get(master, "services").and_then(Value::as_array).map_or(0, Vec::len)
}

fn millis(time: Duration) -> Value {
    (time.as_millis() as u64).into()
}
