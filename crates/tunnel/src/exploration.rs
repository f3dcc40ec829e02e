//! In whichever order calls are made, aborted, answered, written and cut off, each has one outcome, and it is the true
//! one.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use shuttle::{future, thread};
use tokio::io::DuplexStream;

use super::conversation::write;
use super::handle::Shared;
use super::*;
use crate::sync::explore;
use crate::{Answer, Answers};

/// A way of converting what arrives on a call's stream to its answers.
type Way = fn(Stream) -> Answers;

const CALLERS: usize = 3;

#[test]
fn a_call_has_one_outcome_and_what_was_not_sent_was_never_written() {
    explore(|| call_and_break(|stream| answers(Ok(stream), &[], ()).expect("it is taken")));
}

#[test]
#[should_panic(expected = "was not sent, but written")]
fn who_asks_too_early_whether_a_call_was_sent_is_wrong() {
    explore(|| call_and_break(hasty));
}

/// Several calls, one of which is aborted, while the other end answers and the connection is lost.
fn call_and_break(way: Way) {
    let shared = Arc::new(Shared::new(Settings { queue_frames: 2, ..Settings::default() }));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let handle = Handle::new(shared.clone());
            thread::spawn(move || future::block_on(call(&handle, number, way)))
        })
        .collect();
    let connection = shared.clone();
    let writer = future::spawn(async move {
        tokio::select! {
            _ = write(near, &connection) => {}
            () = connection.over.cancelled() => {}
        }
    });
    let answering = shared.clone();
    let peer = future::spawn(async move { answer(&answering, far).await });
    let breaker = thread::spawn(move || drop(shared.end(CloseReason::Stalled)));
    let outcomes: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("a caller")).collect();
    breaker.join().expect("it breaks");
    future::block_on(writer).expect("the writer ends");
    let written = future::block_on(peer).expect("the peer ends");
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let times = written.get(&number.to_string()).copied().unwrap_or(0);
        assert!(times <= 1, "call {number} was written {times} times");
        match outcome.as_slice() {
            // Aborted.
            [] => assert_eq!(number, 0),
            [.., Answer::Unsent(_)] => assert_eq!(times, 0, "call {number} was not sent, but written"),
            [Answer::Value(value), Answer::End] => assert_eq!((value, times), (&Value::from(number), 1)),
            [Answer::Value(_), Answer::Lost(_)] | [Answer::Lost(_)] => {}
            other => panic!("call {number} came to {other:?}"),
        }
    }
}

/// All answers to a call.
async fn call(handle: &Handle, number: usize, way: Way) -> Vec<Answer> {
    let message = |uuid| Message::Call {
        uuid,
        service: number.to_string(),
        method: String::new(),
        arguments: Value::from(number),
        is_windowed: false,
    };
    let Ok(stream) = handle.open(None, message) else { return vec![Answer::Unsent(String::new())] };
    let mut answers = way(stream);
    let mut all = Vec::new();
    // The first is aborted at some point.
    while let Some(answer) = if number == 0 { None } else { answers.next().await } {
        all.push(answer);
    }
    all
}

/// Answers each call with its arguments; returns how often each arrived.
async fn answer(shared: &Shared, far: DuplexStream) -> BTreeMap<String, usize> {
    let mut wire = Wire::new(far, Bounds::DEFAULT);
    let mut came = BTreeMap::new();
    while let Ok(message) = wire.receive().await {
        let Message::Call { uuid, service, arguments, .. } = message else { continue };
        *came.entry(service).or_default() += 1;
        shared.receive(Message::Data { uuid: uuid.clone(), data: arguments }, 1);
        shared.receive(Message::End { uuid }, 1);
    }
    came
}

/// Like `answers`, but wrong.
fn hasty(stream: Stream) -> Answers {
    let was_sent = stream.was_sent();
    let next = move |open: Option<Stream>| async move {
        let mut stream = open?;
        let answer = match stream.next().await {
            Ok(Some(value)) => Answer::Value(value),
            Ok(None) => Answer::End,
            Err(why) if was_sent => Answer::Lost(why.to_string()),
            Err(why) => Answer::Unsent(why.to_string()),
        };
        let open = matches!(answer, Answer::Value(_)).then_some(stream);
        Some((answer, open))
    };
    stream::unfold(Some(stream), next).boxed()
}
