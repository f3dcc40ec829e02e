//! `zookeeper.connect`, checked before the client would refuse it.

use std::net::Ipv6Addr;

use crate::model::NodePath;
use crate::zookeeper::{address_of, is_secured, servers};

/// What is wrong with the address of an ensemble: servers separated by commas, with a chroot after the last.
pub(super) fn check(connect: &str) -> Result<(), String> {
    let mut servers = servers(connect).peekable();
    if servers.peek().is_none() {
        return Err("names no server: expected `host:port,host:port/chroot`".into());
    }
    if servers.clone().any(is_secured) && !servers.clone().all(is_secured) {
        return Err(
            "names some servers with `tls://` and some without: whoever keeps the first from being reached would \
                    read what passes to the others; write it before each"
                .into(),
        );
    }
    while let Some(server) = servers.next() {
        let server = address_of(server);
        if let Some((scheme, _)) = server.split_once("://") {
            return Err(format!(
                "`{server}` begins with `{scheme}://`: write `tls://` for TLS, and else the host alone"
            ));
        }
        let (address, chroot) = match server.find('/') {
            Some(slash) if servers.peek().is_none() => server.split_at(slash),
            _ => (server, "/"),
        };
        if !is_address(address) {
            return Err(format!(
                "`{address}` is not a server: expected `host:port,host:port/chroot`, an IPv6 address in brackets"
            ));
        }
        NodePath::parse(chroot).map_err(|error| format!("`{chroot}` is not a chroot: {error}"))?;
    }
    Ok(())
}

/// Whether this is `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
fn is_address(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_name(host), port)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_takes_is_taken() {
        for connect in [
            "zk1",
            "zk1:2181",
            "10.0.0.1:2181,zk-2.example:2182,zk_3",
            "tcp://zk1:2181,tcp://zk2/app",
            "[::1]:2181,[fe80::1]/a/b",
            "zk1:2181/",
            "zk1/a",
            " zk1:2181, zk2:2181 ,zk3/a ",
            "tls://zk1:2281, tls://[::1]/app",
            "zk1,",
            "zk1,,zk2",
        ] {
            assert_eq!(check(connect), Ok(()), "{connect}");
        }
    }

    #[test]
    fn a_server_of_another_scheme_is_named_whole() {
        for connect in ["TLS://zk1:2281/app", "zookeeper://zk1:2181/app"] {
            let told = check(connect).expect_err("no such scheme");
            assert!(told.starts_with(&format!("`{connect}` begins")) && told.contains("`tls://`"), "{told}");
        }
    }

    #[test]
    fn what_the_client_refuses_or_cannot_mean_is_refused() {
        for connect in [
            "",
            ",",
            ":2181",
            "zk1:",
            "zk1:0",
            "zk1:65536",
            "zk1:port",
            "zk1/app,zk2/app",
            "/app",
            "zk1/app/",
            "zk1//app",
            "zk1/../app",
            "[::1",
            "[::1]2181",
            "[zk1]:2181",
            "::1:2181",
            "tcp://",
            "tls://",
            "ssl://zk1:2281",
            "http://zk1:2181",
            "tls://zk1:2281,zk2:2181",
            "zk1:2181, tls://zk2:2281/app",
        ] {
            assert!(check(connect).is_err(), "{connect}");
        }
    }
}
