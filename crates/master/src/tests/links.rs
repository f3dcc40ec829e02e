//! Links: registers that come, go and send commands, one or several.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::script::{Peer, REFUSED, Register, SOON, config, map, meeting, next, said};
use crate::{Config, Event, Events, Lost, Master, RegisterAddr, Service, Value};
use roster_tunnel::CloseReason;
use roster_tunnel::value::get;

/// Why a connection was closed, and whether there will be another.
async fn closed(events: &mut Events) -> (RegisterAddr, Lost, bool) {
    loop {
        if let Event::Closed { register, why, retry_in } = next(events).await {
            return (register, why, retry_in.is_some());
        }
    }
}

/// The delay after a loss before it reconnects.
async fn delay(events: &mut Events) -> Duration {
    loop {
        if let Event::Closed { retry_in, .. } = next(events).await {
            return retry_in.expect("it comes again");
        }
    }
}

async fn serves(peer: &mut Peer) {
    peer.say(&[("cmd", "list".into()), ("uuid", "l".into())]).await;
    assert_eq!(peer.answers("l").await.0.len(), 1);
}

async fn command(peer: &mut Peer, name: &str, registers: &[&Register]) {
    let place = |register: &&Register| {
        // PHP's configuration may give ports as strings.
        map(&[("host", register.place.host.as_str().into()), ("port", register.place.port.to_string().into())])
    };
    let registers = registers.iter().map(place).collect();
    peer.say(&[("cmd", name.into()), ("registers", Value::Array(registers))]).await;
}

#[tokio::test]
async fn a_register_that_is_gone_is_connected_again() {
    let (master, register, peer) = meeting(config(), []).await;
    let mut events = master.events();
    drop(peer);
    let (place, why, again) = closed(&mut events).await;
    assert_eq!((place, again), (register.place.clone(), true));
    assert!(matches!(why, Lost::Ended(CloseReason::PeerClosed | CloseReason::Broken(_))), "{why}");
    serves(&mut register.accepted().await).await;
}

#[tokio::test]
async fn a_lost_connection_stays_lost_if_that_is_wanted() {
    let (master, register, peer) = meeting(Config { reconnect_on_close: false, ..config() }, []).await;
    let mut events = master.events();
    drop(peer);
    assert!(!closed(&mut events).await.2);
    // It can be connected again.
    master.connect(register.place.clone());
    serves(&mut register.accepted().await).await;
}

#[tokio::test]
async fn a_register_is_given_up_after_so_many_retries() {
    let place = Register::new().await.place;
    let master = Master::start(Config { retry_attempts: Some(2), ..config() });
    let mut events = master.events();
    master.connect(place.clone());
    for again in [true, true, false] {
        let (register, why, retry) = closed(&mut events).await;
        assert_eq!((&register, retry), (&place, again));
        assert!(matches!(why, Lost::Unreachable(_)), "{why}");
    }
}

#[tokio::test]
async fn an_accepted_connection_begins_the_count_of_retries_anew() {
    let register = Register::new().await;
    let master = Master::start(Config { retry_attempts: Some(1), ..config() });
    let mut events = master.events();
    master.connect(register.place.clone());
    for _ in 0..3 {
        register.met().await.say_bytes(REFUSED).await;
        assert!(closed(&mut events).await.2);
        drop(register.accepted().await);
        assert!(closed(&mut events).await.2);
    }
}

#[tokio::test]
async fn a_register_that_accepts_and_closes_is_tried_later_and_later() {
    let register = Register::new().await;
    let longest_retry_delay = Duration::from_secs(1);
    let master = Master::start(Config { longest_retry_delay, ..config() });
    let mut events = master.events();
    master.connect(register.place.clone());
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        drop(register.accepted().await);
        longest = longest.max(delay(&mut events).await);
    }
    assert!(longest > 5 * config().retry_delay, "{longest:?}");
    // A good connection, one that lasts a second, resets the delays. A busy machine may begin to count late.
    let held = register.accepted().await;
    sleep(Duration::from_secs(4)).await;
    drop(held);
    assert!(delay(&mut events).await <= config().retry_delay);
    assert!(Config::new("").retry_delay <= Duration::from_millis(500));
}

#[tokio::test]
async fn a_register_that_never_answers_is_given_up() {
    let register = Register::new().await;
    let short = Duration::from_millis(20);
    let master = Master::start(Config { connect_timeout: short, retry_attempts: Some(0), ..config() });
    let mut events = master.events();
    master.connect(register.place.clone());
    let _peer = register.met().await;
    let (_, why, again) = closed(&mut events).await;
    assert_eq!((why, again), (Lost::Unreachable("it does not answer".into()), false));
}

#[tokio::test]
async fn several_registers_are_served_and_know_the_master_by_one_id() {
    let (one, other) = (Register::new().await, Register::new().await);
    let master = Master::start(config());
    for place in [&one.place, &other.place, &one.place] {
        master.connect(place.clone());
    }
    let (mut first, mut second) = (one.accepted().await, other.accepted().await);
    assert_eq!((first.id.as_str(), second.id.as_str()), (master.id(), master.id()));
    serves(&mut first).await;
    master.offer(Service::new("new"));
    for peer in [&mut first, &mut second] {
        assert_eq!(said(&peer.hear().await, "cmd"), "register");
    }
    master.remove(one.place.clone());
    first.hear_the_end_after_goodbye().await;
    serves(&mut second).await;
}

#[tokio::test]
async fn registers_are_joined_and_left_on_command_but_not_too_many() {
    let (joined, beyond) = (Register::new().await, Register::new().await);
    let (master, register, mut peer) = meeting(Config { most_registers: 2, ..config() }, []).await;
    command(&mut peer, "register", &[&register, &joined, &beyond]).await;
    let mut met = joined.accepted().await;
    serves(&mut met).await;
    serves(&mut peer).await;
    let mut events = master.events();
    command(&mut peer, "remove", &[&joined, &beyond]).await;
    met.hear_the_end_after_goodbye().await;
    assert_eq!(closed(&mut events).await, (joined.place.clone(), Lost::Ended(CloseReason::Closed), false));
    command(&mut peer, "register", &[&beyond]).await;
    serves(&mut beyond.accepted().await).await;
}

#[tokio::test]
async fn a_master_that_stops_ends_its_calls_and_takes_no_more() {
    let (finish, finished) = oneshot::channel::<()>();
    let finished = std::sync::Mutex::new(Some(finished));
    let service = Service::new("slow").method("work", move |_: Value| {
        let finished = finished.lock().unwrap().take();
        async move {
            finished.expect("one call").await?;
            Ok("done")
        }
    });
    let (master, _, mut peer) = meeting(config(), [service]).await;
    peer.call("a", "slow", "work", Value::Nil).await;
    serves(&mut peer).await;
    let stopped = tokio::spawn(master.stop());
    assert_eq!(said(&peer.hear().await, "cmd"), "remove");
    peer.call("b", "slow", "work", Value::Nil).await;
    let refused = peer.hear().await;
    assert_eq!(said(get(&refused, "data").expect("an error"), "message"), "the master is leaving");
    assert_eq!([said(&refused, "uuid"), said(&refused, "status")], ["b", "refused"]);
    finish.send(()).unwrap();
    assert_eq!(peer.answers("a").await, (vec!["done".into()], None));
    peer.hear_the_end_after_goodbye().await;
    timeout(SOON, stopped).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_master_that_leaves_says_so_first_also_when_nothing_is_under_way() {
    let (master, _, mut peer) = meeting(config(), []).await;
    serves(&mut peer).await;
    let stopped = tokio::spawn(master.stop());
    assert_eq!(said(&peer.hear().await, "cmd"), "remove");
    peer.hear_the_end_after_goodbye().await;
    timeout(SOON, stopped).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_call_that_does_not_end_is_dropped_when_the_master_stops() {
    let service =
        Service::new("slow").method("never", |_: Value| std::future::pending::<Result<(), crate::MethodError>>());
    let (master, _, mut peer) = meeting(Config { drain: Duration::from_millis(20), ..config() }, [service]).await;
    peer.call("a", "slow", "never", Value::Nil).await;
    serves(&mut peer).await;
    timeout(SOON, master.stop()).await.expect("in time");
    peer.hear_the_end_after_goodbye().await;
}

#[tokio::test]
async fn a_master_whose_calls_may_take_for_ever_leaves_when_there_are_none() {
    let (master, _, mut peer) = meeting(Config { drain: Duration::MAX, ..config() }, []).await;
    serves(&mut peer).await;
    timeout(SOON, master.stop()).await.expect("in time");
    peer.hear_the_end_after_goodbye().await;
}

#[tokio::test]
async fn a_master_that_is_dropped_leaves() {
    let (master, _, mut peer) = meeting(config(), []).await;
    serves(&mut peer).await;
    drop(master);
    peer.hear_the_end_after_goodbye().await;
}

#[tokio::test]
async fn a_process_of_another_user_is_not_shown_the_token() {
    // A user without a name.
    let other = 4_000_000_000;
    let (master, register) = (Master::start(Config { register_user: Some(other), ..config() }), Register::new().await);
    let mut events = master.events();
    master.connect(register.place.clone());
    register.unmet().await.hear_the_end_after_goodbye().await;
    let (_, why, again) = closed(&mut events).await;
    let told = why.to_string();
    assert!(again && told.contains(&format!("none of uid {other}; it was shown nothing")), "{told}");
}

#[tokio::test]
async fn a_process_of_the_user_that_is_meant_is_shown_the_token_once_it_has_accepted() {
    let own = nix::unistd::Uid::current().as_raw();
    let (_master, _register, mut peer) =
        meeting(Config { register_user: Some(own), ..config() }, [Service::new("mail")]).await;
    serves(&mut peer).await;
}
