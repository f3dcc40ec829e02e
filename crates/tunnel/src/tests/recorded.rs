//! The recorded bytes of a conversation with an unmodified PHP master.

use serde_json::Value as Json;

use crate::frame::{Progress, Scanner};
use crate::value::get;
use crate::wire::Inbox;
use crate::{Bounds, Message, RemoteError, Role, Token, Value};

/// What the master sent, step by step.
pub(super) fn steps() -> Vec<(String, Vec<u8>)> {
    let recorded: Json = serde_json::from_str(include_str!("../../../../tests/fixtures/php-master.json")).unwrap();
    let bytes =
        |hex: &str| (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let step =
        |step: &Json| (step["step"].as_str().unwrap().to_owned(), bytes(step["master_sent_hex"].as_str().unwrap()));
    recorded.as_array().unwrap().iter().map(step).collect()
}

fn messages(inbox: &mut Inbox) -> Vec<Message> {
    std::iter::from_fn(|| inbox.next().unwrap()).collect()
}

fn all(bytes: &[u8]) -> Vec<Message> {
    let mut inbox = Inbox::new(Bounds::DEFAULT);
    inbox.put(bytes);
    messages(&mut inbox)
}

fn said(step: &str) -> Vec<Message> {
    all(&steps().into_iter().find(|(name, _)| name == step).expect("the step was recorded").1)
}

fn answered(uuid: &str, data: Value) -> Vec<Message> {
    vec![Message::Data { uuid: uuid.into(), data }, Message::End { uuid: uuid.into() }]
}

fn failed(uuid: &str, class: &str, code: i64, message: &str) -> Vec<Message> {
    let error = RemoteError::thrown(message, Some(class.into()), code);
    vec![Message::Error { uuid: uuid.into(), error }]
}

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

#[test]
fn every_message_of_an_unmodified_master_is_understood() {
    let token = Token("register-center-token-2024".into());
    assert_eq!(said("auth"), [Message::Auth { token, role: Role::Php, id: None }]);
    let metadata = map(&[("version", "1.2.0".into()), ("zone", "b".into()), ("weight", 3.into())]);
    let echo = map(&[("name", "echo".into()), ("metadata", metadata)]);
    let bare = map(&[("name", "bare".into()), ("metadata", Value::Array(vec![]))]);
    assert_eq!(said("list"), answered("u-list", map(&[("echo", echo), ("bare", bare)])));
    assert_eq!(said("positional"), answered("u-positional", Value::Array(vec!["one".into(), "two".into()])));
    assert_eq!(said("named"), answered("u-named", Value::Array(vec![1.5.into(), 2.into()])));
    assert_eq!(said("null"), [Message::End { uuid: "u-null".into() }]);
    assert_eq!(said("bytes"), answered("u-bytes", Value::Binary(vec![0xff, 0, 0xfe])));
    assert_eq!(said("emptyList"), answered("u-emptyList", Value::Array(vec![])));
    let list = Value::Array(vec![1.into(), 2.5.into(), true.into(), Value::Nil]);
    let mapped = Value::Map(vec![("a".into(), 1.into()), ("b".into(), list), (7.into(), "seven".into())]);
    assert_eq!(said("mapped"), answered("u-mapped", mapped));
    assert_eq!(said("big"), answered("u-big", i64::MAX.into()));
    assert_eq!(said("quote"), answered("u-quote", "it's \"$x\" é😀\0 \\ end".into()));
    let nested = map(&[("k", Value::Array(vec![true.into(), Value::Nil])), ("n", (-9_007_199_254_740_993i64).into())]);
    assert_eq!(said("nested"), answered("u-nested", nested));
    assert_eq!(said("exception"), failed("u-exception", "InvalidArgumentException", 42, "bad input"));
    let missing = "Method 'nope' not found in service 'echo'";
    assert_eq!(said("missing-method"), failed("u-missing-method", "RuntimeException", 0, missing));
    assert!(
        matches!(&said("generator")[..], [Message::Error { error, .. }] if error.message.contains("\"Generator\""))
    );
    assert!(matches!(&said("object")[..], [Message::Error { error, .. }] if error.message.contains("\"DateTime\"")));
    assert_eq!(said("promise-returned"), answered("u-promise-returned", "late".into()));
    assert_eq!(said("ping"), [Message::Pong { uuid: "p-1".into() }]);
    let uuid = "513aabbb-cc6c-4cb5-805a-23a80b7bc9f8".into();
    assert_eq!(said("master-pings"), [Message::Ping { uuid }]);
    assert_eq!(said("refresh"), [Message::Register(None)]);
    assert!(matches!(&said("list-after-refresh")[..], [Message::Data { data, .. }, _] if get(data, "bare").is_some()));
    assert_eq!(said("remove"), [Message::Remove(None)]);
    assert_eq!(said("unknown-uuid"), []);
    assert_eq!(said("bad-closure"), failed("u-bad", "Error", 0, "Call to a member function getClosure() on bool"));
}

#[test]
fn every_cut_of_what_the_master_sent_gives_the_same_messages() {
    let whole: Vec<u8> = steps().into_iter().flat_map(|(_, bytes)| bytes).collect();
    let expected = all(&whole);
    for cut in 0..whole.len() {
        let mut inbox = Inbox::new(Bounds::DEFAULT);
        let (first, second) = whole.split_at(cut);
        inbox.put(first);
        let mut heard = messages(&mut inbox);
        inbox.put(second);
        heard.extend(messages(&mut inbox));
        assert_eq!(heard.len(), expected.len(), "cut at {cut}");
        // Comparing all of them for each cut would take long; the message that was cut is among these.
        let near = expected.iter().zip(&heard).filter(|(expected, heard)| expected != heard).count();
        assert_eq!(near, 0, "cut at {cut}");
    }
    let mut inbox = Inbox::new(Bounds::DEFAULT);
    let heard: Vec<Message> = whole
        .iter()
        .flat_map(|byte| {
            inbox.put(&[*byte]);
            messages(&mut inbox)
        })
        .collect();
    assert_eq!(heard, expected, "byte by byte");
}

#[test]
fn the_first_frame_of_a_master_keeps_the_bounds_of_a_stranger() {
    let (_, auth) = steps().swap_remove(0);
    assert_eq!(Scanner::new(Bounds::STRANGER).scan(&auth), Progress::Complete(auth.len()));
}
