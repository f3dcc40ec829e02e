//! A register's requests besides calls: services, closures, commands; with PHP's bytes.

use super::script::{ACCEPTED, REFUSED, Register, TOKEN, as_bytes, callback, config, map, meeting, next, packed, said};
use crate::{Event, Lost, Master, Service, Value};
use roster_tunnel::value::get;

fn services() -> [Service; 2] {
    let echo = Service::new("echo").metadata("version", "1.2.0").metadata("weight", 3);
    [echo.method("echo", |arguments: Value| async move { Ok(arguments) }), Service::new("bare")]
}

const LISTED: &[u8] = b"\x83\xa3cmd\xa4data\xa4uuid\xa6u-list\xa4data\x82\
    \xa4bare\x82\xa4name\xa4bare\xa8metadata\x80\
    \xa4echo\x82\xa4name\xa4echo\xa8metadata\x82\xa7version\xa51.2.0\xa6weight\x03\
    \x82\xa3cmd\xa3end\xa4uuid\xa6u-list";

/// The bytes that an unmodified PHP register sent, by step.
fn recorded(step: &str) -> Vec<u8> {
    let steps: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/fixtures/php-master.json")).unwrap();
    let step = steps.as_array().unwrap().iter().find(|one| one["step"] == step).expect("the step was recorded");
    let hex = step["register_sent_hex"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn a_master_names_itself_first_and_once() {
    let register = Register::new().await;
    let master = Master::start(config());
    let mut events = master.events();
    master.connect(register.place.clone());
    let mut peer = register.unmet().await;
    let auth = [b"\x84\xa3cmd\xa4auth\xa5token\xba", TOKEN.as_bytes(), b"\xa6native\x01\xa2id\xd9\x24"].concat();
    peer.hear_bytes(&[auth.as_slice(), master.id().as_bytes()].concat()).await;
    assert_eq!(next(&mut events).await, Event::Connected { register: register.place.clone() });
    peer.say_bytes(ACCEPTED).await;
    assert_eq!(next(&mut events).await, Event::Authenticated { register: register.place.clone() });
    peer.say_bytes(b"\x82\xa3cmd\xa4ping\xa4uuid\xa1p").await;
    peer.hear_bytes(b"\x82\xa3cmd\xa4pong\xa4uuid\xa1p").await;
}

#[tokio::test]
async fn a_register_of_php_lists_the_services() {
    let (_master, _, mut peer) = meeting(config(), services()).await;
    peer.say_bytes(&recorded("list")).await;
    peer.hear_bytes(LISTED).await;
    let other = b"\xffO:46: signed or not, ServiceRegistry::getServiceNameAndMetadata() stands in it";
    peer.say_bytes(&packed(&as_bytes(callback("u-list", other)))).await;
    peer.hear_bytes(LISTED).await;
}

#[tokio::test]
async fn a_native_register_lists_the_services() {
    let (_master, _, mut peer) = meeting(config(), services()).await;
    peer.say_bytes(b"\x82\xa3cmd\xa4list\xa4uuid\xa6u-list").await;
    peer.hear_bytes(LISTED).await;
}

#[tokio::test]
async fn every_cut_of_what_a_register_says_is_answered_the_same() {
    let said = [ACCEPTED, &recorded("list"), b"\x82\xa3cmd\xa4ping\xa4uuid\xa1p"].concat();
    let register = Register::new().await;
    for cut in 0..said.len() {
        let master = Master::start(config());
        services().into_iter().for_each(|service| master.offer(service));
        master.connect(register.place.clone());
        let mut peer = register.met().await;
        let (first, second) = said.split_at(cut);
        peer.say_bytes(first).await;
        tokio::task::yield_now().await;
        peer.say_bytes(second).await;
        // The answers to the heartbeat overtake others.
        let (mut commands, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let message = peer.hear().await;
            let command = super::script::said(&message, "cmd");
            if command != "pong" {
                bytes.extend(packed(&message));
            }
            commands.push(command);
        }
        assert!(commands.iter().any(|command| command == "pong"), "cut at {cut}");
        assert_eq!(bytes, LISTED, "cut at {cut}");
    }
}

#[tokio::test]
async fn byte_by_byte_is_enough() {
    let register = Register::new().await;
    let master = Master::start(config());
    services().into_iter().for_each(|service| master.offer(service));
    master.connect(register.place.clone());
    let mut peer = register.met().await;
    for byte in [ACCEPTED, &recorded("list")].concat() {
        peer.say_bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    peer.hear_bytes(LISTED).await;
}

#[tokio::test]
async fn no_closure_is_run() {
    let (_master, _, mut peer) = meeting(config(), services()).await;
    for step in ["positional", "exception", "bad-closure"] {
        peer.say_bytes(&recorded(step)).await;
        let error = peer.hear().await;
        assert_eq!(said(&error, "cmd"), "error");
        assert_eq!(said(get(&error, "data").unwrap(), "message"), "callback not allowed");
    }
    peer.say(&[("cmd", "callback".into()), ("uuid", "u".into()), ("data", Value::Array(vec![]))]).await;
    peer.hear_bytes(b"\x83\xa3cmd\xa5error\xa4uuid\xa1u\xa4data\x84\xa7message\xb4callback not allowed\xa4code\x00")
        .await;
    peer.hear_bytes(b"\xa5class\xb0RuntimeException\xa9exception\xd9").await;
}

#[tokio::test]
async fn services_come_and_go_and_registers_are_told() {
    let (master, _, mut peer) = meeting(config(), []).await;
    peer.say_bytes(b"\x82\xa3cmd\xa4list\xa4uuid\xa1l").await;
    assert_eq!(peer.answers("l").await.0, [map(&[])]);
    services().into_iter().for_each(|service| master.offer(service));
    peer.hear_bytes(b"\x81\xa3cmd\xa8register").await;
    master.withdraw("never offered");
    master.withdraw("bare");
    peer.hear_bytes(b"\x81\xa3cmd\xa8register").await;
    master.withdraw("echo");
    peer.hear_bytes(b"\x81\xa3cmd\xa6remove").await;
}

#[tokio::test]
async fn what_changes_before_the_register_accepts_is_told_too() {
    let register = Register::new().await;
    let master = Master::start(config());
    master.connect(register.place.clone());
    let mut peer = register.met().await;
    services().into_iter().for_each(|service| master.offer(service));
    peer.say_bytes(ACCEPTED).await;
    peer.hear_bytes(b"\x81\xa3cmd\xa8register").await;
}

#[tokio::test]
async fn commands_of_the_application_are_passed_on() {
    let (master, register, mut peer) = meeting(config(), []).await;
    let mut events = master.events();
    let command = map(&[("cmd", "drain".into()), ("seconds", 30.into()), ("keys", map(&[("a", 1.into())]))]);
    // Without `cmd` it is not a command.
    peer.say_bytes(b"\x81\xa4uuid\xa1u").await;
    peer.say_bytes(&packed(&as_bytes(command.clone()))).await;
    let mut event = next(&mut events).await;
    while matches!(event, Event::Connected { .. } | Event::Authenticated { .. }) {
        event = next(&mut events).await;
    }
    assert_eq!(event, Event::Command { register: register.place.clone(), command });
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason_and_tried_again() {
    let register = Register::new().await;
    let master = Master::start(config());
    let mut events = master.events();
    master.connect(register.place.clone());
    let place = || register.place.clone();
    register.met().await.say_bytes(REFUSED).await;
    assert_eq!(next(&mut events).await, Event::Connected { register: place() });
    assert_eq!(next(&mut events).await, Event::Refused { register: place(), reason: "Invalid token".into() });
    let Event::Closed { why, retry_in, .. } = next(&mut events).await else { panic!("not closed") };
    assert_eq!((why, retry_in.is_some()), (Lost::Refused("Invalid token".into()), true));
    register.accepted().await;
    assert_eq!(next(&mut events).await, Event::Connected { register: place() });
    assert_eq!(next(&mut events).await, Event::Authenticated { register: place() });
}
