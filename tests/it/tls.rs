//! TLS between masters and registers: real certificates, masters of PHP and of Rust, and an upstream register.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use roster::master::{Config, Event, Events, Lost, Master, RegisterAddr, Service};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::{Ended, Process, Roster, SOON, binary, ensure, eventually};
use crate::register::{Scene, TOKEN};

/// A folder with what two authorities have made: `ca.pem`, `register.pem` and `key.pem`, and those of another one.
pub(crate) struct Papers(TempDir);

impl Papers {
    pub(crate) fn new() -> Self {
        let papers = Self(tempfile::tempdir().expect("a folder"));
        papers.made("");
        papers.made("other-");
        papers
    }

    /// Has a new authority make a certificate.
    fn made(&self, of: &str) {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new([]).expect("parameters");
        authority.distinguished_name.push(DnType::CommonName, format!("{of}authority"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.write(&format!("{of}ca.pem"), &authority.self_signed(&authority_key).expect("a certificate").pem());
        let key = KeyPair::generate().expect("a key");
        let names = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("parameters");
        let certificate = names.signed_by(&key, &Issuer::new(authority, authority_key)).expect("a certificate");
        self.write(&format!("{of}register.pem"), &certificate.pem());
        self.write(&format!("{of}key.pem"), &key.serialize_pem());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.path(from), self.path(to)).expect("copied");
    }

    /// The settings of a register that shows its certificate.
    fn shown(&self) -> String {
        let [certificate, key] = ["register.pem", "key.pem"].map(|name| self.path(name));
        format!("[register.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n")
    }
}

/// A master of Rust.
pub(crate) struct Rust {
    _master: Master,
    events: Events,
    runtime: Runtime,
}

impl Rust {
    /// One that believes one authority.
    fn start(port: u16, ca: PathBuf) -> Self {
        Self::believing(("tls://127.0.0.1", port), ca)
    }

    fn believing(register: (&str, u16), ca: PathBuf) -> Self {
        let mut config = Config::new(TOKEN);
        config.ca = Some(ca);
        Self::to(register, config)
    }

    pub(crate) fn to(register: impl Into<RegisterAddr>, config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let inside = runtime.enter();
        let master = Master::start(config);
        let events = master.events();
        master.offer(Service::new("rust").method("echo", |all: roster::master::Value| async move { Ok(all) }));
        master.connect(register);
        drop(inside);
        Self { _master: master, events, runtime }
    }

    /// Why it has no connection.
    pub(crate) fn lost(&mut self) -> Lost {
        let closed = async {
            loop {
                if let Some(Event::Closed { why, .. }) = self.events.next().await {
                    return why;
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(SOON, closed).await.expect("an end in time") })
    }
}

#[test]
fn masters_of_php_and_of_rust_connect_by_tls_and_are_called() {
    let papers = Papers::new();
    let scene = Scene::with(&papers.shown());
    let _rust = Rust::start(scene.port, papers.path("ca.pem"));
    let folder = tempfile::tempdir().expect("a folder");
    let _php = php(scene.port, "tls://127.0.0.1", &papers, folder.path(), false);
    scene.has(2);
    eventually("both tell their services", SOON, || {
        let services = scene.masters()?.iter().map(|master| master.services.len()).sum::<usize>();
        ensure(services == 3, services)
    });
    // Longer than a record of TLS.
    let long = format!("[\"{}\"]", "é".repeat(100_000));
    for service in ["rust", "demo"] {
        let result = scene.call(service, "echo", &long).expect("a result");
        assert_eq!(result.values, [long.as_bytes()], "{service}");
    }
}

/// A master of PHP; whether it does what the documentation says of addresses with several colons.
fn php(port: u16, host: &str, papers: &Papers, folder: &Path, rejoins: bool) -> Process {
    let mut php = Command::new("php");
    php.args(["-d", &format!("openssl.cafile={}", papers.path("ca.pem").display())]);
    php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php")).args([&port.to_string(), TOKEN]);
    php.env("REGISTER_HOST", host);
    if rejoins {
        php.env("REJOIN", "1");
    }
    Process::start(php.stdout(Stdio::null()), folder)
}

#[test]
fn a_master_of_php_comes_back_by_tls_and_ipv6_if_it_does_what_is_documented() {
    let papers = Papers::new();
    let folder = tempfile::tempdir().expect("a folder");
    for (shown, host) in [(papers.shown(), "tls://127.0.0.1"), (String::new(), "[::1]")] {
        let mut scene = Scene::with(&format!("settle = \"1s\"\n{shown}"));
        if host == "[::1]" {
            let v4 = format!("listen = \"127.0.0.1:{}\"", scene.port);
            scene.roster.configure(&v4, &format!("listen = \"[::1]:{}\"", scene.port));
            scene.roster.kill();
            scene.roster.run();
        }
        let masters = [true, false].map(|rejoins| php(scene.port, host, &papers, folder.path(), rejoins));
        scene.has(2);
        scene.roster.kill();
        scene.roster.run();
        // The other one does not come back, as the package has it.
        eventually("one is back, and the other given up", SOON, || {
            let masters = scene.masters()?;
            ensure(masters.len() == 1 && scene.call("control", "pid", "[]").is_ok(), masters.len())
        });
        drop(masters);
    }
}

#[test]
fn an_upstream_register_is_followed_by_tls() {
    let papers = Papers::new();
    let hub = Scene::with(&papers.shown());
    let _master = Rust::start(hub.port, papers.path("ca.pem"));
    let id = hub.has(1)[0].id.clone();
    let ca = papers.path("ca.pem");
    papers.write("token", TOKEN);
    let token = papers.path("token");
    let follows = format!("[[upstream]]\nconnect = \"tls://127.0.0.1:{}\"\nca = {ca:?}\ntoken = {token:?}\n", hub.port);
    let beside = Scene::with(&follows);
    assert_eq!(beside.has(1)[0].id, id);
    assert_eq!(beside.call("rust", "echo", "[1]").expect("a result").values, [b"[1]"]);
}

#[test]
fn a_register_whose_authority_is_not_believed_is_not_told_the_token() {
    let papers = Papers::new();
    let hub = Scene::with(&papers.shown());
    let ca = papers.path("other-ca.pem");
    let stranger = format!("its certificate is signed by none of the authorities in {}", ca.display());
    assert_eq!(Rust::start(hub.port, ca.clone()).lost(), Lost::Unreachable(stranger.clone()));
    papers.write("token", TOKEN);
    let token = papers.path("token");
    let follows = format!("[[upstream]]\nconnect = \"tls://127.0.0.1:{}\"\nca = {ca:?}\ntoken = {token:?}\n", hub.port);
    let beside = Scene::with(&follows);
    eventually("the status says why", SOON, || {
        let details: Vec<_> = beside.roster.status().sources.into_iter().map(|source| source.detail).collect();
        ensure(details.iter().any(|detail| detail.contains(&stranger)), details.join("\n"))
    });
    hub.has(0);
    eventually("the register says whom it refused", SOON, || {
        ensure(hub.roster.log().contains("no handshake of TLS"), hub.roster.log())
    });
}

#[test]
fn who_speaks_no_tls_loses_his_own_connection_and_nothing_else() {
    let papers = Papers::new();
    let scene = Scene::with(&format!("auth_timeout = \"1s\"\n{}", papers.shown()));
    let _master = Rust::start(scene.port, papers.path("ca.pem"));
    scene.has(1);
    for said in [&b"\x82\xa3cmd\xa4auth\xa5token\xa5guess"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b""]
    {
        let mut stranger = TcpStream::connect(("127.0.0.1", scene.port)).expect("it accepts");
        stranger.set_read_timeout(Some(SOON)).expect("a timeout");
        stranger.write_all(said).expect("written");
        let mut answer = Vec::new();
        // A reset is an end as well.
        if let Err(error) = stranger.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{said:?}");
        }
        assert!(answer.len() < 16, "no more than an alert: {answer:?}");
    }
    assert_eq!(scene.call("rust", "echo", "[1]").expect("a result").values, [b"[1]"]);
}

#[test]
fn that_one_end_alone_speaks_tls_is_told_at_both() {
    let papers = Papers::new();
    let [open, secured] = ["", &papers.shown()].map(Scene::with);
    let why = |register| match Rust::believing(register, papers.path("ca.pem")).lost() {
        Lost::Unreachable(why) => why,
        other => panic!("{other:?}"),
    };
    let told = why(("127.0.0.1", secured.port));
    assert!(told.contains("it is TLS, which is spoken to a host with `tls://` before it"), "{told}");
    why(("tls://127.0.0.1", open.port));
    for (scene, what) in [(&secured, "it does not speak TLS"), (&open, "it speaks TLS, and there is no [register.tls]")]
    {
        let log = || scene.roster.log();
        eventually("the register says so", SOON, || ensure(log().contains(what), log()));
    }
}

#[test]
fn a_certificate_is_renewed_without_harm_to_those_who_are_connected() {
    let papers = Papers::new();
    let scene = Scene::with(&papers.shown());
    let _first = Rust::start(scene.port, papers.path("ca.pem"));
    let id = scene.has(1)[0].id.clone();
    papers.copy("other-register.pem", "register.pem");
    papers.copy("other-key.pem", "key.pem");
    scene.roster.process().signal(Signal::SIGHUP);
    let _second = Rust::start(scene.port, papers.path("other-ca.pem"));
    assert!(scene.has(2).iter().any(|master| master.id == id), "the first one is still there");
    // A key of another certificate: what was there before stands.
    papers.copy("register.pem", "key.pem");
    scene.roster.process().signal(Signal::SIGHUP);
    let log = || scene.roster.log();
    eventually("the log says so", SOON, || ensure(log().contains("the old certificate stands"), log()));
    let _third = Rust::start(scene.port, papers.path("other-ca.pem"));
    scene.has(3);
}

#[test]
fn what_cannot_be_shown_is_told_before_the_start() {
    let papers = Papers::new();
    let check = |settings: &str| {
        let roster = Roster::prepare(settings);
        let ended = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let config = roster.config().display().to_string();
        let told = ended.wrong.lines().filter_map(|line| line.strip_prefix(&*config));
        told.filter(|told| told.starts_with(':')).map(str::to_owned).collect()
    };
    let told = |settings: &str| -> Vec<String> { check(settings) };
    let [certificate, key, other] = ["register.pem", "key.pem", "other-key.pem"].map(|name| papers.path(name));
    let tls = |certificate: &PathBuf, key: &PathBuf| {
        told(&format!("[register.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n"))
    };
    assert_eq!(
        tls(&certificate, &other),
        [format!(
            ":8: register.tls.key: cannot use the key {}: it is not of {}",
            other.display(),
            certificate.display()
        )]
    );
    let none = papers.path("none.pem");
    let missing = format!(":7: register.tls.certificate: cannot use the certificate {}: No such file", none.display());
    assert!(tls(&none, &key)[0].starts_with(&missing));
    let wrong = format!(":8: register.tls.key: cannot use the key {}: it holds no private key", certificate.display());
    assert!(tls(&certificate, &certificate)[0].starts_with(&wrong));
    assert_eq!(
        told(&format!("[register.tls]\ncertificate = {certificate:?}\n")),
        [":6: register.tls.key: is required, there is no default"]
    );
    let upstream = |address: &str| format!("[[upstream]]\nconnect = {address:?}\ntoken = \"token\"\nca = {key:?}\n");
    let wrong = format!(":9: upstream.0.ca: cannot use the authorities {}: it holds no certificate", key.display());
    assert!(told(&upstream("tls://hub:8010")).iter().any(|told| told.starts_with(&wrong)));
    let in_vain = ":9: upstream.0.ca: is of no use without TLS";
    assert!(told(&upstream("hub:8010")).iter().any(|told| told.starts_with(in_vain)));
    let mut roster = Roster::prepare("");
    roster.write("tokens", "a-token-of-some-length");
    let tokens = roster.folder().join("tokens");
    let settings = format!(
        "listen = \"127.0.0.1:0\"\ntokens = {tokens:?}\n[register.tls]\ncertificate = {certificate:?}\nkey = {other:?}\n"
    );
    roster.configure("listen = \"\"", &settings);
    let ended = roster.fails();
    assert!(ended.contains("register.tls: cannot use the key"), "{ended}");
}
