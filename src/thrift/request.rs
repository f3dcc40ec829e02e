//! Requests: clients' calls, validated before anything is sent.

use std::time::Duration;

use rmpv::Value;
use semver::Version;

use super::Config;
use super::idl::{self, BroadcastRequest, InvalidRequest, RegisterAddress, ResolveRequest, ServiceQuery};
use super::masters::check_metadata;
use crate::access::Denied;
use crate::call::{Arguments, Encoding, Request};
use crate::model::{Command, split_name};
use crate::net::Remote;
use crate::resolve::{Balance, NoRequirement, Query, Requirement, Subset};
use crate::store::{Directory, key_hash};
use crate::tunnel::RegisterAddr;
use crate::tunnel::message::check_command;
use crate::tunnel::value::{get, text};

/// The default timeout of a call.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default number of retries of a call.
const DEFAULT_RETRIES: usize = 2;

/// The most masters to try for one call.
const MAX_RETRIES: usize = 64;

/// The longest balancing key, in bytes: it is hashed for each master.
const MAX_KEY: usize = 1024;

/// The most instances that a choice may leave out, each of which is compared with all.
const MAX_EXCLUDED: usize = 64;

/// The most registers sent to masters at once.
const MAX_REGISTERS: usize = 64;

/// Validates a call, except for arguments that are expensive to read.
pub(super) fn check(call: idl::Call, config: &Config) -> Result<Request, InvalidRequest> {
    let encoding = encoding(call.encoding)?;
    let (service, exact) = split_name(&call.service_name);
    let version = version(exact, call.version.as_deref())?;
    let timeout = timeout(call.timeout_ms)?;
    check_metadata(call.metadata.as_ref())?;
    if call.master_id.is_some() && call.metadata.is_some() {
        return Err(invalid("metadata", "they choose a master, which `masterId` does already"));
    }
    let arguments = Arguments::of(encoding, call.arguments.unwrap_or_default());
    let query = Query {
        version,
        balance: balance(call.balance, call.key)?,
        metadata: call.metadata.unwrap_or_default(),
        ..Query::default()
    };
    Ok(Request {
        master: call.master_id,
        service: service.to_owned(),
        method: call.method,
        arguments: arguments.map_err(unread)?,
        timeout: timeout.min(config.max_call_time),
        cut_by: (timeout > config.max_call_time).then_some("[thrift] max_call_time"),
        retries: retries(call.retries)?,
        is_idempotent: call.idempotent.unwrap_or(false),
        query,
        all_values: call.all_values.unwrap_or(false),
        encoding,
        input: None,
    })
}

/// The requested service, and its version if the name contains one. That takes precedence over a service registered
/// under the whole name; which of both a client may see is decided by their names alone.
pub(super) fn wanted<'n>(
    name: &'n str,
    directory: &Directory,
    may_see: impl Fn(&str) -> Result<(), Denied>,
) -> Result<(&'n str, Option<Version>), Denied> {
    let (base, Some(version)) = split_name(name) else { return may_see(name).map(|()| (name, None)) };
    let may_see_whole = may_see(name).is_ok();
    match may_see(base) {
        Err(_) if may_see_whole => return Ok((name, None)),
        seen => seen?,
    }
    let has_version = directory.instances_of(base).is_some_and(|versions| versions.contains_key(&version));
    let is_whole = !has_version && may_see_whole && directory.instances_of(name).is_some();
    Ok(if is_whole { (name, None) } else { (base, Some(version)) })
}

/// How to choose an instance, of this version if given.
pub(super) fn query(request: ResolveRequest, exact: Option<Version>) -> Result<Query, InvalidRequest> {
    check_metadata(request.metadata.as_ref())?;
    let default = if request.key.is_some() { idl::Balance::CONSISTENT_HASH } else { idl::Balance::RANDOM };
    Ok(Query {
        version: version(exact, request.version.as_deref())?,
        group: request.group,
        zone: request.zone,
        metadata: request.metadata.unwrap_or_default(),
        balance: balance(request.balance.or(Some(default)), request.key)?,
        prefer_zone: request.prefer_zone,
        subset: subset(request.subset, request.subset_key)?,
        tried: Vec::new(),
        excluded: excluded(request.exclude.unwrap_or_default())?,
    })
}

/// Which instances of the service are requested.
pub(super) fn instances(query: &ServiceQuery) -> Result<Query, InvalidRequest> {
    check_metadata(query.metadata.as_ref())?;
    Ok(Query {
        version: version(None, query.version.as_deref())?,
        group: query.group.clone(),
        zone: query.zone.clone(),
        metadata: query.metadata.clone().unwrap_or_default(),
        ..Query::default()
    })
}

/// A name that is empty is a variable that was not set rather than that of a service.
pub(super) fn check_name(service: &str) -> Result<(), InvalidRequest> {
    if service.is_empty() { Err(invalid("serviceName", "it is empty")) } else { Ok(()) }
}

fn subset(size: Option<i32>, of: Option<Vec<u8>>) -> Result<Option<Subset>, InvalidRequest> {
    match (size.map(usize::try_from), of) {
        (None, _) => Ok(None),
        (Some(Err(_) | Ok(0)), _) => Err(invalid("subset", "must be above 0")),
        (Some(Ok(_)), None) => Err(invalid("subsetKey", "a subset needs one: whose it is")),
        (Some(Ok(_)), Some(of)) if of.len() > MAX_KEY => {
            Err(invalid("subsetKey", format!("longer than {MAX_KEY} bytes; give a hash of it")))
        }
        (Some(Ok(size)), Some(of)) => Ok(Some(Subset { size, of })),
    }
}

/// The hashes of addresses to leave out.
fn excluded(addresses: Vec<String>) -> Result<Vec<u64>, InvalidRequest> {
    if addresses.len() > MAX_EXCLUDED {
        return Err(invalid("exclude", format!("more than {MAX_EXCLUDED} of them")));
    }
    if addresses.iter().any(|address| address.len() > MAX_KEY) {
        return Err(invalid("exclude", format!("one is longer than {MAX_KEY} bytes")));
    }
    Ok(addresses.iter().map(key_hash).collect())
}

/// The error for unreadable arguments.
pub(super) fn unread(why: String) -> InvalidRequest {
    invalid("arguments", why)
}

/// An application-defined command for all masters.
pub(super) fn command(request: &BroadcastRequest) -> Result<Command, InvalidRequest> {
    let encoding = encoding(request.encoding)?;
    let message = encoding.read(&request.message).map_err(|why| invalid("message", why))?;
    if !message.is_map() {
        let form = if encoding == Encoding::Json { "a JSON object" } else { "a map" };
        return Err(invalid("message", format!("a command is {form}")));
    }
    check_command(&message).map_err(|why| invalid("message", why.to_string()))?;
    // The tunnel uses these two itself, and they are only sent with validated registers.
    match get(&message, "cmd").and_then(text).as_deref() {
        Some("register") => Err(invalid("message", "the command `register` is sent by addRegisters")),
        Some("remove") => Err(invalid("message", "the command `remove` is sent by removeRegisters")),
        _ => Ok(Command::new(message)),
    }
}

/// The command that makes masters connect to registers or leave them: `register` or `remove`.
pub(super) fn registers(command: &str, registers: &[RegisterAddress]) -> Result<Command, InvalidRequest> {
    if registers.is_empty() || registers.len() > MAX_REGISTERS {
        return Err(invalid("registers", format!("expected between 1 and {MAX_REGISTERS} of them")));
    }
    let registers: Vec<Value> = registers.iter().map(register).collect::<Result<_, _>>()?;
    let message = vec![("cmd".into(), command.into()), ("registers".into(), Value::Array(registers))];
    Ok(Command::new(Value::Map(message)))
}

fn register(RegisterAddress { host, port }: &RegisterAddress) -> Result<Value, InvalidRequest> {
    let number = u16::try_from(*port).ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| invalid("registers", format!("{port} is not a port")))?;
    let register = RegisterAddr::from((host.as_str(), number));
    if register.to_string().parse::<Remote>().is_err() {
        return Err(invalid("registers", format!("`{}` is not a host", host.escape_debug())));
    }
    Ok(Value::Map(vec![("host".into(), register.host.into()), ("port".into(), register.port.into())]))
}

pub(super) fn timeout(millis: Option<i32>) -> Result<Duration, InvalidRequest> {
    match millis.map(u64::try_from) {
        None => Ok(DEFAULT_TIMEOUT),
        Some(Ok(millis @ 1..)) => Ok(Duration::from_millis(millis)),
        Some(_) => Err(invalid("timeoutMs", "must be above 0")),
    }
}

fn retries(retries: Option<i32>) -> Result<usize, InvalidRequest> {
    let retries = retries.map_or(Ok(DEFAULT_RETRIES), usize::try_from);
    retries.map(|retries| retries.min(MAX_RETRIES)).map_err(|_| invalid("retries", "must not be below 0"))
}

/// The version requirement: the requested one, and exactly the version of `name@version`.
fn version(exact: Option<Version>, asked: Option<&str>) -> Result<Option<Requirement>, InvalidRequest> {
    let asked: Option<Requirement> =
        asked.map(str::parse).transpose().map_err(|error: NoRequirement| invalid("version", error.to_string()))?;
    Ok(match (exact, asked) {
        (None, asked) => asked,
        (Some(exact), None) => Some(Requirement::exactly(&exact)),
        (Some(exact), Some(asked)) => Some(asked.and_exactly(&exact)),
    })
}

fn balance(balance: Option<idl::Balance>, key: Option<Vec<u8>>) -> Result<Balance, InvalidRequest> {
    match (balance, key) {
        (None | Some(idl::Balance::LEAST_OUTSTANDING), _) => Ok(Balance::LeastOutstanding),
        (Some(idl::Balance::ROUND_ROBIN), _) => Ok(Balance::RoundRobin),
        (Some(idl::Balance::RANDOM), _) => Ok(Balance::Random),
        (Some(idl::Balance::LEAST_LOAD), _) => Ok(Balance::LeastLoad),
        (Some(idl::Balance::CONSISTENT_HASH), Some(key)) if key.len() > MAX_KEY => {
            Err(invalid("key", format!("longer than {MAX_KEY} bytes; give a hash of it")))
        }
        (Some(idl::Balance::CONSISTENT_HASH), Some(key)) => Ok(Balance::Key(key)),
        (Some(idl::Balance::CONSISTENT_HASH), None) => Err(invalid("key", "the balance CONSISTENT_HASH needs one")),
        (Some(idl::Balance(unknown)), _) => Err(invalid("balance", format!("{unknown} is none"))),
    }
}

pub(super) fn encoding(encoding: Option<idl::Encoding>) -> Result<Encoding, InvalidRequest> {
    match encoding {
        None | Some(idl::Encoding::JSON) => Ok(Encoding::Json),
        Some(idl::Encoding::MSGPACK) => Ok(Encoding::MsgPack),
        Some(idl::Encoding(unknown)) => Err(invalid("encoding", format!("{unknown} is none"))),
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
        super::check(call, &Config::default())
    }

    fn in_msgpack(value: &Value) -> BroadcastRequest {
        BroadcastRequest::new(Encoding::MsgPack.write(value).expect("MessagePack has all"), idl::Encoding::MSGPACK)
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let request = check(b"", |_| {}).expect("a request");
        assert_eq!(request.arguments.packed.read(), Value::Array(vec![]));
        assert_eq!(
            (request.timeout, request.retries, request.is_idempotent),
            (DEFAULT_TIMEOUT, DEFAULT_RETRIES, false)
        );
        let patient = check(b"{}", |call| call.timeout_ms = Some(i32::MAX)).expect("a request");
        assert_eq!((patient.timeout, patient.arguments.packed.read()), (Duration::from_secs(60), Value::Map(vec![])));
        assert_eq!((patient.cut_by, request.cut_by), (Some("[thrift] max_call_time"), None));
    }

    #[test]
    fn a_version_in_the_name_is_the_one_that_is_wanted() {
        let request = |service: &str, version: Option<&str>| {
            let call = idl::Call { version: version.map(Into::into), ..idl::Call::of(service, "send", "") };
            super::check(call, &Config::default()).expect("a request")
        };
        let wanted = |service: &str, version: Option<&str>| {
            let request = request(service, version);
            (request.service, request.query.version.map(|version| version.to_string()))
        };
        assert_eq!(wanted("api@1.0.0", None), ("api".into(), Some("=1.0.0".into())));
        assert_eq!(wanted("api@1", Some("^1")), ("api".into(), Some("=1.0.0 and ^1".into())));
        let either = request("api@1.0.0", Some("^1 || ^2")).query.version.expect("a requirement");
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
        assert_eq!(field(check(b"\x07", |call| call.encoding = Some(idl::Encoding::MSGPACK))), "arguments");
        assert_eq!(field(check(b"", |call| call.encoding = Some(idl::Encoding(9)))), "encoding");
        assert_eq!(field(check(b"", |call| call.timeout_ms = Some(0))), "timeoutMs");
        assert_eq!(field(check(b"", |call| call.retries = Some(-1))), "retries");
        assert_eq!(field(check(b"", |call| call.version = Some("=>1".into()))), "version");
        assert_eq!(field(check(b"", |call| call.balance = Some(idl::Balance::CONSISTENT_HASH))), "key");
        assert_eq!(field(check(b"", |call| call.balance = Some(idl::Balance(0)))), "balance");
        let long = |call: &mut idl::Call| call.version = Some(format!("{}*", "1|".repeat(500_000)));
        assert_eq!(field(check(b"", long)), "version");
        assert_eq!(field(check(b"", by_key(MAX_KEY + 1))), "key");
    }

    fn by_key(length: usize) -> impl FnOnce(&mut idl::Call) {
        move |call| (call.balance, call.key) = (Some(idl::Balance::CONSISTENT_HASH), Some(vec![b'k'; length]))
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
        // The receiver might use the second `cmd` of a map.
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
            crate::model::json::text(command.message()),
            r#"{"cmd":"register","registers":[{"host":"hub.example","port":8010}]}"#
        );
        assert!(registers("register", &[RegisterAddress::new("tls://hub".into(), 8010)]).is_ok());
        for (host, port) in [("", 1), ("tcp://hub", 1), ("a b", 1), ("hub", 0), ("hub", 65_536), ("hub\n", 1)] {
            assert!(registers("register", &[RegisterAddress::new(host.into(), port)]).is_err(), "{host}:{port}");
        }
        assert!(registers("register", &[]).is_err());
    }
}
