//! Requests: calls as clients ask for them, checked before anything is sent.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use semver::Version;

use super::accounts::Account;
use super::idl::{self, BroadcastRequest, Encoding, InvalidRequest, RegisterAddress};
use super::masters::check_metadata;
use super::{Config, value};
use crate::heavy::is_heavy;
use crate::model::{Command, Input, split_name};
use crate::net::Remote;
use crate::resolve::{Balance, NoRequirement, Requirement, Wanted};
use crate::tunnel::message::check_command;
use crate::tunnel::value::{get, text};

/// How long a call may take that does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a call may be tried again that does not say.
const RETRIES: usize = 2;

/// More masters than that are not tried for one call.
const MAX_RETRIES: usize = 64;

/// The longest key of a balance, in bytes: it is hashed for each master.
const MAX_KEY: usize = 1024;

/// The most registers that masters are told of at once.
const MAX_REGISTERS: usize = 64;

/// A call that makes sense.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The id of the only one that it is for.
    pub(super) master: Option<String>,
    pub(super) service: String,
    pub(super) method: String,
    pub(super) arguments: Arc<Value>,
    /// The arguments as they were written, where that is heavy and has not been done yet.
    pub(super) unread: Vec<u8>,
    /// How many bytes they have, written.
    pub(super) weight: usize,
    pub(super) timeout: Duration,
    /// Whether the client allowed it more time than the sidecar does.
    pub(super) is_cut: bool,
    pub(super) retries: usize,
    pub(super) is_idempotent: bool,
    pub(super) wanted: Wanted,
    pub(super) all_values: bool,
    pub(super) encoding: Encoding,
    /// What its client sends while it goes on.
    pub(super) input: Option<Input>,
}

impl Request {
    /// Checks all but arguments that are heavy.
    pub(super) fn check(call: idl::Call, config: &Config) -> Result<Self, InvalidRequest> {
        let encoding = encoding(call.encoding)?;
        let (service, exact) = split_name(&call.service_name);
        let version = version(exact, call.version.as_deref())?;
        let timeout = timeout(call.timeout_ms)?;
        check_metadata(call.metadata.as_ref())?;
        if call.master_id.is_some() && call.metadata.is_some() {
            return Err(invalid("metadata", "they choose a master, which `masterId` does already"));
        }
        let written = call.arguments.unwrap_or_default();
        let weight = written.len();
        let (light, unread) = if is_heavy(weight) { (Vec::new(), written) } else { (written, Vec::new()) };
        let wanted = Wanted {
            version,
            balance: balance(call.balance, call.key)?,
            metadata: call.metadata.unwrap_or_default(),
            ..Wanted::default()
        };
        Ok(Self {
            master: call.master_id,
            service: service.to_owned(),
            method: call.method,
            arguments: arguments(encoding, &light)?.into(),
            unread,
            weight,
            timeout: timeout.min(config.max_call_time),
            is_cut: timeout > config.max_call_time,
            retries: retries(call.retries)?,
            is_idempotent: call.idempotent.unwrap_or(false),
            wanted,
            all_values: call.all_values.unwrap_or(false),
            encoding,
            input: None,
        })
    }

    /// Reads arguments that are heavy.
    pub(super) async fn read(&mut self, account: &Account) -> Result<(), InvalidRequest> {
        if !self.unread.is_empty() {
            let (encoding, unread) = (self.encoding, std::mem::take(&mut self.unread));
            self.arguments = account.memory.work(self.weight, move || arguments(encoding, &unread)).await?.into();
        }
        Ok(())
    }

    /// The same of a method that is sent values. What one master has taken of them no other is given.
    pub(super) fn with_input(self, input: Input) -> Self {
        Self { input: Some(input), retries: 0, is_idempotent: false, all_values: true, ..self }
    }

    /// About how much memory it takes, its arguments above all.
    pub(super) fn memory_size(&self) -> usize {
        let Wanted { version, balance, metadata, .. } = &self.wanted;
        let key = if let Balance::Key(key) = balance { key.len() } else { 0 };
        let metadata: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let wanted = version.as_ref().map_or(0, Requirement::memory_size) + key + metadata;
        size_of::<Self>()
            + self.master.as_ref().map_or(0, String::len)
            + self.service.len()
            + self.method.len()
            + self.unread.len()
            + wanted
            + value::memory_size(&self.arguments)
    }
}

impl idl::Call {
    /// A call of which nothing else is said.
    pub fn of(service: impl Into<String>, method: impl Into<String>, arguments: impl Into<Vec<u8>>) -> Self {
        Self {
            service_name: service.into(),
            method: method.into(),
            arguments: Some(arguments.into()),
            encoding: None,
            master_id: None,
            metadata: None,
            version: None,
            balance: None,
            key: None,
            timeout_ms: None,
            retries: None,
            idempotent: None,
            all_values: None,
        }
    }
}

/// A command of the application's own, for all masters.
pub(super) fn command(request: &BroadcastRequest) -> Result<Command, InvalidRequest> {
    let encoding = encoding(request.encoding)?;
    let message = value::read(encoding, &request.message).map_err(|why| invalid("message", why))?;
    if !message.is_map() {
        let form = if encoding == Encoding::JSON { "a JSON object" } else { "a map" };
        return Err(invalid("message", format!("a command is {form}")));
    }
    check_command(&message).map_err(|why| invalid("message", why.to_string()))?;
    // These two are the tunnel's own as well, and are sent only with registers that have been checked.
    match get(&message, "cmd").and_then(text).as_deref() {
        Some("register") => Err(invalid("message", "the command `register` is sent by addRegisters")),
        Some("remove") => Err(invalid("message", "the command `remove` is sent by removeRegisters")),
        _ => Ok(Command::new(message)),
    }
}

/// The command that tells masters of registers: `register` or `remove`.
pub(super) fn registers(command: &str, registers: &[RegisterAddress]) -> Result<Command, InvalidRequest> {
    if registers.is_empty() || registers.len() > MAX_REGISTERS {
        return Err(invalid("registers", format!("expected between 1 and {MAX_REGISTERS} of them")));
    }
    let registers: Vec<Value> = registers.iter().map(register).collect::<Result<_, _>>()?;
    let message = vec![("cmd".into(), command.into()), ("registers".into(), Value::Array(registers))];
    Ok(Command::new(Value::Map(message)))
}

fn register(address: &RegisterAddress) -> Result<Value, InvalidRequest> {
    let RegisterAddress { host, port } = address;
    if !(1..=u16::MAX.into()).contains(port) {
        return Err(invalid("registers", format!("{port} is not a port")));
    }
    if format!("{host}:{port}").parse::<Remote>().is_err() {
        return Err(invalid("registers", format!("`{}` is not a host", host.escape_debug())));
    }
    Ok(Value::Map(vec![("host".into(), host.as_str().into()), ("port".into(), (*port).into())]))
}

fn arguments(encoding: Encoding, bytes: &[u8]) -> Result<Value, InvalidRequest> {
    if bytes.is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    match value::read(encoding, bytes) {
        Ok(arguments @ (Value::Array(_) | Value::Map(_))) => Ok(arguments),
        Ok(_) => Err(invalid("arguments", "expected a list, or an object by parameter name")),
        Err(why) => Err(invalid("arguments", why)),
    }
}

fn timeout(millis: Option<i32>) -> Result<Duration, InvalidRequest> {
    match millis.map(u64::try_from) {
        None => Ok(TIMEOUT),
        Some(Ok(millis @ 1..)) => Ok(Duration::from_millis(millis)),
        Some(_) => Err(invalid("timeoutMs", "must be above 0")),
    }
}

fn retries(retries: Option<i32>) -> Result<usize, InvalidRequest> {
    let retries = retries.map_or(Ok(RETRIES), usize::try_from);
    retries.map(|retries| retries.min(MAX_RETRIES)).map_err(|_| invalid("retries", "must not be below 0"))
}

/// What the version must meet: what is asked for, and of `name@version` to be just that one.
fn version(exact: Option<Version>, asked: Option<&str>) -> Result<Option<Requirement>, InvalidRequest> {
    let asked: Option<Requirement> =
        asked.map(str::parse).transpose().map_err(|error: NoRequirement| invalid("version", error.to_string()))?;
    Ok(match (exact, asked) {
        (None, asked) => asked,
        (Some(exact), None) => Some(Requirement::exactly(&exact)),
        (Some(exact), Some(asked)) => Some(asked.and_exactly(&exact)),
    })
}

fn balance(balance: Option<idl::Balance>, key: Option<String>) -> Result<Balance, InvalidRequest> {
    match (balance, key) {
        (None | Some(idl::Balance::LEAST_OUTSTANDING), _) => Ok(Balance::LeastOutstanding),
        (Some(idl::Balance::ROUND_ROBIN), _) => Ok(Balance::RoundRobin),
        (Some(idl::Balance::RANDOM), _) => Ok(Balance::Random),
        (Some(idl::Balance::CONSISTENT_HASH), Some(key)) if key.len() > MAX_KEY => {
            Err(invalid("key", format!("longer than {MAX_KEY} bytes; give a hash of it")))
        }
        (Some(idl::Balance::CONSISTENT_HASH), Some(key)) => Ok(Balance::Key(key)),
        (Some(idl::Balance::CONSISTENT_HASH), None) => Err(invalid("key", "the balance CONSISTENT_HASH needs one")),
        (Some(idl::Balance(unknown)), _) => Err(invalid("balance", format!("{unknown} is none"))),
    }
}

pub(super) fn encoding(encoding: Option<Encoding>) -> Result<Encoding, InvalidRequest> {
    match encoding {
        None => Ok(Encoding::JSON),
        Some(known @ (Encoding::JSON | Encoding::MSGPACK)) => Ok(known),
        Some(Encoding(unknown)) => Err(invalid("encoding", format!("{unknown} is none"))),
    }
}

pub(super) fn invalid(field: &str, message: impl Into<String>) -> InvalidRequest {
    InvalidRequest { field: field.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[u8], change: impl FnOnce(&mut idl::Call)) -> Result<Request, InvalidRequest> {
        let mut call = idl::Call::of("mail", "send", arguments);
        change(&mut call);
        Request::check(call, &Config::default())
    }

    fn in_msgpack(value: &Value) -> BroadcastRequest {
        BroadcastRequest::new(value::write(Encoding::MSGPACK, value).expect("MessagePack has all"), Encoding::MSGPACK)
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let request = check(b"", |_| {}).expect("a request");
        assert_eq!(*request.arguments, Value::Array(vec![]));
        assert_eq!((request.timeout, request.retries, request.is_idempotent), (TIMEOUT, RETRIES, false));
        let patient = check(b"{}", |call| call.timeout_ms = Some(i32::MAX)).expect("a request");
        assert_eq!((patient.timeout, &*patient.arguments), (Duration::from_secs(60), &Value::Map(vec![])));
        assert!(patient.is_cut && !request.is_cut);
    }

    #[test]
    fn a_version_in_the_name_is_the_one_that_is_wanted() {
        let request = |service: &str, version: Option<&str>| {
            let call = idl::Call { version: version.map(Into::into), ..idl::Call::of(service, "send", "") };
            Request::check(call, &Config::default()).expect("a request")
        };
        let wanted = |service: &str, version: Option<&str>| {
            let request = request(service, version);
            (request.service, request.wanted.version.map(|version| version.to_string()))
        };
        assert_eq!(wanted("api@1.0.0", None), ("api".into(), Some("=1.0.0".into())));
        assert_eq!(wanted("api@1", Some("^1")), ("api".into(), Some("=1.0.0 and ^1".into())));
        let either = request("api@1.0.0", Some("^1 || ^2")).wanted.version.expect("a requirement");
        let meets = |version: &str| either.matches(&version.parse().expect("a version"));
        assert!(meets("1.0.0") && !meets("1.1.0") && !meets("2.0.0"));
        assert_eq!(wanted("mail@work", None), ("mail@work".into(), None));
    }

    #[test]
    fn what_makes_no_sense_is_told_by_its_field() {
        let field = |result: Result<Request, InvalidRequest>| result.expect_err("a mistake").field;
        for arguments in [&b"7"[..], b"\"text\"", b"null", b"[1", b"[1] 2", b"\xff"] {
            assert_eq!(field(check(arguments, |_| {})), "arguments");
        }
        assert_eq!(field(check(b"\x07", |call| call.encoding = Some(Encoding::MSGPACK))), "arguments");
        assert_eq!(field(check(b"", |call| call.encoding = Some(Encoding(9)))), "encoding");
        assert_eq!(field(check(b"", |call| call.timeout_ms = Some(0))), "timeoutMs");
        assert_eq!(field(check(b"", |call| call.retries = Some(-1))), "retries");
        assert_eq!(field(check(b"", |call| call.version = Some("one".into()))), "version");
        assert_eq!(field(check(b"", |call| call.balance = Some(idl::Balance::CONSISTENT_HASH))), "key");
        assert_eq!(field(check(b"", |call| call.balance = Some(idl::Balance(0)))), "balance");
        let long = |call: &mut idl::Call| call.version = Some(format!("{}*", "1|".repeat(500_000)));
        assert_eq!(field(check(b"", long)), "version");
        assert_eq!(field(check(b"", by_key(MAX_KEY + 1))), "key");
    }

    fn by_key(length: usize) -> impl FnOnce(&mut idl::Call) {
        move |call| (call.balance, call.key) = (Some(idl::Balance::CONSISTENT_HASH), Some("k".repeat(length)))
    }

    #[test]
    fn what_a_call_wants_of_a_master_is_charged() {
        let size = |change: fn(&mut idl::Call)| check(b"", change).expect("a request").memory_size();
        let plain = size(|_| {});
        assert!(size(|call| call.version = Some(["1"; 32].join("|"))) > plain + 32 * 100);
        let keyed = check(b"", by_key(MAX_KEY)).expect("a request").memory_size();
        assert_eq!(keyed, plain + MAX_KEY);
    }

    #[test]
    fn no_command_of_the_tunnel_itself_is_sent_for_a_client() {
        let check = |text: &str| command(&BroadcastRequest::new(text.into(), None));
        assert!(check(r#"{"cmd":"reload","what":[1]}"#).is_ok());
        for text in [r#"{"cmd":"callback","data":{"serialized":"O:…"}}"#, r#"{"cmd":7}"#, "{}", "[]", "reload"] {
            assert!(check(text).is_err(), "{text}");
        }
        assert_eq!(check("[]").expect_err("a mistake").message, "a command is a JSON object");
        // The second `cmd` of a map could win at the receiver.
        let twice = Value::Map(vec![("cmd".into(), "reload".into()), ("cmd".into(), "callback".into())]);
        assert!(command(&in_msgpack(&twice)).is_err());
        let binary = Value::Map(vec![(Value::Binary(b"cmd".to_vec()), "callback".into())]);
        assert!(command(&in_msgpack(&binary)).is_err());
    }

    #[test]
    fn masters_are_told_of_registers_only_by_what_checks_these() {
        for (name, by) in [("register", "addRegisters"), ("remove", "removeRegisters")] {
            let registers =
                Value::Array(vec![Value::Map(vec![("host".into(), "hub".into()), ("port".into(), 0.into())])]);
            for name in [Value::from(name), Value::Binary(name.into())] {
                let message = Value::Map(vec![("cmd".into(), name), ("registers".into(), registers.clone())]);
                let refused = command(&in_msgpack(&message));
                assert!(refused.expect_err("a mistake").message.ends_with(by));
            }
        }
    }

    #[test]
    fn registers_are_told_as_hosts_and_ports() {
        let one = RegisterAddress::new("hub.example".into(), 8010);
        let command = registers("register", &[one]).expect("a command");
        assert_eq!(
            value::text(command.message()),
            r#"{"cmd":"register","registers":[{"host":"hub.example","port":8010}]}"#
        );
        assert!(registers("register", &[RegisterAddress::new("tls://hub".into(), 8010)]).is_ok());
        for (host, port) in [("", 1), ("tcp://hub", 1), ("a b", 1), ("hub", 0), ("hub", 65_536), ("hub\n", 1)] {
            assert!(registers("register", &[RegisterAddress::new(host.into(), port)]).is_err(), "{host}:{port}");
        }
        assert!(registers("register", &[]).is_err());
    }
}
