//! `make test-gssapi`: identities that are proven by Kerberos, with a real KDC and a real ZooKeeper.

mod acceptor;
#[allow(dead_code, unused_imports)]
#[path = "../it/harness/mod.rs"]
mod harness;
mod realm;

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use roster::thrift::idl;

use acceptor::{Acceptor, answering};
use harness::{Clock, Ended, Roster, SOON, Server, Zk, binary, ensure, eventually, source};
use realm::{REALM, Realm, with_jaas};
use zookeeper_client::{Acl, AuthId, CreateMode, Permission};

impl Zk {
    /// Creates a node that only this user may read, whom a server knows by SASL.
    fn create_for(&self, path: &str, data: &str, user: &str) {
        let acl = [Acl::new(Permission::READ, AuthId::new("sasl", user))];
        let options = CreateMode::Persistent.with_acls((&acl[..]).into());
        self.run(async |client| client.create(path, data.as_bytes(), &options).await.map(drop));
    }
}

/// The settings of a mirror of this server that uses the realm's keytab, and more.
fn by_keytab(realm: &Realm, server: &Server, more: &str) -> String {
    by_ticket(&at_localhost(&server.address()), &format!("keytab = {:?}\n{more}", realm.path("roster.keytab")))
}

fn by_ticket(connect: &str, kerberos: &str) -> String {
    source(connect, &format!("[zookeeper.kerberos]\n{kerberos}"))
}

fn at_localhost(address: &str) -> String {
    address.replace("127.0.0.1", "localhost")
}

/// A sidecar that knows this realm.
fn start(realm: &Realm, settings: &str) -> Roster {
    let mut roster = Roster::prepare(settings);
    let mut command = realm.knowing(roster.serve(binary()));
    roster.run_as(&mut command);
    roster
}

/// Waits until its source says all of this.
fn says(roster: &Roster, all: &[&str]) {
    eventually(&format!("{all:?}"), SOON, || {
        let detail = roster.source().detail;
        ensure(all.iter().all(|this| detail.contains(this)), detail)
    });
}

#[test]
fn a_node_is_read_by_a_keytab_and_each_connection_proves_it_anew_with_a_ticket_that_holds() {
    let mut realm = Realm::start();
    // A server takes a ticket for minutes after its end; the mirror's library does not show it by then.
    let lifetime = Duration::from_secs(3);
    realm.administer(&["modprinc", "-maxlife", "3 seconds", "roster"]);
    let mut server = realm.server();
    let roster = start(&realm, &by_keytab(&realm, &server, ""));
    roster.becomes("live");
    assert_eq!(roster.data("/closed"), b"for roster");
    let given = realm.given();
    assert!(given >= 1);

    thread::sleep(lifetime + Duration::from_secs(1));
    assert_eq!(roster.source().state, "live", "a session outlives its ticket");
    server.restart();
    server.zk().create("/open", "new");
    eventually("it follows", SOON, || ensure(roster.get("/open").is_ok(), roster.source().detail));
    assert_eq!(roster.data("/closed"), b"for roster");
    assert!(realm.given() > given, "the ticket was renewed");

    realm.stop_kdc();
    thread::sleep(lifetime + Duration::from_secs(1));
    server.restart();
    says(
        &roster,
        &["no ticket for zookeeper/localhost:", "Cannot contact any KDC for realm 'ROSTER.TEST'", "krb5.conf"],
    );
    assert_eq!(roster.data("/closed"), b"for roster", "what was known stands");
    realm.start_kdc();
    server.zk().create("/later", "new");
    eventually("it follows", SOON, || ensure(roster.get("/later").is_ok(), roster.source().detail));
    assert_eq!(roster.data("/closed"), b"for roster");
}

#[test]
fn as_long_as_a_ticket_for_a_server_holds_no_kdc_is_needed_for_it() {
    let mut realm = Realm::start();
    let mut server = realm.server();
    let roster = start(&realm, &by_keytab(&realm, &server, ""));
    roster.becomes("live");
    realm.stop_kdc();
    server.restart();
    server.zk().create("/open", "new");
    eventually("it follows", SOON, || ensure(roster.get("/open").is_ok(), roster.source().detail));
    assert_eq!(roster.data("/closed"), b"for roster");
}

#[test]
fn without_a_keytab_it_is_the_ticket_in_the_cache_or_the_keytab_of_the_environment() {
    let realm = Realm::start();
    let server = realm.server();
    let connect = at_localhost(&server.address());
    let none = start(&realm, &by_ticket(&connect, ""));
    says(&none, &["no ticket for zookeeper/localhost:", "No Kerberos credentials available", "`keytab`", "kinit"]);

    realm.take_ticket("cache");
    for settings in ["", "principal = \"roster\""] {
        let cached = start(&realm, &by_ticket(&connect, settings));
        cached.becomes("live");
        assert_eq!(cached.data("/closed"), b"for roster");
    }
    none.becomes("live");

    let mut by_variable = Roster::prepare(&by_ticket(&connect, ""));
    let mut command = realm.knowing(by_variable.serve(binary()));
    command.env("KRB5CCNAME", "MEMORY:").env("KRB5_CLIENT_KTNAME", realm.path("roster.keytab"));
    by_variable.run_as(&mut command);
    by_variable.becomes("live");
    assert_eq!(by_variable.data("/closed"), b"for roster");
}

#[test]
fn a_service_that_the_kdc_does_not_know_and_a_principal_that_the_keytab_does_not_have_are_named() {
    let realm = Realm::start();
    let server = realm.server();
    let kafka = start(&realm, &by_keytab(&realm, &server, "service = \"kafka\""));
    says(&kafka, &["no ticket for kafka/localhost:", "not found in Kerberos database", "`service`"]);
    let other = start(&realm, &by_keytab(&realm, &server, "principal = \"other\""));
    says(&other, &["no ticket for zookeeper/localhost:", "roster.keytab the key of other?"]);
    // As it is said, whatever the name of the host.
    let whole = format!("keytab = {:?}\nservice = \"zookeeper/localhost@{REALM}\"", realm.path("roster.keytab"));
    let whole = start(&realm, &by_ticket(&server.address(), &whole));
    whole.becomes("live");
    assert_eq!(whole.data("/closed"), b"for roster");
}

#[test]
fn a_server_that_refuses_a_ticket_is_told_of_and_another_is_tried() {
    let realm = Realm::start();
    let old = realm.server();
    realm.administer(&["cpw", "-randkey", "zookeeper/localhost"]);
    let roster = start(&realm, &by_keytab(&realm, &old, ""));
    says(&roster, &["refuses the ticket for zookeeper/localhost: its log says why"]);

    realm.administer(&["ktadd", "-k", &realm.path("zookeeper.keytab").display().to_string(), "zookeeper/localhost"]);
    let new = realm.server();
    let both = format!("{},{}", at_localhost(&old.address()), at_localhost(&new.address()));
    let roster = start(&realm, &by_ticket(&both, &format!("keytab = {:?}", realm.path("roster.keytab"))));
    roster.becomes("live");
    assert_eq!(roster.data("/closed"), b"for roster");
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let realm = Realm::start();
    let server = realm.server();
    realm.put("krb5.conf", &(realm.client(realm.port(), "kdc_timesync = 0")));
    let mut roster = Roster::prepare(&by_keytab(&realm, &server, ""));
    let clock = Clock::new(roster.folder());
    clock.jump(1);
    let mut command = realm.knowing(roster.serve(binary()));
    clock.rules(&mut command);
    roster.run_as(&mut command);
    says(&roster, &["Clock skew too great", "clock"]);
}

#[test]
fn a_kdc_that_does_not_answer_takes_one_thread_for_a_server_and_holds_up_nothing() {
    let realm = Realm::start();
    let server = realm.server();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let _silent_too = UdpSocket::bind(("127.0.0.1", port)).expect("the port");
    realm.put("krb5.conf", &realm.client(port, ""));
    let mut roster = start(&realm, &by_keytab(&realm, &server, ""));
    says(&roster, &["no ticket for zookeeper@localhost in time", "krb5.conf"]);
    let threads = || {
        let threads =
            std::fs::read_dir(format!("/proc/{}/task", roster.process().id())).expect("its threads").flatten();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| name.trim() == "kerberos").count()
    };
    let counts = (0..100).map(|_| {
        thread::sleep(Duration::from_millis(100));
        threads()
    });
    assert_eq!(counts.max(), Some(1), "{}", roster.log());
    let sessions = harness::four_letters(server.address(), "dump");
    assert!(sessions.contains("Session Sets (0)"), "a server is troubled: {sessions}");
    let began = Instant::now();
    assert!(roster.stop().success(), "{}", roster.log());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_a_server_answers_is_bounded_and_proves_nothing_by_itself() {
    let realm = Realm::start();
    let keytab = format!("keytab = {:?}", realm.path("roster.keytab"));
    for (token, told) in [
        (Vec::new(), "it has no GSSAPI"),
        (vec![7; 100], "it has no GSSAPI"),
        (vec![7; 100_000], "it goes on with SASL without end"),
        (vec![7; 3 << 20], "a long answer"),
    ] {
        says(&start(&realm, &by_ticket(&answering(token), &keytab)), &[told]);
    }
    for (offer, told) in [
        ("2000", "it wants a security layer"),
        ("", "it wants a security layer"),
        ("-1000", "what it offers as zookeeper/localhost is not from it"),
    ] {
        let acceptor = Acceptor::start(&realm, offer);
        says(&start(&realm, &by_ticket(acceptor.address(), &keytab)), &[told]);
    }
    // Who agrees is believed: it answers no request, but the mirror has got so far.
    let acceptor = Acceptor::start(&realm, "1000");
    let roster = start(&realm, &by_ticket(acceptor.address(), &keytab));
    eventually("connected", SOON, || ensure(roster.log().contains("connected"), roster.source().detail));
}

#[test]
fn a_server_without_kerberos_is_told_of() {
    let realm = Realm::start();
    let module = "org.apache.zookeeper.server.auth.DigestLoginModule required user_roster=\"secret\"";
    let digest = with_jaas(realm.path("").as_path(), module, Path::new("/dev/null"));
    says(&start(&realm, &by_keytab(&realm, &digest, "")), &["it has no GSSAPI"]);
    says(&start(&realm, &by_keytab(&realm, Server::shared(), "")), &["it has no GSSAPI"]);
}

#[test]
fn a_check_finds_a_keytab_that_is_not_there_and_two_proofs_by_sasl() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, credentials) = (folder.path().join("roster.toml"), folder.path().join("credentials"));
    std::fs::write(&credentials, "sasl:bob:secret\n").expect("written");
    let check = |settings: &str| {
        std::fs::write(&config, source("zk1", settings)).expect("written");
        Ended::of(binary().args(["config", "check"]).arg(&config)).wrong
    };
    let told = check("[zookeeper.kerberos]\nkeytab = \"none\"");
    assert!(told.contains("zookeeper.0.kerberos.keytab: cannot read"), "{told}");
    let told = check("credentials = \"credentials\"\n[zookeeper.kerberos]");
    assert!(told.contains("zookeeper.0.kerberos: a server takes one proof by SASL"), "{told}");
}
