//! The servers of an ensemble: their addresses, and connecting to one that gives a session.

mod addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roster_net::names::{Names, NotFound};
use tokio::time::sleep;

use super::chroot::Chroot;
use super::connection::Connection;
use super::credentials::Identity;
use super::ensemble::{Ensemble, may_be_at};
use super::gssapi::Gssapi;
use super::handshake::{NoSession, Wanted};
use super::jute::Ticket;
use super::session::Proof;
use super::settings::{Settings, address_of, chroot_of, is_secured, servers};
use super::watching::Watching;
use crate::clock::Moment;
use crate::sync::{Mutex, MutexGuard};
use crate::task::{around, random_below};

/// The default port of a server.
const DEFAULT_PORT: u16 = 2181;

/// For how many servers a message says why they give no session.
const MAX_REPORTED_SERVERS: usize = 3;

/// How many names are looked up at once: of those in `connect`, and of the others in the ensemble.
const MAX_LOOKUPS: usize = 16;
const MAX_LOOKUPS_OF_OTHERS: usize = 2;

/// How long all lookups may take if addresses are known from before: a session's timeout may be running.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often, more or less, to look for a server that is not read-only.
const FULL_SERVER_SEARCH_INTERVAL: Duration = Duration::from_secs(5);

/// The servers in `connect`, and the others that the ensemble reports. Clones share what was learned.
#[derive(Clone, Debug)]
pub struct Servers {
    named: Vec<Server>,
    settings: Settings,
    gssapi: Option<Gssapi>,
    chroot: Chroot,
    names: Names,
    names_of_others: Names,
    learned: Arc<Mutex<Learned>>,
}

/// A host and its port; and, for TLS, the name that its certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    address: String,
    secured: Option<String>,
}

#[derive(Debug, Default)]
struct Learned {
    /// The addresses of each name when it was last resolved.
    found: BTreeMap<String, Vec<SocketAddr>>,
    /// The addresses that failed since a connection was last good, in order of failure.
    failed: Vec<SocketAddr>,
    /// The address of the last connection, and its session.
    connected: Option<SocketAddr>,
    session: i64,
    /// Whether that server is read-only.
    is_read_only: bool,
    /// The newest transaction that is mirrored.
    mirrored: i64,
    /// The addresses of servers that refused a persistent watch.
    one_shot: BTreeSet<SocketAddr>,
    has_just_refused: bool,
    /// The addresses of servers that gave a session and then refused the identity.
    refusing: BTreeSet<SocketAddr>,
    /// The last server that gave the session and did not refuse the identity, and until when it may give it again.
    accepting: Option<(SocketAddr, Moment)>,
    /// The proof of identity that these refused or accepted.
    proof: Proof,
    /// The servers that the ensemble reports.
    ensemble: Ensemble,
}

impl Servers {
    /// The servers of an ensemble. Reuse them for repeated connections.
    pub fn of(settings: &Settings) -> Self {
        let chroot = Chroot::new(chroot_of(&settings.connect));
        let named = servers(&settings.connect).map(|server| Server {
            address: address(address_of(server)),
            secured: is_secured(server).then(|| host(address_of(server))),
        });
        let (names, names_of_others) = (Names::new(MAX_LOOKUPS), Names::new(MAX_LOOKUPS_OF_OTHERS));
        let (named, gssapi, learned) = (named.collect(), Gssapi::of(settings), Arc::default());
        Self { named, settings: settings.clone(), gssapi, chroot, names, names_of_others, learned }
    }

    pub(crate) fn chroot(&self) -> &Chroot {
        &self.chroot
    }

    /// Tries each address of each server once until one gives a session: first servers in `connect`, then the others of
    /// the ensemble; each group in random order, with those that failed last at the end. If allowed, then tries those
    /// in `connect` again for a read-only server that is not behind what is mirrored. The identity is refused if some
    /// in `connect` refuse it and no other server gives a session.
    pub(super) async fn connect(
        &self,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Connection, Ticket), NoSession> {
        let wanted = Wanted { ticket, last_zxid, identities, gssapi: None, read_only: false };
        let tried = match self.try_all(wanted).await {
            Err(NoSession::Here(_) | NoSession::Refused) if self.settings.read_only => {
                let last_zxid = last_zxid.max(self.learned().mirrored);
                self.try_all(Wanted { last_zxid, read_only: true, ..wanted }).await
            }
            tried => tried,
        };
        let (connection, ticket, is_named) = tried?;
        self.note_connected(&connection, &ticket, is_named);
        Ok((connection, ticket))
    }

    /// Waits until a server that is not read-only gives a session.
    pub(super) async fn wait_for_full(&self, identities: &[Identity]) {
        let ticket = Ticket::for_new(self.settings.session_timeout);
        let wanted = Wanted { ticket: &ticket, last_zxid: 0, identities, gssapi: None, read_only: false };
        loop {
            sleep(around(FULL_SERVER_SEARCH_INTERVAL)).await;
            if let Ok((mut connection, ..)) = self.try_all(wanted).await {
                return connection.close_session();
            }
        }
    }

    /// A connection to the first server that gives what is wanted, and whether it is in `connect`.
    async fn try_all(&self, wanted: Wanted<'_>) -> Result<(Connection, Ticket, bool), NoSession> {
        let (mut reasons, mut tried) = (Vec::new(), BTreeSet::new());
        // Other servers are only asked for a session of their own, and are sent nothing that another server gave: what
        // listens there may not be a server of the ensemble.
        let fresh = Ticket::for_new(self.settings.session_timeout);
        let of_others = Wanted { ticket: &fresh, last_zxid: 0, ..wanted };
        let others = if wanted.read_only { Vec::new() } else { self.others() };
        let all = [(&self.named, &self.names, wanted, true), (&others, &self.names_of_others, of_others, false)];
        let mut is_refused = false;
        for (servers, names, wanted, are_named) in all {
            for (number, address) in self.look_up_all(servers, names, &mut reasons).await {
                if !tried.insert(address) || !(are_named || may_be_at(address.ip())) {
                    continue;
                }
                let server = &servers[number];
                let tls = server.secured.as_deref().map(|host| (host, self.settings.tls()));
                let host = host(&server.address);
                let gssapi = self.gssapi.as_ref().map(|gssapi| (gssapi, &*host));
                let no_session = match Connection::open(address, tls, Wanted { gssapi, ..wanted }).await {
                    Ok((connection, ticket)) => return Ok((connection, ticket, are_named)),
                    Err(no_session) => no_session,
                };
                self.fail(address);
                is_refused |= are_named && matches!(no_session, NoSession::Refused);
                reasons.push((server.address.clone(), only_here(no_session, are_named)?));
            }
        }
        Err(if is_refused { NoSession::Refused } else { NoSession::Here(self.in_words(reasons)) })
    }

    /// The other servers that the ensemble reports.
    fn others(&self) -> Vec<Server> {
        let learned = self.learned();
        let servers = learned.ensemble.servers.iter();
        servers.map(|address| Server { address: address.clone(), secured: None }).collect()
    }

    fn note_connected(&self, connection: &Connection, ticket: &Ticket, is_named: bool) {
        let (address, source) = (connection.address(), &self.settings.name);
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

    /// Takes in the servers that the ensemble reports in its configuration node.
    pub(super) fn learn(&self, configuration: &[u8]) {
        if !self.follow_reconfig() {
            return;
        }
        let mut learned = self.learned();
        let mut ensemble = Ensemble::read(configuration);
        ensemble.servers.retain(|address| self.named.iter().all(|named| named.address != *address));
        if learned.ensemble.servers != ensemble.servers {
            let source = &self.settings.name;
            tracing::info!(source, servers = %ensemble, "these servers of the ensemble are not named by `connect`");
        }
        learned.ensemble = ensemble;
    }

    /// Whether to learn the servers of the ensemble. It only publishes ports without TLS; and a server at a loopback
    /// address is on this machine, as the others are then, or behind a tunnel, which they are not.
    pub(super) fn follow_reconfig(&self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        self.settings.follow_reconfig && !self.settings.has_tls() && !self.learned().connected.is_some_and(is_loopback)
    }

    /// An address failed: it is tried after all others.
    pub(super) fn fail(&self, address: SocketAddr) {
        let mut learned = self.learned();
        learned.failed.retain(|failed| *failed != address);
        learned.failed.push(address);
    }

    /// A connection to this address was good. Earlier failures no longer matter; and what the server refused before it
    /// may accept next time, since it may have been upgraded.
    pub(super) fn forgive(&self, address: SocketAddr) {
        let mut learned = self.learned();
        learned.failed.clear();
        learned.one_shot.remove(&address);
        learned.refusing.clear();
    }

    /// Sets the proof of identity. Servers that refused another may accept this one.
    pub(super) fn set_proof(&self, proof: &Proof) {
        let mut learned = self.learned();
        if learned.proof != *proof {
            (learned.refusing, learned.accepting, learned.proof) = (BTreeSet::new(), None, proof.clone());
        }
    }

    /// The server that we are connected to refuses the identity; returns whether all that give the session do. That is
    /// so if one refuses for the second time, since all others were tried in between; except for one that accepted the
    /// identity and is only away for a moment. Then each may be asked again.
    pub(super) fn refuse_identity(&self) -> bool {
        let mut learned = self.learned();
        let refuses_again = learned.connected.is_some_and(|refusing| !learned.refusing.insert(refusing));
        let may_be_taken = learned
            .accepting
            .is_some_and(|(address, until)| !learned.refusing.contains(&address) && Moment::now() <= until);
        let all_refuse = refuses_again && !may_be_taken;
        if all_refuse {
            learned.refusing.clear();
        }
        all_refuse
    }

    /// The server that we were connected to did not refuse the identity: not all do, while it may give the session
    /// again, which is until then.
    pub(super) fn accept_identity(&self, until: Moment) {
        let mut learned = self.learned();
        learned.refusing.clear();
        learned.accepting = learned.connected.map(|address| (address, until));
    }

    /// The server that we are connected to refuses persistent watches, possibly by closing the connection.
    pub(super) fn refuse_persistent(&self, is_closing: bool) {
        let mut learned = self.learned();
        let refusing = learned.connected;
        learned.one_shot.extend(refusing);
        learned.has_just_refused = is_closing;
    }

    /// Whether the connection may have been lost just because of that: then its server is as good as before.
    pub(super) fn take_refusal(&self) -> bool {
        std::mem::take(&mut self.learned().has_just_refused)
    }

    /// How the server that we are connected to reports changes, as far as known.
    pub(super) fn watching(&self) -> Watching {
        let learned = self.learned();
        let is_one_shot = learned.connected.is_some_and(|address| learned.one_shot.contains(&address));
        if is_one_shot { Watching::OneShot } else { Watching::Persistent }
    }

    /// The session given by the server that we are connected to.
    pub(super) fn session(&self) -> i64 {
        self.learned().session
    }

    /// Whether the server that we are connected to is read-only.
    pub(super) fn is_read_only(&self) -> bool {
        self.learned().is_read_only
    }

    /// Sets the newest mirrored transaction: a read-only server must not be behind it.
    pub(crate) fn set_mirrored(&self, newest: i64) {
        self.learned().mirrored = newest;
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().expect("nobody panics while holding it")
    }

    /// Why there is no session; servers in `connect` first, in its order, but those that were not even looked up last.
    fn in_words(&self, mut whys: Vec<(String, String)>) -> String {
        let not_looked_up = NotFound::Busy.to_string();
        let place = |address: &str| self.named.iter().position(|named| named.address == address).unwrap_or(usize::MAX);
        whys.sort_by_cached_key(|(address, why)| (*why == not_looked_up, place(address), address.clone(), why.clone()));
        whys.dedup();
        let more = whys.len().saturating_sub(MAX_REPORTED_SERVERS);
        let named = whys.iter().take(MAX_REPORTED_SERVERS).map(|(address, why)| format!("{address}: {why}"));
        let more = (more > 0).then(|| format!("and {more} more"));
        named.chain(more).collect::<Vec<_>>().join("; ")
    }
}

/// Why this server gives no session, if another may. One that is not in `connect` never ends the search: it may not be
/// a server of the ensemble.
fn only_here(no_session: NoSession, is_named: bool) -> Result<String, NoSession> {
    match no_session {
        NoSession::Here(why) => Ok(why),
        NoSession::Refused => Ok("it refuses the credentials".into()),
        NoSession::Ended(trouble) if !is_named => Ok(trouble.to_string()),
        ended => Err(ended),
    }
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..count).collect();
    (0..count).map(|_| rest.swap_remove(random_below(rest.len()))).collect()
}

/// The host and the port of a server in `connect`.
pub(crate) fn address(server: &str) -> String {
    let address = server.split('/').next().unwrap_or(server);
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") }
}

/// The name of a server without its port, as in its certificate.
fn host(server: &str) -> String {
    let address = server.split('/').next().unwrap_or(server);
    let host = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.split(':').next().unwrap_or(address),
    };
    host.to_owned()
}

#[cfg(test)]
mod tests;
