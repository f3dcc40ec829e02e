//! What the admin server promises to probes and to Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderValue;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::{answer, is_this_machine};
use crate::net::{Stream, User};
use crate::places::Places;
use crate::task::Tasks;

#[test]
fn only_addresses_of_this_machine_are_asked() {
    for host in ["127.0.0.1", "127.0.0.1:9191", "[::1]:9191", "localhost", "LOCALHOST:1", "127.9.9.9"] {
        assert!(is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
    for host in
        ["", "example.org", "127.0.0.1.example.org", "localhost.example.org:9191", "0.0.0.0", "10.0.0.1:80", "::1"]
    {
        assert!(!is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
}

#[tokio::test]
async fn who_has_asked_is_answered_while_others_who_have_not_make_room() {
    let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tells, waits) = (asked.clone(), may_answer.clone());
    let handler = async move || {
        tells.notify_one();
        waits.notified().await;
        "answered"
    };
    let router = Router::new().route("/", get(handler));
    let (places, stop, user) = (Places::new(2, None), Tasks::new().0.stop_signal(), User::Uid(1));
    let connect = || {
        let (client, server) = UnixStream::pair().expect("a pair");
        tokio::spawn(answer(Stream::Unix(server), router.clone(), places.take(user), stop.clone()));
        client
    };
    let mut first = connect();
    first.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is sent");
    asked.notified().await;
    let (mut silent, _newcomer) = (connect(), connect());
    assert_eq!(silent.read(&mut [0]).await.expect("the end"), 0);
    may_answer.notify_one();
    let mut told = String::new();
    first.read_to_string(&mut told).await.expect("an answer");
    assert!(told.ends_with("answered"), "{told}");
}
