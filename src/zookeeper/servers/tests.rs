//! Which servers are tried, in which order, and what is learned about others.

use bytes::{BufMut, BytesMut};

use super::addresses::LookedUp;
use super::*;
use crate::clock::Moment;
use crate::secret::Secret;
use crate::zookeeper::jute;
use crate::zookeeper::session::{Session, SessionError};

fn addresses(servers: &Servers) -> Vec<&str> {
    servers.named.iter().map(|server| &*server.address).collect()
}

#[test]
fn a_server_has_a_port_and_the_last_one_the_chroot() {
    for (connect, expected) in [
        ("zk1", "zk1:2181"),
        ("tcp://zk1:2182/app", "zk1:2182"),
        ("10.0.0.1/app/b", "10.0.0.1:2181"),
        ("[::1]", "[::1]:2181"),
        ("[::1]:1/a", "[::1]:1"),
    ] {
        assert_eq!(addresses(&Servers::of(&Settings::new(connect))), [expected]);
    }
    assert_eq!(addresses(&Servers::of(&Settings::new(" zk1 , zk2:1 ,"))), ["zk1:2181", "zk2:1"]);
    let servers = Servers::of(&Settings::new("zk1,tcp://zk2:1/app"));
    assert_eq!(addresses(&servers), ["zk1:2181", "zk2:1"]);
    assert_eq!(servers.chroot.server(&crate::model::NodePath::root().child("a")), "/app/a");
}

#[test]
fn an_address_that_failed_comes_last_and_those_known_stand_while_no_name_is_found() {
    let servers = Servers::of(&Settings::new("zk1,zk2,zk3"));
    let [first, second, third] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let order = |looked_up: [LookedUp; 3]| {
        let mut unknown = Vec::new();
        let round = servers.round(&servers.named, looked_up.into(), &mut unknown);
        (round.into_iter().map(|(_, address)| address).collect::<Vec<_>>(), unknown.len())
    };
    assert_eq!(order([Err(String::new()), Ok(vec![second]), Err(String::new())]), (vec![second], 2));
    assert_eq!(order([Ok(vec![first]), Ok(vec![second]), Ok(vec![third])]).1, 0);
    [first, third, first].into_iter().for_each(|address| servers.clone().fail(address));
    for _ in 0..20 {
        assert_eq!(
            order([Err(String::new()), Err(String::new()), Err(String::new())]),
            (vec![second, third, first], 0)
        );
    }
    assert_eq!(order([Err(String::new()), Ok(vec![second]), Ok(vec![third])]), (vec![second, third], 1));
    servers.forgive(first);
    servers.fail(second);
    for _ in 0..20 {
        assert_eq!(order([Err(String::new()), Err(String::new()), Err(String::new())]).0.last(), Some(&second));
    }
}

#[test]
fn who_refuses_a_persistent_watch_is_remembered_until_it_was_sound_and_as_long_as_it_is_named() {
    let servers = Servers::of(&Settings::new("zk1,zk2"));
    let [old, new] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let connect = |address: SocketAddr| servers.learned().connected = Some(address);
    let round = |addresses: [SocketAddr; 2]| {
        servers.round(&servers.named, addresses.map(|address| Ok(vec![address])).into(), &mut Vec::new());
    };
    assert_eq!(servers.watching(), Watching::Persistent);
    connect(old);
    servers.refuse_persistent(false);
    round([old, new]);
    assert_eq!(servers.watching(), Watching::OneShot);
    connect(new);
    assert_eq!(servers.watching(), Watching::Persistent);
    servers.forgive(new);
    connect(old);
    assert_eq!(servers.watching(), Watching::OneShot);
    servers.forgive(old);
    assert_eq!(servers.watching(), Watching::Persistent, "it may have been upgraded");
    servers.refuse_persistent(false);
    round([new, new]);
    assert_eq!(servers.watching(), Watching::Persistent);
    assert!(servers.learned().one_shot.is_empty());
}

/// A listener that accepts no more connections, so that requests get no answer; and the connections in its queue.
async fn deaf() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let (here, mut taken) = (listener.local_addr().expect("an address"), Vec::new());
    let moment = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(moment, tokio::net::TcpStream::connect(here)).await {
        taken.push(stream.expect("a connection"));
    }
    (listener, taken)
}

#[tokio::test]
async fn an_address_that_answers_nothing_costs_its_own_time_and_is_not_the_first_again() {
    let good = super::super::fake::Fake::start(super::super::fake::Kind::New).await.address;
    let (listener, _taken) = deaf().await;
    let deaf = listener.local_addr().expect("an address");
    let servers = Servers::of(&Settings::new("ensemble.invalid"));
    servers.learned().found.insert("ensemble.invalid:2181".into(), vec![deaf, good]);
    servers.fail(good);
    let shortest = Ticket { timeout_ms: 1, ..Ticket::default() };
    let began = std::time::Instant::now();
    servers.connect(&shortest, 0, &[]).await.expect("a session");
    assert!(began.elapsed() >= super::super::connection::MIN_SILENCE_TIMEOUT);
    assert_eq!(servers.learned().connected, Some(good));
    let mut told = Vec::new();
    for _ in 0..20 {
        assert_eq!(servers.round(&servers.named, vec![Err(String::new())], &mut told), [(0, good), (0, deaf)]);
    }
}

/// Takes in these servers of the ensemble, as reported by the one at `from`.
fn learn(servers: &Servers, from: &str, others: &[&str]) {
    servers.learned().connected = Some(from.parse().expect("an address"));
    let lines = others.iter().enumerate().map(|(n, other)| format!("server.{n}=a:1:2;{other}"));
    servers.learn(lines.collect::<Vec<_>>().join("\n").as_bytes());
}

#[tokio::test]
async fn what_the_ensemble_has_beside_is_forgotten_with_what_it_meant_and_is_never_on_this_machine() {
    let good = super::super::fake::Fake::start(super::super::fake::Kind::New).await.address;
    let servers = Servers::of(&Settings::new("127.0.0.1:1,127.0.0.1:2"));
    let wanted = Ticket { timeout_ms: 1_000, ..Ticket::default() };
    learn(&servers, "10.0.0.1:2181", &[&good.to_string(), "127.0.0.1:1"]);
    assert_eq!(servers.learned().ensemble.servers, [good.to_string()], "what `connect` names is not learned");
    servers.connect(&wanted, 0, &[]).await.expect_err("loopback there is not loopback here");
    learn(&servers, "10.0.0.1:2181", &["127.0.0.1:3"]);
    servers.connect(&wanted, 0, &[]).await.expect_err("it has left");
    let found = servers.learned().found.keys().cloned().collect::<Vec<_>>();
    assert_eq!(found, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
}

#[test]
fn nothing_is_learned_that_would_lead_around_tls_or_a_tunnel_or_the_operators_will() {
    let learned = |settings: Settings, from: &str| {
        let servers = Servers::of(&settings);
        learn(&servers, from, &["10.0.0.2:2181"]);
        servers.others().len()
    };
    let still = Settings { follow_reconfig: false, ..Settings::new("10.0.0.1") };
    assert_eq!(learned(Settings::new("10.0.0.1"), "10.0.0.1:2181"), 1);
    assert_eq!(learned(Settings::new("tls://10.0.0.1"), "10.0.0.1:2181"), 0);
    assert_eq!(learned(still, "10.0.0.1:2181"), 0);
    for tunnel in ["127.0.0.1:2181", "[::1]:2181", "[::ffff:127.0.0.1]:2181"] {
        assert_eq!(learned(Settings::new("10.0.0.1"), tunnel), 0, "{tunnel}");
    }
}

/// A server that gives a session, and then answers every request with this.
async fn answering(answer: BytesMut) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut answers = BytesMut::from(&super::super::fake::greeting()[..]);
            answers.put_slice(&answer);
            if stream.write_all(&answers).await.is_ok() {
                // Until the other side closes.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    address
}

/// A server that does not use DIGEST-MD5.
async fn misfit() -> SocketAddr {
    let mut answer = BytesMut::new();
    // The reply to request 0: no error, and an empty token.
    jute::put_frame(&mut answer, |out| out.put_bytes(0, 4 + 8 + 4 + 4));
    answering(answer).await
}

/// A server that accepts an identity, or refuses it with an error.
async fn judging(error: i32) -> SocketAddr {
    answering(judgement(error)).await
}

fn judgement(error: i32) -> BytesMut {
    let mut answer = BytesMut::new();
    jute::put_frame(&mut answer, |out| {
        out.put_i32(jute::xid::AUTH);
        out.put_i64(0);
        out.put_i32(error);
    });
    answer
}

/// A server that is cut off from its ensemble: it accepts any identity, but is read-only.
async fn cut_off() -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const REQUEST_BYTES: usize = 49;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; REQUEST_BYTES];
            if stream.read_exact(&mut request).await.is_ok() && request.last() == Some(&1) {
                let answers = [&super::super::fake::greeting()[..], &judgement(0)].concat();
                // A peer that is gone needs no answer.
                let _ = stream.write_all(&answers).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn the_identity_is_refused_where_all_servers_refuse_it() {
    const REFUSED: i32 = jute::code::AUTH_FAILED;
    let [one, other, good] = [judging(REFUSED).await, judging(REFUSED).await, judging(0).await];
    let (wanted, identity) = (Ticket::for_new(Duration::from_secs(10)), ("digest".into(), Secret("bob:new".into())));
    for connect in [format!("{one},{other}"), format!("{one},127.0.0.1:1")] {
        let refused = Servers::of(&Settings::new(connect)).connect(&wanted, 0, std::slice::from_ref(&identity)).await;
        assert!(matches!(refused, Err(NoSession::Refused)), "{refused:?}");
    }
    let cut_off = cut_off().await;
    let servers = Servers::of(&Settings { read_only: true, ..Settings::new(format!("{one},{cut_off}")) });
    let (connection, _) = servers.connect(&wanted, 0, std::slice::from_ref(&identity)).await.expect("a session");
    assert_eq!(connection.address(), cut_off);
    let servers = Servers::of(&Settings::new(format!("{one},{other},{good}")));
    servers.fail(good);
    let (connection, _) = servers.connect(&wanted, 0, &[identity]).await.expect("a session");
    assert_eq!(connection.address(), good);
}

#[test]
fn all_servers_refuse_the_identity_where_one_does_again_that_no_other_was_sound_after() {
    let servers = Servers::of(&Settings::new("zk1,zk2,zk3"));
    let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let refuses = |address: SocketAddr| {
        servers.learned().connected = Some(address);
        servers.refuse_identity()
    };
    assert_eq!([one, other, one].map(refuses), [false, false, true], "the third gives no session");
    assert_eq!([one, other].map(refuses), [false, false], "each may be asked again");
    servers.forgive(other);
    assert!(!refuses(one));
    servers.accept_identity(Moment::now());
    assert!(!refuses(one));
}

#[test]
fn one_that_took_the_identity_and_is_away_may_take_it_again_until_it_would_not_know_the_session() {
    let servers = Servers::of(&Settings::new("zk1,zk2,zk3"));
    let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let connect = |address: SocketAddr| servers.learned().connected = Some(address);
    let refuses = |address: SocketAddr| {
        connect(address);
        servers.refuse_identity()
    };
    let is_accepted_for = |address: SocketAddr, time: Duration| {
        connect(address);
        servers.accept_identity(Moment::now() + time);
    };
    is_accepted_for(other, Duration::from_secs(60));
    assert_eq!([one, one, one].map(refuses), [false, false, false], "the other is only away");
    assert_eq!([other, one].map(refuses), [false, true], "it is back, and refuses too");
    is_accepted_for(other, Duration::ZERO);
    assert_eq!([one, one].map(refuses), [false, true], "the other would not know the session any more");
}

#[tokio::test]
async fn who_refused_the_credentials_of_before_is_asked_again_with_those_of_now() {
    let credentials = tempfile::NamedTempFile::new().expect("a file");
    let settings =
        Settings { credentials: Some(credentials.path().to_owned()), ..Settings::new("127.0.0.1:1,127.0.0.1:2") };
    let servers = Servers::of(&settings);
    let refuses = || {
        servers.learned().connected = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        servers.refuse_identity()
    };
    for (password, refuses_again) in [("old", false), ("old", true), ("old", false), ("new", false)] {
        std::fs::write(credentials.path(), format!("digest:bob:{password}\n")).expect("written");
        Session::connect(&settings, &servers).await.expect_err("nobody is there");
        assert_eq!(refuses(), refuses_again, "{password}");
    }
}

#[tokio::test]
async fn one_server_that_is_not_fit_for_digest_md5_is_left_for_the_next() {
    let [one, other] = [misfit().await, misfit().await];
    let servers = Servers::of(&Settings::new(format!("{one},{other}")));
    let (wanted, identity) = (Ticket::for_new(Duration::from_secs(10)), ("sasl".into(), Secret("bob:secret".into())));
    match servers.connect(&wanted, 0, &[identity]).await.map(drop) {
        Err(NoSession::Here(told)) => {
            for address in [one, other] {
                assert!(told.contains(&format!("{address}: it asks for no DIGEST-MD5")), "{told}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_ends_the_search_only_where_connect_names_it() {
    let ends = |is_named| only_here(NoSession::Ended(SessionError::Ended(String::new())), is_named).is_err();
    assert!(ends(true) && !ends(false));
    assert_eq!(only_here(NoSession::Here("no".into()), true).ok().as_deref(), Some("no"));
}

#[tokio::test]
async fn each_of_the_first_servers_tells_what_is_wrong_with_it() {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let here = other.local_addr().expect("an address");
    let servers = Servers::of(&Settings::new(format!("127.0.0.1:1,zk-typo.invalid,{here},127.0.0.1:2/app")));
    let accepting = async {
        loop {
            drop(other.accept().await);
        }
    };
    let nobody = Ticket::default();
    let told = tokio::select! {
        connected = servers.connect(&nobody, 0, &[]) => format!("{:?}", connected.expect_err("no session")),
        () = accepting => unreachable!("it accepts for ever"),
    };
    let told = told.trim_start_matches("Here(\"").trim_end_matches("\")");
    let [refused, unknown, strange, more] = told.split("; ").collect::<Vec<_>>()[..] else { panic!("{told}") };
    assert_eq!((refused, more), ("127.0.0.1:1: connection refused", "and 1 more"));
    assert!(strange.starts_with(&format!("{here}: it ")), "{told}");
    // Without a network, the lookup times out.
    assert!(unknown.starts_with("zk-typo.invalid:2181: "), "{told}");
}

#[test]
fn servers_whose_names_were_not_looked_up_hide_no_reason() {
    let servers = Servers::of(&Settings::new("a,b,c,d,e"));
    let whys = ["a", "b", "c", "d"].map(|name| (address(name), NotFound::Busy.to_string()));
    let words = servers.in_words(whys.into_iter().chain([(address("e"), NotFound::Late.to_string())]).collect());
    assert!(words.starts_with("e:2181: its name is not found in time; a:2181: too many"), "{words}");
}
