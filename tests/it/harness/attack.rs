//! An adversary and its victim: this program again, as other users, since the sidecar knows its clients by their uids.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Connection;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{Dialect, Roster, offering, read_some, runtime};
use crate::idl::{Call, CallsRequest, ChildrenRequest, SubtreeRequest, WatchRequest};

/// The users that they are. Nobody has to know them by name.
const ADVERSARY: u32 = 61_001;
const VICTIM: u32 = 61_002;

/// What tells this program that it is one of them: what it does, to which socket, for how many milliseconds.
const ROLE: &str = "ROSTER_TEST_ROLE";

const BINARY: Dialect = Dialect { compact: false, framed: false };

/// For how many seconds to attack with all connections, against a release build.
pub(crate) const FULL_FORCE: &str = "ATTACK_SECONDS";

/// How soon an adversary that was sent away comes again.
const AGAIN: Duration = Duration::from_millis(5);

/// How long the victim waits for an answer, and how long between two requests.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);

/// What an adversary does, by as many connections as it can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// It sends requests without end, and reads all replies.
    Get,
    Children,
    Subtree,
    Instances,
    /// It reads none.
    Unread,
    /// It watches as many paths as there may be.
    Watches,
    /// It calls a master that never answers, many times at once.
    HungCalls,
    /// It does so with arguments that take as much memory as they may.
    LargeCalls,
    /// It sends nearly the whole of a large request.
    HalfSent,
    /// It connects, and connects anew.
    Connects,
}

impl Attack {
    pub(crate) const ALL: [Attack; 10] = [
        Attack::Get,
        Attack::Children,
        Attack::Subtree,
        Attack::Instances,
        Attack::Unread,
        Attack::Watches,
        Attack::HungCalls,
        Attack::LargeCalls,
        Attack::HalfSent,
        Attack::Connects,
    ];

    fn connections(self) -> usize {
        let all = match self {
            Attack::Get | Attack::Children | Attack::Subtree => 900,
            Attack::Instances | Attack::LargeCalls | Attack::HalfSent => 400,
            Attack::Unread | Attack::Connects => 2_048,
            Attack::Watches => 16_384,
            Attack::HungCalls => 100,
        };
        // A page takes a sidecar with debug assertions a hundred times as long, and other tests run beside this one.
        if std::env::var_os(FULL_FORCE).is_some() { all } else { all / 8 }
    }

    fn request(self) -> Vec<u8> {
        let many = |arguments: Vec<u8>, count: usize| {
            BINARY.call("callMany", 1, &CallsRequest { calls: vec![hung(arguments); count] })
        };
        match self {
            Attack::Get => BINARY.get(1, "/a"),
            Attack::Children => BINARY.call("children", 1, &ChildrenRequest::new("/many".to_owned(), None, None, None)),
            Attack::Subtree | Attack::Unread => {
                BINARY.call("subtree", 1, &SubtreeRequest::new("/".to_owned(), None, None, None))
            }
            Attack::Instances => BINARY.call("instances", 1, &offering("fat")),
            Attack::Watches => {
                let paths: Vec<String> = (0..1_024).map(|number| format!("/nothing/at/all/{number}")).collect();
                BINARY.call("watch", 1, &WatchRequest::new(i64::MAX, None, paths, 60_000, None))
            }
            Attack::HungCalls => many(Vec::new(), 256),
            Attack::LargeCalls => {
                let arguments = format!("[{}1]", "1,".repeat(20_000)).into_bytes();
                many(arguments, 20)
            }
            Attack::HalfSent => {
                let whole = BINARY.call("call", 1, &Call::of("hung", "m", vec![b' '; 900_000]));
                whole[..whole.len() - 10].to_vec()
            }
            Attack::Connects => Vec::new(),
        }
    }

    /// Attacks by one connection, until it is closed.
    async fn once(self, socket: &Path, request: &[u8]) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(socket).await?;
        match self {
            Attack::Connects => return Ok(()),
            Attack::Unread => loop {
                stream.write_all(request).await?;
            },
            Attack::Watches => {
                stream.write_all(request).await?;
                let mut reply = vec![0; 4_096];
                let length = stream.read(&mut reply).await?;
                stream.write_all(&since(&reply[..length], request)).await?;
            }
            Attack::HungCalls | Attack::LargeCalls | Attack::HalfSent => stream.write_all(request).await?,
            Attack::Get | Attack::Children | Attack::Subtree | Attack::Instances => {
                let (mut from, mut to) = stream.split();
                let many = request.repeat(100);
                let asks = async {
                    loop {
                        to.write_all(&many).await?;
                    }
                };
                return tokio::select! { ended = asks => ended, ended = read_all(&mut from) => ended };
            }
        };
        read_all(&mut stream).await
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let attack = Self::ALL.into_iter().find(|attack| format!("{attack:?}") == name);
        attack.ok_or_else(|| format!("no attack is called {name}"))
    }
}

/// A watch since the revision that the reply to the same watch says: that one asked for what is yet to come, and was
/// told at once to start over.
fn since(reply: &[u8], watch: &[u8]) -> Vec<u8> {
    const FRESHNESS: &[u8] = &[12, 0, 3, 10, 0, 1];
    let told = reply.windows(FRESHNESS.len()).position(|bytes| bytes == FRESHNESS).map(|at| at + FRESHNESS.len());
    let revision = told.and_then(|at| reply.get(at..at + 8)).unwrap_or(&[0; 8]);
    let at = watch.windows(8).position(|bytes| bytes == i64::MAX.to_be_bytes()).expect("a watch says since when");
    [&watch[..at], revision, &watch[at + 8..]].concat()
}

/// A call that no master ever answers.
fn hung(arguments: Vec<u8>) -> Call {
    Call { timeout_ms: Some(60_000), ..Call::of("hung", "never", arguments) }
}

async fn read_all(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    while from.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// A program that attacks until this is dropped.
#[derive(Debug)]
pub(crate) struct Adversary(Child);

/// What became of the requests of a user who does no harm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suffered {
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    /// How long requests took on a connection that was kept, and on new ones with connecting.
    pub(crate) kept: Times,
    pub(crate) new: Times,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

impl Times {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort();
        let at = |part: usize| took.get((took.len() * part / 1000).min(took.len().saturating_sub(1))).copied();
        let [median, p99, longest] = [500, 990, 1000].map(|part| at(part).unwrap_or_default());
        Self { median, p99, longest }
    }

    fn from_micros(micros: [u64; 3]) -> Self {
        let [median, p99, longest] = micros.map(Duration::from_micros);
        Self { median, p99, longest }
    }

    fn micros(self) -> [u128; 3] {
        [self.median, self.p99, self.longest].map(|time| time.as_micros())
    }
}

impl Roster {
    /// Lets other users come to its socket, which `[thrift] mode` must allow too.
    pub(crate) fn open_to_all(&self) {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.folder(), open).expect("the folder is ours");
    }

    pub(crate) fn attack(&self, attack: Attack) -> Adversary {
        Adversary(again(ADVERSARY, &format!("{attack:?}"), self.socket(), Duration::MAX).spawn().expect("it starts"))
    }

    /// What a second user suffers meanwhile, who asks for a node again and again: by one connection, and by a new one.
    pub(crate) fn suffers(&self, how_long: Duration) -> Suffered {
        let output = again(VICTIM, "victim", self.socket(), how_long).stdout(Stdio::piped()).output();
        let output = String::from_utf8(output.expect("it runs").stdout).expect("text");
        let line = output.lines().find_map(|line| line.strip_prefix("suffered ")).unwrap_or_else(|| panic!("{output}"));
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let &[answered, failed, ref kept @ .., a, b, c] = &numbers[..] else { panic!("{line}") };
        let kept = Times::from_micros(kept.try_into().expect("three numbers"));
        Suffered { answered: answered as usize, failed: failed as usize, kept, new: Times::from_micros([a, b, c]) }
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn again(user: u32, role: &str, socket: &Path, how_long: Duration) -> Command {
    // By this name it can be started whoever may look into the folder where it lies.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--ignored", "--exact", "attacks::as_another_user", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{role} {} {}", how_long.as_millis(), socket.display()));
    command.uid(user).gid(user).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Does what this program was started again for. False: it was not.
pub(crate) fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let [role, how_long, socket] = role.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let socket = PathBuf::from(socket);
    if role == "victim" {
        let how_long = Duration::from_millis(how_long.parse().expect("milliseconds"));
        let Suffered { answered, failed, kept, new } = suffer(&socket, how_long);
        let times = [kept.micros(), new.micros()].concat().iter().map(u128::to_string).collect::<Vec<_>>().join(" ");
        println!("\nsuffered {answered} {failed} {times}");
    } else {
        attack(role.parse().expect("an attack"), &socket);
    }
    true
}

fn attack(attack: Attack, socket: &Path) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as may be");
    let (request, socket): (Arc<[u8]>, Arc<Path>) = (attack.request().into(), socket.into());
    runtime().block_on(async {
        for _ in 0..attack.connections() {
            let (request, socket) = (request.clone(), socket.clone());
            tokio::spawn(async move {
                loop {
                    let _ = attack.once(&socket, &request).await;
                    sleep(AGAIN).await;
                }
            });
        }
        std::future::pending::<()>().await
    });
}

fn suffer(socket: &Path, how_long: Duration) -> Suffered {
    let (mut kept_took, mut new_took, mut failed, mut kept) = (Vec::new(), Vec::new(), 0, None);
    let start = Instant::now();
    while start.elapsed() < how_long {
        let begin = Instant::now();
        let asked = kept.take().map_or_else(|| connect(socket), Ok).and_then(|stream| {
            let (stream, kept_takes) = timed(|| ask(stream))?;
            let (_, new_takes) = timed(|| connect(socket).and_then(ask))?;
            Ok((stream, kept_takes, new_takes))
        });
        match asked {
            Ok((stream, kept_takes, new_takes)) => {
                kept = Some(stream);
                kept_took.push(kept_takes);
                new_took.push(new_takes);
            }
            Err(error) => {
                eprintln!("the victim: {error} after {:?}", begin.elapsed());
                failed += 1;
            }
        }
        std::thread::sleep(PAUSE);
    }
    Suffered { answered: kept_took.len(), failed, kept: Times::of(kept_took), new: Times::of(new_took) }
}

fn timed<T>(what: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<(T, Duration)> {
    let begin = Instant::now();
    what().map(|result| (result, begin.elapsed()))
}

fn connect(socket: &Path) -> std::io::Result<Connection> {
    let stream = Connection::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(mut stream: Connection) -> std::io::Result<Connection> {
    stream.write_all(&BINARY.get(1, "/a"))?;
    let mut reply = [0; 4096];
    let mut length = 0;
    // The last field of the reply is the freshness, whose last byte but two is that of `complete`.
    while length < 12 || reply[..length].last_chunk() != Some(&[0, 0]) {
        match read_some(&mut stream, &mut reply[length..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    // An absence is an answer; an exception of the sidecar's, such as "overloaded", is none.
    const REPLY: u8 = 2;
    if reply[3] == REPLY { Ok(stream) } else { Err(std::io::Error::other(String::from_utf8_lossy(&reply[..length]))) }
}
