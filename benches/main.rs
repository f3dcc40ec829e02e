//! `make bench`: Roster beside what one would take in its place, and beside the machine's limit.
//!
//! Each part compares in one run, by rounds that are interleaved, and tells medians. Quote the ratios: absolute times
//! are this machine's. `BENCH=endpoint` runs one part, `QUICK=1` a short form of all, `FULL=1` every case.

mod endpoint;
mod growth;
#[allow(dead_code, unused_imports)]
#[path = "../tests/it/harness/mod.rs"]
mod harness;
mod herd;
mod load;
mod masters;
mod measure;
mod mirror;
mod php;
mod plot;
mod queue;
mod report;
mod start;
mod watchers;
mod workers;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{env, panic, process, thread};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use report::Report;
pub(crate) use roster::thrift::idl;

type Part = fn(&mut Report);

/// What `BENCH` may name, in the order in which they run.
const PARTS: [(&str, Part); 10] = [
    ("endpoint", endpoint::run),
    ("php", php::run),
    ("mirror", mirror::run),
    ("masters", masters::run),
    ("watchers", watchers::run),
    ("start", start::run),
    ("growth", growth::run),
    ("herd", herd::run),
    ("workers", workers::run),
    ("queue", queue::run),
];

fn main() {
    // The limits are processes of their own, since their processor time is measured too.
    if let [_, command, arguments @ ..] = env::args().collect::<Vec<_>>().as_slice() {
        match command.as_str() {
            endpoint::BARE => return endpoint::bare(arguments),
            role if workers::play(role, arguments) => return,
            _ => {}
        }
    }
    let chosen = env::var("BENCH").unwrap_or_default();
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| chosen.is_empty() || chosen == *name).collect();
    assert!(!parts.is_empty(), "BENCH={chosen}: there is {}", PARTS.map(|(name, _)| name).join(", "));
    let mut report = Report::new(form());
    end_soon_after_a_failure();
    for (name, run) in parts {
        in_time(name, || run(&mut report));
    }
    report.finish();
}

/// How long others may wait for one who has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(60);

/// Who has failed is told at once. That ends everything, with the logs of the sidecars; and in any case it ends in
/// time.
fn end_soon_after_a_failure() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |failure| {
        tell(failure);
        thread::spawn(|| {
            thread::sleep(AFTER_A_FAILURE);
            process::exit(1);
        });
    }));
}

/// Runs a part, and ends everything if that takes far too long: somebody waits for what does not come.
fn in_time(name: &'static str, part: impl FnOnce()) {
    let most = Duration::from_secs(match form() {
        Form::Quick => 10 * 60,
        Form::Usual => 20 * 60,
        Form::Full => 90 * 60,
    });
    let (_done, is_done) = channel::<()>();
    thread::spawn(move || {
        if is_done.recv_timeout(most) == Err(RecvTimeoutError::Timeout) {
            eprintln!("part {name}: not done within {most:?}");
            process::exit(1);
        }
    });
    part();
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Enough to see that everything works.
    Quick,
    Usual,
    /// Every case.
    Full,
}

pub(crate) fn form() -> Form {
    match ["QUICK", "FULL"].map(|name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")) {
        [true, _] => Form::Quick,
        [_, true] => Form::Full,
        _ => Form::Usual,
    }
}

/// Lets a sidecar wait for its clients: on a busy machine they may be kept from asking for longer than by default.
pub(crate) fn let_wait(sidecar: &harness::Roster) {
    sidecar.configure("[thrift]\n", "[thrift]\nfirst_byte_timeout = \"20s\"\n");
}

/// How many descriptors a process may have: as many as it may be allowed.
pub(crate) fn descriptors() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as may be");
    usize::try_from(most).unwrap_or(usize::MAX)
}
