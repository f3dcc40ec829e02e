//! Masters of both kinds at the first sidecar's register, and callers of them and of its workers who count how often each
//! call was executed.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use roster::master::{Config, Master, MethodError, Service};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::dice::Dice;
use crate::harness::{Client, Dialect, Process};
use crate::idl::{Call, CallFailed, NoMaster, Overloaded, TRosterSyncClient};
use crate::scene::TOKEN;

/// The masters, each with a service of its own name.
pub(crate) const NAMES: [&str; 3] = ["php-0", "php-1", "rust-0"];

/// The key under which the model knows a master.
pub(crate) fn key(name: &str) -> String {
    format!("master {name}")
}

/// The masters. They go with this.
#[derive(Debug)]
pub(crate) struct Masters {
    php: [Option<Process>; 2],
    rust: Option<Master>,
    register: u16,
    folder: TempDir,
    runtime: Runtime,
}

impl Masters {
    pub(crate) fn start(register: u16) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let mut masters = Self { php: [None, None], rust: None, register, folder, runtime };
        (0..NAMES.len()).for_each(|number| masters.run(number));
        masters
    }

    pub(crate) fn run(&mut self, number: usize) {
        match self.php.get_mut(number) {
            Some(place) => {
                let mut php = Command::new("php");
                php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php"));
                php.args([&self.register.to_string(), TOKEN, NAMES[number]]);
                let said = std::fs::File::create(self.folder.path().join(NAMES[number])).expect("a file");
                php.stdout(said.try_clone().expect("a file")).stderr(said);
                // Its guardian must not take the traces away.
                *place = Some(Process::start(&mut php, &self.folder.path().join("nothing")));
            }
            None => self.rust = Some(self.run_rust()),
        }
    }

    fn run_rust(&self) -> Master {
        let _runtime = self.runtime.enter();
        let mut config = Config::new(TOKEN);
        config.longest_retry_delay = Duration::from_secs(2);
        let master = Master::start(config);
        let trace = self.trace();
        master.offer(Service::new(NAMES[2]));
        master.offer(Service::new("trace").method("append", move |(text,): (String,)| {
            let trace = trace.clone();
            async move {
                let mut file = OpenOptions::new().create(true).append(true).open(trace).expect("a trace");
                file.write_all(text.as_bytes()).expect("it is appended");
                // Long enough to be broken off.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, MethodError>(true)
            }
        }));
        master.connect(("127.0.0.1", self.register));
        master
    }

    pub(crate) fn kill(&mut self, number: usize) {
        match self.php.get_mut(number) {
            Some(place) => *place = None,
            None => self.rust = None,
        }
    }

    /// One in PHP.
    pub(crate) fn process(&self, number: usize) -> &Process {
        self.php[number].as_ref().expect("it runs")
    }

    /// Where each call leaves a line.
    pub(crate) fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }
}

/// Threads that call masters through a sidecar each, until this is dropped.
#[derive(Debug)]
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    calls: Arc<Calls>,
    threads: Vec<JoinHandle<()>>,
}

/// What each call came to, and where it left its trace.
#[derive(Debug)]
struct Calls {
    trace: PathBuf,
    next: AtomicU64,
    ended: Mutex<HashMap<u64, Executed>>,
}

/// How often a call must have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executed {
    Once,
    Never,
    AtMostOnce,
}

impl Callers {
    pub(crate) fn start(trace: PathBuf, sockets: &[&Path], dice: &Dice) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let calls = Arc::new(Calls { trace, next: AtomicU64::new(0), ended: Mutex::default() });
        let caller = |socket: &&Path| {
            let (socket, calls, stop, dice) = (socket.to_path_buf(), calls.clone(), stop.clone(), dice.another());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A sidecar that is away takes no calls.
                    let _ = Dialect::ALL[0].unix(&socket).map(|mut client| calls.make(&mut client, &dice, &stop));
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        let threads = sockets.iter().map(caller).collect();
        Self { stop, calls, threads }
    }

    /// How many calls have ended.
    pub(crate) fn count(&self) -> usize {
        self.calls.ended.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// `Err` with the first call that was executed otherwise than it was told.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ended = self.calls.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trace = std::fs::read_to_string(&self.calls.trace).unwrap_or_default();
        let mut times: HashMap<u64, usize> = HashMap::new();
        for number in trace.lines().filter_map(|line| line.parse().ok()) {
            *times.entry(number).or_default() += 1;
        }
        if let Some((number, times)) = times.iter().find(|(_, times)| **times > 1) {
            return Err(format!("call {number} was executed {times} times"));
        }
        let wrong = ended.iter().find(|(number, executed)| match executed {
            Executed::Once => !times.contains_key(number),
            Executed::Never => times.contains_key(number),
            Executed::AtMostOnce => false,
        });
        wrong.map_or(Ok(()), |(number, told)| {
            Err(format!("call {number} was told to be executed {told:?}, and was not"))
        })
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a caller does not panic"));
    }
}

impl Calls {
    fn make(&self, client: &mut Client, dice: &Dice, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let line = format!("{number}\n");
            let (service, arguments) = match dice.below(3) {
                0 => ("trace", json!([line])),
                1 => ("control", json!([self.trace, line])),
                _ => ("work", json!([self.trace, line])),
            };
            let called =
                client.call(Call { timeout_ms: Some(2_000), ..Call::of(service, "append", arguments.to_string()) });
            let is_broken = matches!(&called, Err(error) if !matches!(error, thrift::Error::User(_)));
            self.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(number, executed(called.map(drop)));
            if is_broken {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn executed(called: thrift::Result<()>) -> Executed {
    match called {
        Ok(()) => Executed::Once,
        Err(thrift::Error::User(error)) if error.is::<NoMaster>() || error.is::<Overloaded>() => Executed::Never,
        Err(thrift::Error::User(error)) => match error.downcast_ref::<CallFailed>() {
            Some(failed) if !failed.lost => Executed::Never,
            _ => Executed::AtMostOnce,
        },
        Err(_) => Executed::AtMostOnce,
    }
}
