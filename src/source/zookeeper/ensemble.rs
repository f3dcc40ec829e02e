//! The ensemble by its own account: the servers that its configuration names, which a reconfiguration changes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where a server of ZooKeeper 3.5 and newer keeps the configuration of its ensemble, whatever the chroot is.
pub(super) const CONFIGURATION: &str = "/zookeeper/config";

/// The most servers that are taken from it, and the longest name that one may have.
const MAX_SERVERS: usize = 64;
const MAX_HOST_BYTES: usize = 253;

/// Where clients find the servers. Whoever may write that may name anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ensemble {
    /// `HOST:PORT`, in order.
    pub(super) servers: Vec<String>,
    /// Whether it was told by a server of this machine, for which loopback addresses mean the same as here.
    is_here: bool,
}

impl Ensemble {
    pub(super) fn read(configuration: &[u8], is_here: bool) -> Self {
        let lines = String::from_utf8_lossy(configuration);
        let servers: BTreeSet<String> = lines.lines().filter_map(server).take(MAX_SERVERS).collect();
        Self { servers: servers.into_iter().collect(), is_here }
    }

    /// Whether one of its servers can be found at this address.
    pub(super) fn may_have(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_of_one_machine = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
        };
        let is_nobody = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        !is_nobody && (self.is_here || !is_of_one_machine)
    }
}

impl fmt::Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.join(","))
    }
}

/// Where clients find the server of a line: `server.1=HOST:2888:3888:participant;[HOST:]2181`, as far as it says that. One
/// that listens at all addresses is found where the other servers find it.
fn server(line: &str) -> Option<String> {
    let (number, server) = line.strip_prefix("server.")?.split_once('=')?;
    number.parse::<u64>().ok()?;
    let (for_servers, for_clients) = server.rsplit_once(';')?;
    let (at, port) = for_clients.rsplit_once(':').unwrap_or(("", for_clients));
    let port = port.trim().parse::<u16>().ok().filter(|port| *port != 0)?;
    let is_everywhere = |host: &str| ip(host).is_some_and(|ip| ip.is_unspecified());
    let at = at.trim();
    let host = if at.is_empty() || is_everywhere(at) { first_host(for_servers.trim())? } else { at };
    match ip(host) {
        Some(ip) => Some(SocketAddr::new(ip, port).to_string()),
        None => is_name(host).then(|| format!("{host}:{port}")),
    }
}

/// The first host of an address with ports: `HOST:2888:3888`, `[::1]:2888:3888`.
fn first_host(address: &str) -> Option<&str> {
    match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => address.split(':').next(),
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.map_or_else(|| host.parse().ok(), |host| host.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

fn is_name(host: &str) -> bool {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.chars().all(is_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_where_its_clients_find_it() {
        for (line, expected) in [
            ("server.1=zk1:2888:3888:participant;10.0.0.1:2181", Some("10.0.0.1:2181")),
            ("server.2=zk2:2888:3888:observer;client-2.example:2182", Some("client-2.example:2182")),
            ("server.3=zk3:2888:3888;2181", Some("zk3:2181")),
            ("server.3=zk3:2888:3888:participant;0.0.0.0:2181", Some("zk3:2181")),
            ("server.4=[fd00::4]:2888:3888:participant;[0:0:0:0:0:0:0:0]:2181", Some("[fd00::4]:2181")),
            ("server.4=zk4:2888:3888|zk4-b:2889:3889:participant;2181", Some("zk4:2181")),
            ("server.5=zk5:2888:3888:participant;[fd00::5]:2181", Some("[fd00::5]:2181")),
            ("server.6=zk6:2888:3888:participant", None),
            ("server.6=zk6:2888:3888:participant;0", None),
            ("server.6=zk6:2888:3888:participant;zk6:65536", None),
            ("server.x=zk6:2888:3888:participant;2181", None),
            ("server.7=:2888:3888:participant;2181", None),
            ("server.7=[zk7:2888:3888:participant;2181", None),
            ("server.7=zk7:2888:3888;\u{1b}[31m:2181", None),
            ("server.7=zk7:2888:3888;a/b,c:2181", None),
            ("version=100000003", None),
            ("", None),
        ] {
            assert_eq!(server(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_named_without_end_is_bounded_and_what_is_no_text_is_nothing() {
        let endless: String = (0..10_000).map(|n| format!("server.{n}=zk{n}:2888:3888;2181\n")).collect();
        assert_eq!(Ensemble::read(endless.as_bytes(), false).servers.len(), MAX_SERVERS);
        let long = format!("server.1={}:2888:3888;2181", "x".repeat(MAX_HOST_BYTES + 1));
        for nothing in [&b"\xff\xfe\x00"[..], long.as_bytes(), b""] {
            assert_eq!(Ensemble::read(nothing, false), Ensemble::default());
        }
    }

    #[test]
    fn addresses_of_one_machine_mean_something_only_there() {
        let may_have = |is_here, ip: &str| {
            let address = SocketAddr::new(ip.parse().expect("an address"), 2181);
            Ensemble { servers: Vec::new(), is_here }.may_have(address)
        };
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1"] {
            assert!(!may_have(false, ip) && may_have(true, ip), "{ip}");
        }
        for ip in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(!may_have(false, ip) && !may_have(true, ip), "{ip}");
        }
        assert!(may_have(false, "10.0.0.1") && may_have(true, "fd00::1"));
    }
}
