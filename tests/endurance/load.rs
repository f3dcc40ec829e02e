//! A load of calls of one master in PHP, beside all faults: whatever they come to, none may leave anything behind in
//! it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Client, Dialect, Process, Roster, SOON, eventually};
use crate::idl::{Call, TRosterSyncClient};
use crate::scene::TOKEN;

/// Only this master offers it.
const SERVICE: &str = "load";

/// No more calls than that.
const MOST: u64 = 1_000_000;

/// Who call at once.
const CALLERS: usize = 4;

/// What the master may hold more in the end: it compiles a few lines for each connection, and a sidecar is restarted
/// often.
const MOST_MORE: i64 = 1_000_000;

/// What each of them rests between two calls: in a quarter of an hour there are about as many as may be, and time for
/// others.
const REST: Duration = Duration::from_millis(2);

/// How often a caller looks for a sidecar that is away.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Load {
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
    before: i64,
    _master: Process,
    _folder: TempDir,
}

impl Load {
    /// Begins to call, through the sidecar to whose register the master connects.
    pub(crate) fn start(roster: &Roster, register: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let said = std::fs::File::create(folder.path().join("said")).expect("a file");
        let mut php = Command::new("php");
        php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php"));
        php.args([&register.to_string(), TOKEN, SERVICE]).stdout(said.try_clone().expect("a file")).stderr(said);
        let master = Process::start(&mut php, &folder.path().join("nothing"));
        let before = floor(roster);
        let (made, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let caller = |_| {
            let (socket, made, stop) = (roster.socket().to_path_buf(), made.clone(), stop.clone());
            std::thread::spawn(move || call(&socket, &made, &stop))
        };
        let callers = (0..CALLERS).map(caller).collect();
        Self { made, stop, callers, before, _master: master, _folder: folder }
    }

    /// How many calls were answered.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many bytes more the master holds than before; `Err`: too many.
    pub(crate) fn more(&self, roster: &Roster) -> Result<i64, String> {
        let more = floor(roster) - self.before;
        if more > MOST_MORE { Err(format!("{} calls left {more} bytes behind", self.made())) } else { Ok(more) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.drain(..).for_each(|caller| caller.join().expect("a caller does not panic"));
    }
}

/// Calls in vain count for nothing: what becomes of calls is checked elsewhere.
fn call(socket: &Path, made: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut client) = Dialect::ALL[0].unix(socket) {
            while !stop.load(Ordering::Relaxed) && made.load(Ordering::Relaxed) < MOST {
                let called = client.call(call_of("echo", "[\"x\"]"));
                match called {
                    Ok(_) => {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(REST);
                    }
                    Err(thrift::Error::User(_)) => std::thread::sleep(PAUSE),
                    Err(_) => break,
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// What the master holds when nothing waits to be thrown away.
fn floor(roster: &Roster) -> i64 {
    eventually("the master tells what it holds", 2 * SOON, || {
        let mut client: Client = roster.try_client(Dialect::ALL[0]).map_err(|error| format!("{error:?}"))?;
        let told = client.call(call_of("memory", "[]"));
        let told = told.map_err(|error| format!("{error:?}"))?;
        std::str::from_utf8(&told.values[0]).ok().and_then(|bytes| bytes.parse().ok()).ok_or("no number".to_owned())
    })
}

fn call_of(method: &str, arguments: &str) -> Call {
    Call { timeout_ms: Some(2_000), ..Call::of(SERVICE, method, arguments) }
}
