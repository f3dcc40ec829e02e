//! The upstream protocol: the messages between a register and a sidecar that follows it.
//!
//! A follower announces itself when it authenticates, as [`Role::Follower`](super::Role). The commands of this protocol
//! are recognized on its connection only, which carries nothing application-defined; so a master may use any of these
//! names for its commands. (A follower of an older version subscribes first.) Unknown messages of newer peers are
//! ignored.
//!
//! The follower sends a [`Request`]. The register sends each [`Report`] as a value of the subscription's stream,
//! answers a call as a master does, and sends a [`Refusal`]; and like a master, the follower receives `register` and
//! `remove`.

use std::sync::Arc;
use std::time::Duration;

use super::message::{Message, command};
use super::value::{Value, get, take, text, text_in};
use crate::model::{MAX_MASTER_BYTES, MAX_SERVICES, Master, Service, split_name, view};

/// About how much memory the reports of a piece take where they are received. One that takes more is a piece by itself.
pub const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// The room that each follower has for reports: two pieces.
pub const MIN_ROOM: usize = 2 * PIECE_BYTES;

/// Our own: for the largest master too, of which each byte may be a value.
pub const FOLLOWER_ROOM: usize = MIN_ROOM + MAX_MASTER_BYTES * (1 + size_of::<Value>());

/// The longest id and address of a master. A register accepts an id in a frame of 4 KiB, and an address is an IP
/// address.
const MAX_ID_BYTES: usize = 4 * 1024;
const MAX_ADDRESS_BYTES: usize = 256;

/// The longest reason of a refusal that is read, in characters.
const MAX_REASON: usize = 500;

/// A request of a follower.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `{cmd:"subscribe", uuid, pieces: 1, room}`: report your masters on this stream, replacing an earlier
    /// subscription. With `pieces`, wait after each [`Report::Piece`] until it is accepted.
    Subscribe {
        uuid: String,
        in_pieces: bool,
        /// How much memory there is for reports until they are taken in; none: [`MIN_ROOM`].
        room: Option<u64>,
    },
    /// `{cmd:"prove", at}`: report when you have sent everything that is true now. `at` is the follower's time, in ms.
    Prove { at: Duration },
    /// `{cmd:"took", piece}`: this piece was accepted.
    Took { piece: u64 },
    /// `{cmd:"call-on", uuid, master, service, method, arguments, timeout, window}`: call a master of yours.
    Call {
        uuid: String,
        master: String,
        service: String,
        method: String,
        arguments: Value,
        /// How long the caller waits, in ms on the wire; none: unknown.
        timeout: Option<Duration>,
        /// Whether the caller reports, if asked to, which values it has taken.
        is_windowed: bool,
    },
    /// `{cmd:"send-to", master, message}`: send a master of yours a command.
    Send { master: String, message: Value },
}

/// A register's report of its masters: all of them, [`Report::Whole`], and then every change.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// `{reset: true}`: everything is reported again.
    Reset,
    /// `{put: {…, expected}}`: a master; `expected` if it was there before a restart and is not back yet. Some of its
    /// services may be unreadable.
    Put { master: Arc<Master>, is_expected: bool, unreadable: usize },
    /// `{leftOut: id}`: a master exists that cannot be reported. (Followers of an older version ignore that.)
    LeftOut(String),
    /// `{drop: id}`: a master is gone.
    Drop(String),
    /// `{whole: true}`: all have been reported.
    Whole,
    /// `{settling: true}`: masters besides those reported may be on their way back; until `false`.
    Settling(bool),
    /// `{piece: number}`: the end of a piece. Nothing follows before it is accepted.
    Piece(u64),
    /// `{proven: at}`: everything that was true when that was asked has been reported.
    Proven(Duration),
}

/// `{cmd:"refused", why}`: a command for a master was not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
}

/// Why a report cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is invalid, or known only to newer versions.
    Unknown,
    /// A master by its id, however long that is, and what is wrong with it, in words.
    Master { id: String, why: String },
}

impl Request {
    /// None: it is invalid, or known only to newer versions.
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

    /// A subscription, by which a follower of an older version identifies itself.
    pub fn decode_subscription(map: &Value) -> Option<Self> {
        let uuid = get(map, "uuid").and_then(text).filter(|_| text_in(map, "cmd") == "subscribe")?;
        let room = get(map, "room").and_then(Value::as_u64);
        Some(Self::Subscribe { uuid, in_pieces: get(map, "pieces").is_some(), room })
    }

    pub fn encode(self) -> Message {
        Message::Other(match self {
            Self::Subscribe { uuid, in_pieces, room } => {
                let pieces = in_pieces.then(|| ("pieces", 1.into()));
                let room = room.map(|room| ("room", room.into()));
                command("subscribe", [("uuid", uuid.into())].into_iter().chain(pieces).chain(room))
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
    /// None: it is not a refusal.
    pub fn decode(map: &Value) -> Option<Self> {
        let is_one = text_in(map, "cmd") == "refused";
        is_one.then(|| Self { why: text_in(map, "why").chars().take(MAX_REASON).collect() })
    }

    pub fn encode(self) -> Message {
        Message::Other(command("refused", [("why", self.why.into())]))
    }
}

/// The name that earlier versions use for the address the master connected from.
const OLD_ADDRESS: &str = "address";
const ADDRESS: &str = "peerAddress";

/// A master, with the fields that older versions read instead of some of it.
fn encode_master(master: &Master, is_expected: bool) -> Value {
    let service = |service: &Service| {
        // With its version, if that is in the name: older versions look nowhere else.
        map([
            ("name", service.name.as_str().into()),
            ("version", service.version().to_string().into()),
            ("metadata", service.metadata.value()),
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
    // A register's names are complete.
    for service in view.services.iter_mut().filter(|service| split_name(&service.name).1.is_some()) {
        service.version.clear();
    }
    let unreadable = offered.saturating_sub(view.services.len());
    Ok(Report::Put { master: Arc::new(view.into()), is_expected, unreadable })
}

/// Checks that no part of a master is too large.
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
