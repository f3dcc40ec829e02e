//! The trunk against a scripted master, which violates the protocol or closes it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::DuplexStream;

use super::closures::demo;
use super::conversation::{against_a_script, data, next, told};
use crate::{Answer, Answers};
use crate::{
    CallError, Handle, Message, RemoteError, Request, SendError, Settings, Stream, StreamError, Value, Wire, answers,
};

fn ask(handle: &Handle) -> Result<Stream, SendError> {
    handle.ask(None, || b"closure".to_vec(), Request::List)
}

fn call(handle: &Handle) -> Answers {
    let stream = handle.ask(None, || b"closure".to_vec(), demo("echo", Value::Nil)).map_err(CallError::from);
    answers(stream, &[], ()).expect("it is taken")
}

/// The uuid of the opened trunk.
async fn opened(wire: &mut Wire<DuplexStream>) -> String {
    match told(wire).await {
        Message::Callback { uuid, .. } => uuid,
        other => panic!("no trunk but {other:?}"),
    }
}

fn words(kind: &str, id: u64, value: Value) -> Value {
    Value::Array(vec![kind.into(), id.into(), value])
}

/// What was sent on the trunk: its kind and number.
async fn said(wire: &mut Wire<DuplexStream>, trunk: &str) -> (String, u64) {
    match told(wire).await {
        Message::Data { uuid, data } if uuid == trunk => {
            (data[0].as_str().expect("a kind").to_owned(), data[1].as_u64().expect("a number"))
        }
        other => panic!("not on the trunk: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_not_packed_ends_its_stream_and_no_other() {
    let (here, mut master) = against_a_script(Settings::default());
    let many = Value::Array(vec![Value::Nil; 10_000]);
    let map = Value::Map(vec![("a".into(), Value::Nil)]);
    let mut good = ask(&here.handle).expect("room");
    let trunk = opened(&mut master).await;
    assert_eq!(said(&mut master, &trunk).await, ("list".into(), 1));
    let cases = ["value", "last"].into_iter().flat_map(|kind| {
        [many.clone(), map.clone(), Value::Nil, 7.into(), Value::Ext(1, vec![0])].map(|value| (kind, value))
    });
    for ((kind, value), id) in cases.zip(2..) {
        let mut stream = ask(&here.handle).expect("room");
        assert_eq!(said(&mut master, &trunk).await, ("list".into(), id));
        master.send(data(&trunk, words("value", id, "packed".into()))).await.expect("a connection");
        master.send(data(&trunk, words(kind, id, value))).await.expect("a connection");
        assert_eq!(said(&mut master, &trunk).await, ("close".into(), id));
        assert_eq!(next(&mut stream).await, Ok(Some("packed".into())));
        let wrong = RemoteError::new("the master did not answer as the closure does");
        assert_eq!(next(&mut stream).await, Err(StreamError::Failed(wrong)));
    }
    master.send(data(&trunk, words("last", 1, Value::Binary(vec![0xc0])))).await.expect("a connection");
    assert_eq!(next(&mut good).await, Ok(Some(Value::Binary(vec![0xc0]))));
    assert_eq!(next(&mut good).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_are_lost_with_their_trunk_and_the_next_call_opens_another() {
    let (here, mut master) = against_a_script(Settings::default());
    type Ending = fn(String) -> Message;
    let endings: [Ending; 3] = [
        |uuid| Message::Close { uuid },
        |uuid| Message::End { uuid },
        |uuid| Message::Error { uuid, error: RemoteError::new("refused") },
    ];
    for (ending, first) in endings.into_iter().zip((1..).step_by(2)) {
        let (mut one, mut other) = (call(&here.handle), call(&here.handle));
        let trunk = opened(&mut master).await;
        assert_eq!(said(&mut master, &trunk).await, ("call".into(), first));
        assert_eq!(said(&mut master, &trunk).await, ("call".into(), first + 1));
        master.send(data(&trunk, words("value", first, "packed".into()))).await.expect("a connection");
        let end = ending(trunk.clone());
        let is_refused = matches!(end, Message::Error { .. });
        master.send(end).await.expect("a connection");
        assert_eq!(one.next().await, Some(Answer::Value("packed".into())));
        for call in [&mut one, &mut other] {
            match call.next().await {
                Some(Answer::Lost(why)) if !is_refused => assert!(why.contains("closed the stream"), "{why}"),
                Some(Answer::Failed { message, .. }) if is_refused => assert_eq!(message, "refused"),
                unexpected => panic!("{unexpected:?}"),
            }
            assert_eq!(call.next().await, None);
        }
        // What still arrives on it belongs to nobody.
        master.send(data(&trunk, words("last", first + 1, "late".into()))).await.expect("a connection");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let _again = ask(&here.handle).expect("room");
    let trunk = opened(&mut master).await;
    assert_eq!(said(&mut master, &trunk).await, ("list".into(), 7));
    master.send(Message::Close { uuid: trunk }).await.expect("a connection");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(ask(&here.handle).expect_err("too soon"), SendError::Full);
}

#[tokio::test(start_paused = true)]
async fn what_a_php_master_throws_is_no_status_whatever_its_class() {
    let (here, mut master) = against_a_script(Settings::default());
    let mut call = call(&here.handle);
    let trunk = opened(&mut master).await;
    let thrown = [("message", "no".into()), ("class", "roster:refused".into()), ("status", "refused".into())];
    let thrown = Value::Map(thrown.into_iter().map(|(key, value): (&str, Value)| (key.into(), value)).collect());
    master.send(data(&trunk, words("error", 1, thrown))).await.expect("a connection");
    let failed = Answer::Failed { message: "no".into(), class: Some("roster:refused".into()), code: 0 };
    assert_eq!(call.next().await, Some(failed));
}
