//! What the tests are told with: a ZooKeeper, a sidecar, clients, watchers, and the truth.

pub(crate) mod attack;
mod cli;
mod client;
mod clock;
mod crowd;
mod cutter;
mod ensemble;
mod extra_address;
pub(crate) mod fake_zk;
mod fpm;
mod held_disk;
mod library;
mod link;
pub(crate) mod master;
mod process;
mod redis;
mod release;
mod roster;
mod scene;
mod server;
mod sleep;
pub(crate) mod truth;
mod two_addresses;
mod users;
pub(crate) mod watcher;
mod wire;
mod zk;

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

pub(crate) use self::cli::{Ended, Printing, binary, binary_path, unconfigured};
pub(crate) use self::client::{Client, Dialect, exception, offering};
pub(crate) use self::clock::Clock;
pub(crate) use self::crowd::Crowd;
pub(crate) use self::cutter::Cutter;
pub(crate) use self::ensemble::Ensemble;
pub(crate) use self::extra_address::ExtraAddress;
pub(crate) use self::fpm::Fpm;
pub(crate) use self::held_disk::HeldDisk;
pub(crate) use self::link::{Link, ODD_NAME};
pub(crate) use self::process::Process;
pub(crate) use self::redis::Redis;
pub(crate) use self::release::{MULTI_READS, chosen, class_path, fetched, is_fetched, is_skipped_before, release};
pub(crate) use self::roster::Roster;
pub(crate) use self::scene::{Scene, fresh_chroot, source};
pub(crate) use self::server::{NEARLY_FULL, Server, four_letters};
pub(crate) use self::sleep::Sleep;
pub(crate) use self::truth::Tree;
pub(crate) use self::two_addresses::{DeadAddress, TwoAddresses};
pub(crate) use self::users::{WWW_DATA, as_www_data, is_skipped_unless, is_skipped_without_root, of_www_data};
pub(crate) use self::watcher::Watcher;
pub(crate) use self::zk::{Zk, known_to};

/// How long anything may take that nothing holds up.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` holds and answers what it found, or fails with the last reason why it did not.
pub(crate) fn eventually<T, E: Display>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(found) => return found,
            Err(why) if start.elapsed() > within => panic!("{what}: not within {within:?}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// `Err` with the reason, unless the condition holds.
pub(crate) fn ensure(holds: bool, why: impl Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_string()) }
}

/// Reads what has come. A signal, such as the end of a child of another test, interrupts whoever reads with a time
/// limit.
pub(crate) fn read_some(from: &mut impl std::io::Read, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Tells the threads of a test that it is over when dropped, also when it fails.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A port that nobody has, and no other test gets. It lies below those that the kernel gives to clients, so that none
/// takes it while its server restarts.
pub(crate) fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let first = || AtomicU16::new(10_000 + (std::process::id() % 200) as u16 * 100);
    loop {
        let port = NEXT.get_or_init(first).fetch_add(1, Ordering::Relaxed);
        if is_free(port).is_ok() {
            return port;
        }
    }
}

/// Does not listen there: a process that another thread is starting has what is open here for a moment, and would be in
/// the way of whoever is to listen.
fn is_free(port: u16) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}

/// Where the asynchronous parts of the harness run. The tests themselves are plain threads.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime")
    })
}
