//! An ensemble of real ZooKeeper servers, each of which can be killed, frozen, restarted and wiped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Process, Zk, chosen, class_path, ensure, eventually, free_port};

/// Small: there are up to five of them.
const JVM: [&str; 7] = [
    "-Xms32m",
    "-Xmx128m",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:TieredStopAtLevel=1",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.preAllocSize=64",
];

/// How long an ensemble may take to elect a leader while the machine is busy.
const ELECTION: Duration = Duration::from_secs(90);

/// Some servers that know one another.
#[derive(Debug)]
pub(crate) struct Ensemble {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Ensemble {
    pub(crate) fn start(count: usize) -> Self {
        let peers: String =
            (1..=count).map(|number| format!("server.{number}=127.0.0.1:{}:{}\n", free_port(), free_port())).collect();
        let servers = (1..=count).map(|number| Server::prepare(number, if count > 1 { &peers } else { "" }));
        let mut ensemble = Self { servers: servers.collect() };
        ensemble.run_all();
        ensemble
    }

    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn address(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.servers[number].port)
    }

    pub(crate) fn zk(&self) -> Zk {
        let addresses: Vec<String> = (0..self.len()).map(|number| self.address(number)).collect();
        Zk::new(addresses.join(","))
    }

    /// The number of the server that leads, or of the first when none does.
    pub(crate) fn leader(&self) -> usize {
        self.servers.iter().position(|server| server.mode() == "leader").unwrap_or(0)
    }

    pub(crate) fn kill(&mut self, number: usize) {
        self.servers[number].process = None;
    }

    /// Starts a server, unless it runs, on the data that it has.
    pub(crate) fn run(&mut self, number: usize) {
        self.servers[number].run();
    }

    pub(crate) fn kill_all(&mut self) {
        self.servers.iter_mut().for_each(|server| server.process = None);
    }

    /// Starts all that do not run, and waits until they serve.
    pub(crate) fn run_all(&mut self) {
        self.servers.iter_mut().for_each(Server::run);
        self.serves();
    }

    /// Waits until all serve.
    pub(crate) fn serves(&self) {
        for server in &self.servers {
            eventually("a server serves", ELECTION, || ensure(!server.mode().is_empty(), server.log()));
        }
    }

    pub(crate) fn freeze(&self, number: usize) {
        self.servers[number].process.as_ref().expect("it runs").freeze();
    }

    pub(crate) fn thaw(&self, number: usize) {
        self.servers[number].process.as_ref().expect("it runs").thaw();
    }

    /// Takes everybody's data away. None of them may run.
    pub(crate) fn wipe(&mut self) {
        for server in &self.servers {
            std::fs::remove_dir_all(server.data().join("version-2")).expect("its data is taken away");
        }
    }

    /// Keeps everybody's data as it is. None of them may run.
    pub(crate) fn keep_data(&self) {
        self.servers.iter().for_each(|server| copy(server.data().join("version-2"), server.kept()));
    }

    /// Goes back to the data that was kept. None of them may run.
    pub(crate) fn restore_data(&mut self) {
        self.wipe();
        self.servers.iter().for_each(|server| copy(server.kept(), server.data().join("version-2")));
    }
}

impl Server {
    fn prepare(number: usize, peers: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::write(data.join("myid"), number.to_string()).expect("its number is written");
        let config = format!(
            "tickTime=500\ninitLimit=40\nsyncLimit=6\nminSessionTimeout=1000\nmaxSessionTimeout=60000\n\
             maxClientCnxns=0\nclientPortAddress=127.0.0.1\nclientPort={port}\ndataDir={}\nsnapCount=5000\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n{peers}",
            data.display()
        );
        std::fs::write(folder.path().join("zoo.cfg"), config).expect("the configuration is written");
        Self { folder, port, process: None }
    }

    fn run(&mut self) {
        if self.process.is_some() {
            return;
        }
        let log = File::create(self.folder.path().join("log")).expect("a log");
        let mut java = Command::new("java");
        java.args(JVM).args([
            "-cp",
            &class_path(chosen().as_deref()),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ]);
        java.arg(self.folder.path().join("zoo.cfg"));
        java.stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(Process::start(&mut java, self.folder.path()));
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `leader`, `follower` or `standalone`; empty while it does not serve.
    fn mode(&self) -> String {
        let mut answer = String::new();
        let _ = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"srvr")?;
            stream.read_to_string(&mut answer)
        });
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).unwrap_or_default().to_owned()
    }
}

fn copy(from: PathBuf, to: PathBuf) {
    let copied = Command::new("cp").arg("-rT").args([&from, &to]).status().expect("cp starts");
    assert!(copied.success(), "cp {} {}", from.display(), to.display());
}
