//! A real ZooKeeper, which can be frozen, killed, restarted and wiped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Command;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{SOON, Zk, chosen, class_path, ensure, eventually, free_port};

/// Small, and quick to start.
pub(super) const JVM: [&str; 5] = [
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:TieredStopAtLevel=1",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.preAllocSize=64",
];

/// What is enough to read 40 nodes of 1 MB one by one, and too little to read them all at once.
pub(crate) const NEARLY_FULL: &str = "104m";

/// How long it may take to start while the machine is busy.
pub(super) const START: Duration = Duration::from_secs(90);

/// A standalone ZooKeeper.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    /// The most that its nodes and all else may take.
    heap: &'static str,
    /// More settings, as system properties.
    properties: Vec<String>,
    /// One that was fetched. None: Debian's.
    release: Option<String>,
    _place: Place,
}

impl Server {
    /// One that runs already, for tests that do it no harm.
    pub(crate) fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Server::start)
    }

    pub(crate) fn start() -> Self {
        let mut server = Self::prepare();
        server.restart();
        server
    }

    /// One that does not run yet.
    pub(crate) fn prepare() -> Self {
        let place = Place::take();
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let config = format!(
            "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=60000\nmaxClientCnxns=0\n\
             clientPortAddress=127.0.0.1\nclientPort={port}\ndataDir={}/data\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr,dump\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("zoo.cfg"), config).expect("the configuration is written");
        let (process, properties, release) = (None, Vec::new(), chosen());
        Self { folder, port, process, heap: "256m", properties, release, _place: place }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn zk(&self) -> Zk {
        Zk::new(self.address())
    }

    /// For very many nodes.
    pub(crate) fn set_heap(&mut self, heap: &'static str) {
        self.heap = heap;
    }

    /// Has it start with a system property from now on, such as `-Djute.maxbuffer=65536`.
    pub(crate) fn set_property(&mut self, property: &str) {
        self.properties.push(property.to_owned());
    }

    /// It is of another release from its next start on.
    pub(crate) fn becomes(&mut self, release: Option<&str>) {
        self.release = release.map(str::to_owned);
    }

    /// Adds lines to its configuration, for its next start.
    pub(crate) fn configure(&self, lines: &str) {
        let path = self.folder.path().join("zoo.cfg");
        let config = std::fs::read_to_string(&path).expect("a configuration");
        std::fs::write(path, config + lines).expect("the configuration is written");
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it, after killing it if it runs, on the data that it has.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let path = |name| self.folder.path().join(name);
        let log = File::create(path("log")).expect("a log");
        let mut java = Command::new("java");
        java.arg(format!("-Xmx{}", self.heap))
            .args(JVM)
            .args(&self.properties)
            .args(["-cp", &class_path(self.release.as_deref()), "org.apache.zookeeper.server.ZooKeeperServerMain"])
            .arg(path("zoo.cfg"));
        java.stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(Process::start(&mut java, self.folder.path()));
        eventually("ZooKeeper serves", START, || {
            let log = || std::fs::read_to_string(path("log")).unwrap_or_default();
            if self.ask("srvr").contains("Mode: standalone") { Ok(()) } else { Err(log()) }
        });
    }

    /// Starts it, after killing it if it runs, with nothing but its own nodes.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        match std::fs::remove_dir_all(self.folder.path().join("data")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("its data is not taken away: {error}"),
            _ => {}
        }
        self.restart();
    }

    /// Starts it with nothing but its own nodes, and room for many.
    pub(crate) fn restart_roomy(&mut self) {
        self.set_heap("512m");
        self.restart_empty();
    }

    /// Starts it with so little memory, and ends when that is passed. Before, it writes all down anew, so that it does
    /// not hold what it was told beside that.
    pub(crate) fn restart_narrow(&mut self, heap: &'static str) {
        self.restart();
        self.set_property("-XX:+ExitOnOutOfMemoryError");
        self.set_heap(heap);
        self.restart();
    }

    /// Whether it has ended for want of memory.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        std::fs::read_to_string(self.folder.path().join("log")).is_ok_and(|log| log.contains("OutOfMemoryError"))
    }

    /// It answers nothing any more; connections stay.
    pub(crate) fn freeze(&self) {
        self.process().freeze();
    }

    pub(crate) fn thaw(&self) {
        self.process().thaw();
    }

    /// Waits until it has closed a session, whose number is in hexadecimal.
    pub(crate) fn forgets(&self, session: &str) {
        eventually("the session expires", SOON, || {
            let sessions = self.ask("dump");
            ensure(!sessions.is_empty() && !sessions.contains(session), sessions)
        });
    }

    /// What it answers to one of its four-letter words; nothing if it cannot be reached.
    fn ask(&self, word: &str) -> String {
        four_letters(("127.0.0.1", self.port), word)
    }
}

/// What a server answers to one of its four-letter words; nothing if it cannot be reached.
pub(crate) fn four_letters(server: impl ToSocketAddrs, word: &str) -> String {
    let mut answer = String::new();
    let _ = TcpStream::connect(server).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(word.as_bytes())?;
        stream.read_to_string(&mut answer)
    });
    answer
}

/// One of a few places for a server: each costs memory, and processor time while it starts.
#[derive(Debug)]
pub(super) struct Place;

static PLACES: (Mutex<usize>, Condvar) = (Mutex::new(5), Condvar::new());

impl Place {
    pub(super) fn take() -> Self {
        let free = PLACES.0.lock().unwrap_or_else(PoisonError::into_inner);
        *PLACES.1.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *PLACES.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        PLACES.1.notify_one();
    }
}
