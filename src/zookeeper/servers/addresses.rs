//! The addresses of servers, resolved again in each round.

use std::net::SocketAddr;

use futures::stream::{self, StreamExt};
use roster_net::names::{Names, NotFound};
use tokio::time::Instant;

use super::{LOOKUP_TIMEOUT, Learned, Server, Servers, shuffled};
use crate::zookeeper::connection::SILENCE_TIMEOUT;

impl Servers {
    /// If there is no time for all names, the others are looked up next time.
    pub(super) async fn look_up_all(
        &self,
        servers: &[Server],
        names: &Names,
        reasons: &mut Vec<(String, String)>,
    ) -> Vec<(usize, SocketAddr)> {
        let end = Instant::now() + if self.learned().found.is_empty() { SILENCE_TIMEOUT } else { LOOKUP_TIMEOUT };
        let look_up = |number: usize| async move {
            let looked_up = names.look_up(&servers[number].address, end.duration_since(Instant::now())).await;
            (number, looked_up.map_err(in_words))
        };
        let looking_up = stream::iter(shuffled(servers.len()).into_iter().map(look_up));
        let mut looked_up: Vec<_> = looking_up.buffer_unordered(names.most()).collect().await;
        looked_up.sort_unstable_by_key(|(number, _)| *number);
        self.round(servers, looked_up.into_iter().map(|(_, looked_up)| looked_up).collect(), reasons)
    }

    /// The addresses to try, with the numbers of their servers. If no name can be resolved, all keep their previous
    /// addresses. If some can, one that cannot may be gone, and its address may belong to something else.
    pub(super) fn round(
        &self,
        servers: &[Server],
        looked_up: Vec<LookedUp>,
        reasons: &mut Vec<(String, String)>,
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
                    None => reasons.push((name.clone(), why)),
                },
            }
        }
        learned.forget_others(&self.named);
        let mut round: Vec<_> = shuffled(meant.len()).into_iter().map(|at| meant[at]).collect();
        round.sort_by_key(|(_, address)| learned.failed.iter().position(|failed| failed == address));
        round
    }
}

impl Learned {
    /// Forgets what was learned about servers that are no longer named, and about their addresses.
    fn forget_others(&mut self, named: &[Server]) {
        let ensemble = &self.ensemble.servers;
        self.found.retain(|name, _| named.iter().any(|server| server.address == *name) || ensemble.contains(name));
        let is_found = |address: &SocketAddr| self.found.values().flatten().any(|found| found == address);
        self.failed.retain(is_found);
        self.one_shot.retain(is_found);
        self.refusing.retain(is_found);
    }
}

pub(super) type LookedUp = Result<Vec<SocketAddr>, String>;

fn in_words(why: NotFound) -> String {
    match why {
        NotFound::Unknown(_) => "unknown host".into(),
        NotFound::Failed(_) | NotFound::Late | NotFound::Busy => why.to_string(),
    }
}
