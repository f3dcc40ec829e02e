//! The ensemble as it describes itself: the servers in its dynamic configuration.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The node in which ZooKeeper 3.5 and newer keeps its dynamic configuration, independent of the chroot.
pub(super) const CONFIGURATION: &str = "/zookeeper/config";

/// The most servers that are used, and the longest name of one.
const MAX_SERVERS: usize = 64;
const MAX_HOST_BYTES: usize = 253;

/// Where clients find the servers. Anyone who may write that can name anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ensemble {
    /// `HOST:PORT`, in order.
    pub(super) servers: Vec<String>,
}

impl Ensemble {
    pub(super) fn read(configuration: &[u8]) -> Self {
        let lines = String::from_utf8_lossy(configuration);
        let servers: BTreeSet<String> = lines.lines().filter_map(server).take(MAX_SERVERS).collect();
        Self { servers: servers.into_iter().collect() }
    }
}

/// Whether an address can belong to a server that the ensemble names: not one that reaches only this machine or its own
/// link, where it would mean something else than to the ensemble, nor an unassignable one.
pub(super) fn may_be_at(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
                && translated(ip).is_none_or(|ip| may_be_at(ip.into()))
        }
    }
}

/// The IPv6 address that NAT64 with the well-known prefix maps to this one (RFC 6052).
fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((u32::from(high) << 16 | u32::from(low)).into()),
        _ => None,
    }
}

impl fmt::Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.join(","))
    }
}

/// Where clients find the server of a line: `server.1=HOST:2888:3888:participant;[HOST:]2181`, if the line says so. One
/// that listens on all addresses is found at the host for other servers.
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
        assert_eq!(Ensemble::read(endless.as_bytes()).servers.len(), MAX_SERVERS);
        let long = format!("server.1={}:2888:3888;2181", "x".repeat(MAX_HOST_BYTES + 1));
        for nothing in [&b"\xff\xfe\x00"[..], long.as_bytes(), b""] {
            assert_eq!(Ensemble::read(nothing), Ensemble::default());
        }
    }

    #[test]
    fn what_only_this_machine_or_its_link_reaches_is_no_server_of_an_ensemble() {
        let may_be_at = |ip: &str| may_be_at(ip.parse().expect("an address"));
        for ip in [
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
        ] {
            assert!(!may_be_at(ip), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.0.1", "fd00::1", "2001:db8::1", "64:ff9b::a00:1"] {
            assert!(may_be_at(ip), "{ip}");
        }
    }
}
