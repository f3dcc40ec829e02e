//! Part `php`: what a value costs a PHP program and a web page, by each way to it.

mod pages;
mod reads;
mod web;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::pages::pages;
use self::reads::reads;
use crate::harness::{Roster, SOON, Server, binary, eventually};
use crate::let_wait;
use crate::report::Report;

const NODES: usize = 1_000;
/// The node that each page wants. Its name is its data.
const WANTED: &str = "777";
/// Some of the ways of `ways.php`.
const BARE: &str = "dba_fetch";
const SHARED: &str = "shared file";
const FRESH: &str = "Thrift, socket, fresh";

pub(crate) fn run(report: &mut Report) {
    report.part(
        "PHP",
        "One value of 1000 nodes: from the shared file (with a bare `dba_fetch`, and with the package, which tells how \
         fresh it is), over Thrift with the package, from the array that `roster export` writes, and by a session of \
         ZooKeeper's own a request.",
    );
    let server = Server::start();
    let zk = server.zk();
    zk.create("/config", "");
    zk.create_many("/config/", NODES);
    let mut roster = Roster::prepare(&format!("[[zookeeper]]\nconnect = \"{}\"\n", server.address()));
    let_wait(&roster);
    roster.run();
    eventually("the first sync", SOON, || roster.get(&format!("/config/{}", NODES - 1)));
    let places = Places::new(&roster, &server);
    report.say(&format!("PHP {}. (Before 8.4, `dba_popen` opens the file anew in each page.)", web::version()));
    reads(report, &places);
    pages(report, &places, &roster);
}

/// Where the ways lead; by these names PHP knows them.
struct Places(Value);

impl Places {
    fn new(roster: &Roster, server: &Server) -> Self {
        let array = roster.folder().join("roster.php");
        let socket = format!("unix://{}", roster.socket().display());
        let mut export = binary();
        export.args(["export", "--php"]).arg(&array).args(["/config", "--address", &socket]);
        assert!(export.status().expect("the binary starts").success(), "the array is written");
        Self(json!({
            "socket": roster.socket(),
            "tcp": format!("127.0.0.1:{}", roster.port()),
            "shared": roster.shared_file(),
            "array": array,
            "zookeeper": server.address(),
        }))
    }

    fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        let places = self.0.as_object().into_iter().flatten();
        places.map(|(name, place)| (name.as_str(), place.as_str().expect("a text")))
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/php")
}
