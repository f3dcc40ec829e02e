//! A secured ZooKeeper: TLS with certificates of an authority of its own, and identities by SASL.

use std::path::Path;

use nix::sys::signal::Signal;
use zookeeper_client::{Acl, AuthId, CreateMode, Permission};

use crate::harness::{Roster, SOON, Server, ensure, eventually, free_port, is_skipped_before, source};
use crate::tls::Papers;

/// A ZooKeeper that also speaks TLS, at another port, with those who show a certificate.
struct Secured {
    server: Server,
    papers: Papers,
    address: String,
}

impl Secured {
    fn start() -> Self {
        Self::at("127.0.0.1")
    }

    /// Its certificate is of 127.0.0.1, wherever it is.
    fn at(host: &str) -> Self {
        let (papers, port) = (Papers::new(), free_port());
        let read = |name| std::fs::read_to_string(papers.path(name)).expect("a file");
        papers.write("server.pem", &(read("key.pem") + &read("register.pem")));
        papers.copy("ca.pem", "trusted.pem");
        let mut server = Server::prepare();
        server.configure(&format!(
            "secureClientPort={port}\nsecureClientPortAddress={host}\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.type=PEM\nssl.keyStore.location={}\nssl.trustStore.type=PEM\nssl.trustStore.location={}\n\
             ssl.hostnameVerification=false\n",
            papers.path("server.pem").display(),
            papers.path("trusted.pem").display(),
        ));
        server.restart();
        server.zk().create("/a", "here");
        Self { server, papers, address: format!("{host}:{port}") }
    }

    fn connect(&self, kind: &str) -> String {
        format!("{kind}{}", self.address)
    }

    /// The settings of one who believes this authority, and shows its certificate.
    fn shown(&self) -> String {
        let [ca, certificate, key] = ["ca.pem", "register.pem", "key.pem"].map(|name| self.papers.path(name));
        format!("ca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n")
    }
}

fn has_no_tls() -> bool {
    is_skipped_before((3, 5), "ZooKeeper has TLS from 3.5 on")
}

/// Waits until its source says this; all that it says then.
fn says(roster: &Roster, this: &str) -> String {
    eventually(this, SOON, || {
        let detail = roster.source().detail;
        if detail.contains(this) { Ok(detail) } else { Err(detail) }
    })
}

#[test]
fn an_ensemble_is_mirrored_by_tls_with_a_certificate_that_may_be_renewed() {
    if has_no_tls() {
        return;
    }
    let secured = Secured::start();
    let roster = Roster::start(&source(&secured.connect("tls://"), &secured.shown()));
    roster.becomes("live");
    assert_eq!(roster.data("/a"), b"here");
    secured.server.zk().set("/a", vec![b'x'; 900_000]);
    eventually("a large change", SOON, || ensure(roster.data("/a").len() == 900_000, "it is as before"));

    let session = roster.source().session;
    std::fs::write(secured.papers.path("key.pem"), "no key").expect("written");
    roster.process().signal(Signal::SIGHUP);
    roster.logs("cannot read the credentials again");
    let source = roster.source();
    assert_eq!((source.session, source.state.as_str()), (session, "live"));
    for name in ["key.pem", "register.pem"] {
        secured.papers.copy(&format!("other-{name}"), name);
    }
    roster.process().signal(Signal::SIGHUP);
    says(&roster, "certificate");
    assert_eq!(roster.data("/a").len(), 900_000, "what was known stands");
}

#[test]
fn certificates_are_renewed_without_a_gap_while_both_authorities_are_trusted() {
    if has_no_tls() {
        return;
    }
    let mut secured = Secured::start();
    let papers = &secured.papers;
    let read = |name| std::fs::read_to_string(papers.path(name)).expect("a file");
    let both = read("ca.pem") + &read("other-ca.pem");
    papers.write("trusted.pem", &both);
    secured.server.restart();
    let roster = Roster::start(&source(&secured.connect("tls://"), &secured.shown()));
    roster.becomes("live");
    let session = roster.source().session;

    papers.write("ca.pem", &both);
    for name in ["key.pem", "register.pem"] {
        papers.copy(&format!("other-{name}"), name);
    }
    roster.process().signal(Signal::SIGHUP);
    eventually("another session", SOON, || {
        let source = roster.source();
        ensure(source.state == "live" && source.session != session, format!("{source:?}"))
    });
    assert_eq!(roster.data("/a"), b"here");

    // Now nothing of the old authority is left: what is shown is new, and what is believed.
    papers.copy("other-ca.pem", "trusted.pem");
    papers.write("server.pem", &(read("other-key.pem") + &read("other-register.pem")));
    secured.server.restart();
    secured.server.zk().set("/a", "renewed");
    eventually("it is followed", SOON, || ensure(roster.data("/a") == b"renewed", roster.source().detail));
    roster.becomes("live");

    // Who shows the old one is refused.
    let old = Papers::new();
    let [certificate, key] = ["register.pem", "key.pem"].map(|name| old.path(name));
    let settings = format!("ca = {:?}\ncertificate = {certificate:?}\nkey = {key:?}", papers.path("ca.pem"));
    says(&Roster::start(&source(&secured.connect("tls://"), &settings)), "certificate");
}

#[test]
fn who_speaks_to_a_port_in_the_wrong_way_is_told_so() {
    if has_no_tls() {
        return;
    }
    let secured = Secured::start();
    let plain_port = secured.server.address();
    let nothing_shown = format!("ca = {:?}", secured.papers.path("ca.pem"));
    let stranger = format!("ca = {:?}", secured.papers.path("other-ca.pem"));
    for (connect, settings, told) in [
        (secured.connect(""), "", "it speaks TLS there: write `tls://` before it"),
        (format!("tls://{plain_port}"), &*secured.shown(), "it does not speak TLS there: take `tls://` away"),
        (secured.connect("tls://"), &nothing_shown, "certificate"),
        (secured.connect("tls://"), &stranger, "signed by none of the authorities"),
    ] {
        says(&Roster::start(&source(&connect, settings)), told);
    }
}

#[test]
fn a_certificate_of_another_name_is_not_believed() {
    if has_no_tls() {
        return;
    }
    let secured = Secured::at("127.0.0.2");
    let roster = Roster::start(&source(&secured.connect("tls://"), &secured.shown()));
    says(&roster, "its certificate is not to be believed");
}

/// A ZooKeeper that knows a user by SASL.
fn with_sasl(folder: &Path) -> Server {
    let jaas = folder.join("jaas.conf");
    let module = "org.apache.zookeeper.server.auth.DigestLoginModule";
    std::fs::write(&jaas, format!("Server {{ {module} required user_bob=\"se\\\"cret\"; }};")).expect("written");
    let mut server = Server::prepare();
    server.configure("authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n");
    server.set_property(&format!("-Djava.security.auth.login.config={}", jaas.display()));
    server.restart();
    server
}

#[test]
fn an_identity_is_proven_by_sasl() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_sasl(folder.path());
    let acl = [Acl::new(Permission::ALL, AuthId::new("sasl", "bob"))];
    let options = CreateMode::Persistent.with_acls((&acl[..]).into());
    server.zk().run(async |client| client.create("/closed", b"for bob", &options).await.map(drop));
    let credentials = folder.path().join("credentials");
    let settings = format!("credentials = {credentials:?}");
    let with = |identity: &str| {
        std::fs::write(&credentials, identity).expect("written");
        Roster::start(&source(&server.address(), &settings))
    };
    let roster = with("sasl:bob:se\"cret\n");
    roster.becomes("live");
    assert_eq!(roster.data("/closed"), b"for bob");
    says(&with("sasl:bob:wrong\n"), "refuses the credentials");
}

#[test]
fn credentials_without_a_scheme_are_named_where_the_ensemble_refuses_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "# ours\njoe:secret\n").expect("written");
    let roster = Roster::start(&source(&Server::shared().address(), &format!("credentials = {credentials:?}")));
    let place = credentials.display();
    let told = format!("{place}:2: it begins with no scheme that ZooKeeper knows; write digest:USER:PASSWORD");
    let detail = says(&roster, &told);
    assert!(
        detail.starts_with("the ensemble refuses the credentials; ")
            && !detail.contains("secret")
            && !detail.contains("joe"),
        "{detail}"
    );
}

#[test]
fn a_server_without_sasl_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "sasl:bob:secret\n").expect("written");
    let settings = format!("credentials = {credentials:?}");
    let roster = Roster::start(&source(&Server::shared().address(), &settings));
    says(&roster, "DIGEST-MD5");
}

#[cfg(not(feature = "gssapi"))]
#[test]
fn kerberos_in_a_build_without_it_is_told_of_and_holds_up_nothing_else() {
    let file = "[[file]]\nroot = \"/static\"\npath = \"{folder}/nodes.toml\"\n";
    let settings = "roots = [\"/live\"]\n[zookeeper.kerberos]";
    let mut roster = Roster::prepare(&(source(&Server::shared().address(), settings) + file));
    roster.write("nodes.toml", "[nodes]\n\"/static/a\" = \"here\"\n");
    roster.run();
    says(&roster, "this build has no Kerberos");
    eventually("the rest is served", SOON, || ensure(roster.data("/static/a") == b"here", "it is not"));
}
