//! An open call: its values one by one, and its end.

use futures::FutureExt;

use super::*;
use crate::task::Tasks;
use crate::thrift::idl::{CallCompletion, CallFailed, CallTimedOut, CallValues, InvalidRequest, SendValuesRequest};
use crate::thrift::streaming_call::StreamingCall;
use crate::thrift::wait::Wait;
use crate::tunnel::value::memory_size;

/// Masters that answer when the test wants; the first one is called first.
struct Stage {
    house: House,
    ways: [Arc<Way>; 2],
    open: StreamingCall,
}

impl Stage {
    fn new() -> Self {
        let ways = [Manner::Silent, Manner::Silent].map(Way::new);
        let house = House::with(&[("first", "mail@2.0.0", &ways[0]), ("second", "mail@1.0.0", &ways[1])]);
        Self { house, ways, open: StreamingCall::default() }
    }

    fn start(&mut self, change: impl FnOnce(&mut idl::Call)) -> thrift::Result<()> {
        let request = self.house.request("list", change);
        self.open.start(&self.house.api, &self.house.peer, request)
    }

    /// What has arrived, if anything.
    fn next(&mut self) -> Option<thrift::Result<CallValues>> {
        self.open.next().now_or_never()
    }

    /// A call that has been sent.
    fn started(change: impl FnOnce(&mut idl::Call)) -> Self {
        let mut stage = Self::new();
        stage.start(change).expect("none is open");
        assert!(stage.next().is_none(), "nothing has come");
        stage
    }

    fn answer(&self, master: usize, answer: Answer) {
        let sender = self.ways[master].open.lock().expect("no panic").last().expect("a call").clone();
        sender.try_send(answer).expect("room");
    }

    fn given(&mut self) -> (Vec<String>, Option<CallCompletion>) {
        let CallValues { values, completion } = self.next().expect("something has come").expect("values");
        (values.into_iter().map(|value| String::from_utf8(value).expect("text")).collect(), completion)
    }

    fn failure<T: std::error::Error + Clone + 'static>(&mut self) -> T {
        exception(&self.next().expect("the end has come").expect_err("a failure"))
    }
}

#[tokio::test]
async fn each_value_is_given_out_before_the_next_has_come_and_then_the_end() {
    let mut stage = Stage::started(|_| {});
    for (value, text) in [(1.into(), "1"), (Value::Nil, "null")] {
        stage.answer(0, Answer::Value(value));
        assert_eq!(stage.given(), (vec![text.to_owned()], None));
        assert!(stage.next().is_none(), "the master gives no more yet");
    }
    stage.answer(0, Answer::End);
    let (values, ended) = stage.given();
    let end = ended.expect("the end");
    assert_eq!((values.len(), end.master_id.as_str(), end.attempts), (0, "first", 1));
    assert_eq!(stage.failure::<InvalidRequest>().field, "call", "none is open");
    stage.start(|call| call.master_id = Some("second".into())).expect("another one");
    assert!(stage.next().is_none());
    assert_eq!(stage.ways.each_ref().map(|way| way.calls().len()), [1, 1], "on the master that was asked for");
}

#[tokio::test]
async fn what_came_before_a_failure_is_given_out_before_it() {
    let mut stage = Stage::started(|_| {});
    stage.answer(0, Answer::Value(1.into()));
    assert!(stage.open.go_on().now_or_never().is_none());
    stage.answer(0, Answer::Failed { message: "full".into(), class: Some("Full".into()), code: 7 });
    assert_eq!(stage.given(), (vec!["1".to_owned()], None));
    let failed = stage.failure::<CallFailed>();
    assert_eq!((failed.message.as_str(), failed.class_name.as_deref(), failed.code), ("full", Some("Full"), 7));
    assert!(!stage.open.is_some());
}

#[tokio::test]
async fn another_master_is_tried_only_until_a_value_was_given_out() {
    let idempotent = |call: &mut idl::Call| call.idempotent = Some(true);
    let mut stage = Stage::started(idempotent);
    stage.answer(0, Answer::Value(1.into()));
    assert!(stage.open.go_on().now_or_never().is_none());
    stage.answer(0, Answer::Lost("broken".into()));
    while stage.ways[1].calls().is_empty() {
        assert!(stage.open.go_on().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    stage.answer(1, Answer::Value(2.into()));
    assert_eq!(stage.given(), (vec!["2".to_owned()], None), "what the first gave nobody has seen");
    stage.answer(1, Answer::End);
    assert_eq!(stage.given().1.map(|end| (end.master_id, end.attempts)), Some(("second".into(), 2)));

    let mut stage = Stage::started(idempotent);
    stage.answer(0, Answer::Value(1.into()));
    assert_eq!(stage.given().0, ["1"]);
    stage.answer(0, Answer::Lost("broken".into()));
    assert!(stage.failure::<CallFailed>().lost);
    assert!(stage.ways[1].calls().is_empty());
}

#[tokio::test]
async fn a_connection_has_one_call_open_and_gives_it_up_when_it_goes() {
    let mut stage = Stage::started(|_| {});
    let second = stage.start(|_| {}).expect_err("one is open");
    assert_eq!(exception::<InvalidRequest>(&second).field, "call");
    assert_eq!(stage.ways[0].outstanding(), 1, "it goes on");
    stage.open = StreamingCall::default();
    assert_eq!((stage.ways[0].outstanding(), stage.house.metrics.calls_outstanding.get()), (0, 0));
}

#[tokio::test]
async fn values_that_nobody_fetches_take_no_more_than_a_reply_may_and_the_others_wait() {
    let flooding = Way::new(Manner::Floods);
    let mut stage = Stage::new();
    stage.house.feeds[0].publish(vec![join("first", &["mail@3.0.0"], &flooding)]);
    stage.start(|call| call.timeout_ms = Some(i32::MAX)).expect("none is open");
    let reply = Config::default().max_reply.as_u64() as usize;
    let memory = stage.house.peer.account.memory.clone();
    while memory.taken() < reply / 2 {
        assert!(stage.open.go_on().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert!(stage.open.go_on().now_or_never().is_none());
        assert!(memory.taken() <= reply);
    }
    assert_eq!(flooding.outstanding(), 1, "it goes on when there is room");
    let mut fetched = 0;
    while fetched <= reply {
        while memory.taken() == 0 {
            assert_eq!(flooding.outstanding(), 1, "it goes on");
            assert!(stage.open.go_on().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        fetched += stage.given().0.iter().map(String::len).sum::<usize>();
        assert!(memory.taken() <= reply);
    }
    stage.open = StreamingCall::default();
    assert_eq!((flooding.outstanding(), memory.taken()), (0, 0));
}

#[tokio::test]
async fn values_before_one_that_cannot_be_read_are_taken_and_told_of() {
    let house = House::with(&[("m", "mail", &Way::new(Manner::Listens))]);
    let mut open = StreamingCall::default();
    open.start_with_input(&house.api, &house.peer, house.request("list", |_| {})).expect("none is open");
    let values = |values: &[&str]| {
        let values: Vec<Vec<u8>> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        SendValuesRequest::new(values, false)
    };
    let sent = open.send(&house.peer, values(&["1", "{"])).await.expect("one is taken");
    assert_eq!((sent.accepted, sent.values.values.len()), (1, 0));
    let refused = open.send(&house.peer, values(&["{"])).await.expect_err("it is no value");
    assert_eq!(exception::<InvalidRequest>(&refused).field, "values");
    assert!(open.is_some(), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn an_open_call_ends_in_time_also_while_nobody_asks() {
    let mut stage = Stage::started(|call| call.timeout_ms = Some(300));
    stage.answer(0, Answer::Value(1.into()));
    assert_eq!(stage.given().0, ["1"]);
    let waited = tokio::time::timeout(Duration::from_millis(400), stage.open.go_on()).await;
    assert!(waited.is_err() && stage.ways[0].outstanding() == 0);
    let late = stage.failure::<CallTimedOut>();
    assert_eq!((late.timeout_ms, late.message.as_str()), (300, "mail.list came to no end within 300ms"));
}

#[tokio::test(start_paused = true)]
async fn an_open_call_ends_in_time_also_while_another_request_waits() {
    let mut stage = Stage::started(|call| call.timeout_ms = Some(300));
    let patient = stage.house.request("list", |call| {
        (call.master_id, call.timeout_ms) = (Some("second".into()), Some(10_000));
    });
    let (other, stop) = (Wait::Call(patient), Tasks::new().0.stop_signal());
    let answer = Box::new(other).until_answered(&stage.house.api, &stage.house.peer, &mut stage.open, &stop);
    assert!(tokio::time::timeout(Duration::from_millis(400), answer).await.is_err());
    assert_eq!(stage.ways[0].outstanding(), 0);
    assert_eq!(stage.failure::<CallTimedOut>().timeout_ms, 300);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_fetches_is_not_kept_for_ever() {
    let mut stage = Stage::started(|call| call.timeout_ms = Some(300));
    let config = Config::default();
    stage.answer(0, Answer::Value("x".repeat(100_000).into()));
    let long = config.idle_timeout + Duration::from_secs(1);
    assert!(tokio::time::timeout(long, stage.open.go_on()).await.is_err());
    assert!(!stage.open.is_some() && stage.house.peer.account.memory.taken() == 0);
}

#[tokio::test]
async fn a_value_is_charged_as_it_came_until_it_is_written_and_what_waits_for_room_is_written() {
    let mut stage = Stage::new();
    let memory = stage.house.peer.account.memory.clone();
    let many = Value::Array(vec![Value::Nil; 60_000]);
    let request = stage.house.request("list", |_| {});
    {
        let mut call = std::pin::pin!(stage.house.api.call(&stage.house.peer, &request));
        assert!(call.as_mut().now_or_never().is_none());
        stage.answer(0, Answer::Value(many.clone()));
        assert!(call.as_mut().now_or_never().is_none(), "another may follow, and be the last");
        assert!(memory.taken() >= memory_size(&many), "{}", memory.taken());
        stage.answer(0, Answer::End);
        assert_eq!(call.await.expect("a result").values[0].len(), 300_001);
    }
    assert_eq!(memory.taken(), 0);
    stage.start(|_| {}).expect("none is open");
    let room = Config::default().max_reply.as_u64() as usize;
    assert!(stage.open.go_on().now_or_never().is_none());
    for number in 1..=room / 300_001 {
        stage.answer(0, Answer::Value(many.clone()));
        let is_written = async {
            while memory.taken() / 300_001 != number || memory.taken() % 300_001 > 100 * number {
                let _ = tokio::time::timeout(Duration::from_millis(1), stage.open.go_on()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_written).await.expect("what has room is written");
    }
    stage.answer(0, Answer::Value(many.clone()));
    assert!(tokio::time::timeout(Duration::from_secs(1), stage.open.go_on()).await.is_err());
    assert!(memory.taken() <= room, "{}", memory.taken());
}
