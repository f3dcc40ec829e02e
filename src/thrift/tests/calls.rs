//! A single call: its results, its retries, and its end.

use std::pin::pin;

use futures::FutureExt;
use tokio::time::Instant;

use super::*;
use crate::call::Values;
use crate::model::Metadata;
use crate::task::Tasks;
use crate::thrift::idl::{CallFailed, CallTimedOut, Encoding, InvalidRequest, NoMaster, Overloaded};
use crate::thrift::streaming_call::StreamingCall;
use crate::thrift::wait::{Awaited, Wait};

const MINUTE: Duration = Duration::from_secs(60);

fn failing() -> Arc<Way> {
    let failed = Answer::Failed { message: "no such box".into(), class: Some("App\\Full".into()), code: 7 };
    Way::new(Manner::Answers(vec![failed]))
}

fn losing() -> Arc<Way> {
    Way::new(Manner::Answers(vec![Answer::Lost("the connection broke".into())]))
}

/// The first is called before the second: it offers a newer version.
fn in_turn(first: &Arc<Way>, second: &Arc<Way>) -> House {
    House::with(&[("first", "mail@2.0.0", first), ("second", "mail@1.0.0", second)])
}

#[tokio::test]
async fn a_call_gives_the_last_value_or_all_and_none_for_null() {
    let values = |values: &[Value]| {
        let values = values.iter().cloned().map(Answer::Value);
        Way::new(Manner::Answers(values.chain([Answer::End]).collect()))
    };
    for (given, last, all) in [
        (&[1.into(), Value::Nil, "two".into()][..], &["\"two\""][..], &["1", "null", "\"two\""][..]),
        (&[Value::Nil], &[], &["null"]),
        (&[], &[], &[]),
    ] {
        let house = House::with(&[("m", "mail", &values(given))]);
        for (all_values, expected) in [(false, last), (true, all)] {
            let request = house.request("list", |call| call.all_values = Some(all_values));
            let result = house.api.call(&house.peer, &request).await.expect("a result");
            assert_eq!(result.values, expected.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
            assert_eq!((result.master_id.as_str(), result.attempts), ("m", 1));
        }
    }
}

#[tokio::test]
async fn whatever_a_client_writes_arrives_as_data() {
    let way = Way::new(Manner::Echoes);
    let house = House::with(&[("m", "mail@1.2.3", &way)]);
    let method = "x'); system('rm -rf /'); //\0";
    let arguments = r#"{"$a":"'\"\\ \u0000 😀","n":[9223372036854775807,-9223372036854775808,1.5,null,{"":[]}]}"#;
    let request = house.api.request(&house.peer, call(method, arguments, |_| {})).expect("a request");
    let result = house.api.call(&house.peer, &request).await.expect("a result");
    let expected = format!("[{},{arguments}]", serde_json::to_string(method).expect("text"));
    assert_eq!(String::from_utf8_lossy(&result.values[0]), expected);
    assert_eq!((way.calls()[0].service.as_str(), way.calls()[0].method.as_str()), ("mail@1.2.3", method));

    let bytes = [0x92, 0xc4, 2, 0xff, 0x00, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let mut packed = call("m", "", |call| call.encoding = Some(Encoding::MSGPACK));
    packed.arguments = Some(bytes.to_vec());
    let result = house
        .api
        .call(&house.peer, &house.api.request(&house.peer, packed).expect("a request"))
        .await
        .expect("a result");
    assert_eq!(result.values[0], [&[0x92, 0xa1, b'm'][..], &bytes].concat());
}

#[tokio::test]
async fn a_call_that_was_not_sent_goes_to_another_master() {
    for why in [Refused::Overloaded, Refused::NoMemory, Refused::Gone] {
        let (refusing, echoing) = (Way::new(Manner::Refuses(why)), Way::new(Manner::Echoes));
        let house = in_turn(&refusing, &echoing);
        let result = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect("a result");
        assert_eq!((result.master_id.as_str(), result.attempts), ("second", 2));
        assert_eq!(echoing.calls()[0].service, "mail@1.0.0");
        let once = house.request("send", |call| call.retries = Some(0));
        let error = house.api.call(&house.peer, &once).await.expect_err("no retries");
        match why {
            Refused::Overloaded | Refused::NoMemory => {
                assert!(exception::<Overloaded>(&error).message.contains("first"));
            }
            Refused::Gone => assert!(exception::<NoMaster>(&error).message.contains("first")),
        }
    }
}

#[tokio::test]
async fn a_call_that_had_not_left_when_the_connection_was_lost_goes_to_another_master() {
    let unsent = Way::new(Manner::Answers(vec![Answer::Unsent("the connection was lost".into())]));
    let echoing = Way::new(Manner::Echoes);
    let house = in_turn(&unsent, &echoing);
    let result = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect("a result");
    assert_eq!((result.master_id.as_str(), result.attempts), ("second", 2));
    let alone = House::with(&[("m", "mail", &unsent)]);
    let error = alone.api.call(&alone.peer, &alone.request("send", |_| {})).await.expect_err("there is no other");
    assert_eq!(exception::<NoMaster>(&error).message, "master `m`: the connection was lost");
}

#[tokio::test]
async fn a_call_that_a_master_refuses_goes_to_another_one() {
    let refusing = Way::new(Manner::Answers(vec![Answer::Refused("the master is leaving".into())]));
    let house = in_turn(&refusing, &Way::new(Manner::Echoes));
    let result = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect("a result");
    assert_eq!((result.master_id.as_str(), result.attempts), ("second", 2));
    let alone = House::with(&[("m", "mail", &refusing)]);
    let error = alone.api.call(&alone.peer, &alone.request("send", |_| {})).await.expect_err("there is no other");
    assert_eq!(exception::<Overloaded>(&error).message, "master `m`: the master is leaving");
}

#[tokio::test]
async fn a_call_that_a_master_refuses_when_it_leaves_goes_to_its_successor_of_the_same_id() {
    let (leaving, echoing) = (Way::new(Manner::Silent), Way::new(Manner::Echoes));
    let house = House::with(&[("m", "mail", &leaving)]);
    let request = house.request("send", |_| {});
    let succeed = async {
        while leaving.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        let Change::Join(master, line) = join("m", &["mail"], &echoing) else { unreachable!() };
        let successor = Arc::new(Master { connected_at: 8, ..Master::clone(&master) });
        house.feeds[0].publish(vec![Change::Join(successor, line)]);
        let asked = leaving.open.lock().expect("no panic").pop().expect("a call");
        asked.send(Answer::Refused("the master is leaving".into())).await.expect("it is heard");
    };
    let (result, ()) = tokio::join!(house.api.call(&house.peer, &request), succeed);
    let result = result.expect("a result");
    assert_eq!((result.master_id.as_str(), result.attempts), ("m", 2));
    assert_eq!((leaving.calls().len(), echoing.calls().len()), (1, 1));
}

#[tokio::test]
async fn a_lost_call_is_executed_twice_only_when_that_does_no_harm() {
    let (lost, echoing) = (losing(), Way::new(Manner::Echoes));
    let house = in_turn(&lost, &echoing);
    let error = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect_err("it is lost");
    let failed = exception::<CallFailed>(&error);
    assert_eq!((failed.master_id.as_str(), failed.lost, echoing.calls().len()), ("first", true, 0));
    let idempotent = house.request("send", |call| call.idempotent = Some(true));
    let result = house.api.call(&house.peer, &idempotent).await.expect("a result");
    assert_eq!((result.master_id.as_str(), result.attempts), ("second", 2));

    let house = in_turn(&losing(), &losing());
    let error = house.api.call(&house.peer, &idempotent).await.expect_err("both are lost");
    assert_eq!(exception::<CallFailed>(&error).master_id, "second", "why it failed, not that no other is left");
}

#[tokio::test]
async fn a_way_that_closes_without_an_end_has_lost_the_call() {
    #[derive(Debug)]
    struct Closing;
    impl Line for Closing {
        fn call(&self, _: Call) -> Result<Answers, Refused> {
            Ok(stream::empty().boxed())
        }
        fn send(&self, _: &Command) -> Result<(), Refused> {
            Ok(())
        }
        fn outstanding(&self) -> usize {
            0
        }
    }
    let house = House::with(&[]);
    let Change::Join(master, _) = join("m", &["mail"], &losing()) else { panic!("a master joins") };
    house.feeds[0].publish(vec![Change::Join(master, Arc::new(Closing))]);
    let error = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect_err("it is lost");
    assert!(exception::<CallFailed>(&error).lost);
}

#[tokio::test]
async fn a_masters_own_error_is_told_and_never_tried_again() {
    let echoing = Way::new(Manner::Echoes);
    let house = in_turn(&failing(), &echoing);
    let request = house.request("send", |call| call.idempotent = Some(true));
    let failed = exception::<CallFailed>(&house.api.call(&house.peer, &request).await.expect_err("it fails"));
    let expected = CallFailed::new("first".into(), "no such box".into(), "App\\Full".to_owned(), 7, false);
    assert_eq!((failed, echoing.calls().len()), (expected, 0));
}

#[tokio::test(start_paused = true)]
async fn all_attempts_together_have_one_time_and_what_is_late_is_given_up() {
    let lost = Answer::Lost("broken".into());
    let tarrying = Way::new(Manner::Tarries(Duration::from_secs(3), lost));
    let silent = Way::new(Manner::Silent);
    let house = in_turn(&tarrying, &silent);
    let start = tokio::time::Instant::now();
    let request = house.request("send", |call| call.idempotent = Some(true));
    let late = exception::<CallTimedOut>(&house.api.call(&house.peer, &request).await.expect_err("it is late"));
    assert_eq!((late.master_id.as_deref(), late.timeout_ms), (Some("second"), 5_000));
    assert_eq!(late.message, "mail.send gave no answer within 5s");
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!((silent.calls().len(), silent.outstanding()), (1, 0), "it is given up");

    let both = in_turn(&Way::new(Manner::Silent), &tarrying);
    let calls = tarrying.calls().len();
    let start = tokio::time::Instant::now();
    let forever = both.request("send", |call| call.timeout_ms = Some(i32::MAX));
    let late = exception::<CallTimedOut>(&both.api.call(&both.peer, &forever).await.expect_err("it is late"));
    let limit = "mail.send gave no answer within 1m, the most that `[thrift] max_call_time` allows";
    assert_eq!((late.master_id.as_deref(), late.message.as_str()), (Some("first"), limit));
    assert_eq!((start.elapsed().as_secs(), tarrying.calls().len()), (MINUTE.as_secs(), calls), "no second attempt");
}

#[tokio::test]
async fn of_two_ways_the_idle_one_is_taken_and_the_other_when_it_refuses() {
    let (busy, idle) = (Way::new(Manner::Echoes), Way::new(Manner::Echoes));
    let house = House::new(3, &Config::default());
    let refusing = Way::new(Manner::Refuses(Refused::Gone));
    for (feed, way) in house.feeds.iter().zip([&busy, &refusing, &idle]) {
        feed.publish_whole(vec![join("m", &["mail"], way)]);
    }
    let (held, _receiver) = mpsc::channel(1);
    busy.open.lock().expect("no panic").push(held);
    let result = house.api.call(&house.peer, &house.request("send", |_| {})).await.expect("a result");
    assert_eq!((result.attempts, idle.calls().len(), busy.calls().len()), (1, 1, 0));
}

#[tokio::test]
async fn who_gives_more_than_a_reply_may_hold_is_given_up() {
    let flooding = Way::new(Manner::Floods);
    let house = House::with(&[("m", "mail", &flooding)]);
    let request = house.request("send", |call| {
        (call.all_values, call.timeout_ms) = (Some(true), Some(60_000));
    });
    let failed = exception::<CallFailed>(&house.api.call(&house.peer, &request).await.expect_err("too much"));
    assert!(failed.message.contains("max_reply") && !failed.lost, "{failed:?}");
    assert_eq!(flooding.outstanding(), 0);
    assert_eq!(house.peer.account.memory.taken(), 0, "all is given back");
}

#[tokio::test(start_paused = true)]
async fn more_calls_of_one_service_than_leave_room_for_others_are_refused() {
    let silent = Way::new(Manner::Silent);
    let house = House::new(1, &Config { max_calls: 8, ..Config::default() });
    house.feeds[0].publish_whole(vec![join("m", &["mail"], &silent)]);
    let request = house.request("send", |_| {});
    let three = futures::join!(
        house.api.call(&house.peer, &request),
        house.api.call(&house.peer, &request),
        house.api.call(&house.peer, &request)
    );
    exception::<CallTimedOut>(&three.0.expect_err("it is late"));
    exception::<CallTimedOut>(&three.1.expect_err("it is late"));
    exception::<Overloaded>(&three.2.expect_err("it is one too many"));
    assert_eq!((silent.calls().len(), house.metrics.calls_outstanding.get()), (2, 0));
}

#[tokio::test]
async fn a_call_without_a_master_says_why() {
    let why = async |house: &House| {
        exception::<NoMaster>(&house.api.call(&house.peer, &house.request("send", |_| {})).await.expect_err("nobody"))
            .message
    };
    let nothing = House::new(0, &Config::default());
    assert_eq!(why(&nothing).await, "no master has offered the service `mail` since the sidecar started");
    let early = House::new(1, &Config::default());
    assert!(why(&early).await.contains("register-0 is not yet known as a whole"));
    let house = House::with(&[("m", "mail", &failing())]);
    house.feeds[0].publish(vec![Change::Leave("m".into())]);
    assert_eq!(why(&house).await, "no master that offers the service `mail` is alive");
}

#[tokio::test]
async fn a_call_on_one_master_goes_to_no_other() {
    let (refusing, echoing) = (Way::new(Manner::Refuses(Refused::Overloaded)), Way::new(Manner::Echoes));
    let house = House::with(&[("a", "mail@2.0.0", &refusing), ("b", "mail@1.0.0", &echoing)]);
    let called = async |master: &str, version: Option<&str>| {
        let request = house.request("send", |call| {
            (call.master_id, call.version) = (Some(master.into()), version.map(str::to_owned));
        });
        house.api.call(&house.peer, &request).await
    };
    exception::<Overloaded>(&called("a", None).await.expect_err("it refuses"));
    assert_eq!(called("b", None).await.expect("a result").master_id, "b");
    exception::<NoMaster>(&called("c", None).await.expect_err("it is not there"));
    exception::<NoMaster>(&called("b", Some("^2")).await.expect_err("it is too old"));
    assert_eq!(echoing.calls().len(), 1);
}

#[tokio::test]
async fn every_call_is_counted_by_what_it_came_to() {
    let house = in_turn(&losing(), &failing());
    let idempotent = house.request("send", |call| call.idempotent = Some(true));
    let _ = house.api.call(&house.peer, &idempotent).await;
    let _ = house.api.call(&house.peer, &house.request("send", |_| {})).await;
    let stats = house.api.stats(&house.peer).expect("stats").methods;
    let [method] = stats.as_slice() else { panic!("{stats:?}") };
    assert_eq!((method.service_name.as_str(), method.method.as_str()), ("mail", "other"), "it was never answered");
    let counts = (method.calls, method.failed, method.lost, method.refused, method.retries, method.outstanding);
    assert_eq!(counts, (2, 1, 1, 0, 1, 0));
    assert_eq!((method.histogram.len(), method.histogram.iter().sum::<i64>()), (13, 1));
}

#[tokio::test]
async fn heavy_arguments_and_results_are_read_and_written_elsewhere_and_what_is_wrong_with_them_is_told() {
    let (way, heavy) = (Way::new(Manner::Echoes), format!("[{}1]", "1,".repeat(20_000)));
    let house = House::with(&[("m", "mail", &way)]);
    let called = async |arguments: &str| {
        let call = call("send", arguments, |_| {});
        let request = house.api.request(&house.peer, call).expect("its arguments were not read yet");
        let (stop, mut open) = (Tasks::new().0.stop_signal(), StreamingCall::default());
        Box::new(Wait::Call(request)).until_answered(&house.api, &house.peer, &mut open, &stop).await
    };
    let Awaited::Call(Ok(result)) = called(&heavy).await else { panic!("no result") };
    assert!(String::from_utf8_lossy(&result.values[0]).contains(&heavy));
    let Awaited::Call(Err(error)) = called(&heavy.replace(']', "")).await else { panic!("no error") };
    assert_eq!(exception::<InvalidRequest>(&error).field, "arguments");
    way.calls.lock().expect("no panic").clear();
    assert_eq!(house.peer.account.memory.taken(), 0);
}

#[tokio::test]
async fn masters_with_large_metadata_are_searched_on_another_thread() {
    let (house, way) = (House::new(1, &Config::default()), Way::new(Manner::Echoes));
    let zeros = Value::Array(vec![0.into(); 7_900]);
    let metadata: Metadata = Value::Map(vec![("x".into(), zeros), ("zone".into(), "a".into())]).into();
    let join = |number: u32| {
        let services = vec![Service { name: "mail".to_owned(), metadata: metadata.clone() }];
        let master = Master { id: number.to_string(), peer_address: "here:1".into(), connected_at: 7, services };
        Change::Join(Arc::new(master), way.clone())
    };
    house.feeds[0].publish_whole((0..20).map(join).collect());
    let with = |key: &str, value: &str| {
        let metadata = Some([(key.to_owned(), value.to_owned())].into());
        house.request("send", |call| call.metadata = metadata)
    };
    let wrong = with("x", &format!("[{}1]", "0,".repeat(7_899)));
    for request in [&wrong, &with("zone", "b")] {
        let mut call = pin!(house.api.call(&house.peer, request));
        assert!(call.as_mut().now_or_never().is_none(), "not by the thread that was asked");
        exception::<NoMaster>(&call.await.expect_err("nobody"));
        let mut call = pin!(house.api.call_all(&house.peer, request));
        assert!(call.as_mut().now_or_never().is_none(), "not by the thread that was asked");
        exception::<NoMaster>(&call.await.expect_err("nobody"));
    }
    let right = with("x", &format!("[{}0]", "0,".repeat(7_899)));
    assert_eq!(house.api.call_all(&house.peer, &right).await.expect("outcomes").outcomes.len(), 20);

    // Also to find what the one that was found is to be asked for.
    let master = house.api.store.snapshot().directory().master("7").expect("a master").clone();
    let values = Values::new(&house.api.budget(&house.peer));
    let bounds = house.peer.account.bounds(Instant::now() + MINUTE, &values);
    let mut call = pin!(house.api.caller.call_on(master, &right, bounds));
    assert!(call.as_mut().now_or_never().is_none(), "not by the thread that was asked");
    assert_eq!(way.calls().len(), 20, "it was not sent at once");
    assert_eq!(call.await.expect("an answer").master, "7");
}

#[tokio::test]
async fn a_call_waits_no_longer_than_its_time_to_look_for_a_master() {
    let (house, way) = (House::new(1, &Config::default()), Way::new(Manner::Echoes));
    let ids: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    house.feeds[0].publish_whole(ids.iter().map(|id| join(id, &["mail"], &way)).collect());
    let request = house.request("send", |call| {
        (call.metadata, call.timeout_ms) = (Some([("zone".to_owned(), "7".to_owned())].into()), Some(100));
    });
    let memory = house.peer.account.memory.clone();
    // What the user has done before, which lasts until it may end.
    let (may_end, end) = std::sync::mpsc::channel::<()>();
    let before = tokio::spawn(async move { memory.work(usize::MAX, move || _ = end.recv()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    for called in [
        house.api.call(&house.peer, &request).await.map(drop),
        house.api.call_all(&house.peer, &request).await.map(drop),
    ] {
        assert!(exception::<NoMaster>(&called.expect_err("it is too late")).message.contains("no time left"));
    }
    drop(may_end);
    before.await.expect("it ends");
    assert_eq!(house.api.call(&house.peer, &request).await.expect("a result").master_id, "7");
}

#[tokio::test]
async fn a_call_names_a_master_or_what_its_service_must_have_and_all_masters_are_none() {
    let house = House::with(&[("a", "mail", &Way::new(Manner::Echoes)), ("b", "mail", &Way::new(Manner::Echoes))]);
    let zone = |zone: &str| Some([("zone".to_owned(), zone.to_owned())].into());
    let there = house.request("send", |call| call.metadata = zone("b"));
    assert_eq!(house.api.call(&house.peer, &there).await.expect("a result").master_id, "b");
    let outcomes = house.api.call_all(&house.peer, &there).await.expect("outcomes").outcomes;
    assert_eq!(outcomes.iter().map(|it| it.master_id.as_deref()).collect::<Vec<_>>(), [Some("b")]);
    let nowhere = house.request("send", |call| call.metadata = zone("c"));
    exception::<NoMaster>(&house.api.call_all(&house.peer, &nowhere).await.expect_err("nobody"));

    let field = |refused: thrift::Result<Request>| exception::<InvalidRequest>(&refused.expect_err("a mistake")).field;
    let both = call("send", "", |call| (call.master_id, call.metadata) = (Some("a".into()), zone("a")));
    assert_eq!(field(house.api.request(&house.peer, both)), "metadata");
    let one = call("send", "", |call| call.master_id = Some("a".into()));
    assert_eq!(field(house.api.request_for_all(&house.peer, one)), "masterId");
}

#[tokio::test]
async fn whatever_starts_or_goes_on_with_a_call_is_refused_as_overloaded_where_there_is_no_room() {
    let house = House::new(0, &Config::default());
    let request = || house.request("send", |_| {});
    for wait in [Wait::Call(request()), Wait::StartCall(request()), Wait::OpenCall(request()), Wait::NextValues] {
        let refused = match wait.refused("no room") {
            Awaited::Call(refused) => refused.map(drop),
            Awaited::Values(refused) | Awaited::Opened(refused) => refused.map(drop),
            other => panic!("{other:?}"),
        };
        assert_eq!(exception::<Overloaded>(&refused.expect_err("no room")).message, "no room");
    }
}

#[tokio::test]
async fn arguments_are_packed_once_for_all_attempts_and_masters() {
    let ways = [(); 3].map(|()| Way::new(Manner::Answers(vec![Answer::Lost("gone".into())])));
    let house = House::with(&[("a", "mail", &ways[0]), ("b", "mail", &ways[1]), ("c", "mail", &ways[2])]);
    for bytes in [100, 100_000] {
        let call = call("send", &format!("[\"{}\"]", "x".repeat(bytes)), |call| {
            (call.idempotent, call.retries) = (Some(true), Some(5));
        });
        let mut request = house.api.request(&house.peer, call).expect("a request");
        request.read(&house.peer.account.memory).await.expect("JSON");
        house.api.call(&house.peer, &request).await.expect_err("all are lost");
        house.api.call_all(&house.peer, &request).await.expect("outcomes");
        for way in &ways {
            let sent: Vec<_> = way.calls().iter().map(|call| call.arguments.packed().as_ptr()).collect();
            assert_eq!(sent[sent.len() - 2..], [request.arguments.packed.packed().as_ptr(); 2]);
        }
        let charged = if bytes > 10_000 { bytes..bytes + 200 } else { 0..1 };
        ways.iter().for_each(|way| way.calls.lock().expect("no panic").clear());
        assert!(charged.contains(&house.peer.account.memory.taken()), "{}", house.peer.account.memory.taken());
    }
    assert_eq!(house.peer.account.memory.taken(), 0);
}
