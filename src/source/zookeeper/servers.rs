//! The servers of an ensemble: where they are, and a connection to one that gives a session.

use std::net::SocketAddr;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::chroot::Chroot;
use super::connection::{Connection, SILENCE};
use super::credentials::Identity;
use super::handshake::NoSession;
use super::jute::Ticket;
use crate::task::random_below;

/// The port of a server that has none.
const PORT: u16 = 2181;

/// Of how many servers it is told why they give no session.
const MAX_TOLD: usize = 3;

/// What `zookeeper.connect` names.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    addresses: Vec<String>,
    chroot: Chroot,
}

impl Servers {
    pub(super) fn new(connect: &str) -> Self {
        let servers = connect.split(',').map(|server| server.strip_prefix("tcp://").unwrap_or(server));
        let chroot = servers.clone().next_back().and_then(|server| server.find('/').map(|slash| &server[slash..]));
        Self { chroot: Chroot::new(chroot.unwrap_or_default()), addresses: servers.map(address).collect() }
    }

    pub(super) fn chroot(&self) -> &Chroot {
        &self.chroot
    }

    /// Tries each server once, in an order of chance, until one gives a session.
    pub(super) async fn connect(
        &self,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Connection, Ticket), NoSession> {
        let mut told = Vec::new();
        for number in shuffled(self.addresses.len()) {
            let found = match self.resolve(number).await {
                Ok(found) => found,
                Err(why) => {
                    told.push((number, why));
                    continue;
                }
            };
            for address in found {
                match Connection::open(address, ticket, last_zxid, identities).await {
                    Err(NoSession::Here(why)) => told.push((number, why)),
                    ended => return ended,
                }
            }
        }
        Err(NoSession::Here(self.told(told)))
    }

    /// A name is looked up anew each time.
    async fn resolve(&self, number: usize) -> Result<Vec<SocketAddr>, String> {
        match timeout(SILENCE, lookup_host(&self.addresses[number])).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(_)) => Err("unknown host".into()),
            Err(_) => Err("its name is not found in time".into()),
        }
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
            assert_eq!(Servers::new(connect).addresses, [expected]);
        }
        let servers = Servers::new("zk1,tcp://zk2:1/app");
        assert_eq!(servers.addresses, ["zk1:2181", "zk2:1"]);
        assert_eq!(servers.chroot.server(&crate::model::NodePath::root().child("a")), "/app/a");
    }

    #[tokio::test]
    async fn each_of_the_first_servers_tells_what_is_wrong_with_it() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = other.local_addr().expect("an address");
        let servers = Servers::new(&format!("127.0.0.1:1,zk-typo.invalid,{here},127.0.0.1:2/app"));
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
