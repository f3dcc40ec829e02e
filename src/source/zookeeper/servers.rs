//! The servers of an ensemble: where they are, and a connection to one that gives a session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use super::chroot::Chroot;
use super::connection::{Connection, SILENCE};
use super::credentials::Identity;
use super::ensemble::{Ensemble, may_be_at};
use super::gssapi::Gssapi;
use super::handshake::{NoSession, Wanted};
use super::jute::Ticket;
use super::watching::Watching;
use super::{Config, address_of, is_secured, servers};
use crate::net::names::{Names, NotFound};
use crate::sync::{Mutex, MutexGuard};
use crate::task::{around, random_below};

/// The port of a server that has none.
const PORT: u16 = 2181;

/// Of how many servers it is told why they give no session.
const MAX_TOLD: usize = 3;

/// How many names are looked up at once: of those that `connect` has, and of those that the ensemble has beside.
const MAX_LOOKUPS: usize = 16;
const MAX_LOOKUPS_OF_OTHERS: usize = 2;

/// How long all names may be looked up where addresses are known from before: a session's time may be running.
const LOOKUP: Duration = Duration::from_secs(1);

/// How often, more or less, another server is looked for than one that serves only to read.
const LOOK_FOR_FULL: Duration = Duration::from_secs(5);

/// What `zookeeper.connect` names, and what the ensemble names beside. Clones share what was learned.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    named: Vec<Server>,
    config: Config,
    gssapi: Option<Gssapi>,
    chroot: Chroot,
    names: Names,
    names_of_others: Names,
    learned: Arc<Mutex<Learned>>,
}

/// A host and its port; and, where it is spoken to by TLS, the name that its certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    address: String,
    secured: Option<String>,
}

#[derive(Debug, Default)]
struct Learned {
    /// What each name meant when it was last found.
    found: BTreeMap<String, Vec<SocketAddr>>,
    /// The addresses that failed since a connection was last sound; the last is the one that failed last.
    failed: Vec<SocketAddr>,
    /// The address of the last connection, and its session.
    connected: Option<SocketAddr>,
    session: i64,
    /// Whether that serves only to read.
    is_read_only: bool,
    /// The newest transaction of what is mirrored.
    mirrored: i64,
    /// The addresses of servers that refused a persistent watch.
    one_shot: BTreeSet<SocketAddr>,
    has_just_refused: bool,
    /// The servers that the ensemble has by its own account.
    ensemble: Ensemble,
}

impl Servers {
    pub(super) fn of(config: &Config) -> Self {
        let servers = servers(&config.connect);
        let chroot = servers.clone().next_back().map(address_of);
        let chroot = chroot.and_then(|server| server.find('/').map(|slash| &server[slash..]));
        let chroot = Chroot::new(chroot.unwrap_or_default());
        let named = servers.map(|server| Server {
            address: address(address_of(server)),
            secured: is_secured(server).then(|| host(address_of(server))),
        });
        let (names, names_of_others) = (Names::new(MAX_LOOKUPS), Names::new(MAX_LOOKUPS_OF_OTHERS));
        let (named, gssapi, learned) = (named.collect(), Gssapi::of(config), Arc::default());
        Self { named, config: config.clone(), gssapi, chroot, names, names_of_others, learned }
    }

    pub(super) fn chroot(&self) -> &Chroot {
        &self.chroot
    }

    /// Tries each address of each server once until one gives a session: of those that `connect` names, and then of the
    /// others that the ensemble has; each time in an order of chance, those that failed last. Where that may be, those of
    /// `connect` again for a server that serves only to read, if it has come as far as what is mirrored.
    pub(super) async fn connect(
        &self,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Connection, Ticket), NoSession> {
        let wanted = Wanted { ticket, last_zxid, identities, gssapi: None, read_only: false };
        let tried = match self.try_all(wanted).await {
            Err(NoSession::Here(_)) if self.config.read_only => {
                let last_zxid = last_zxid.max(self.learned().mirrored);
                self.try_all(Wanted { last_zxid, read_only: true, ..wanted }).await
            }
            tried => tried,
        };
        let (connection, ticket, is_named) = tried?;
        self.note_connected(&connection, &ticket, is_named);
        Ok((connection, ticket))
    }

    /// Waits until a server gives a session that does not only serve to read.
    pub(super) async fn wait_for_full(&self, identities: &[Identity]) {
        let ticket = Ticket::for_new(self.config.session_timeout);
        let wanted = Wanted { ticket: &ticket, last_zxid: 0, identities, gssapi: None, read_only: false };
        loop {
            sleep(around(LOOK_FOR_FULL)).await;
            if let Ok((mut connection, ..)) = self.try_all(wanted).await {
                return connection.close_session();
            }
        }
    }

    /// A connection to the first server that gives what is wanted, and whether `connect` names it.
    async fn try_all(&self, wanted: Wanted<'_>) -> Result<(Connection, Ticket, bool), NoSession> {
        let (mut told, mut tried) = (Vec::new(), BTreeSet::new());
        // Of the others nothing is wanted but a session of their own: they are shown nothing that another server gave,
        // since what listens there may be no server of the ensemble.
        let fresh = Ticket::for_new(self.config.session_timeout);
        let of_others = Wanted { ticket: &fresh, last_zxid: 0, ..wanted };
        let others = if wanted.read_only { Vec::new() } else { self.others() };
        let all = [(&self.named, &self.names, wanted, true), (&others, &self.names_of_others, of_others, false)];
        for (servers, names, wanted, are_named) in all {
            for (number, address) in self.look_up_all(servers, names, &mut told).await {
                if !tried.insert(address) || !(are_named || may_be_at(address.ip())) {
                    continue;
                }
                let server = &servers[number];
                let tls = server.secured.as_deref().map(|host| (host, self.config.tls()));
                let host = host(&server.address);
                let gssapi = self.gssapi.as_ref().map(|gssapi| (gssapi, &*host));
                let no_session = match Connection::open(address, tls, Wanted { gssapi, ..wanted }).await {
                    Ok((connection, ticket)) => return Ok((connection, ticket, are_named)),
                    Err(no_session) => no_session,
                };
                self.fail(address);
                match no_session {
                    NoSession::Here(why) => told.push((server.address.clone(), why)),
                    ended => return Err(ended),
                }
            }
        }
        Err(NoSession::Here(self.told(told)))
    }

    /// The servers that the ensemble names beside.
    fn others(&self) -> Vec<Server> {
        let learned = self.learned();
        let servers = learned.ensemble.servers.iter();
        servers.map(|address| Server { address: address.clone(), secured: None }).collect()
    }

    /// Where there is no time for all names, others are looked up the next time.
    async fn look_up_all(
        &self,
        servers: &[Server],
        names: &Names,
        told: &mut Vec<(String, String)>,
    ) -> Vec<(usize, SocketAddr)> {
        let end = Instant::now() + if self.learned().found.is_empty() { SILENCE } else { LOOKUP };
        let look_up = |number: usize| async move {
            let looked_up = names.look_up(&servers[number].address, end.duration_since(Instant::now())).await;
            (number, looked_up.map_err(in_words))
        };
        let looking_up = stream::iter(shuffled(servers.len()).into_iter().map(look_up));
        let mut looked_up: Vec<_> = looking_up.buffer_unordered(names.most()).collect().await;
        looked_up.sort_unstable_by_key(|(number, _)| *number);
        self.round(servers, looked_up.into_iter().map(|(_, looked_up)| looked_up).collect(), told)
    }

    /// The addresses to try, with the numbers of their servers. Where no name is found, all mean what they meant before.
    /// Where others are, one that is not may be gone, and its address be somebody else's.
    fn round(
        &self,
        servers: &[Server],
        looked_up: Vec<LookedUp>,
        told: &mut Vec<(String, String)>,
    ) -> Vec<(usize, SocketAddr)> {
        let mut learned = self.learned();
        let is_dns_away = looked_up.iter().all(Result::is_err);
        let mut meant = Vec::new();
        for (number, (Server { address: name, .. }, looked_up)) in servers.iter().zip(looked_up).enumerate() {
            match looked_up {
                Ok(found) => {
                    meant.extend(found.iter().map(|address| (number, *address)));
                    learned.found.insert(name.clone(), found);
                }
                Err(why) => match learned.found.get(name).filter(|_| is_dns_away) {
                    Some(found) => meant.extend(found.iter().map(|address| (number, *address))),
                    None => told.push((name.clone(), why)),
                },
            }
        }
        learned.forget_others(&self.named);
        let mut round: Vec<_> = shuffled(meant.len()).into_iter().map(|at| meant[at]).collect();
        round.sort_by_key(|(_, address)| learned.failed.iter().position(|failed| failed == address));
        round
    }

    fn note_connected(&self, connection: &Connection, ticket: &Ticket, is_named: bool) {
        let (address, source) = (connection.address(), &self.config.name);
        let mut learned = self.learned();
        (learned.connected, learned.session) = (Some(address), ticket.session);
        (learned.is_read_only, learned.has_just_refused) = (connection.is_read_only, false);
        drop(learned);
        if connection.is_read_only {
            tracing::warn!(source, %address, "no server has a quorum; this one serves to read what it has");
        }
        if !is_named {
            tracing::warn!(
                source,
                %address,
                "no server that `connect` names gives a session, but one that the ensemble has beside: name it there, \
                 since after a restart nothing else is known"
            );
        }
    }

    /// Takes in which servers the ensemble has by its own account: what it keeps in its node for that.
    pub(super) fn learn(&self, configuration: &[u8]) {
        if !self.follow_reconfig() {
            return;
        }
        let mut learned = self.learned();
        let mut ensemble = Ensemble::read(configuration);
        ensemble.servers.retain(|address| self.named.iter().all(|named| named.address != *address));
        if learned.ensemble.servers != ensemble.servers {
            let source = &self.config.name;
            tracing::info!(source, servers = %ensemble, "these servers of the ensemble are not named by `connect`");
        }
        learned.ensemble = ensemble;
    }

    /// Whether it is learned which servers the ensemble has. Of those with TLS it keeps only their ports without; and a
    /// server at a loopback address is on this machine, as the others are then, or behind a tunnel, which they are not.
    pub(super) fn follow_reconfig(&self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        self.config.follow_reconfig && !self.config.has_tls() && !self.learned().connected.is_some_and(is_loopback)
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

    /// The server that we are connected to refuses persistent watches, and closes the connection for that or does not.
    pub(super) fn refuse_persistent(&self, is_closing: bool) {
        let mut learned = self.learned();
        let refusing = learned.connected;
        learned.one_shot.extend(refusing);
        learned.has_just_refused = is_closing;
    }

    /// Whether the connection may have been lost for that, and for nothing else: then its server is as good as before.
    pub(super) fn take_refusal(&self) -> bool {
        std::mem::take(&mut self.learned().has_just_refused)
    }

    /// By what the server tells of changes that we are connected to, as far as is known.
    pub(super) fn watching(&self) -> Watching {
        let learned = self.learned();
        let is_one_shot = learned.connected.is_some_and(|address| learned.one_shot.contains(&address));
        if is_one_shot { Watching::OneShot } else { Watching::Persistent }
    }

    /// The session that the server gave that we are connected to.
    pub(super) fn session(&self) -> i64 {
        self.learned().session
    }

    /// Whether the server that we are connected to serves only to read.
    pub(super) fn is_read_only(&self) -> bool {
        self.learned().is_read_only
    }

    /// Says what is mirrored by its newest transaction: a server that serves only to read must have come so far.
    pub(super) fn set_mirrored(&self, newest: i64) {
        self.learned().mirrored = newest;
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().expect("nobody panics while holding it")
    }

    /// Why there is no session; of the servers that `connect` names first, in its order.
    fn told(&self, mut whys: Vec<(String, String)>) -> String {
        let place = |address: &str| self.named.iter().position(|named| named.address == address);
        whys.sort_by_cached_key(|(address, why)| (place(address).unwrap_or(usize::MAX), address.clone(), why.clone()));
        whys.dedup();
        let more = whys.len().saturating_sub(MAX_TOLD);
        let named = whys.iter().take(MAX_TOLD).map(|(address, why)| format!("{address}: {why}"));
        let more = (more > 0).then(|| format!("and {more} more"));
        named.chain(more).collect::<Vec<_>>().join("; ")
    }
}

impl Learned {
    /// Forgets what was learned of servers that nobody names any more, and of their addresses.
    fn forget_others(&mut self, named: &[Server]) {
        let ensemble = &self.ensemble.servers;
        self.found.retain(|name, _| named.iter().any(|server| server.address == *name) || ensemble.contains(name));
        let is_found = |address: &SocketAddr| self.found.values().flatten().any(|found| found == address);
        self.failed.retain(is_found);
        self.one_shot.retain(is_found);
    }
}

type LookedUp = Result<Vec<SocketAddr>, String>;

fn in_words(why: NotFound) -> String {
    match why {
        NotFound::Unknown(_) => "unknown host".into(),
        NotFound::Late => why.to_string(),
    }
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..count).collect();
    (0..count).map(|_| rest.swap_remove(random_below(rest.len()))).collect()
}

/// The host and the port of a server in `zookeeper.connect`.
pub(super) fn address(server: &str) -> String {
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

    fn addresses(servers: &Servers) -> Vec<&str> {
        servers.named.iter().map(|server| &*server.address).collect()
    }

    #[test]
    fn a_server_has_a_port_and_the_last_one_the_chroot() {
        for (connect, expected) in [
            ("zk1", "zk1:2181"),
            ("tcp://zk1:2182/app", "zk1:2182"),
            ("10.0.0.1/app/b", "10.0.0.1:2181"),
            ("[::1]", "[::1]:2181"),
            ("[::1]:1/a", "[::1]:1"),
        ] {
            assert_eq!(addresses(&Servers::of(&Config::new(connect))), [expected]);
        }
        assert_eq!(addresses(&Servers::of(&Config::new(" zk1 , zk2:1 ,"))), ["zk1:2181", "zk2:1"]);
        let servers = Servers::of(&Config::new("zk1,tcp://zk2:1/app"));
        assert_eq!(addresses(&servers), ["zk1:2181", "zk2:1"]);
        assert_eq!(servers.chroot.server(&crate::model::NodePath::root().child("a")), "/app/a");
    }

    #[test]
    fn an_address_that_failed_comes_last_and_those_known_stand_while_no_name_is_found() {
        let servers = Servers::of(&Config::new("zk1,zk2,zk3"));
        let [first, second, third] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let order = |looked_up: [LookedUp; 3]| {
            let mut unknown = Vec::new();
            let round = servers.round(&servers.named, looked_up.into(), &mut unknown);
            (round.into_iter().map(|(_, address)| address).collect::<Vec<_>>(), unknown.len())
        };
        assert_eq!(order([Err(String::new()), Ok(vec![second]), Err(String::new())]), (vec![second], 2));
        assert_eq!(order([Ok(vec![first]), Ok(vec![second]), Ok(vec![third])]).1, 0);
        [first, third, first].into_iter().for_each(|address| servers.clone().fail(address));
        for _ in 0..20 {
            assert_eq!(
                order([Err(String::new()), Err(String::new()), Err(String::new())]),
                (vec![second, third, first], 0)
            );
        }
        assert_eq!(order([Err(String::new()), Ok(vec![second]), Ok(vec![third])]), (vec![second, third], 1));
        servers.forgive(first);
        servers.fail(second);
        for _ in 0..20 {
            assert_eq!(order([Err(String::new()), Err(String::new()), Err(String::new())]).0.last(), Some(&second));
        }
    }

    #[test]
    fn who_refuses_a_persistent_watch_is_remembered_until_it_was_sound_and_as_long_as_it_is_named() {
        let servers = Servers::of(&Config::new("zk1,zk2"));
        let [old, new] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let connect = |address: SocketAddr| servers.learned().connected = Some(address);
        let round = |addresses: [SocketAddr; 2]| {
            servers.round(&servers.named, addresses.map(|address| Ok(vec![address])).into(), &mut Vec::new());
        };
        assert_eq!(servers.watching(), Watching::Persistent);
        connect(old);
        servers.refuse_persistent(false);
        round([old, new]);
        assert_eq!(servers.watching(), Watching::OneShot);
        connect(new);
        assert_eq!(servers.watching(), Watching::Persistent);
        servers.forgive(new);
        connect(old);
        assert_eq!(servers.watching(), Watching::OneShot);
        servers.forgive(old);
        assert_eq!(servers.watching(), Watching::Persistent, "it may have been upgraded");
        servers.refuse_persistent(false);
        round([new, new]);
        assert_eq!(servers.watching(), Watching::Persistent);
        assert!(servers.learned().one_shot.is_empty());
    }

    /// A listener that takes no connection any more, so that what is sent to it gets no answer, and those that it has.
    async fn deaf() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let listener = socket.listen(1).expect("a listener");
        let (here, mut taken) = (listener.local_addr().expect("an address"), Vec::new());
        let moment = Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(moment, tokio::net::TcpStream::connect(here)).await {
            taken.push(stream.expect("a connection"));
        }
        (listener, taken)
    }

    #[tokio::test]
    async fn an_address_that_answers_nothing_costs_its_own_time_and_is_not_the_first_again() {
        let good = super::super::fake::Fake::start(super::super::fake::Kind::New).await.address;
        let (listener, _taken) = deaf().await;
        let deaf = listener.local_addr().expect("an address");
        let servers = Servers::of(&Config::new("ensemble.invalid"));
        servers.learned().found.insert("ensemble.invalid:2181".into(), vec![deaf, good]);
        servers.fail(good);
        let shortest = Ticket { timeout_ms: 1, ..Ticket::default() };
        let began = std::time::Instant::now();
        servers.connect(&shortest, 0, &[]).await.expect("a session");
        assert!(began.elapsed() >= super::super::connection::LEAST_SILENCE);
        assert_eq!(servers.learned().connected, Some(good));
        let mut told = Vec::new();
        for _ in 0..20 {
            assert_eq!(servers.round(&servers.named, vec![Err(String::new())], &mut told), [(0, good), (0, deaf)]);
        }
    }

    /// Takes in that these are the ensemble's servers, as told by one at `from`.
    fn learn(servers: &Servers, from: &str, others: &[&str]) {
        servers.learned().connected = Some(from.parse().expect("an address"));
        let lines = others.iter().enumerate().map(|(n, other)| format!("server.{n}=a:1:2;{other}"));
        servers.learn(lines.collect::<Vec<_>>().join("\n").as_bytes());
    }

    #[tokio::test]
    async fn what_the_ensemble_has_beside_is_forgotten_with_what_it_meant_and_is_never_on_this_machine() {
        let good = super::super::fake::Fake::start(super::super::fake::Kind::New).await.address;
        let servers = Servers::of(&Config::new("127.0.0.1:1,127.0.0.1:2"));
        let wanted = Ticket { timeout_ms: 1_000, ..Ticket::default() };
        learn(&servers, "10.0.0.1:2181", &[&good.to_string(), "127.0.0.1:1"]);
        assert_eq!(servers.learned().ensemble.servers, [good.to_string()], "what `connect` names is not learned");
        servers.connect(&wanted, 0, &[]).await.expect_err("loopback there is not loopback here");
        learn(&servers, "10.0.0.1:2181", &["127.0.0.1:3"]);
        servers.connect(&wanted, 0, &[]).await.expect_err("it has left");
        let found = servers.learned().found.keys().cloned().collect::<Vec<_>>();
        assert_eq!(found, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[test]
    fn nothing_is_learned_that_would_lead_around_tls_or_a_tunnel_or_the_operators_will() {
        let learned = |config: Config, from: &str| {
            let servers = Servers::of(&config);
            learn(&servers, from, &["10.0.0.2:2181"]);
            servers.others().len()
        };
        let still = Config { follow_reconfig: false, ..Config::new("10.0.0.1") };
        assert_eq!(learned(Config::new("10.0.0.1"), "10.0.0.1:2181"), 1);
        assert_eq!(learned(Config::new("tls://10.0.0.1"), "10.0.0.1:2181"), 0);
        assert_eq!(learned(still, "10.0.0.1:2181"), 0);
        for tunnel in ["127.0.0.1:2181", "[::1]:2181", "[::ffff:127.0.0.1]:2181"] {
            assert_eq!(learned(Config::new("10.0.0.1"), tunnel), 0, "{tunnel}");
        }
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
