//! Two ends in memory, or one end and a scripted peer; with paused time where it matters.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::Answer;
use crate::{
    Bounds, CallError, CloseReason, Conversation, Handle, InFlight, Incoming, Message, OnSilence, RemoteError,
    SendError, Settings, Status, Stream, StreamError, Value, Wire, WireError, Wrong, answers,
};

const SOON: Duration = Duration::from_secs(60);

pub(super) struct End {
    pub(super) handle: Handle,
    incoming: Incoming,
    run: JoinHandle<CloseReason>,
}

impl End {
    fn new(stream: DuplexStream, settings: Settings) -> Self {
        let (handle, incoming, conversation) = Conversation::new(Wire::new(stream, Bounds::STRANGER), settings);
        Self { handle, incoming, run: tokio::spawn(conversation.run()) }
    }

    pub(super) async fn hear(&mut self) -> Message {
        timeout(SOON, self.incoming.recv()).await.expect("in time").expect("a message").into_message()
    }

    pub(super) async fn asked(&mut self) -> String {
        match self.hear().await {
            Message::List { uuid } => uuid,
            other => panic!("not asked but told {other:?}"),
        }
    }

    pub(super) async fn ended(self) -> CloseReason {
        timeout(SOON, self.run).await.expect("in time").expect("no panic")
    }
}

pub(super) fn pair(settings: Settings) -> (End, End) {
    let (one, other) = tokio::io::duplex(4096);
    (End::new(one, settings.clone()), End::new(other, settings))
}

/// An end, and the wire of a scripted peer.
pub(super) fn against_a_script(settings: Settings) -> (End, Wire<DuplexStream>) {
    let (one, other) = tokio::io::duplex(4096);
    (End::new(one, settings), Wire::new(other, Bounds::DEFAULT))
}

pub(super) fn listed(handle: &Handle) -> Stream {
    handle.open(None, |uuid| Message::List { uuid }).expect("room to ask")
}

pub(super) async fn next(stream: &mut Stream) -> Result<Option<Value>, StreamError> {
    timeout(SOON, stream.next()).await.expect("in time")
}

pub(super) async fn told(wire: &mut Wire<DuplexStream>) -> Message {
    timeout(SOON, wire.receive()).await.expect("in time").expect("a message")
}

pub(super) async fn asked(wire: &mut Wire<DuplexStream>) -> String {
    match told(wire).await {
        Message::List { uuid } => uuid,
        other => panic!("not asked but told {other:?}"),
    }
}

pub(super) fn data(uuid: &str, data: impl Into<Value>) -> Message {
    Message::Data { uuid: uuid.into(), data: data.into() }
}

pub(super) fn note(text: &str) -> Message {
    Message::Other(Value::Map(vec![("cmd".into(), "note".into()), ("text".into(), text.into())]))
}

#[tokio::test(start_paused = true)]
async fn streams_of_both_ends_are_answered_side_by_side() {
    let (mut here, mut there) = pair(Settings::default());
    let (mut first, mut second) = (listed(&here.handle), listed(&here.handle));
    let mut back = listed(&there.handle);
    let uuids = [there.asked().await, there.asked().await, here.asked().await];
    for message in [
        data(&uuids[1], 21),
        data(&uuids[0], 11),
        Message::End { uuid: uuids[1].clone() },
        data(&uuids[0], 12),
        Message::Error { uuid: uuids[0].clone(), error: RemoteError::new("enough") },
    ] {
        there.handle.send(message).expect("room");
    }
    here.handle.send(Message::End { uuid: uuids[2].clone() }).expect("room");
    assert_eq!(next(&mut first).await, Ok(Some(11.into())));
    assert_eq!(next(&mut second).await, Ok(Some(21.into())));
    assert_eq!(next(&mut second).await, Ok(None));
    assert_eq!(next(&mut first).await, Ok(Some(12.into())));
    assert_eq!(next(&mut first).await, Err(StreamError::Failed(RemoteError::new("enough"))));
    assert_eq!(next(&mut back).await, Ok(None));
    assert_eq!(next(&mut back).await, Ok(None), "an end stays an end");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_is_closed_at_the_other_end() {
    let (here, mut peer) = against_a_script(Settings::default());
    let stream = listed(&here.handle);
    let uuid = asked(&mut peer).await;
    assert!(stream.was_sent());
    drop(stream);
    assert_eq!(told(&mut peer).await, Message::Close { uuid });
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_end_no_conversation_of_a_peer_that_is_busy() {
    let settings = Settings { queue_frames: 8, on_silence: OnSilence::Log, ..Settings::default() };
    let (here, mut peer) = against_a_script(settings);
    // What has left, until the peer has no room for more: then all is given up before it reads on.
    for _ in 0..20 {
        let mut streams = Vec::new();
        for _ in 0..100 {
            match here.handle.open(None, |uuid| Message::List { uuid }) {
                Ok(stream) => streams.push(stream),
                Err(SendError::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }
    // It is asked for a sign of life meanwhile.
    tokio::time::sleep(SOON).await;
    assert_eq!(here.handle.ended(), None);
    let (mut asked, mut closed) = (HashSet::new(), HashSet::new());
    while let Ok(message) = timeout(SOON, peer.receive()).await {
        match message.expect("it is connected") {
            Message::List { uuid } => drop(asked.insert(uuid)),
            Message::Close { uuid } => drop(closed.insert(uuid)),
            Message::Ping { .. } if asked.len() > closed.len() || asked.is_empty() => {}
            Message::Ping { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(asked.len() > 16, "{}", asked.len());
    assert_eq!(closed, asked);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_ended_is_not_closed_again() {
    let (here, mut peer) = against_a_script(Settings::default());
    let mut stream = listed(&here.handle);
    let uuid = asked(&mut peer).await;
    peer.send(Message::Close { uuid }).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(StreamError::Closed));
    drop(stream);
    here.handle.send(note("last")).expect("room");
    assert_eq!(told(&mut peer).await, note("last"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_before_it_left_is_never_sent() {
    let (here, mut peer) = against_a_script(Settings::default());
    // Nothing of this is sent before the test waits.
    let stream = listed(&here.handle);
    assert!(!stream.was_sent());
    drop(stream);
    here.handle.send(note("only")).expect("room");
    assert_eq!(told(&mut peer).await, note("only"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_had_not_left_at_the_end_is_never_sent() {
    // Whether the writer or the end comes first is random.
    for _ in 0..32 {
        let (here, mut peer) = against_a_script(Settings { queue_frames: 1, ..Settings::default() });
        let stream = listed(&here.handle);
        // There is no room for the second of these, which ends the conversation before its writer has begun.
        for _ in 0..2 {
            let _ = here.handle.send(Message::End { uuid: "any".into() });
        }
        assert_eq!(here.handle.ended(), Some(CloseReason::Stalled));
        assert!(!stream.was_sent());
        assert!(timeout(SOON, peer.receive()).await.expect("an end").is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn what_answers_nothing_is_for_the_owner_or_ignored() {
    let (mut here, mut peer) = against_a_script(Settings::default());
    let stranger = || "nobody".to_owned();
    peer.send(data("nobody", 1)).await.unwrap();
    peer.send(Message::End { uuid: stranger() }).await.unwrap();
    peer.send(Message::Error { uuid: stranger(), error: RemoteError::new("no") }).await.unwrap();
    peer.send(Message::Pong { uuid: stranger() }).await.unwrap();
    let for_the_owner = [
        Message::Register(None),
        Message::Remove(None),
        Message::Callback { uuid: stranger(), serialized: b"garbage".to_vec() },
        Message::Call {
            uuid: stranger(),
            service: "s".into(),
            method: "m".into(),
            arguments: Value::Nil,
            is_windowed: false,
        },
        Message::Close { uuid: stranger() },
        note("hello"),
    ];
    for message in for_the_owner {
        peer.send(message.clone()).await.unwrap();
        assert_eq!(here.hear().await, message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_before_all_that_waits() {
    let (here, mut peer) = against_a_script(Settings::default());
    peer.send(Message::Ping { uuid: "p".into() }).await.unwrap();
    assert_eq!(told(&mut peer).await, Message::Pong { uuid: "p".into() });
    for _ in 0..100 {
        here.handle.send(note(&"x".repeat(1000))).expect("room");
    }
    peer.send(Message::Ping { uuid: "q".into() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut before = 0;
    while told(&mut peer).await == note(&"x".repeat(1000)) {
        before += 1;
    }
    assert!(before < 70, "the pong waited for {before} notes");
}

#[tokio::test(start_paused = true)]
async fn silence_is_asked_about_and_then_taken_for_death() {
    let (here, mut peer) = against_a_script(Settings::default());
    let mut stream = listed(&here.handle);
    let begun = Instant::now();
    asked(&mut peer).await;
    for (at, is_answered) in [(20_000, true), (40_000, false), (41_500, true), (61_500, false), (63_000, false)] {
        let Message::Ping { uuid } = told(&mut peer).await else { panic!("no ping") };
        assert_eq!(begun.elapsed().as_millis(), at);
        if is_answered {
            peer.send(Message::Pong { uuid }).await.unwrap();
        }
    }
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Silent)));
    // Exactly ping_interval and pong_timeout after its last message.
    assert_eq!(begun.elapsed().as_millis(), 64_500);
    assert_eq!(here.handle.send(note("late")), Err(SendError::Ended(CloseReason::Silent)));
    assert_eq!(here.ended().await, CloseReason::Silent);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_sent_into_silence_do_not_prolong_it() {
    let (here, peer) = against_a_script(Settings::default());
    let handle = here.handle.clone();
    let call = || handle.wait_until(std::time::Instant::now() + SOON);
    let before = call();
    // The first ping.
    tokio::time::sleep(Duration::from_secs(21)).await;
    let _new = call();
    // It may be busy with an earlier request.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(handle.silence_changed().await);
    assert!(!handle.is_answering() && handle.ended().is_none());
    drop(before);
    assert_eq!(here.ended().await, CloseReason::Silent);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn whoever_answers_late_is_silent_no_more() {
    let (here, mut peer) = against_a_script(Settings { on_silence: OnSilence::Log, ..Settings::default() });
    assert!(here.handle.silence_changed().await);
    peer.send(Message::Pong { uuid: "late".into() }).await.unwrap();
    assert!(!here.handle.silence_changed().await && here.handle.is_answering());
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_is_told_from_one_that_had_not_left() {
    let (here, peer) = against_a_script(Settings::default());
    let call = || {
        let stream = here.handle.open(None, |uuid| Message::List { uuid }).map_err(CallError::from);
        let guard = InFlight::default().acquire(1).expect("the first");
        answers(stream, &[], guard).expect("it is taken")
    };
    let mut lost = call();
    // More than the peer reads: later requests have to wait.
    here.handle.send(note(&"x".repeat(100_000))).expect("room");
    let mut unsent = call();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(peer);
    assert!(matches!(lost.next().await, Some(Answer::Lost(_))));
    assert!(matches!(unsent.next().await, Some(Answer::Unsent(_))));
}

#[tokio::test(start_paused = true)]
async fn only_who_may_say_it_is_believed_that_a_call_was_not_executed() {
    let (here, mut peer) = against_a_script(Settings::default());
    for (believed, is_believed) in
        [(&[][..], false), (&[Status::Refused], false), (&[Status::Refused, Status::Unsent], true)]
    {
        let stream = here.handle.open(None, |uuid| Message::List { uuid }).map_err(CallError::from);
        let mut answers = answers(stream, believed, ()).expect("it is taken");
        let Message::List { uuid } = told(&mut peer).await else { panic!("no question") };
        peer.send(Message::Error { uuid, error: RemoteError::of(Status::Unsent, "no") }).await.unwrap();
        let failed = Answer::Failed { message: "no".into(), class: None, code: 0 };
        let expected = if is_believed { Answer::Unsent("no".into()) } else { failed };
        assert_eq!(answers.next().await, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_is_a_sign_of_life() {
    let (here, mut peer) = against_a_script(Settings::default());
    let begun = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(19)).await;
        peer.send(Message::Pong { uuid: "unknown".into() }).await.unwrap();
    }
    assert!(matches!(told(&mut peer).await, Message::Ping { .. }));
    assert_eq!(begun.elapsed().as_secs(), 5 * 19 + 20);
    assert_eq!(here.handle.ended(), None);
}

#[tokio::test(start_paused = true)]
async fn two_quiet_ends_keep_each_other_alive() {
    let (here, there) = pair(Settings::default());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((here.handle.ended(), there.handle.ended()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_delays_no_other_and_overflows_alone() {
    let (here, mut peer) = against_a_script(Settings { stream_bytes: 2_000, ..Settings::default() });
    let (mut slow, mut quick) = (listed(&here.handle), listed(&here.handle));
    let (slow_uuid, quick_uuid) = (asked(&mut peer).await, asked(&mut peer).await);
    for number in 0..50 {
        peer.send(data(&slow_uuid, number)).await.unwrap();
        peer.send(data(&quick_uuid, number)).await.unwrap();
        assert_eq!(next(&mut quick).await, Ok(Some(number.into())));
    }
    assert_eq!(told(&mut peer).await, Message::Close { uuid: slow_uuid });
    let mut kept = 0;
    let end = loop {
        match next(&mut slow).await {
            Ok(Some(value)) => assert_eq!(value, kept.into(), "what had room is kept"),
            end => break end,
        }
        kept += 1;
    };
    assert_eq!(end, Err(StreamError::Overflow));
    assert!((2..20).contains(&kept), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_bounded_by_the_memory_of_its_values_too() {
    let (here, mut peer) = against_a_script(Settings { stream_bytes: 200_000, ..Settings::default() });
    let mut stream = listed(&here.handle);
    let uuid = asked(&mut peer).await;
    // Two thousand bytes on the wire, more than sixty thousand in memory.
    for _ in 0..5 {
        peer.send(data(&uuid, Value::Array(vec![Value::Nil; 2000]))).await.unwrap();
    }
    assert_eq!(told(&mut peer).await, Message::Close { uuid });
    assert!(next(&mut stream).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_not_asked_for_more() {
    let (here, mut peer) = against_a_script(Settings::default());
    let mut sent = 0;
    let refused = loop {
        match here.handle.send(note(&"x".repeat(1000))) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused, SendError::Full);
    assert!(sent < 400, "{sent} frames were taken");
    assert!(matches!(here.handle.open(None, |uuid| Message::List { uuid }), Err(SendError::Full)));
    // It is still received, and what the peer reads makes room.
    assert!(timeout(Duration::from_millis(1), here.handle.send_when_room(note("again"))).await.is_err());
    for _ in 0..sent {
        assert_eq!(told(&mut peer).await, note(&"x".repeat(1000)));
    }
    assert_eq!(here.handle.send_when_room(note("again")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_goes_when_there_is_enough_for_it() {
    let (here, mut peer) = against_a_script(Settings::default());
    let large = || note(&"x".repeat(600_000));
    here.handle.send(large()).expect("room");
    // There is room, but not for this.
    assert!(timeout(Duration::from_millis(1), here.handle.send_when_room(large())).await.is_err());
    let (sent, heard) =
        tokio::join!(here.handle.send_when_room(large()), async { [told(&mut peer).await, told(&mut peer).await] });
    assert_eq!((sent, heard), (Ok(()), [large(), large()]));
}

#[tokio::test(start_paused = true)]
async fn what_the_queue_never_has_room_for_is_refused_at_once() {
    let (here, _peer) = against_a_script(Settings { queue_bytes: 100, ..Settings::default() });
    let sent = here.handle.send_when_room(note(&"x".repeat(100)));
    assert_eq!(timeout(SOON, sent).await, Ok(Err(SendError::Unfit(Wrong::Bytes))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_reads_is_left() {
    let (here, mut peer) = against_a_script(Settings { queue_frames: 10, ..Settings::default() });
    let uuid = "p".repeat(1000);
    while peer.send(Message::Ping { uuid: uuid.clone() }).await.is_ok() {}
    assert_eq!(here.ended().await, CloseReason::Stalled);
}

#[tokio::test(start_paused = true)]
async fn an_owner_who_takes_nothing_is_given_a_moment() {
    let (here, mut peer) = against_a_script(Settings::default());
    let begun = Instant::now();
    while peer.send(note("more")).await.is_ok() {}
    assert_eq!(begun.elapsed().as_secs(), 1);
    assert_eq!(here.ended().await, CloseReason::Flooded);
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_to_every_stream_at_once() {
    let begun = Instant::now();
    let open = || async {
        let (here, mut peer) = against_a_script(Settings::default());
        let stream = listed(&here.handle);
        asked(&mut peer).await;
        (here, peer, stream)
    };
    let (_here, peer, mut stream) = open().await;
    drop(peer);
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::PeerClosed)));

    let (_here, mut peer, mut stream) = open().await;
    peer.stream.write_all(&[0xc1]).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Wrong(Wrong::Marker))));

    let (_here, mut peer, mut stream) = open().await;
    peer.stream.write_all(&[0x91; 40]).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Wrong(Wrong::Depth))));

    let (_here, mut peer, mut stream) = open().await;
    peer.send(Message::Other(Value::Array(vec![Value::Nil; 66_000]))).await.unwrap();
    peer.send(note("an array is passed over, but no command of so many values")).await.unwrap();
    let nils = ("list".into(), Value::Array(vec![Value::Nil; 66_000]));
    peer.send(Message::Other(Value::Map(vec![("cmd".into(), "note".into()), nils]))).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Wrong(Wrong::Values))));

    let (here, _peer, mut stream) = open().await;
    here.run.abort();
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Closed)));

    let (here, _peer, mut stream) = open().await;
    drop(here.incoming);
    assert_eq!(next(&mut stream).await, Err(StreamError::Lost(CloseReason::Closed)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_close_lets_what_waits_be_written_but_not_for_long() {
    let (here, mut peer) = against_a_script(Settings::default());
    here.handle.send(note("last")).expect("room");
    here.handle.close();
    assert_eq!(here.handle.send(note("later")), Err(SendError::Ended(CloseReason::Closed)));
    assert_eq!(told(&mut peer).await, note("last"));
    assert!(matches!(peer.receive().await, Err(WireError::Closed)));
    assert_eq!(here.ended().await, CloseReason::Closed);

    let (here, _peer) = against_a_script(Settings::default());
    here.handle.send(note(&"x".repeat(100_000))).expect("room");
    here.handle.close();
    let begun = Instant::now();
    assert_eq!(here.ended().await, CloseReason::Closed);
    assert_eq!(begun.elapsed().as_secs(), 1, "a peer that does not read is not waited for");
}

#[tokio::test(start_paused = true)]
async fn what_the_other_end_would_refuse_is_not_sent() {
    let (here, mut peer) = against_a_script(Settings::default());
    let deep = (0..40).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    let keyed = Value::Map(vec![(Value::Nil, Value::Nil)]);
    for (value, wrong) in [(Value::Binary(vec![0; 2 << 20]), Wrong::Bytes), (deep, Wrong::Depth), (keyed, Wrong::Key)] {
        assert_eq!(here.handle.send(data("u", value)), Err(SendError::Unfit(wrong)));
    }
    assert_eq!(here.handle.send(Message::Other("text".into())), Err(SendError::Unfit(Wrong::NotAMap)));
    here.handle.send(note("well")).expect("room");
    assert_eq!(told(&mut peer).await, note("well"));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_is_passed_over_once_the_peer_is_known() {
    let (mut here, mut peer) = against_a_script(Settings::default());
    let odd = Value::Map(vec![(Value::Nil, Value::Nil), ("cmd".into(), "ping".into())]);
    for frame in [odd, Value::Array(vec![1.into()]), "text".into(), Value::from(0x16), Value::from(3)] {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &frame).expect("a vector takes all");
        peer.stream.write_all(&bytes).await.unwrap();
    }
    peer.send(note("well")).await.unwrap();
    assert_eq!(here.hear().await, note("well"));

    let (mut stranger, stream) = tokio::io::duplex(4096);
    stranger.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let received = Wire::new(stream, Bounds::STRANGER).receive().await;
    assert!(matches!(received, Err(WireError::Wrong(Wrong::NotAMap))));
}

#[tokio::test]
async fn before_it_is_known_a_peer_may_say_little() {
    let (mut peer, stream) = tokio::io::duplex(64 * 1024);
    let mut wire = Wire::new(stream, Bounds::STRANGER);
    let (auth, followed) = (Message::AuthSuccess { message: "yes".into() }, note("already"));
    peer.write_all(&[auth.clone().encode(), followed.clone().encode()].concat()).await.unwrap();
    assert_eq!(wire.receive().await.unwrap(), auth);
    // What arrived together with the first message is not lost, and later messages may be longer.
    peer.write_all(&note(&"x".repeat(10_000)).encode()).await.unwrap();
    let (_handle, mut incoming, conversation) = Conversation::new(wire, Settings::default());
    tokio::spawn(conversation.run());
    for expected in [followed, note(&"x".repeat(10_000))] {
        assert_eq!(incoming.recv().await.map(|arrived| arrived.into_message()), Some(expected));
    }

    let (mut peer, stream) = tokio::io::duplex(64 * 1024);
    peer.write_all(&note(&"x".repeat(10_000)).encode()).await.unwrap();
    let received = Wire::new(stream, Bounds::STRANGER).receive().await;
    assert!(matches!(received, Err(WireError::Wrong(Wrong::Bytes))));
}
