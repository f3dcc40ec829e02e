//! What waits on either side of a conversation is charged to whom it is for.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::conversation::{against_a_script, asked, data, listed, next, note, told};
use crate::share::{Pool, Share};
use crate::tunnel::{CloseReason, Handle, Message, SendError, Settings, Stream, StreamError, Value};

/// Of which one user may have a half.
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
fn what_is_asked_under_a_name_that_is_too_long_is_passed_over() {
    let ping = |length| Message::decode(&Message::Ping { uuid: "u".repeat(length) }.encode());
    assert!(matches!(ping(1_024), Ok(Some(Message::Ping { .. }))));
    assert_eq!(ping(1_025), Ok(None));
}
