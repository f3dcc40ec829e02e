//! The prober: finds out which addresses of held instances still accept connections, and keeps the guard informed of
//! the time.
//!
//! A node can name any host and port, so anyone who writes below a registered root makes every sidecar connect there.
//! Clients do so anyway while the node exists; yet no sidecar may scan a network or flood a host because of it. So it
//! only connects and sends nothing, at limited rates in all, per service and per host; not to multicast groups or to
//! the sidecar's own ports; and only while the guard holds something.

mod schedule;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use roster_net::names::{Names, NotFound};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::schedule::Schedule;
use crate::guard::{Found, Now, Target};
use crate::metrics::Metrics;
use crate::model::{Revision, is_of_one_host};
use crate::net::Address;
use crate::store::Store;
use crate::task::Stop;

/// How many connections may be under way at once.
const MAX_RUNNING: usize = 64;

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 2;

/// How many names are looked up at once.
const MAX_LOOKUPS: usize = 8;

/// How often results are reported, and due probes started.
const INTERVAL: Duration = Duration::from_millis(100);

/// The ports of the sidecar itself: a connection there would take the place of a client's.
#[derive(Debug, Default)]
pub struct Own(Vec<u16>);

impl Own {
    pub fn of<'a>(addresses: impl Iterator<Item = &'a Address>) -> Self {
        let ports = addresses.filter_map(|address| match address {
            Address::Tcp(address) => address.rsplit_once(':')?.1.parse().ok(),
            Address::Unix(_) => None,
        });
        Self(ports.collect())
    }

    /// Whether the address belongs to this machine, and the port to the sidecar.
    fn has(&self, address: SocketAddr) -> bool {
        self.0.contains(&address.port()) && UdpSocket::bind((address.ip().to_canonical(), 0)).is_ok()
    }
}

/// The result of a step of a probe.
#[derive(Debug)]
enum Step {
    /// The addresses of its host name.
    Resolved(Vec<SocketAddr>),
    /// Slow lookups occupy all the threads.
    PutOff,
    /// None: unknown.
    Found(Option<Found>),
}

struct Prober {
    store: Arc<Store>,
    own: Own,
    names: Names,
    lookups: Arc<Semaphore>,
    within: Duration,
    metrics: Arc<Metrics>,
    schedule: Schedule,
    running: FuturesUnordered<BoxFuture<'static, (Arc<str>, Step)>>,
    found: Vec<(Arc<str>, Found)>,
    /// The revision whose targets are scheduled.
    seen: Option<Revision>,
}

/// Probes held instances, and lets the guard's time pass, until the stop.
pub async fn run(store: Arc<Store>, own: Own, metrics: Arc<Metrics>, stop: Stop) {
    let config = store.snapshot().directory().guard().config().clone();
    let mut prober = Prober {
        own,
        names: Names::new(MAX_LOOKUPS),
        lookups: Semaphore::new(MAX_LOOKUPS).into(),
        within: config.probe_timeout,
        metrics,
        schedule: Schedule::new(config, Instant::now()),
        running: FuturesUnordered::new(),
        found: Vec::new(),
        seen: None,
        store: store.clone(),
    };
    let revisions = store.subscribe_to_revisions();
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_idle = prober.running.is_empty() && store.snapshot().directory().guard().is_idle();
        tokio::select! {
            () = stop.requested() => return,
            () = revisions.changed(), if is_idle => {}
            Some((address, step)) = prober.running.next(), if !prober.running.is_empty() => prober.take(address, step),
            _ = tick.tick(), if !is_idle => prober.work(),
        }
    }
}

impl Prober {
    fn take(&mut self, address: Arc<str>, step: Step) {
        let now = Instant::now();
        match step {
            Step::Resolved(addresses) => {
                let usable = addresses.into_iter().filter(|it| is_of_one_host(it.ip()) && !self.own.has(*it));
                let usable: Vec<_> = usable.take(MAX_ADDRESSES).collect();
                if usable.is_empty() {
                    self.schedule.probed(&address, now);
                } else if usable
                    .iter()
                    .all(|it| self.schedule.admits(&address, format!("={}", it.ip().to_canonical()), now))
                {
                    self.metrics.probes.add(usable.len() as u64);
                    let within = self.within;
                    self.running.push(async move { (address, Step::Found(probe(usable, within).await)) }.boxed());
                } else {
                    self.schedule.put_off(&address, now);
                }
            }
            Step::PutOff => self.schedule.put_off(&address, now),
            Step::Found(found) => {
                self.schedule.probed(&address, now);
                self.found.extend(found.map(|found| (address, found)));
            }
        }
    }

    /// Reports results, lets time pass, and starts what is due.
    fn work(&mut self) {
        if !self.found.is_empty() {
            let found = std::mem::take(&mut self.found);
            self.store.guard(|guard, _| guard.probed(&found));
        }
        if self.store.snapshot().directory().guard().is_due(Now::read()) {
            self.store.guard(|guard, now| guard.pass(now));
        }
        let (snapshot, now) = (self.store.snapshot(), Instant::now());
        if self.seen.replace(snapshot.revision()) != Some(snapshot.revision()) {
            self.schedule.set(snapshot.directory().guard().targets(), now);
        }
        // A name that waits for its turn would take the place of an address.
        while self.running.len() < MAX_RUNNING
            && let turn = self.lookups.clone().try_acquire_owned().ok()
            && let Some((address, target)) = self.schedule.next(now, turn.is_some())
        {
            let turn = turn.filter(|_| target.has_name());
            let (names, within) = (self.names.clone(), self.within);
            self.running.push(
                async move {
                    let step = look_up(&names, &target, within).await;
                    drop(turn);
                    (address, step)
                }
                .boxed(),
            );
        }
    }
}

/// Resolves a host name.
async fn look_up(names: &Names, target: &Target, within: Duration) -> Step {
    names.look_up(&target.address(), within).await.map_or_else(not_found, Step::Resolved)
}

fn not_found(why: NotFound) -> Step {
    match why {
        // If the name does not exist, no client could connect.
        NotFound::Unknown(_) => Step::Found(Some(Found::Silent)),
        NotFound::Failed(_) | NotFound::Late => Step::Found(None),
        NotFound::Busy => Step::PutOff,
    }
}

/// Connects to the first of these addresses that accepts connections; the result is refused if all of them refuse.
/// None: this machine is unable to connect.
async fn probe(addresses: Vec<SocketAddr>, within: Duration) -> Option<Found> {
    let mut all_refuse = true;
    for address in addresses {
        match timeout(within, TcpStream::connect(address)).await {
            // With nobody listening, a socket of this machine may have connected to itself.
            Ok(Ok(stream)) if stream.local_addr().ok() == stream.peer_addr().ok() => {}
            Ok(Ok(_)) => return Some(Found::Answering),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
            Ok(Err(error)) if !is_of_network(&error) => return None,
            Ok(Err(_)) | Err(_) => all_refuse = false,
        }
    }
    Some(if all_refuse { Found::Refused } else { Found::Silent })
}

/// Whether an error is about the network rather than about this machine.
fn is_of_network(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn what_listens_answers_and_what_does_not_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = listener.local_addr().expect("an address");
        let second = Duration::from_secs(1);
        assert_eq!(probe(vec![here], second).await, Some(Found::Answering));
        // Nobody else listens at a port that is taken.
        let taken = [(); 2].map(|()| TcpSocket::new_v4().expect("a socket"));
        taken.iter().for_each(|socket| socket.bind(([127, 0, 0, 1], 0).into()).expect("a port"));
        let [one, other] = taken.each_ref().map(|socket| socket.local_addr().expect("an address"));
        assert_eq!(probe(vec![one], second).await, Some(Found::Refused));
        assert_eq!(probe(vec![one, other], second).await, Some(Found::Refused));
        assert_eq!(probe(vec![one, here], second).await, Some(Found::Answering));
    }

    #[tokio::test]
    async fn where_no_name_can_be_looked_up_nothing_is_said_of_a_host() {
        let target = Target { host: "localhost".into(), port: 7 };
        let busy = look_up(&Names::new(0), &target, Duration::from_secs(30)).await;
        assert!(matches!(busy, Step::PutOff), "{busy:?}");
        let late = look_up(&Names::new(1), &target, Duration::ZERO).await;
        assert!(matches!(late, Step::Found(None) | Step::Resolved(_)), "{late:?}");
        let unknown = not_found(io::Error::from(ErrorKind::AddrNotAvailable).into());
        assert!(matches!(unknown, Step::Found(Some(Found::Silent))), "{unknown:?}");
        let failed = not_found(io::Error::other("Temporary failure in name resolution").into());
        assert!(matches!(failed, Step::Found(None)), "{failed:?}");
    }

    #[test]
    fn nobody_connects_to_a_group_or_to_the_sidecar_itself() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for text in ["0.0.0.0", "::", "224.0.0.1", "::ffff:224.0.0.1", "::ffff:0.0.0.0", "ff02::1", "255.255.255.255"] {
            assert!(!is_of_one_host(ip(text)), "{text}");
        }
        assert!(is_of_one_host(ip("10.0.0.5")) && is_of_one_host(ip("::1")));
        let own = Own::of([Address::Tcp("127.0.0.1:9090".into()), Address::Unix("/run/x".into())].iter());
        let has = |text: &str| own.has(text.parse().expect("an address"));
        assert!(has("127.0.0.1:9090") && has("127.0.0.2:9090") && has("[::ffff:127.0.0.1]:9090"));
        assert!(!has("127.0.0.1:9091") && !has("192.0.2.1:9090"));
    }
}
