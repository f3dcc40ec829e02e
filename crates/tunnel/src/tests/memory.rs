//! What is queued on either side of a conversation is charged to the user it is for.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::conversation::{against_a_script, asked, data, listed, next, note, told};
use crate::Arguments;
use crate::message::command;
use crate::share::{Pool, Share};
use crate::value::{get, memory_size};
use crate::wire::Inbox;
use crate::{
    Bounds, CloseReason, Conversation, Handle, Message, Request, SendError, Settings, Stream, StreamError, Value, Wire,
    Wrong,
};

/// One user may have half of it.
fn memory(most: usize) -> Arc<Share> {
    Pool::new(most, 1).share(None)
}

fn call(handle: &Handle, memory: &Arc<Share>, bytes: usize) -> Result<Stream, SendError> {
    handle.open(Some(memory), |uuid| Message::Call {
        uuid,
        service: "mail".into(),
        method: "send".into(),
        arguments: "x".repeat(bytes).into(),
        is_windowed: false,
    })
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_charged_for_calls_that_wait_to_be_sent_wherever_they_wait() {
    let memory = memory(1_000_000);
    let ends = [(); 3].map(|()| against_a_script(Settings::default()));
    let handles = || ends.iter().map(|(end, _)| &end.handle);
    let calls: Vec<_> = handles().map(|handle| call(handle, &memory, 200_000)).collect();
    assert!(calls[1].is_ok() && matches!(calls[2], Err(SendError::NoMemory)));
    assert!((400_000..402_000).contains(&memory.taken()), "{}", memory.taken());
    drop(calls);
    assert_eq!(memory.taken(), 0, "nothing had left");
    let _sent: Vec<_> = handles().take(2).map(|handle| call(handle, &memory, 200_000).expect("room")).collect();
    let [(_, mut first), (second, _unread), _] = ends;
    assert!(matches!(told(&mut first).await, Message::Call { .. }));
    assert!((200_000..201_000).contains(&memory.taken()), "the first has left: {}", memory.taken());
    drop(second);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(memory.taken(), 0, "what is lost with its connection takes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_charged_for_answers_until_it_takes_them() {
    let (here, mut peer) = against_a_script(Settings::default());
    let memory = memory(200_000);
    let mut stream = call(&here.handle, &memory, 10).expect("room");
    let Message::Call { uuid, .. } = told(&mut peer).await else { panic!("no call") };
    let mut quick = listed(&here.handle);
    let sign = asked(&mut peer).await;
    for _ in 0..5 {
        peer.send(data(&uuid, "x".repeat(30_000))).await.expect("it reads");
    }
    peer.send(data(&sign, Value::Nil)).await.expect("it reads");
    assert!(next(&mut quick).await.is_ok(), "nobody else suffers");
    assert!((80_000..100_000).contains(&memory.taken()), "{}", memory.taken());
    for _ in 0..3 {
        assert!(matches!(next(&mut stream).await, Ok(Some(_))));
    }
    assert_eq!(next(&mut stream).await, Err(StreamError::NoMemory));
    assert_eq!(memory.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_does_not_read_is_charged_and_ends_where_it_may_have_no_more() {
    let memory = memory(10_000);
    let (here, mut peer) = against_a_script(Settings { memory: Some(memory.clone()), ..Settings::default() });
    while peer.send(Message::Ping { uuid: "p".repeat(1_000) }).await.is_ok() {
        assert!(memory.taken() < 6_000);
    }
    assert_eq!(here.ended().await, CloseReason::Stalled);
    assert_eq!(memory.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_memory_goes_when_there_is_some() {
    let pool = Pool::new(10_000, 1);
    let (all, memory) = (pool.share(None).take(10_000), Some(pool.share(None)));
    let (here, mut peer) = against_a_script(Settings { memory, ..Settings::default() });
    let long = || note(&"x".repeat(1_000));
    assert!(timeout(Duration::from_secs(1), here.handle.send_when_room(long())).await.is_err());
    drop(all);
    assert_eq!(here.handle.send_when_room(long()).await, Ok(()));
    assert_eq!(told(&mut peer).await, long());
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_charged_until_it_is_taken_and_a_message_that_has_come_in_part_too() {
    let memory = memory(2_000_000);
    let settings = || Settings { memory: Some(memory.clone()), ..Settings::default() };
    let (mut here, mut peer) = against_a_script(settings());
    let long = || note(&"x".repeat(100_000));
    for _ in 0..2 {
        peer.send(long()).await.expect("it reads");
    }
    peer.send(note("short")).await.expect("it reads");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!((200_000..300_000).contains(&memory.taken()), "{}", memory.taken());
    assert_eq!([here.hear().await, here.hear().await], [long(), long()]);
    assert!(memory.taken() < 100_000, "{}", memory.taken());
    let frame = note(&"x".repeat(400_000)).encode();
    peer.stream.write_all(&frame[..300_000]).await.expect("it reads");
    assert!(memory.taken() > 280_000, "{}", memory.taken());
    let (other, mut more) = against_a_script(settings());
    assert!(more.stream.write_all(&frame[..300_000]).await.is_err(), "there is no room for a second one");
    assert_eq!(other.ended().await, CloseReason::NoMemory);
}

#[test]
fn a_packed_message_is_measured_as_its_receiver_counts_it() {
    let (near, _far) = tokio::io::duplex(64);
    let (handle, _incoming, _conversation) = Conversation::new(Wire::new(near, Bounds::DEFAULT), Settings::default());
    let list = |count| Value::Array(vec![Value::Nil; count]);
    let nested =
        (0..20).fold(Value::Map(Vec::new()), |inner, key| Value::Map(vec![(key.into(), inner), ("".into(), list(0))]));
    let binary = |length| Value::Binary(vec![0xff; length]);
    let texts = [binary(0), binary(300), "".into(), "x".repeat(31).into(), "ü".repeat(70_000).into()];
    let scalars = [Value::Nil, true.into(), 7.into(), i64::MIN.into(), 1.5.into(), Value::Ext(7, vec![1; 3])];
    for value in [list(0), list(15), list(20_000), nested].into_iter().chain(texts).chain(scalars) {
        let message = Message::Data { uuid: "u".into(), data: value.clone() };
        let bytes = message.clone().encode();
        let mut inbox = Inbox::new(Bounds::DEFAULT);
        inbox.put(&bytes);
        let received = inbox.next_frame().expect("a frame").expect("all of it").memory_size();
        assert_eq!(handle.pack(message).expect("it fits").memory_size(), received, "{value}");
        let shared = handle.share_value(&value).expect("it fits");
        assert_eq!(handle.pack_shared("u".into(), &shared).expect("it fits").memory_size(), received, "{value}");
        // The values, and at most the bytes of their heads and numbers besides.
        let decoded = memory_size(&rmpv::decode::read_value(&mut &bytes[..]).expect("it was written"));
        assert!((decoded..=decoded + bytes.len()).contains(&received), "{value}: {received} and not {decoded}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_for_several_recipients_comes_in_the_stream_of_each_and_each_is_charged() {
    let memory = memory(1_000_000);
    let settings = || Settings { memory: Some(memory.clone()), ..Settings::default() };
    let mut ends = ["a", "b"].map(|uuid| (uuid, against_a_script(settings())));
    let value = Value::Array(vec!["x".repeat(200_000).into(), Value::Nil]);
    let shared = ends[0].1.0.handle.share_value(&value).expect("it fits");
    for (uuid, (here, _)) in &ends {
        let packed = here.handle.pack_shared((*uuid).into(), &shared).expect("it fits");
        assert_eq!(here.handle.send_packed(packed).await, Ok(()));
    }
    assert!((400_000..402_000).contains(&memory.taken()), "{}", memory.taken());
    for (uuid, (_, peer)) in &mut ends {
        assert_eq!(told(peer).await, data(uuid, value.clone()));
    }
    assert_eq!(memory.taken(), 0);
}

#[test]
fn a_value_that_recipients_cannot_read_is_not_shared() {
    let (near, _far) = tokio::io::duplex(64);
    let (handle, _incoming, _conversation) = Conversation::new(Wire::new(near, Bounds::DEFAULT), Settings::default());
    let Bounds { bytes, depth } = Bounds::DEFAULT;
    let nested = |levels| (0..levels).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    // The message itself is a level.
    assert!(handle.share_value(&nested(depth - 1)).is_ok());
    let odd = Value::Map(vec![(Value::Nil, Value::Nil)]);
    for (value, wrong) in
        [(nested(depth), Wrong::Depth), (odd, Wrong::Key), (Value::Binary(vec![0; bytes]), Wrong::Bytes)]
    {
        assert_eq!(handle.share_value(&value).map(drop), Err(SendError::Unfit(wrong)));
    }
    let long = handle.share_value(&Value::Binary(vec![0; bytes - 100])).expect("it fits");
    assert!(handle.pack_shared("u".into(), &long).is_ok());
    let refused = handle.pack_shared("u".repeat(100), &long).map(drop);
    assert_eq!(refused, Err(SendError::Unfit(Wrong::Bytes)));
}

#[test]
fn what_is_asked_under_a_name_that_is_too_long_is_passed_over() {
    let ping = |length| Message::decode(&Message::Ping { uuid: "u".repeat(length) }.encode());
    assert!(matches!(ping(1_024), Ok(Some(Message::Ping { .. }))));
    assert_eq!(ping(1_025), Ok(None));
}

#[test]
fn arguments_leave_for_all_masters_from_one_place_and_are_charged_once() {
    let memory = memory(1_000_000);
    let text = "x".repeat(400_000);
    let arguments = Arguments::charged(Value::Array(vec![text.as_str().into()]), &memory).expect("room");
    let ends = [(); 3].map(|()| {
        let (near, far) = tokio::io::duplex(64);
        (Conversation::new(Wire::new(near, Bounds::DEFAULT), Settings::default()), far)
    });
    let [native, follower, php] = ends.each_ref().map(|((handle, ..), _)| handle);
    let packed = || arguments.packed().clone();
    let (service, method) = (|| "mail".to_owned(), || "send".to_owned());
    let call =
        |uuid| Message::Call { uuid, service: service(), method: method(), arguments: Value::Nil, is_windowed: true };
    let own = |uuid: String| Message::Other(command("call-on", [("uuid", uuid.into()), ("arguments", Value::Nil)]));
    let request = Request::call(service(), method(), &arguments, true).expect("PHP has it");
    let streams = [
        native.open_with(Some(&memory), packed(), call),
        follower.open_with(Some(&memory), packed(), own),
        php.ask(Some(&memory), || b"closure".to_vec(), request),
    ];
    assert!((400_000..402_000).contains(&memory.taken()), "{}", memory.taken());
    let pieces = [native, follower, php].map(|handle| {
        let pieces = std::iter::from_fn(|| Some(handle.shared().to_write(64 * 1024)).filter(|it| !it.is_empty()));
        pieces.collect::<Vec<_>>()
    });
    for pieces in &pieces {
        assert!(pieces.iter().any(|piece| piece.as_ptr() == arguments.packed().as_ptr()));
        let mut inbox = Inbox::new(Bounds::DEFAULT);
        pieces.iter().for_each(|piece| inbox.put(piece));
        let arrived = match std::iter::from_fn(|| inbox.next().expect("messages")).last() {
            Some(Message::Call { arguments, is_windowed: true, .. }) => arguments,
            Some(Message::Other(map)) => get(&map, "arguments").expect("a call").clone(),
            Some(Message::Data { data, .. }) => {
                assert_eq!(data[0].as_str(), Some("call-with-input"));
                data[4].clone()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(arrived[0].as_str(), Some(text.as_str()));
    }
    drop((streams, arguments));
    assert!(memory.taken() >= 400_000, "they are still being written");
    drop(pieces);
    assert_eq!(memory.taken(), 0);
}

#[test]
fn arguments_keep_the_bounds_of_the_frame_that_they_end() {
    let (near, _far) = tokio::io::duplex(64);
    let (handle, _incoming, _conversation) = Conversation::new(Wire::new(near, Bounds::DEFAULT), Settings::default());
    let open = |arguments: Value| {
        let packed = Arguments::new(arguments.clone()).packed().clone();
        let call = |uuid, arguments| Message::Call {
            uuid,
            service: "mail".into(),
            method: "send".into(),
            arguments,
            is_windowed: false,
        };
        let shared = handle.open_with(None, packed, |uuid| call(uuid, Value::Nil)).map(drop);
        assert_eq!(shared, handle.open(None, |uuid| call(uuid, arguments)).map(drop), "as in one piece");
        shared
    };
    let deep = |levels| (0..levels).fold(Value::Nil, |value, _| Value::Array(vec![value]));
    assert_eq!([open(deep(30)), open(deep(31))], [Ok(()), Err(SendError::Unfit(Wrong::Depth))]);
    let around = Bounds::DEFAULT.bytes - 2_000;
    assert_eq!(open("x".repeat(around).into()), Ok(()));
    assert_eq!(open("x".repeat(around + 2_000).into()), Err(SendError::Unfit(Wrong::Bytes)));
    let odd = Value::Map(vec![(Value::Nil, 1.into())]);
    assert_eq!(open(Value::Array(vec![odd])), Err(SendError::Unfit(Wrong::Key)));
}
