//! The servers of an ensemble: where they are, and a connection to one that gives a session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::chroot::Chroot;
use super::connection::{Connection, SILENCE};
use super::credentials::Identity;
use super::handshake::NoSession;
use super::jute::Ticket;
use super::watching::Watching;
use super::{Config, address_of, is_secured, servers};
use crate::sync::{Mutex, MutexGuard};
use crate::task::random_below;

/// The port of a server that has none.
const PORT: u16 = 2181;

/// Of how many servers it is told why they give no session.
const MAX_TOLD: usize = 3;

/// How long names may be looked up where addresses are known from before: a session's time may be running.
const LOOKUP: Duration = Duration::from_secs(1);

/// What `zookeeper.connect` names. Clones share what was learned.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    addresses: Vec<String>,
    /// Which of them are spoken to by TLS, each by the name that its certificate must have.
    secured: Vec<Option<String>>,
    config: Config,
    chroot: Chroot,
    learned: Arc<Mutex<Learned>>,
}

#[derive(Debug, Default)]
struct Learned {
    /// What each name meant when it was last found.
    found: BTreeMap<usize, Vec<SocketAddr>>,
    /// The addresses that failed since a connection was last sound; the last is the one that failed last.
    failed: Vec<SocketAddr>,
    /// The address of the last connection.
    connected: Option<SocketAddr>,
    /// The addresses of servers that refused a persistent watch.
    one_shot: BTreeSet<SocketAddr>,
}

impl Servers {
    pub(super) fn of(config: &Config) -> Self {
        let servers = servers(&config.connect);
        let secured = servers.clone().map(|server| is_secured(server).then(|| host(address_of(server)))).collect();
        let servers = servers.map(address_of);
        let chroot = servers.clone().next_back().and_then(|server| server.find('/').map(|slash| &server[slash..]));
        let chroot = Chroot::new(chroot.unwrap_or_default());
        Self {
            addresses: servers.map(address).collect(),
            secured,
            config: config.clone(),
            chroot,
            learned: Arc::default(),
        }
    }

    pub(super) fn chroot(&self) -> &Chroot {
        &self.chroot
    }

    /// Tries each server once, in an order of chance, those that failed last, until one gives a session.
    pub(super) async fn connect(
        &self,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Connection, Ticket), NoSession> {
        let patience = if self.learned().found.is_empty() { SILENCE } else { LOOKUP };
        let looked_up = join_all(self.addresses.iter().map(|address| look_up(address, patience))).await;
        let mut told = Vec::new();
        for (number, address) in self.round(looked_up, &mut told) {
            let tls = self.secured[number].as_deref().map(|host| (host, self.config.tls()));
            let no_session = match Connection::open(address, tls, ticket, last_zxid, identities).await {
                Ok(connected) => {
                    self.learned().connected = Some(address);
                    return Ok(connected);
                }
                Err(no_session) => no_session,
            };
            self.fail(address);
            match no_session {
                NoSession::Here(why) => told.push((number, why)),
                ended => return Err(ended),
            }
        }
        Err(NoSession::Here(self.told(told)))
    }

    /// The addresses to try, with the numbers of their servers. Where no name is found, all mean what they meant before.
    /// Where others are, one that is not may be gone, and its address be somebody else's.
    fn round(&self, looked_up: Vec<LookedUp>, told: &mut Vec<(usize, String)>) -> Vec<(usize, SocketAddr)> {
        let mut learned = self.learned();
        let is_dns_away = looked_up.iter().all(Result::is_err);
        let mut meant = Vec::new();
        for (number, looked_up) in looked_up.into_iter().enumerate() {
            match looked_up {
                Ok(found) => {
                    meant.push((number, found.clone()));
                    learned.found.insert(number, found);
                }
                Err(why) => match learned.found.get(&number).filter(|_| is_dns_away) {
                    Some(found) => meant.push((number, found.clone())),
                    None => told.push((number, why.to_owned())),
                },
            }
        }
        let in_turn = shuffled(meant.len()).into_iter().map(|at| &meant[at]);
        let mut round: Vec<_> =
            in_turn.flat_map(|(number, found)| found.iter().map(|address| (*number, *address))).collect();
        let is_in_round = |address: &SocketAddr| round.iter().any(|(_, other)| other == address);
        learned.failed.retain(is_in_round);
        learned.one_shot.retain(is_in_round);
        round.sort_by_key(|(_, address)| learned.failed.iter().position(|failed| failed == address));
        round
    }

    /// An address failed: it is tried after all others.
    pub(super) fn fail(&self, address: SocketAddr) {
        let mut learned = self.learned();
        learned.failed.retain(|failed| *failed != address);
        learned.failed.push(address);
    }

    /// A connection to this address was sound. What failed before it does not matter; and what the server could not do
    /// it may be able to do when it is sought again: it may have been upgraded.
    pub(super) fn forgive(&self, address: SocketAddr) {
        let mut learned = self.learned();
        learned.failed.clear();
        learned.one_shot.remove(&address);
    }

    /// The server that we are connected to refuses persistent watches.
    pub(super) fn refuse_persistent(&self) {
        let mut learned = self.learned();
        let refusing = learned.connected;
        learned.one_shot.extend(refusing);
    }

    /// By what the server tells of changes that we are connected to, as far as is known.
    pub(super) fn watching(&self) -> Watching {
        let learned = self.learned();
        let is_one_shot = learned.connected.is_some_and(|address| learned.one_shot.contains(&address));
        if is_one_shot { Watching::OneShot } else { Watching::Persistent }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().expect("nobody panics while holding it")
    }

    fn told(&self, mut whys: Vec<(usize, String)>) -> String {
        whys.sort();
        whys.dedup();
        let more = whys.len().saturating_sub(MAX_TOLD);
        let named = whys.iter().take(MAX_TOLD).map(|(number, why)| format!("{}: {why}", self.addresses[*number]));
        let more = (more > 0).then(|| format!("and {more} more"));
        named.chain(more).collect::<Vec<_>>().join("; ")
    }
}

type LookedUp = Result<Vec<SocketAddr>, &'static str>;

async fn look_up(name: &str, patience: Duration) -> LookedUp {
    const UNKNOWN: &str = "unknown host";
    match timeout(patience, lookup_host(name)).await {
        Ok(Ok(addresses)) => Some(addresses.collect()).filter(|found: &Vec<_>| !found.is_empty()).ok_or(UNKNOWN),
        Ok(Err(_)) => Err(UNKNOWN),
        Err(_) => Err("its name is not found in time"),
    }
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..count).collect();
    (0..count).map(|_| rest.swap_remove(random_below(rest.len()))).collect()
}

/// The host and the port of a server in `zookeeper.connect`.
fn address(server: &str) -> String {
    let address = server.split('/').next().unwrap_or(server);
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { address.to_owned() } else { format!("{address}:{PORT}") }
}

/// The name of a server without its port, as its certificate has it.
fn host(server: &str) -> String {
    let address = server.split('/').next().unwrap_or(server);
    let host = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.split(':').next().unwrap_or(address),
    };
    host.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_port_and_the_last_one_the_chroot() {
        for (connect, expected) in [
            ("zk1", "zk1:2181"),
            ("tcp://zk1:2182/app", "zk1:2182"),
            ("10.0.0.1/app/b", "10.0.0.1:2181"),
            ("[::1]", "[::1]:2181"),
            ("[::1]:1/a", "[::1]:1"),
        ] {
            assert_eq!(Servers::of(&Config::new(connect)).addresses, [expected]);
        }
        assert_eq!(Servers::of(&Config::new(" zk1 , zk2:1 ,")).addresses, ["zk1:2181", "zk2:1"]);
        let servers = Servers::of(&Config::new("zk1,tcp://zk2:1/app"));
        assert_eq!(servers.addresses, ["zk1:2181", "zk2:1"]);
        assert_eq!(servers.chroot.server(&crate::model::NodePath::root().child("a")), "/app/a");
    }

    #[test]
    fn an_address_that_failed_comes_last_and_those_known_stand_while_no_name_is_found() {
        let servers = Servers::of(&Config::new("zk1,zk2,zk3"));
        let [first, second, third] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let order = |looked_up: [LookedUp; 3]| {
            let mut unknown = Vec::new();
            let round = servers.round(looked_up.into(), &mut unknown);
            (round.into_iter().map(|(_, address)| address).collect::<Vec<_>>(), unknown.len())
        };
        assert_eq!(order([Err(""), Ok(vec![second]), Err("")]), (vec![second], 2));
        assert_eq!(order([Ok(vec![first]), Ok(vec![second]), Ok(vec![third])]).1, 0);
        [first, third, first].into_iter().for_each(|address| servers.clone().fail(address));
        for _ in 0..20 {
            assert_eq!(order([Err(""), Err(""), Err("")]), (vec![second, third, first], 0));
        }
        assert_eq!(order([Err(""), Ok(vec![second]), Ok(vec![third])]), (vec![second, third], 1));
        servers.forgive(first);
        servers.fail(second);
        for _ in 0..20 {
            assert_eq!(order([Err(""), Err(""), Err("")]).0.last(), Some(&second));
        }
    }

    #[test]
    fn who_refuses_a_persistent_watch_is_remembered_until_it_was_sound_and_as_long_as_it_is_named() {
        let servers = Servers::of(&Config::new("zk1,zk2"));
        let [old, new] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let connect = |address: SocketAddr| servers.learned().connected = Some(address);
        let round = |addresses: [SocketAddr; 2]| {
            servers.round(addresses.map(|address| Ok(vec![address])).into(), &mut Vec::new());
        };
        assert_eq!(servers.watching(), Watching::Persistent);
        connect(old);
        servers.refuse_persistent();
        round([old, new]);
        assert_eq!(servers.watching(), Watching::OneShot);
        connect(new);
        assert_eq!(servers.watching(), Watching::Persistent);
        servers.forgive(new);
        connect(old);
        assert_eq!(servers.watching(), Watching::OneShot);
        servers.forgive(old);
        assert_eq!(servers.watching(), Watching::Persistent, "it may have been upgraded");
        servers.refuse_persistent();
        round([new, new]);
        assert_eq!(servers.watching(), Watching::Persistent);
        assert!(servers.learned().one_shot.is_empty());
    }

    #[tokio::test]
    async fn each_of_the_first_servers_tells_what_is_wrong_with_it() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = other.local_addr().expect("an address");
        let servers = Servers::of(&Config::new(format!("127.0.0.1:1,zk-typo.invalid,{here},127.0.0.1:2/app")));
        let accepting = async {
            loop {
                drop(other.accept().await);
            }
        };
        let nobody = Ticket::default();
        let told = tokio::select! {
            connected = servers.connect(&nobody, 0, &[]) => format!("{:?}", connected.expect_err("no session")),
            () = accepting => unreachable!("it accepts for ever"),
        };
        let told = told.trim_start_matches("Here(\"").trim_end_matches("\")");
        let [refused, unknown, strange, more] = told.split("; ").collect::<Vec<_>>()[..] else { panic!("{told}") };
        assert_eq!((refused, more), ("127.0.0.1:1: connection refused", "and 1 more"));
        assert!(strange.starts_with(&format!("{here}: it ")), "{told}");
        // Where there is no network, a name is not looked up in time.
        assert!(unknown.starts_with("zk-typo.invalid:2181: "), "{told}");
    }
}
