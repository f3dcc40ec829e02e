//! Windows: the answering end waits for the receiving end, if both support it.

use std::time::Duration;

use futures_util::FutureExt;

use super::conversation::{against_a_script, listed, next, pair, told};
use crate::{Message, Outlet, Settings, Value};

/// A value of about 10,000 bytes.
fn value() -> Value {
    "x".repeat(10_000).into()
}

/// Sends values until one has to wait; returns how many did not.
async fn fill(outlet: &Outlet, most: usize) -> usize {
    for count in 0..most {
        // Paused time: everything else has been done by then.
        if tokio::time::timeout(Duration::from_secs(1), outlet.send(value())).await.is_err() {
            return count;
        }
    }
    most
}

#[tokio::test(start_paused = true)]
async fn values_wait_for_who_takes_them_and_none_is_lost() {
    let (asks, mut answers) = pair(Settings::default());
    let mut stream = listed(&asks.handle);
    let uuid = answers.asked().await;
    let outlet = Outlet::new(answers.handle.clone(), uuid.clone(), true);
    let sent = fill(&outlet, 1_000).await;
    assert!((20..=30).contains(&sent), "a window of 256 KiB holds {sent}");
    for _ in 0..sent {
        assert_eq!(next(&mut stream).await, Ok(Some(value())));
    }
    let more = fill(&outlet, 1_000).await;
    assert!((10..=30).contains(&more), "{more}");
    for _ in 0..more {
        next(&mut stream).await.expect("a value");
    }
    // One that is larger than the window alone.
    for _ in 0..3 {
        let large: Value = "x".repeat(400_000).into();
        let (sent, came) = tokio::join!(outlet.send(large.clone()), next(&mut stream));
        assert_eq!((sent, came), (Ok(()), Ok(Some(large))));
    }
    answers.handle.send(Message::End { uuid }).expect("room");
    assert_eq!(next(&mut stream).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_windows_is_asked_for_none_and_sent_all() {
    let (asks, mut answers) = pair(Settings::default());
    let mut stream = listed(&asks.handle);
    let outlet = Outlet::new(answers.handle.clone(), answers.asked().await, false);
    assert_eq!(fill(&outlet, 100).await, 100);
    for _ in 0..100 {
        next(&mut stream).await.expect("a value");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_takes_no_message_more() {
    let (answers, mut wire) = against_a_script(Settings::default());
    let outlet = Outlet::new(answers.handle.clone(), "u".into(), true);
    outlet.send(value()).await.expect("room");
    answers.handle.send(Message::End { uuid: "u".into() }).expect("room");
    assert!(matches!(told(&mut wire).await, Message::Data { .. }));
    assert!(matches!(told(&mut wire).await, Message::End { .. }));
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_claims_to_have_taken_harms_nobody() {
    let (answers, mut wire) = against_a_script(Settings::default());
    let outlet = Outlet::new(answers.handle.clone(), "u".into(), true);
    for (uuid, count) in [("u", usize::MAX), ("other", 3), ("u", 0)] {
        wire.send(Message::Taken { uuid: uuid.into(), count }).await.expect("it reads");
        wire.send(Message::Window { uuid: uuid.into() }).await.expect("it reads");
    }
    for _ in 0..5 {
        outlet.send(value()).await.expect("room");
        assert!(matches!(told(&mut wire).await, Message::Data { .. }));
    }
    assert!(answers.handle.ended().is_none());
    drop(outlet);
    wire.send(Message::Taken { uuid: "u".into(), count: 1 }).await.expect("it reads");
    assert!(told(&mut wire).now_or_never().is_none());
}
