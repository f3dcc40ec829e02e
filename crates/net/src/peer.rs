//! Peers: the other end of a connection, as far as the kernel identifies it.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{self, Uid};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::Accepted;

/// The unit between which places are shared: a user of this machine, or else an address; for IPv6 a network, since one
/// host has all of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    Uid(u32),
    Address(IpAddr),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// The process that connected, and its user at that time.
    Unix {
        pid: i32,
        uid: u32,
        gid: u32,
    },
}

impl Peer {
    /// The other end of a Unix socket.
    pub fn by_unix(socket: &impl AsFd) -> Option<Self> {
        let peer = getsockopt(socket, PeerCredentials).ok()?;
        Some(Self::Unix { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
    }

    /// The user, known for Unix sockets only.
    pub fn uid(self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix { uid, .. } => Some(uid),
        }
    }
}

/// Where it connected from.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid, .. } => write!(f, "unix:uid={uid}"),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Address(address @ IpAddr::V6(_)) if !address.is_loopback() => write!(f, "{address}/{NETWORK_BITS}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// The number of bits in an IPv6 address that its user cannot choose.
const NETWORK_BITS: u32 = 64;

impl User {
    fn at(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(address) if !address.is_loopback() => {
                Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> NETWORK_BITS)).into()
            }
            address => address,
        })
    }
}

/// A user's name, or its number if it has none.
pub fn name_of(user: u32) -> String {
    match unistd::User::from_uid(Uid::from_raw(user)) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {user}"),
    }
}

/// How often to check whether a connection has been accepted.
const ACCEPT_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Identifies the other ends of connections.
#[derive(Debug)]
pub struct Peers {
    /// For asking the kernel which user a socket belongs to (`sock_diag(7)`); none: it cannot be asked. Shared by all
    /// queries, since opening one takes longer than a query.
    kernel: Option<Socket>,
}

impl Peers {
    pub fn new() -> Self {
        let open = || {
            let socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(Protocol::from(SOCK_DIAG)))?;
            // The answer is available once the query has been sent.
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        Self { kernel: open().ok() }
    }

    /// Who made an accepted connection; none: it is already gone.
    pub fn user_of(&self, accepted: &Accepted) -> Option<User> {
        match accepted {
            Accepted::Unix(_) => accepted.peer()?.uid().map(User::Uid),
            // Whichever address was used: a user of this machine is identified even if it connected by a network
            // address.
            Accepted::Tcp(stream, peer) => match self.uid_of(*peer, stream.local_addr().ok()?) {
                Ok(uid) => uid.map(User::Uid),
                Err(_) => Some(User::at(peer.ip().to_canonical())),
            },
        }
    }

    /// The user whose process has accepted a connection to an address of this machine, once one has. An error: the
    /// kernel does not report it.
    pub async fn acceptor(&self, stream: &TcpStream) -> io::Result<u32> {
        let (peer, own) = (stream.peer_addr()?, stream.local_addr()?);
        loop {
            if let Some(uid) = self.uid_of(peer, own)? {
                return Ok(uid);
            }
            tokio::time::sleep(ACCEPT_LOOK_INTERVAL).await;
        }
    }

    /// Whether a peer on this machine has closed its socket.
    pub(crate) fn has_closed(&self, stream: &TcpStream) -> bool {
        let ends = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
        ends.is_ok_and(|(peer, own)| matches!(self.uid_of(peer, own), Ok(None)))
    }

    /// The user that listens on an address; none: nobody does, or the kernel does not report it. For a port on all
    /// addresses, the user that listens on it on loopback.
    pub fn listener(&self, mut address: SocketAddr) -> Option<u32> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let nobody = SocketAddr::new(any, 0);
        if let Some(uid) = self.uid_of(address, nobody).ok().flatten() {
            return Some(uid);
        }
        if address.ip() != any {
            return None;
        }
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        self.uid_of(address, nobody).ok().flatten()
    }

    /// The user of the socket at `peer` whose other end is `own`; none: it was closed, in which case the kernel would
    /// report root. `/proc/net/tcp` has the same data, but only as a whole.
    fn uid_of(&self, peer: SocketAddr, own: SocketAddr) -> io::Result<Option<u32>> {
        let mut kernel = self.kernel.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let question = question(peer, own);
        kernel.send(&question)?;
        let mut answer = [0; 1024];
        let length = kernel.read(&mut answer)?;
        // If there is no such connection, the kernel reports a socket that listens on that port.
        let is_answer = answer[4..6] == SOCK_DIAG_BY_FAMILY.to_ne_bytes()
            && answer[PORTS_AT..PORTS_AT + 4] == question[ASKED_PORTS_AT..ASKED_PORTS_AT + 4];
        let number = |at: usize| Some(u32::from_ne_bytes(answer[..length].get(at..at + 4)?.try_into().ok()?));
        match (number(UID_AT), number(INODE_AT)) {
            (Some(uid), Some(inode)) if is_answer => Ok((inode != 0).then_some(uid)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const TCP: u8 = 6;
const HEADER_BYTES: u32 = 16;
const QUESTION_BYTES: u32 = 56;
/// The offset of the ports in the query and in the answer, which are followed by the uid and the inode.
const ASKED_PORTS_AT: usize = 16 + 8;
const PORTS_AT: usize = 16 + 4;
const UID_AT: usize = PORTS_AT + 48 + 12;
const INODE_AT: usize = UID_AT + 4;

/// `struct nlmsghdr`, and `struct inet_diag_req_v2` after it.
fn question(peer: SocketAddr, own: SocketAddr) -> Vec<u8> {
    let family = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let mut bytes = Vec::with_capacity((HEADER_BYTES + QUESTION_BYTES) as usize);
    bytes.extend((HEADER_BYTES + QUESTION_BYTES).to_ne_bytes());
    bytes.extend([SOCK_DIAG_BY_FAMILY, REQUEST].map(u16::to_ne_bytes).concat());
    bytes.extend([0; 8]);
    bytes.extend([i32::from(family) as u8, TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend([peer.port(), own.port()].map(u16::to_be_bytes).concat());
    for address in [peer.ip(), own.ip()] {
        match address {
            IpAddr::V4(address) => bytes.extend([&address.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    // Any interface, any cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_loopback_peer_is_found_as_long_as_it_is_there() {
        let peers = Peers::new();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let own = listener.local_addr().expect("an address");
            let client = TcpStream::connect(own).expect("it accepts");
            let peer = client.local_addr().expect("an address");
            let uid = || peers.uid_of(peer, own).expect("the kernel knows it");
            assert_eq!(uid(), Some(nix::unistd::Uid::current().as_raw()), "{address}");
            assert!(peers.uid_of(own, SocketAddr::new(own.ip(), 1)).is_err(), "{address}");
            drop(client);
            assert_eq!(uid(), None, "{address}: it waits for its other end to close");
        }
    }

    #[test]
    fn the_user_who_listens_at_a_port_is_found() {
        let peers = Peers::new();
        for (listening, asked) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")] {
            let listener = TcpListener::bind((listening, 0)).expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let asked = SocketAddr::new(asked.parse().expect("an address"), port);
            let uid = nix::unistd::Uid::current().as_raw();
            assert_eq!(peers.listener(asked), Some(uid), "{listening}, {asked}");
            drop(listener);
            assert_eq!(peers.listener(asked), None, "{listening}, {asked}: nobody listens");
        }
    }

    #[test]
    fn one_network_of_ipv6_is_one_user() {
        let user = |address: &str| User::at(address.parse().expect("an address"));
        assert_eq!(user("2001:db8::1"), user("2001:db8::2:0:0:1"));
        assert_ne!(user("2001:db8::1"), user("2001:db8:0:1::1"));
        assert_ne!(user("192.0.2.1"), user("192.0.2.2"));
        assert_eq!(
            ["2001:db8::1", "::1", "192.0.2.1"].map(|it| user(it).to_string()),
            ["2001:db8::/64", "::1", "192.0.2.1"]
        );
    }
}
