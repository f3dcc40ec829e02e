//! Messages as they are written, and as other peers write them.

use crate::value::string;
use crate::{Message, ParseRegisterError, RegisterAddr, RemoteError, Role, Token, Value, Wrong};

fn written(value: Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &value).unwrap();
    bytes
}

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

fn read(pairs: &[(&str, Value)]) -> Result<Option<Message>, Wrong> {
    Message::decode(&written(map(pairs)))
}

#[test]
fn every_message_is_read_as_it_was_written() {
    let uuid = || "u".to_owned();
    let token = || Token("secret".into());
    let place = RegisterAddr { host: "10.0.0.1".into(), port: 8010 };
    let error = RemoteError { class: Some("E".into()), code: -7, ..RemoteError::new("no") };
    for message in [
        Message::Auth { token: token(), role: Role::Php, id: None },
        Message::Auth { token: token(), role: Role::Native, id: Some("m".into()) },
        Message::Auth { token: token(), role: Role::Follower, id: None },
        Message::AuthSuccess { message: "welcome".into() },
        Message::AuthFailed { message: "no".into() },
        Message::Callback { uuid: uuid(), serialized: b"O:1\0\xff".to_vec() },
        Message::Callback { uuid: uuid(), serialized: b"O:1".to_vec() },
        Message::Data { uuid: uuid(), data: Value::Nil },
        Message::Data { uuid: uuid(), data: Value::Array(vec![Value::Binary(vec![0xff]), u64::MAX.into()]) },
        Message::End { uuid: uuid() },
        Message::Close { uuid: uuid() },
        Message::Error { uuid: uuid(), error },
        Message::Error { uuid: uuid(), error: RemoteError::new("no") },
        Message::Ping { uuid: uuid() },
        Message::Pong { uuid: uuid() },
        Message::Register(None),
        Message::Register(Some(vec![place.clone()])),
        Message::Remove(None),
        Message::Remove(Some(vec![])),
        Message::Remove(Some(vec![RegisterAddr::unix("/run/register.sock")])),
        Message::List { uuid: uuid() },
        Message::Call {
            uuid: uuid(),
            service: "s".into(),
            method: "m".into(),
            arguments: map(&[("a", 1.into())]),
            is_windowed: true,
        },
        Message::Window { uuid: uuid() },
        Message::Taken { uuid: uuid(), count: 7 },
        Message::Other(map(&[("cmd", "drain".into()), ("seconds", 30.into())])),
    ] {
        assert_eq!(Message::decode(&message.clone().encode()), Ok(Some(message)));
    }
}

#[test]
fn a_message_is_written_with_its_command_first() {
    let frame = Message::AuthFailed { message: "no".into() }.encode();
    assert_eq!(frame, b"\x83\xa3cmd\xabauth-failed\xa7message\xa2no\xa6reason\xa2no");
    let frame = Message::Register(Some(vec![RegisterAddr { host: "h".into(), port: 8010 }])).encode();
    assert_eq!(frame, b"\x82\xa3cmd\xa8register\xa9registers\x91\x82\xa4host\xa1h\xa4port\xcd\x1f\x4a");
    let frame = Message::Error { uuid: "u".into(), error: RemoteError::new("no") }.encode();
    assert_eq!(frame, b"\x83\xa3cmd\xa5error\xa4uuid\xa1u\xa4data\x83\xa7message\xa2no\xa4code\x00\xa5class\xa0");
}

#[test]
fn a_register_is_written_as_an_address_and_a_socket_has_one_port() {
    for text in ["hub:8010", "tls://hub:8010", "[::1]:8010", "unix:///run/register.sock"] {
        assert_eq!(text.parse::<RegisterAddr>().expect("an address").to_string(), text);
    }
    for wrong in ["", "hub", ":1", "hub:0", "hub:x", "tls://unix:///run/register.sock"] {
        assert_eq!(wrong.parse::<RegisterAddr>(), Err(ParseRegisterError), "{wrong}");
    }
    let socket = RegisterAddr::unix("/run/register.sock");
    assert_eq!(socket, "unix:///run/register.sock".parse().expect("an address"));
    let told = [("host", socket.host.as_str().into()), ("port", 8010.into())];
    let told = read(&[("cmd", "register".into()), ("registers", Value::Array(vec![map(&told)]))]);
    assert_eq!(told, Ok(Some(Message::Register(Some(vec![socket])))));
}

#[test]
fn a_string_is_taken_whichever_way_it_was_sent() {
    let binary = |text: &str| Value::Binary(text.into());
    let frame = written(Value::Map(vec![
        (binary("cmd"), binary("data")),
        (binary("uuid"), 7.into()),
        (binary("data"), Value::Array(vec![binary("text"), Value::Binary(vec![0xff])])),
    ]));
    let data = Value::Array(vec!["text".into(), Value::Binary(vec![0xff])]);
    assert_eq!(Message::decode(&frame), Ok(Some(Message::Data { uuid: "7".into(), data })));
    // A string that is not UTF-8, as PHP sends it.
    let frame = b"\x83\xa3cmd\xa4data\xa4uuid\xa1u\xa4data\xa2\xff\xfe";
    let data = Value::Binary(vec![0xff, 0xfe]);
    assert_eq!(Message::decode(frame), Ok(Some(Message::Data { uuid: "u".into(), data })));
    assert_eq!(string(b"text".to_vec()), "text".into());
}

#[test]
fn what_is_missing_or_empty_is_no_error() {
    let uuid = String::new;
    let empty = || Value::Array(vec![]);
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&[("uuid", "u".into())]), Ok(None));
    assert_eq!(read(&[("cmd", Value::Nil)]), Ok(None));
    assert_eq!(read(&[("cmd", "ping".into())]), Ok(Some(Message::Ping { uuid: uuid() })));
    let error = RemoteError::default();
    assert_eq!(read(&[("cmd", "error".into()), ("data", empty())]), Ok(Some(Message::Error { uuid: uuid(), error })));
    let callback = Message::Callback { uuid: uuid(), serialized: vec![] };
    assert_eq!(read(&[("cmd", "callback".into()), ("data", empty())]), Ok(Some(callback)));
    assert_eq!(read(&[("cmd", "register".into()), ("registers", empty())]), Ok(Some(Message::Register(Some(vec![])))));
}

#[test]
fn what_no_peer_says_is_wrong() {
    assert_eq!(Message::decode(b"G"), Err(Wrong::NotAMap));
    assert_eq!(Message::decode(&[0x90]), Err(Wrong::NotAMap));
    for token in [Value::Nil, 7.into(), Value::Array(vec![]), Value::Binary(vec![0xff])] {
        assert_eq!(read(&[("cmd", "auth".into()), ("token", token)]), Err(Wrong::Token));
    }
    assert_eq!(read(&[("cmd", "auth".into())]), Err(Wrong::Token));
}

#[test]
fn a_serialized_exception_is_not_looked_into() {
    let hostile = r#"O:8:"EvilThing":1:{s:7:"message";s:4:"evil";}"#;
    let data = map(&[("exception", hostile.into()), ("message", "bad".into()), ("code", "42S02".into())]);
    let read = read(&[("cmd", "error".into()), ("uuid", "u".into()), ("data", data)]);
    assert_eq!(read, Ok(Some(Message::Error { uuid: "u".into(), error: RemoteError::new("bad") })));
}

#[test]
fn a_token_is_not_shown() {
    let auth = Message::Auth { token: Token("secret".into()), role: Role::Php, id: None };
    assert!(!format!("{auth:?}").contains("secret"));
}
