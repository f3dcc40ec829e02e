//! The inquiry: why no server of an ensemble could be had, where the client does not say.

use std::time::Duration;

use futures::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// How long a server may take to be found, and then to accept.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many servers are asked.
const MOST: usize = 3;

/// The port of a server that has none.
const PORT: u16 = 2181;

/// What each of the first servers says to somebody who only connects.
pub(super) async fn inquire(connect: &str) -> String {
    let servers: Vec<String> = connect.split(',').map(address).collect();
    let asked = servers.iter().take(MOST);
    let mut told = join_all(asked.map(|server| async move { format!("{server}: {}", ask(server).await) })).await;
    if servers.len() > MOST {
        told.push(format!("and {} more", servers.len() - MOST));
    }
    told.join("; ")
}

async fn ask(server: &str) -> String {
    let addresses: Vec<_> = match timeout(PATIENCE, lookup_host(server)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) => return "unknown host".into(),
        Err(_) => return "its name is not found in time".into(),
    };
    match timeout(PATIENCE, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => "it accepts connections, but gives no session: is it a ZooKeeper, and has it a quorum?".into(),
        Ok(Err(error)) => error.kind().to_string(),
        Err(_) => "no answer".into(),
    }
}

/// The host and the port of a server in `zookeeper.connect`.
fn address(server: &str) -> String {
    let server = server.strip_prefix("tcp://").unwrap_or(server);
    let address = server.split('/').next().unwrap_or(server);
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { address.to_owned() } else { format!("{address}:{PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_port() {
        for (server, expected) in [
            ("zk1", "zk1:2181"),
            ("tcp://zk1:2182/app", "zk1:2182"),
            ("10.0.0.1/app/b", "10.0.0.1:2181"),
            ("[::1]", "[::1]:2181"),
            ("[::1]:1/a", "[::1]:1"),
        ] {
            assert_eq!(address(server), expected);
        }
    }

    #[tokio::test]
    async fn each_of_the_first_servers_tells_what_is_wrong_with_it() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let here = other.local_addr().expect("an address");
        let told = inquire(&format!("127.0.0.1:1,zk-typo.invalid,{here},never-asked,nor-this/app")).await;
        let [refused, unknown, strange, more] = told.split("; ").collect::<Vec<_>>()[..] else { panic!("{told}") };
        assert_eq!((refused, more), ("127.0.0.1:1: connection refused", "and 2 more"));
        assert!(strange.starts_with(&format!("{here}: it accepts connections, but gives no session")), "{told}");
        // Where there is no network, a name is not looked up in time.
        assert!(unknown.starts_with("zk-typo.invalid:2181: "), "{told}");
    }
}
