//! Those that keep jobs, and how each is handed one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Client, Dialect, Process, Roster, SOON, eventually, free_port};
use crate::idl::{EnqueueRequest, NewJob, TRosterSyncClient};
use crate::let_wait;

pub(super) const QUEUE: &str = "bench";

/// How many workers perform jobs.
pub(super) const WORKERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Roster,
    /// Which answers before the disk has it.
    Batched,
    Beanstalkd,
    Redis,
    Sqlite,
}

impl Kind {
    /// Those that answer when the disk has it.
    pub(super) const ALL: [Kind; 4] = [Kind::Roster, Kind::Beanstalkd, Kind::Redis, Kind::Sqlite];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Roster => "Roster",
            Self::Batched => "Roster, `batched`",
            Self::Beanstalkd => "beanstalkd `-b -f0`",
            Self::Redis => "Redis `appendfsync always`",
            Self::Sqlite => "SQLite",
        }
    }
}

/// One of them, while it runs.
#[derive(Debug)]
pub(super) struct Rival {
    pub(super) kind: Kind,
    /// Its socket, or its file.
    pub(super) place: PathBuf,
    server: Server,
    performers: Vec<Process>,
    folder: TempDir,
}

#[derive(Debug)]
enum Server {
    Roster(Box<Roster>),
    Other { _process: Process },
    Nobody,
}

/// A connection over which jobs are enqueued, one after the other.
pub(super) enum Producer {
    Roster(Client),
    Beanstalkd(BufReader<UnixStream>),
    Redis(BufReader<UnixStream>),
}

impl Rival {
    /// One that keeps nothing yet. Roster's performers come with it.
    pub(super) fn start(kind: Kind, with_performers: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("socket");
        let begin = |command: &mut Command| {
            let process = Process::start(command.stdout(Stdio::null()), folder.path());
            eventually(&format!("{kind:?} accepts (has `make bench-deps` been run?)"), SOON, || {
                UnixStream::connect(&place)
            });
            Server::Other { _process: process }
        };
        let server = match kind {
            Kind::Roster | Kind::Batched => {
                let durability = if kind == Kind::Batched { "batched" } else { "synced" };
                let workers = if with_performers { workers(folder.path()) } else { String::new() };
                let roster = sidecar(format!("durability = \"{durability}\"\n{workers}"));
                let place = roster.socket().to_owned();
                let server = Server::Roster(Box::new(roster));
                return Self { kind, place, server, performers: Vec::new(), folder };
            }
            Kind::Beanstalkd => {
                let mut command = Command::new("beanstalkd");
                let listen = format!("unix:{}", place.display());
                begin(command.args(["-f0", "-l", &listen, "-b"]).arg(folder.path()))
            }
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--bind", "127.0.0.1"]);
                command.args(["--port", &free_port().to_string(), "--dir"]).arg(folder.path());
                begin(command.arg("--unixsocket").arg(&place))
            }
            Kind::Sqlite => {
                let made = php("sqlite.php", &["make", &place.display().to_string()]).status().expect("PHP");
                assert!(made.success(), "PHP has no SQLite (has `make bench-deps` been run?)");
                Server::Nobody
            }
        };
        let mut rival = Self { kind, place, server, performers: Vec::new(), folder };
        if with_performers {
            rival.perform();
        }
        rival
    }

    pub(super) fn roster(&self) -> Option<&Roster> {
        match &self.server {
            Server::Roster(roster) => Some(roster),
            _ => None,
        }
    }

    fn perform(&mut self) {
        let start = |_| {
            let place = self.place.display().to_string();
            let trace = self.trace().display().to_string();
            Process::start(&mut php("perform.php", &[&format!("{:?}", self.kind), &place, &trace]), self.folder.path())
        };
        self.performers = (0..WORKERS).map(start).collect();
    }

    /// Where performers leave a line for each job: when it was enqueued, and when it was performed, in ns.
    pub(super) fn trace(&self) -> PathBuf {
        trace(self.folder.path())
    }

    /// None: by a process of PHP.
    pub(super) fn producer(&self) -> Option<Producer> {
        let connect = || BufReader::new(UnixStream::connect(&self.place).expect("it accepts"));
        match self.kind {
            Kind::Roster | Kind::Batched => {
                Some(Producer::Roster(Dialect::ALL[0].unix(&self.place).expect("it accepts")))
            }
            Kind::Beanstalkd => Some(Producer::Beanstalkd(connect())),
            Kind::Redis => Some(Producer::Redis(connect())),
            Kind::Sqlite => None,
        }
    }

    /// Has so many producers enqueue jobs one by one for so long; how many a second.
    pub(super) fn enqueued(&self, producers: usize, time: Duration) -> f64 {
        let count: usize = thread::scope(|scope| {
            let produce = |_| scope.spawn(|| self.produce(time));
            let threads: Vec<_> = (0..producers).map(produce).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        count as f64 / time.as_secs_f64()
    }

    fn produce(&self, time: Duration) -> usize {
        let Some(mut producer) = self.producer() else {
            let place = self.place.display().to_string();
            let output = php("sqlite.php", &["enqueue", &place, &time.as_millis().to_string()]).output().expect("PHP");
            return String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
        };
        let (until, payload) = (Instant::now() + time, "x".repeat(100));
        (0..).take_while(|_| Instant::now() < until).inspect(|_| producer.enqueue(&payload)).count()
    }

    /// What enqueues those of SQLite one by one as it is told, a line each.
    pub(super) fn scribe(&self) -> Child {
        let mut command = php("sqlite.php", &["read", &self.place.display().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("PHP")
    }
}

impl Producer {
    pub(super) fn enqueue(&mut self, payload: &str) {
        match self {
            Self::Roster(client) => {
                let reply = client.enqueue(EnqueueRequest { jobs: vec![job(payload)] }).expect("it is enqueued");
                assert!(reply.jobs[0].is_new);
            }
            Self::Beanstalkd(stream) => {
                let put = format!("put 5 0 60 {}\r\n{payload}\r\n", payload.len());
                assert!(ask(stream, &put).starts_with("INSERTED"));
            }
            Self::Redis(stream) => {
                let push = format!("*3\r\n$5\r\nRPUSH\r\n$5\r\n{QUEUE}\r\n${}\r\n{payload}\r\n", payload.len());
                assert!(ask(stream, &push).starts_with(':'));
            }
        }
    }
}

fn ask(stream: &mut BufReader<UnixStream>, request: &str) -> String {
    stream.get_mut().write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("an answer");
    answer
}

pub(super) fn job(payload: &str) -> NewJob {
    NewJob::new(QUEUE.into(), "job".into(), payload.as_bytes().to_vec(), None, None, None, None, None, None, None, None)
}

/// A sidecar that keeps jobs, and has a node.
pub(super) fn sidecar(settings: String) -> Roster {
    let mut roster = Roster::prepare(&format!(
        "[[file]]\npath = \"{{folder}}/nodes.toml\"\n[queue]\npath = \"{{folder}}/queue\"\nmax_jobs = 3000000\n\
         max_bytes = \"4GiB\"\n{settings}"
    ));
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"some data\"\n");
    // For the record of their processes.
    std::fs::create_dir_all(roster.state()).expect("a folder");
    let_wait(&roster);
    roster.run();
    roster.becomes("live");
    roster
}

fn workers(folder: &Path) -> String {
    let (program, trace) = (source("perform.php"), trace(folder));
    format!(
        "[[worker]]\nname = \"{QUEUE}\"\ncommand = [\"php\", {program:?}, \"Roster\", \"\", {trace:?}]\ncount = {WORKERS}\n\
         ready = \"message\"\n"
    )
}

fn trace(folder: &Path) -> PathBuf {
    let trace = folder.join("performed");
    File::options().append(true).create(true).open(&trace).expect("a file");
    trace
}

fn php(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("php");
    command.arg(source(script)).args(arguments);
    command
}

fn source(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/queue").join(script)
}
