//! TLS: the certificate by which a listener is known, and the authorities that one who connects believes.
//!
//! Certificates and keys are files in PEM. They are read again whenever they are needed anew, so that what an operator
//! renews needs no restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, PeerIncompatible, RootCertStore, ServerConfig,
};
use tokio_rustls::TlsAcceptor;

use crate::{Stream, secret};

/// So many names of a certificate are told.
const MAX_NAMES: usize = 8;

const CRITICAL: &str = "it has a critical extension that is not known here: have it issued without, or not as critical";

/// What a listener shows to those who connect.
#[derive(Clone)]
pub struct Server(TlsAcceptor);

/// Why there can be no TLS: what a file holds, or that it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot use the certificate {path}: {why}")]
    Certificate { path: PathBuf, why: String },
    #[error("cannot use the key {path}: {why}")]
    Key { path: PathBuf, why: String },
    #[error("cannot use the authorities {path}: {why}")]
    Authorities { path: PathBuf, why: String },
    #[error("this machine has no authorities to believe: {0}")]
    NoAuthorities(String),
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server(…)")
    }
}

impl Server {
    /// Reads a certificate, with those that lead from it to its authority after it, and its key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let of_certificate = |why: String| TlsError::Certificate { path: certificate.to_owned(), why };
        let of_key = |why: String| TlsError::Key { path: key.to_owned(), why };
        let (chain, private) = (chain_of(certificate)?, key_of(key)?);
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| of_certificate(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => of_key(format!("it is not of {}", certificate.display())),
                rustls::Error::InvalidCertificate(wrong) => of_certificate(fault_of(&wrong)),
                error => of_key(error.to_string()),
            })?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Goes through the handshake with one who has connected.
    pub async fn secure(&self, stream: Stream) -> io::Result<Stream> {
        match stream {
            Stream::Tcp(stream) => Ok(Stream::Tls(Box::new(self.0.accept(stream).await.map_err(in_plain)?.into()))),
            other => Ok(other),
        }
    }
}

/// The certificate in a file, with those that lead from it to its authority.
pub fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(path).map_err(|why| TlsError::Certificate { path: path.to_owned(), why })
}

/// The private key in a file.
pub fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |why: String| TlsError::Key { path: path.to_owned(), why };
    let text = secret::bytes(path).map_err(|error| wrong(error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(in_words(&error, "private key")))
}

/// Says of one who does not speak TLS that this is so.
fn in_plain(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            io::Error::new(error.kind(), "it does not speak TLS, as one does to a host with `tls://` before it")
        }
        Some(fault) => io::Error::new(error.kind(), handshake_fault(fault)),
        None => error,
    }
}

/// The files of one who connects by TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFiles<'a> {
    /// The authorities that it believes; none: those of the machine.
    pub ca: Option<&'a Path>,
    /// The certificate that it shows, with its key.
    pub shown: Option<(&'a Path, &'a Path)>,
}

/// What a client believes, and what it shows.
pub fn client(files: ClientFiles<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match files.ca {
        Some(path) => authorities_of(path)?,
        None => authorities_of_the_machine()?,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::NoAuthorities(error.to_string()))?
        .with_root_certificates(roots);
    let config = match files.shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, private) = (chain_of(certificate)?, key_of(key)?);
            config.with_client_auth_cert(chain, private).map_err(|error| match error {
                rustls::Error::InvalidCertificate(wrong) => {
                    TlsError::Certificate { path: certificate.to_owned(), why: fault_of(&wrong) }
                }
                rustls::Error::InconsistentKeys(_) => {
                    TlsError::Key { path: key.to_owned(), why: format!("it is not of {}", certificate.display()) }
                }
                error => TlsError::Key { path: key.to_owned(), why: error.to_string() },
            })?
        }
    };
    Ok(Arc::new(config))
}

/// The authorities of a file.
pub fn authorities_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let wrong = |why: String| TlsError::Authorities { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).map_err(wrong)? {
        roots.add(certificate).map_err(|error| match error {
            rustls::Error::InvalidCertificate(fault) => wrong(fault_of(&fault)),
            error => wrong(error.to_string()),
        })?;
    }
    Ok(roots)
}

fn authorities_of_the_machine() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(found.certs);
    if known > 0 {
        return Ok(roots);
    }
    Err(TlsError::NoAuthorities(
        found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string),
    ))
}

/// The certificates in a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = secret::bytes(path).map_err(|error| error.to_string())?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match read.map_err(|error| in_words(&error, "certificate"))? {
        none if none.is_empty() => Err(in_words(&pem::Error::NoItemsFound, "certificate")),
        some => Ok(some),
    }
}

/// What is wrong with a certificate, and the cure. Those who verify it have no words for most of it but names of their
/// own.
pub fn fault_of(error: &CertificateError) -> String {
    use CertificateError as Fault;
    let plain = match error {
        Fault::BadEncoding => "it cannot be decoded: copy it anew, or have it issued anew",
        Fault::Expired => "it has expired: renew it",
        Fault::ExpiredContext { time, not_after } => {
            let (ended, now) = (written(*not_after), written(*time));
            return format!(
                "it expired at {ended}, and it is {now} by this machine's clock: renew it, or set the clock"
            );
        }
        Fault::NotValidYet => "it does not hold yet: set the clock of this machine",
        Fault::NotValidYetContext { time, not_before } => {
            let (begins, now) = (written(*not_before), written(*time));
            return format!(
                "it holds from {begins} on, and it is {now} by this machine's clock: set the clock, or wait until then"
            );
        }
        Fault::Revoked => "its authority has revoked it: have another issued",
        Fault::UnhandledCriticalExtension => CRITICAL,
        Fault::UnknownIssuer => "none of the authorities that are believed here has signed it: name its own in `ca`",
        Fault::BadSignature => {
            "its signature is not of the authority that it names, maybe an older one of that name: name the new one in `ca`"
        }
        Fault::UnsupportedSignatureAlgorithmContext { signature_algorithm_id: algorithm, .. } => {
            let by = outdated(algorithm).unwrap_or("an algorithm that is not known here");
            return format!(
                "it, or one that leads from it to its authority, is signed by {by}: have it issued anew, signed by SHA-256"
            );
        }
        Fault::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed by a key of a kind that is not known here: have it issued by an authority with a key of RSA (2048 \
             bits at least), ECDSA (P-256, P-384) or Ed25519"
        }
        Fault::NotValidForName => "it is of another host: connect by a name that it has in subjectAltName",
        Fault::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            return match &presented[..] {
                [] => format!("it names no host in subjectAltName: have it issued for {expected}"),
                names => format!(
                    "it is of {}, and not of {expected}: connect by a name that it has, or have {expected} added",
                    names.iter().take(MAX_NAMES).map(|name| bare(name)).collect::<Vec<_>>().join(", ")
                ),
            };
        }
        Fault::InvalidPurpose => "it may not be used for this: have it issued with that purpose in extendedKeyUsage",
        Fault::InvalidPurposeContext { required, .. } => {
            return format!("it is not for {required}: have it issued with that purpose in extendedKeyUsage");
        }
        Fault::Other(other) => return other_fault(&other.to_string()),
        other => return other.to_string(),
    };
    plain.to_owned()
}

/// `zk1` of what the library has as `DnsName("zk1")`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')').trim_matches('"'));
    inner.escape_debug().to_string()
}

/// The same of what the verifier only names.
fn other_fault(name: &str) -> String {
    let plain = match name {
        "CaUsedAsEndEntity" => {
            "it is an authority's own certificate, not a server's: issue one for the server, and name the authority in `ca`"
        }
        "EndEntityUsedAsCa" => {
            "what has signed it is no authority's certificate (its basicConstraints lack CA:TRUE): have an authority sign it"
        }
        "UnsupportedCriticalExtension" => CRITICAL,
        "UnsupportedCertVersion" => {
            "it is of version 1, without extensions: issue it anew as version 3, with the server's name in subjectAltName"
        }
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            "there are more authorities between it and one that is believed than those allow: have one of them sign it \
             that stands nearer"
        }
        "NameConstraintViolation" => "its authority may not sign for that name: have another sign it",
        "EmptyEkuExtension" => "its extendedKeyUsage is empty: have it issued with a purpose there, or without it",
        "ExtensionValueInvalid" | "MalformedExtensions" => "an extension of it cannot be read: have it issued anew",
        "InvalidSerialNumber" => {
            "its serial number is none: have it issued anew with a positive one of at most 20 bytes"
        }
        "MalformedDnsIdentifier" => "a name in its subjectAltName is none of a host: have it issued anew",
        "MalformedNameConstraint" | "InvalidNetworkMaskConstraint" => {
            "a name constraint of its authority cannot be read: have the authority's certificate issued anew"
        }
        "SignatureAlgorithmMismatch" => "it names two algorithms for its one signature: have it issued anew",
        _ => name,
    };
    plain.to_owned()
}

/// What has ended a handshake, but for a certificate.
pub(crate) fn handshake_fault(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => alert_in_words(*alert),
        rustls::Error::InvalidCertificate(wrong) => fault_of(wrong),
        rustls::Error::NoCertificatesPresented => "it shows no certificate: give it one".to_owned(),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "it speaks no version of TLS that is spoken here: have it speak 1.2 or 1.3".to_owned(),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => "it knows none of the ciphers, key exchanges or signatures that are known here: allow it AES-GCM or \
              ChaCha20-Poly1305, with ECDHE"
            .to_owned(),
        other => other.to_string(),
    }
}

/// What the other end says as it ends TLS.
pub fn alert_in_words(alert: AlertDescription) -> String {
    let plain = match alert {
        AlertDescription::UnknownCA => {
            "it believes none of the authorities that signed the certificate shown to it: name their authority there"
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => {
            "it does not believe the certificate shown to it: its own log may say why; does it want another `certificate`?"
        }
        AlertDescription::CertificateExpired => {
            "it says that the certificate shown to it has expired: renew that, or set its clock"
        }
        AlertDescription::CertificateRevoked => {
            "it says that the certificate shown to it is revoked: have another issued"
        }
        AlertDescription::CertificateRequired => {
            "it wants a certificate to be shown: name one in `certificate`, with its `key`"
        }
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "it takes none of the ciphers that are known here, or wants a certificate: does it want another `certificate`?"
        }
        AlertDescription::ProtocolVersion => {
            "it speaks no version of TLS that is spoken here: have it speak 1.2 or 1.3"
        }
        AlertDescription::UnrecognisedName => {
            "it has no certificate for the name by which it was asked: connect by a name that it has"
        }
        AlertDescription::AccessDenied => {
            "it does not let in whom the certificate shown to it names: have it allow that"
        }
        other => return format!("it ends TLS with {other:?}"),
    };
    plain.to_owned()
}

/// The name of an algorithm that is believed no more, of which this is the identifier.
fn outdated(algorithm: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 3] = [
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", "SHA-1, which is believed no more"),
        (b"\x2a\x86\x48\xce\x3d\x04\x01", "SHA-1, which is believed no more"),
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", "MD5, which is believed no more"),
    ];
    let known =
        KNOWN.iter().find(|(identifier, _)| algorithm.windows(identifier.len()).any(|part| part == *identifier));
    known.map(|(_, name)| *name)
}

fn written(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// What is wrong with a file. Its lines are not told: they may be of a key.
fn in_words(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("it holds no {wanted} in PEM"),
        _ => format!("it is no {wanted} in PEM, or a part of one"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use rustls::ExtendedKeyPurpose;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_a_sentence_with_its_cure() {
        let [before, after] =
            [1_767_225_600, 1_796_083_200].map(|s| UnixTime::since_unix_epoch(Duration::from_secs(s)));
        let signed = |algorithm: &[u8]| CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: algorithm.to_vec(),
            supported_algorithms: Vec::new(),
        };
        let other_host = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("zk1").expect("a name"),
            presented: presented.iter().map(ToString::to_string).collect(),
        };
        let purpose = CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![ExtendedKeyPurpose::ClientAuth],
        };
        let key = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: Vec::new(),
            public_key_algorithm_id: Vec::new(),
        };
        for (error, told) in [
            (CertificateError::BadEncoding, "it cannot be decoded: copy it anew"),
            (CertificateError::Expired, "it has expired: renew it"),
            (
                CertificateError::ExpiredContext { time: after, not_after: before },
                "it expired at 2026-01-01T00:00:00Z, and it is 2026-12-01T00:00:00Z by this machine's clock: renew it",
            ),
            (CertificateError::NotValidYet, "it does not hold yet: set the clock"),
            (
                CertificateError::NotValidYetContext { time: before, not_before: after },
                "it holds from 2026-12-01T00:00:00Z on, and it is 2026-01-01T00:00:00Z by this machine's clock: set the",
            ),
            (CertificateError::Revoked, "its authority has revoked it: have another issued"),
            (
                CertificateError::UnhandledCriticalExtension,
                "it has a critical extension that is not known here: have it",
            ),
            (CertificateError::UnknownIssuer, "none of the authorities that are believed here has signed it: name"),
            (CertificateError::BadSignature, "its signature is not of the authority that it names, maybe an older one"),
            (
                signed(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"),
                "it, or one that leads from it to its authority, is signed by SHA-1",
            ),
            (
                signed(b"\x2a\x86\x48\xce\x3d\x04\x01"),
                "it, or one that leads from it to its authority, is signed by SHA-1",
            ),
            (signed(b"\x01"), "it, or one that leads from it to its authority, is signed by an algorithm that is not"),
            (key, "it is signed by a key of a kind that is not known here: have it issued"),
            (CertificateError::NotValidForName, "it is of another host: connect by a name"),
            (other_host(&[]), "it names no host in subjectAltName: have it issued for zk1"),
            (
                other_host(&["DnsName(\"zk2\")", "IpAddress(10.0.0.2)"]),
                "it is of zk2, 10.0.0.2, and not of zk1: connect by a name that it has, or have zk1 added",
            ),
            (CertificateError::InvalidPurpose, "it may not be used for this: have it issued with that purpose"),
            (purpose, "it is not for server authentication: have it issued with that purpose"),
        ] {
            assert!(fault_of(&error).starts_with(told), "{}", fault_of(&error));
        }
        let (known, unknown) = ("EmptyEkuExtension", CertificateError::InvalidOcspResponse);
        assert!(other_fault(known).starts_with("its extendedKeyUsage is empty: "));
        assert_eq!(fault_of(&unknown), unknown.to_string(), "the library's text is better than none");
    }

    #[test]
    fn a_pipe_in_place_of_a_certificate_or_a_key_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let refusals = [chain_of(&pipe).err(), key_of(&pipe).err(), authorities_of(&pipe).err()];
        let told =
            refusals.iter().flatten().filter(|why| why.to_string().contains("it is no regular file, but a pipe"));
        assert_eq!(told.count(), 3, "{refusals:?}");
    }

    #[test]
    fn a_certificate_with_a_critical_extension_that_is_unknown_is_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let [certificate, private] = ["server.pem", "key.pem"].map(|name| folder.path().join(name));
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut server = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
        unknown.set_criticality(true);
        server.custom_extensions.push(unknown);
        std::fs::write(&certificate, server.self_signed(&key).expect("a certificate").pem()).expect("written");
        std::fs::write(&private, key.serialize_pem()).expect("written");
        let told = Server::read(&certificate, &private).expect_err("nobody could believe it").to_string();
        assert!(told.ends_with(&format!("server.pem: {CRITICAL}")), "{told}");
    }

    #[test]
    fn what_the_other_end_says_is_a_sentence_with_its_cure() {
        for (error, told) in [
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "it believes none of the authorities"),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateExpired),
                "it says that the certificate shown to",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                "it wants a certificate to be shown: ",
            ),
            (rustls::Error::AlertReceived(AlertDescription::HandshakeFailure), "it takes none of the ciphers"),
            (rustls::Error::AlertReceived(AlertDescription::InternalError), "it ends TLS with InternalError"),
            (rustls::Error::NoCertificatesPresented, "it shows no certificate: "),
            (PeerIncompatible::Tls12NotOffered.into(), "it speaks no version of TLS that is spoken here: "),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), "it knows none of the ciphers"),
            (rustls::Error::DecryptError, "cannot decrypt peer's message"),
        ] {
            assert!(handshake_fault(&error).starts_with(told), "{}", handshake_fault(&error));
        }
    }
}
