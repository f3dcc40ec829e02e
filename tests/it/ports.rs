//! Ports that other processes have taken: they cost the sidecar nothing else, and it listens as soon as they are free.

use std::net::{SocketAddr, TcpListener, TcpStream};

use nix::unistd::{Uid, geteuid, setfsuid};

use crate::harness::{Dialect, Roster, SOON, ensure, eventually, free_port};
use crate::idl::{StatusRequest, TRosterSyncClient};

const NODES: &str = "\"/a\" = \"one\"\n";
/// Another user, where the tests may be one.
const OTHER: u32 = 65_534;

/// Has a port as another user would, and who that is. It is none that the kernel gives to others once it is free.
fn squat() -> (TcpListener, SocketAddr, u32) {
    let user = if geteuid().is_root() { OTHER } else { geteuid().as_raw() };
    // The file system's user belongs to the thread, and owns the sockets that it makes.
    let listening = std::thread::spawn(move || {
        setfsuid(Uid::from_raw(user));
        TcpListener::bind(("127.0.0.1", free_port())).expect("a port")
    });
    let listener = listening.join().expect("no panic");
    let address = listener.local_addr().expect("an address");
    (listener, address, user)
}

/// A sidecar with this setting; it does not run yet.
fn prepared(setting: &str, value: &str) -> Roster {
    let roster = Roster::prepare_file("roster.sock", NODES);
    // For the token of the register.
    std::fs::create_dir_all(roster.state()).expect("a folder");
    match setting {
        "thrift.tcp" => roster.configure(&format!("127.0.0.1:{}", roster.port()), value),
        "admin.listen" => roster.configure("[register]", &format!("[admin]\nlisten = \"{value}\"\n[register]")),
        _ => roster.configure("listen = \"\"", &format!("listen = \"{value}\"")),
    }
    roster
}

#[test]
fn a_port_that_another_user_has_is_told_and_had_as_soon_as_it_is_free() {
    for setting in ["thrift.tcp", "register.listen", "admin.listen"] {
        let (listener, taken, user) = squat();
        let mut roster = prepared(setting, &taken.to_string());
        roster.run();
        roster.becomes("live");
        assert_eq!(roster.data("/a"), b"one");
        let variable = format!("ROSTER_{}", setting.replace('.', "__").to_uppercase());
        let told = eventually("the port is told", SOON, || roster.status().ports_taken.ok_or("not yet"));
        let [told] = &told[..] else { panic!("{told:?}") };
        let begin = format!("{setting}: cannot listen on {taken}: another process of ");
        let end = format!(" listens there; stop it, or choose another with `--set {setting}=…` or {variable}=…");
        assert!(told.starts_with(&begin) && told.contains(&format!("uid {user}")) && told.ends_with(&end), "{told}");
        assert!(roster.cli(["status"]).text().contains(&format!("NOT LISTENING: {told}\n")));
        let log = roster.log();
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(told)), "{log}");

        drop(listener);
        eventually("it listens there", SOON, || {
            TcpStream::connect(taken).map_err(|error| error.to_string())?;
            ensure(roster.status().ports_taken.is_none(), "its status says otherwise")
        });
        if setting == "thrift.tcp" {
            Dialect::ALL[0].tcp(taken.port()).expect("it accepts").status(StatusRequest::default()).expect("an answer");
        }
        assert_eq!(roster.stop().code(), Some(0));
    }
}

#[test]
fn a_stop_does_not_wait_for_a_port() {
    let (_listener, taken, _) = squat();
    let mut roster = prepared("thrift.tcp", &taken.to_string());
    roster.run();
    assert_eq!(roster.stop().code(), Some(0));
}

#[test]
fn where_nobody_could_ask_the_sidecar_a_taken_port_ends_the_start() {
    let (_listener, taken, _) = squat();
    let mut roster = prepared("thrift.tcp", &taken.to_string());
    roster.configure(&format!("unix = {:?}", roster.socket()), "unix = \"\"");
    let wrong = roster.fails();
    assert!(wrong.contains(&format!("roster: thrift.tcp: cannot listen on {taken}: another process of ")), "{wrong}");
}

#[test]
fn an_address_of_no_interface_ends_the_start() {
    let mut roster = prepared("register.listen", "192.0.2.1:8010");
    roster.write("tokens", "a-token-of-more-than-16-bytes\n");
    roster.configure("[register]\n", "[register]\ntokens = \"tokens\"\n");
    let wrong = roster.fails();
    assert!(wrong.contains("roster: register.listen: cannot listen on 192.0.2.1:8010: "), "{wrong}");
}

#[test]
fn a_weak_token_is_refused_beyond_loopback_also_where_the_port_is_taken() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut roster = prepared("register.listen", &format!("0.0.0.0:{port}"));
    roster.write("tokens", "short\n");
    roster.configure("[register]\n", "[register]\ntokens = \"tokens\"\n");
    let wrong = roster.fails();
    assert!(wrong.contains("16 bytes"), "{wrong}");
}

#[test]
fn a_socket_whose_file_is_removed_is_made_anew_while_the_sidecar_runs() {
    let roster = Roster::of_file("\"/a\" = \"one\"");
    std::fs::remove_file(roster.socket()).expect("it is there");
    eventually("it answers again", SOON, || {
        let ended = roster.cli(["get", "/a"]);
        ensure(ended.code == Some(0), &ended.wrong)
    });
    assert!(roster.log().contains("the socket's file was removed"), "{}", roster.log());
}
