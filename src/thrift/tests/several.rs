//! Several calls concurrently, and commands for all masters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::thrift::idl::{BroadcastRequest, CallErrorKind, CommandReply, InvalidRequest, NoMaster, RegisterAddress};
use crate::thrift::request;
use crate::thrift::run_queue::next_turn;

fn echoing() -> Arc<Way> {
    Way::new(Manner::Echoes)
}

#[tokio::test]
async fn all_masters_are_called_or_those_of_a_version_that_fits() {
    let failing = Way::new(Manner::Refuses(Refused::Gone));
    let house = House::with(&[
        ("d", "mail@1.0.0", &echoing()),
        ("c", "mail@2.1.0", &echoing()),
        ("b", "mail@2.1.0", &failing),
        ("a", "mail@2.0.0", &echoing()),
    ]);
    let masters = async |version: Option<&str>| {
        let request = house.request("send", |call| call.version = version.map(str::to_owned));
        let outcomes = house.api.call_all(&house.peer, &request).await.expect("outcomes").outcomes;
        outcomes.into_iter().map(|it| (it.master_id.expect("an id"), it.result.is_some())).collect::<Vec<_>>()
    };
    let id = |id: &str, answered| (id.to_owned(), answered);
    assert_eq!(masters(None).await, [id("a", true), id("b", false), id("c", true), id("d", true)]);
    assert_eq!(masters(Some("^2")).await, [id("a", true), id("b", false), id("c", true)]);
    let error = house.api.call_all(&house.peer, &house.request("send", |call| call.version = Some("3".into()))).await;
    assert!(exception::<NoMaster>(&error.expect_err("nobody")).message.contains("in a version"));
}

#[tokio::test(start_paused = true)]
async fn all_masters_have_one_time_also_when_they_take_turns() {
    let house = House::new(1, &Config { max_call_all: 2, ..Config::default() });
    let ways: Vec<_> =
        (0..6).map(|_| Way::new(Manner::Tarries(Duration::from_secs(1), Answer::Value(7.into())))).collect();
    let joins = ways.iter().enumerate().map(|(number, way)| join(&number.to_string(), &["mail"], way));
    house.feeds[0].publish_whole(joins.collect());
    let request = house.request("send", |call| call.timeout_ms = Some(1_500));
    let start = tokio::time::Instant::now();
    let outcomes = house.api.call_all(&house.peer, &request).await.expect("outcomes").outcomes;
    assert_eq!(start.elapsed().as_millis(), 1_500);
    let late = outcomes.iter().filter_map(|outcome| outcome.error.as_ref());
    assert_eq!(late.filter(|error| error.kind == CallErrorKind::TIMED_OUT).count(), 6);
    let sent: Vec<_> = ways.iter().map(|way| way.calls().len()).collect();
    assert_eq!(sent, [1, 1, 0, 0, 0, 0], "nothing is sent when the time is over");
}

#[tokio::test(start_paused = true)]
async fn many_calls_run_side_by_side_and_keep_their_order() {
    let (slow, fast) = (Way::new(Manner::Silent), echoing());
    let house = House::new(1, &Config::default());
    house.feeds[0].publish_whole(vec![join("slow", &["mail@1.0.0"], &slow), join("fast", &["mail@2.0.0"], &fast)]);
    let one = |number: usize| {
        call(&number.to_string(), if number == 5 { "7" } else { "[]" }, |call| {
            call.version = (number % 2 == 1).then(|| "^1".into());
        })
    };
    let start = tokio::time::Instant::now();
    let outcomes = house.api.call_many(&house.peer, (0..6).map(one).collect()).await.expect("outcomes").outcomes;
    assert_eq!(start.elapsed().as_secs(), 5, "side by side");
    for (number, outcome) in outcomes.iter().enumerate() {
        let kind = outcome.error.as_ref().map(|error| error.kind);
        let values = outcome.result.as_ref().map(|result| String::from_utf8_lossy(&result.values[0]).into_owned());
        match number {
            5 => assert_eq!((kind, outcome.master_id.as_deref()), (Some(CallErrorKind::INVALID), None)),
            1 | 3 => assert_eq!((kind, outcome.master_id.as_deref()), (Some(CallErrorKind::TIMED_OUT), Some("slow"))),
            _ => assert_eq!(values, Some(format!("[\"{number}\",[]]"))),
        }
    }
    let error = house.api.call_many(&house.peer, (0..257).map(one).collect()).await.expect_err("too many");
    assert_eq!(exception::<InvalidRequest>(&error).field, "calls");
}

#[tokio::test(start_paused = true)]
async fn calls_in_order_go_to_one_master_one_after_the_other_until_one_comes_to_no_end() {
    let (one, other) = (echoing(), echoing());
    let house = House::with(&[("one", "mail", &one), ("other", "mail", &other)]);
    let several = |count: usize| {
        let one = |number: usize| call(&number.to_string(), if number == 2 { "7" } else { "[]" }, |_| {});
        (0..count).map(one).collect()
    };
    for chosen in [None, Some("other")] {
        let mut calls: Vec<idl::Call> = several(20);
        calls[0].master_id = chosen.map(str::to_owned);
        let called = house.api.call_in_order(&house.peer, calls).await;
        let outcomes = called.expect("outcomes").outcomes;
        let master = outcomes[0].master_id.clone();
        assert!(chosen.is_none() || master.as_deref() == chosen);
        for (number, outcome) in outcomes.iter().enumerate().filter(|(number, _)| *number != 2) {
            let values = &outcome.result.as_ref().expect("a result").values;
            assert_eq!((&*values[0], &outcome.master_id), (format!("[\"{number}\",[]]").as_bytes(), &master));
        }
        assert_eq!(outcomes[2].error.as_ref().map(|error| error.kind), Some(CallErrorKind::INVALID));
    }
    let silent = Way::new(Manner::Silent);
    let house = House::with(&[("silent", "mail", &silent)]);
    let several = || ["a", "b", "c"].map(|method| call(method, "[]", |_| {})).to_vec();
    let called = house.api.call_in_order(&house.peer, several()).await;
    let outcomes = called.expect("outcomes").outcomes;
    let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.error.as_ref().expect("an error").kind).collect();
    assert_eq!(kinds, [CallErrorKind::TIMED_OUT, CallErrorKind::NO_MASTER, CallErrorKind::NO_MASTER]);
    assert_eq!(silent.calls().len(), 1, "nothing was sent after it");
    let named =
        |name: &'static str| several().into_iter().map(move |call| idl::Call { master_id: Some(name.into()), ..call });
    let nobody = house.api.call_in_order(&house.peer, named("nobody").collect()).await.expect("outcomes").outcomes;
    assert!(nobody.iter().all(|outcome| outcome.error.as_ref().is_some_and(|it| it.kind == CallErrorKind::NO_MASTER)));
    let two = several().into_iter().take(1).chain(named("silent")).collect();
    let refused = house.api.call_in_order(&house.peer, two).await.expect_err("the first names none");
    assert_eq!(exception::<InvalidRequest>(&refused).field, "calls");
}

#[tokio::test]
async fn many_calls_share_the_room_of_one_reply() {
    let big = Answer::Value("x".repeat(3_000_000).into());
    let house = House::with(&[("m", "mail", &Way::new(Manner::Answers(vec![big, Answer::End])))]);
    let several = (0..4).map(|_| call("m", "", |_| {})).collect();
    let outcomes = house.api.call_many(&house.peer, several).await.expect("outcomes").outcomes;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.result.is_some()).count(), 2);
}

#[tokio::test]
async fn a_command_reaches_each_master_once_by_a_way_that_takes_it() {
    let (refusing, one, two) = (Way::new(Manner::Refuses(Refused::Gone)), echoing(), echoing());
    let house = House::new(2, &Config::default());
    let gone = Way::new(Manner::Refuses(Refused::Overloaded));
    house.feeds[0].publish_whole(vec![join("a", &[], &refusing), join("b", &["mail"], &two), join("c", &[], &gone)]);
    house.feeds[1].publish_whole(vec![join("a", &[], &one)]);
    let reload =
        request::command(&BroadcastRequest::new(br#"{"cmd":"reload","n":1}"#.to_vec(), None)).expect("a command");
    let passed = CommandReply { masters: 0, passed: Some(2) };
    assert_eq!(house.api.broadcast(&house.peer, &reload).await, passed, "none of them is here");
    for command in ["register", "remove"] {
        let hub = RegisterAddress::new("hub".into(), 8010);
        let command = request::registers(command, &[hub]).expect("a command");
        assert_eq!(house.api.order(&house.peer, &command).await, passed);
    }
    for way in [one, two] {
        let commands = way.commands.lock().expect("no panic").clone();
        assert_eq!(commands[0].packed().as_ptr(), reload.packed().as_ptr(), "it is packed once");
        let texts: Vec<_> = commands.iter().map(|command| crate::model::json::text(command.message())).collect();
        let registers = r#""registers":[{"host":"hub","port":8010}]}"#;
        let [add, remove] = ["register", "remove"].map(|cmd| format!("{{\"cmd\":\"{cmd}\",{registers}"));
        assert_eq!(texts, [r#"{"cmd":"reload","n":1}"#, &add, &remove]);
    }
}

#[tokio::test]
async fn a_command_for_many_masters_lets_others_have_their_turn() {
    /// A line on which sending takes a while.
    #[derive(Debug)]
    struct Slow;
    impl Line for Slow {
        fn call(&self, _: Call) -> Result<Answers, Refused> {
            Err(Refused::Gone)
        }
        fn send(&self, _: &Command) -> Result<(), Refused> {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        }
        fn outstanding(&self) -> usize {
            0
        }
    }
    let house = House::with(&[]);
    let slow = |number: usize| match join(&number.to_string(), &[], &echoing()) {
        Change::Join(master, _) => Change::Join(master, Arc::new(Slow)),
        other => panic!("{other:?}"),
    };
    house.feeds[0].publish((0..20).map(slow).collect::<Vec<_>>());
    let reload = request::command(&BroadcastRequest::new(br#"{"cmd":"reload"}"#.to_vec(), None)).expect("a command");
    let (mut sending, mut turns) = (std::pin::pin!(house.api.broadcast(&house.peer, &reload)), 0);
    let sent = loop {
        match futures::poll!(&mut sending) {
            std::task::Poll::Ready(sent) => break sent,
            std::task::Poll::Pending => turns += 1,
        }
    };
    assert_eq!((sent.passed, turns), (Some(20), 20));
}

#[tokio::test]
async fn many_calls_let_others_have_their_turn() {
    /// A line on which calling takes a while.
    #[derive(Debug)]
    struct Slow;
    impl Line for Slow {
        fn call(&self, _: Call) -> Result<Answers, Refused> {
            std::thread::sleep(Duration::from_millis(1));
            Err(Refused::Gone)
        }
        fn send(&self, _: &Command) -> Result<(), Refused> {
            Ok(())
        }
        fn outstanding(&self) -> usize {
            0
        }
    }
    for count in [20, 100] {
        let house = House::with(&[]);
        let Change::Join(master, _) = join("m", &["mail"], &echoing()) else { unreachable!("it joins") };
        house.feeds[0].publish(vec![Change::Join(master, Arc::new(Slow))]);
        let House { api, peer, feeds: _feeds, .. } = house;
        let calls: Vec<_> = (0..count).map(|_| call("send", "[]", |call| call.retries = Some(0))).collect();
        let (queue, turns, is_done) = (peer.queue.clone(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (of_other, is_over) = (turns.clone(), is_done.clone());
        queue.spawn(Some(1), async move {
            let _ = api.call_many(&peer, calls).await;
            is_done.store(true, Ordering::Relaxed);
        });
        queue.spawn(Some(2), async move {
            while !is_over.load(Ordering::Relaxed) {
                of_other.fetch_add(1, Ordering::Relaxed);
                next_turn().await;
            }
        });
        queue.close();
        queue.run().await;
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= count / 2, "{turns} of {count}");
    }
}
