//! A sidecar of the scene: its lines, the binary that it is run from, and what it holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use roster::store::shared::Reader;

use crate::checker::Checker;
use crate::driver::ROOT;
use crate::ensemble::Ensemble;
use crate::faults::quiet;
use crate::harness::{Link, Roster, Tree, TwoAddresses, binary_path, ensure, eventually, free_port, unconfigured};
use crate::idl::{ServiceQuery, StatusRequest, TRosterSyncClient};
use crate::jobs;
use crate::model::LIMIT;
use crate::network::Network;
use crate::scene::{HEALING, TOKEN};
use crate::workers;

/// In which way sidecars are to be wrong, if they can be.
pub(crate) const MUTANT: &str = "ROSTER_MUTANT";

/// A sidecar, and its lines to the servers of the ensemble.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) roster: Roster,
    pub(crate) lines: Vec<Link>,
    /// To the frail server.
    pub(crate) frail: Link,
    pub(crate) register: u16,
    pub(crate) number: usize,
    checker: Arc<Checker>,
    binary: PathBuf,
    name: TwoAddresses,
    /// What it is upgraded to, and then back from.
    other: Option<PathBuf>,
    /// In which it runs, if it is not the machine's.
    network: Option<Network>,
}

impl Sidecar {
    pub(crate) fn start(
        number: usize,
        ensemble: &Ensemble,
        frail: String,
        checker: &Arc<Checker>,
        upstream: Option<&Link>,
        network: Option<Network>,
    ) -> Self {
        let host = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::host);
        let lines: Vec<Link> = (0..ensemble.len()).map(|server| Link::at(host, ensemble.address(server))).collect();
        // The first one knows the servers by a name whose first address is nobody's.
        let address = |line: &Link| match number {
            0 => format!("{}:{}", TwoAddresses::NAME, line.address().port()),
            _ => line.address().to_string(),
        };
        let (connect, frail) = (lines.iter().map(address).collect::<Vec<_>>().join(","), Link::at(host, frail));
        let mut settings = format!(
            "[[zookeeper]]\nconnect = \"{connect}\"\nroots = [\"{ROOT}\"]\nsession_timeout = \"4s\"\n\
             hold = \"20s\"\nmax_node_bytes = \"{LIMIT}B\"\n"
        ) + &quiet::settings(&connect, &frail.address().to_string());
        if number == 0 {
            settings += &jobs::settings();
            settings += &workers::settings();
        }
        if let Some(line) = upstream {
            settings += &format!("[[upstream]]\nconnect = \"{}\"\ntoken = \"{{folder}}/token\"\n", line.address());
        }
        let (roster, register) = (Roster::prepare(&settings), free_port());
        roster.write("token", TOKEN);
        // A busy machine is no slow client.
        let patient = "first_byte_timeout = \"10s\"\nrequest_timeout = \"10s\"\n";
        let token = roster.folder().join("token");
        let listen = format!(
            "[register]\nlisten = \"127.0.0.1:{register}\"\nping_interval = \"2s\"\nauth_timeout = \"60s\"\n\
             tokens = {token:?}\n"
        );
        roster.configure("[register]\nlisten = \"\"\n", &(patient.to_owned() + &listen));
        // Also for the adversary, who is another user.
        roster.configure("[thrift]\n", "[thrift]\nmode = \"0666\"\n");
        roster.open_to_all();
        std::fs::create_dir_all(roster.state()).expect("a folder");
        let (checker, binary, name) = (checker.clone(), binary_path(), TwoAddresses::new(roster.folder()));
        let mut sidecar = Self { roster, lines, frail, register, number, checker, binary, name, other: None, network };
        sidecar.run();
        sidecar
    }

    pub(crate) fn run(&mut self) {
        self.run_by(|_| {});
    }

    /// Starts it, where the command is to be something more.
    pub(crate) fn run_by(&mut self, rules: impl FnOnce(&mut Command)) {
        self.checker.starts(self.number);
        let command = self.network.as_ref().map_or_else(|| Command::new(&self.binary), |it| it.command(&self.binary));
        let mut serve = self.roster.serve(unconfigured(command));
        // It is no part of what is configured, of which nothing comes from the environment.
        serve.envs(std::env::var_os(MUTANT).map(|name| (MUTANT, name)));
        self.name.rules(&mut serve);
        rules(&mut serve);
        self.roster.run_as(&mut serve);
    }

    /// From its next start on it is another binary: what `ROSTER_UPGRADE_TO` names, or else a copy; and then the first
    /// one again.
    pub(crate) fn upgrade(&mut self) {
        let other = self.other.take().unwrap_or_else(|| {
            std::env::var_os("ROSTER_UPGRADE_TO").map_or_else(|| self.copied(), |named| named.into())
        });
        self.other = Some(std::mem::replace(&mut self.binary, other));
    }

    fn copied(&self) -> PathBuf {
        let copy = self.roster.folder().join("upgraded");
        std::fs::copy(&self.binary, &copy).expect("it is copied");
        copy
    }

    /// What goes to the ensemble is lost: in the kernel, if the sidecar has a network of its own.
    pub(crate) fn swallow(&self) {
        match &self.network {
            Some(network) => network.swallow(self.ports()),
            None => self.lines.iter().for_each(Link::fall_silent),
        }
    }

    /// What goes to the ensemble is refused, likewise.
    pub(crate) fn refuse(&self) {
        match &self.network {
            Some(network) => network.refuse(self.ports()),
            None => self.lines.iter().for_each(Link::cut),
        }
    }

    /// All goes through again.
    pub(crate) fn pass(&self) {
        match &self.network {
            Some(network) => network.pass(),
            None => self.lines.iter().for_each(Link::mend),
        }
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.lines.iter().map(|line| line.address().port())
    }

    /// Connections to its endpoint over TCP, as many as it accepts, each with its first bytes.
    pub(crate) fn clients(&self, messages: Vec<Vec<u8>>) -> Vec<TcpStream> {
        let connect = |message: Vec<u8>| {
            let mut client = TcpStream::connect(("127.0.0.1", self.roster.port())).ok()?;
            let _ = client.write_all(&message);
            Some(client)
        };
        let all = || messages.into_iter().filter_map(connect).collect();
        match &self.network {
            Some(network) => network.within(all),
            None => all(),
        }
    }

    /// Its descriptors and its memory.
    pub(crate) fn weighs(&self) -> (usize, usize) {
        let id = self.roster.process().id();
        let descriptors =
            std::fs::read_dir(Path::new("/proc").join(id.to_string()).join("fd")).map_or(0, Iterator::count);
        (descriptors, self.roster.memory())
    }

    /// Waits until all has been read once, and written into the shared file.
    pub(crate) fn is_whole(&self) {
        self.roster.becomes("live");
        eventually("the shared file is whole", HEALING, || {
            let report = Reader::open(&self.roster.shared_file()).and_then(|file| file.status());
            report
                .map(|report| ensure(report.sources.iter().all(|it| it.whole), "it is not"))
                .map_err(|e| e.to_string())?
        });
    }

    /// Whether any of its sources is behind.
    pub(crate) fn is_behind(&self) -> Result<bool, String> {
        let status = self.roster.client().status(StatusRequest::default()).map_err(|error| format!("{error:?}"))?;
        Ok(status.sources.iter().any(|source| source.age_ms != Some(0)))
    }

    /// Waits until no source is behind.
    pub(crate) fn is_fresh(&self) {
        eventually("the sidecar is in sync", HEALING, || ensure(!self.is_behind()?, "it is behind"));
    }

    /// Whether its shared file holds what ZooKeeper does.
    pub(crate) fn has_written(&self, truth: &Tree, mirrored: impl Fn(&String) -> bool) -> Result<(), String> {
        let file = Reader::open(&self.roster.shared_file()).and_then(|file| file.contents());
        let nodes = file.map_err(|error| error.to_string())?.nodes;
        let held = nodes.iter().map(|(path, node)| (path.to_string(), &*node.data));
        let held: BTreeMap<String, &[u8]> = held.filter(|(path, _)| mirrored(path)).collect();
        let expected = truth.iter().map(|(path, node)| (path.as_str(), node.data.as_slice()));
        let is_same = held.iter().map(|(path, data)| (path.as_str(), *data)).eq(expected);
        ensure(is_same, format!("the shared file of sidecar {} holds something else", self.number))
    }

    /// What masters offer, with a proof that this is so now.
    pub(crate) fn masters(&self) -> Result<Vec<String>, String> {
        let (mut client, mut names, mut cursor) = (self.roster.client(), Vec::new(), None);
        loop {
            let page = client
                .masters(ServiceQuery { cursor, ..ServiceQuery::default() })
                .map_err(|error| format!("{error:?}"))?;
            ensure(page.freshness.age_ms == 0, format!("the masters are {} ms old", page.freshness.age_ms))?;
            names.extend(page.masters.into_iter().flat_map(|master| master.services).map(|service| service.name));
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(names);
            }
        }
    }

    /// Lets it have no more of something.
    pub(crate) fn limit(&self, what: &str, most: &str) {
        let id = self.roster.process().id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &id, &format!("--{what}={most}:")]).status();
        assert!(limited.expect("prlimit starts").success());
    }

    /// Whether it came to where it is wrong on purpose.
    pub(crate) fn was_wrong(&self) -> bool {
        self.roster.log().contains("wrong on purpose")
    }

    pub(crate) fn answers(&self) -> Result<(), String> {
        self.roster.client().status(StatusRequest::default()).map(drop).map_err(|error| format!("{error:?}"))
    }
}
