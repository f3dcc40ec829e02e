//! Remotes: registers elsewhere, and how to connect to them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error as TlsFault};
use tokio::net::{TcpStream, UnixSocket, UnixStream};
use tokio_rustls::TlsConnector;

use crate::names::Names;
use crate::peer::name_of;
use crate::tls::{self, ClientFiles, TlsError};
use crate::{Peer, Peers, Stream, refuse_descriptors};

const TLS: &str = "tls://";
const UNIX: &str = "unix://";

/// The names of remotes that this process looks up concurrently, and the timeout.
static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(64));
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest host name.
const MAX_HOST: usize = 253;

/// The longest path of a socket that the kernel accepts.
const MAX_PATH: usize = 107;

/// The address of a register: `host:port`, `tls://host:port` for TLS, or `unix:///path` for a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remote {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Why a text is not an address of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRemoteError {
    #[error("expected `host:port`, `tls://host:port` or `unix:///path`")]
    Form,
    #[error("a Unix socket is spoken to without TLS: write `unix:///path`")]
    TlsOverUnix,
    #[error(
        "expected `unix:///path`, with an absolute path of at most {MAX_PATH} bytes and without control characters"
    )]
    Path,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("`{0}` is no name that a certificate could have")]
    Name(String),
    #[error("its certificate is signed by none of the authorities {0}")]
    Stranger(String),
    #[error("its certificate is not to be believed: {}", tls::fault_of(.0))]
    Certificate(CertificateError),
    #[error("{0}")]
    Handshake(String),
    #[error("it does not speak TLS")]
    Plain,
    #[error("a process of {found} listens there, and none of {expected}; it was shown nothing")]
    User { expected: String, found: String },
    #[error("the kernel does not say whose process listens there, so it was shown nothing: {0}")]
    UnknownUser(io::Error),
    #[error("there is no such socket: does the sidecar run, with `[register] unix = {0:?}`?")]
    NoSocket(PathBuf),
    #[error(
        "the permissions of {path}, or of its folder, do not let this user in: join its group, which `[register] group` \
         names", path = .0.display()
    )]
    Denied(PathBuf),
    #[error("nobody listens at {path}: does the sidecar run?", path = .0.display())]
    NobodyListens(PathBuf),
    #[error("cannot connect to {path}: {error}", path = .path.display())]
    Socket { path: PathBuf, error: io::Error },
}

impl FromStr for Remote {
    type Err = ParseRemoteError;

    fn from_str(text: &str) -> Result<Self, ParseRemoteError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let is_path = path.starts_with('/') && path.len() <= MAX_PATH && !path.contains(char::is_control);
            return if is_path { Ok(Self::Unix(path.into())) } else { Err(ParseRemoteError::Path) };
        }
        let (tls, rest) = text.strip_prefix(TLS).map_or((false, text), |rest| (true, rest));
        if rest.starts_with(UNIX) {
            return Err(ParseRemoteError::TlsOverUnix);
        }
        let (host, port) = rest.rsplit_once(':').ok_or(ParseRemoteError::Form)?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
        match port.parse() {
            Ok(port @ 1..) if !host.is_empty() && host.len() <= MAX_HOST && host.chars().all(is_host) => {
                Ok(Self::Tcp { host: host.to_owned(), port, tls })
            }
            _ => Err(ParseRemoteError::Form),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => write!(f, "{}{host}:{port}", if *tls { TLS } else { "" }),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Remote {
    /// Connects, with these files where it is by TLS. A register on this machine without TLS must be a process of `user`, if
    /// given: any process can take a port while nobody listens on it.
    pub async fn connect(&self, files: ClientFiles<'_>, user: Option<u32>) -> Result<Stream, ConnectError> {
        let (host, port, tls) = match self {
            Self::Unix(path) => return connect_unix(path, user).await,
            Self::Tcp { host, port, tls } => (host, port, tls),
        };
        let addresses = NAMES.look_up(&format!("{host}:{port}"), LOOKUP_TIMEOUT).await.map_err(io::Error::from)?;
        let stream = TcpStream::connect(&*addresses).await?;
        stream.set_nodelay(true)?;
        if !tls {
            if let Some(user) = user {
                check_user(&stream, user).await?;
            }
            return Ok(Stream::Tcp(stream));
        }
        let name = host.trim_start_matches('[').trim_end_matches(']');
        secure(stream, name, files).await
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// Whether data for this one may be sent to the other: what is encrypted for one must not be sent in the clear to
    /// another.
    pub fn may_share_with(&self, other: &Remote) -> bool {
        other.is_tls() || !self.is_tls()
    }
}

async fn connect_unix(path: &Path, user: Option<u32>) -> Result<Stream, ConnectError> {
    let connected = async {
        let socket = UnixSocket::new_stream()?;
        refuse_descriptors(&socket);
        socket.connect(path).await
    };
    let stream: UnixStream = connected.await.map_err(|error: io::Error| {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => ConnectError::NoSocket(path),
            io::ErrorKind::PermissionDenied => ConnectError::Denied(path),
            io::ErrorKind::ConnectionRefused => ConnectError::NobodyListens(path),
            _ => ConnectError::Socket { path, error },
        }
    })?;
    if let Some(user) = user {
        let found = Peer::by_unix(&stream).and_then(Peer::uid);
        is_user(user, found.ok_or_else(|| ConnectError::UnknownUser(io::ErrorKind::Unsupported.into()))?)?;
    }
    Ok(Stream::Unix(stream))
}

/// Checks that the process that accepted a connection on this machine belongs to this user; elsewhere this is unknown.
async fn check_user(stream: &TcpStream, user: u32) -> Result<(), ConnectError> {
    let peer = stream.peer_addr()?.ip();
    if !peer.to_canonical().is_loopback() && peer != stream.local_addr()?.ip() {
        return Ok(());
    }
    is_user(user, Peers::new().acceptor(stream).await.map_err(ConnectError::UnknownUser)?)
}

fn is_user(expected: u32, found: u32) -> Result<(), ConnectError> {
    if found == expected {
        return Ok(());
    }
    Err(ConnectError::User { expected: name_of(expected), found: name_of(found) })
}

/// Performs the TLS handshake with a server of this name.
pub async fn secure(stream: TcpStream, host: &str, files: ClientFiles<'_>) -> Result<Stream, ConnectError> {
    let connector = TlsConnector::from(tls::client(files)?);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Name(host.to_owned()))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
        Err(error) => Err(in_words(error, files.ca)),
    }
}

/// What went wrong in a handshake.
fn in_words(error: io::Error, ca: Option<&Path>) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>()) {
        Some(TlsFault::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            ConnectError::Stranger(
                ca.map_or_else(|| "of this machine".to_owned(), |path| format!("in {}", path.display())),
            )
        }
        Some(TlsFault::InvalidCertificate(wrong)) => ConnectError::Certificate(wrong.clone()),
        Some(TlsFault::InvalidMessage(_)) => ConnectError::Plain,
        Some(other) => ConnectError::Handshake(tls::handshake_fault(other)),
        None => ConnectError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_a_host_and_a_port_and_may_speak_tls_or_is_a_socket() {
        for text in [
            "hub:8010",
            "tls://hub.example:8010",
            "[::1]:1",
            "tls://[::1]:65535",
            "10.0.0.1:8010",
            "unix:///run/roster/register.sock",
        ] {
            assert_eq!(text.parse::<Remote>().expect("an address").to_string(), text);
        }
        let long = format!("{}:1", "x".repeat(254));
        for wrong in ["", "hub", "hub:", ":1", "tls://:1", "hub:0", "hub:65536", "a b:1", "tcp://hub:1", "a/b:1", &long]
        {
            assert_eq!(wrong.parse::<Remote>(), Err(ParseRemoteError::Form), "{wrong}");
        }
        let long = format!("unix:///{}", "x".repeat(MAX_PATH));
        for wrong in ["unix://", "unix://run/roster.sock", "unix:///run/\n", &long] {
            assert_eq!(wrong.parse::<Remote>(), Err(ParseRemoteError::Path), "{wrong}");
        }
        assert_eq!("tls://unix:///run/register.sock".parse::<Remote>(), Err(ParseRemoteError::TlsOverUnix));
    }

    #[tokio::test]
    async fn an_authority_s_own_certificate_for_a_server_is_refused_with_a_cure() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let [ca, private] = ["ca.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&ca, authority.self_signed(&key).expect("a certificate").pem()).expect("written");
        std::fs::write(&private, key.serialize_pem()).expect("written");
        let told = refusal(&ca, &ca, &private).await;
        let cure = "it is an authority's own certificate, not a server's: issue one for the server";
        assert!(told.contains(cure), "{told}");
    }

    #[tokio::test]
    async fn a_certificate_out_of_its_time_or_without_a_name_is_refused_in_words() {
        type Change = fn(&mut rcgen::CertificateParams);
        let changes: [(Change, &str); 3] = [
            (|it| it.not_after = rcgen::date_time_ymd(2020, 1, 1), "it expired at 2020-01-01T00:00:00Z, and it is "),
            (
                |it| it.not_before = rcgen::date_time_ymd(2090, 1, 1),
                "it holds from 2090-01-01T00:00:00Z on, and it is ",
            ),
            (|it| it.subject_alt_names = vec![], "it names no host in subjectAltName: have it issued for localhost"),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        let [ca, shown, private] = ["ca.pem", "server.pem", "key.pem"].map(|name| folder.path().join(name));
        let key = || rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new([]).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let (signing, own) = (key(), key());
        std::fs::write(&ca, authority.self_signed(&signing).expect("a certificate").pem()).expect("written");
        std::fs::write(&private, own.serialize_pem()).expect("written");
        let issuer = rcgen::Issuer::new(authority, signing);
        for (change, told) in changes {
            let mut server = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
            change(&mut server);
            std::fs::write(&shown, server.signed_by(&own, &issuer).expect("a certificate").pem()).expect("written");
            let why = refusal(&ca, &shown, &private).await;
            assert!(why.starts_with(&format!("its certificate is not to be believed: {told}")), "{why}");
        }
    }

    /// Why a client that trusts this authority does not connect to a server with this certificate.
    async fn refusal(ca: &Path, shown: &Path, private: &Path) -> String {
        let server = tls::Server::read(shown, private).expect("a certificate");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it listens");
        let accepted = listener.accept().await.expect("it came").0;
        let files = ClientFiles { ca: Some(ca), shown: None };
        let (_, refused) = tokio::join!(server.secure(Stream::Tcp(accepted)), secure(stream, "localhost", files));
        refused.expect_err("it is not believed").to_string()
    }

    #[test]
    fn what_goes_encrypted_does_not_go_in_the_open() {
        let [open, safe, local] =
            ["hub:1", "tls://hub:1", "unix:///hub"].map(|text| text.parse::<Remote>().expect("an address"));
        assert!(open.may_share_with(&open) && open.may_share_with(&safe) && safe.may_share_with(&safe));
        assert!(local.may_share_with(&open) && local.may_share_with(&safe) && open.may_share_with(&local));
        assert!(!safe.may_share_with(&open) && !safe.may_share_with(&local));
    }
}
