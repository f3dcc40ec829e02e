//! TLS: a listener's certificate, and the authorities that a client trusts.
//!
//! Certificates and keys are PEM files. They are read again each time, so that renewing them requires no restart.

mod faults;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, InvalidMessage, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::faults::handshake_fault;
pub use self::faults::{alert_in_words, fault_of};
use crate::{Stream, secret};

/// A listener's certificate.
#[derive(Clone)]
pub struct Server(TlsAcceptor);

/// Why TLS is impossible: the content of a file, or that it cannot be read.
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
    /// Reads a certificate with its chain, and its key.
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

    /// Performs the handshake with a client that has connected.
    pub async fn secure(&self, stream: Stream) -> io::Result<Stream> {
        match stream {
            Stream::Tcp(stream) => Ok(Stream::Tls(Box::new(self.0.accept(stream).await.map_err(in_plain)?.into()))),
            other => Ok(other),
        }
    }
}

/// The certificate in a file, with its chain.
pub fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(path).map_err(|why| TlsError::Certificate { path: path.to_owned(), why })
}

/// The private key in a file.
pub fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |why: String| TlsError::Key { path: path.to_owned(), why };
    let text = secret::bytes(path).map_err(|error| wrong(error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(in_words(&error, "private key")))
}

/// The error, in words that say so if the peer does not use TLS.
fn in_plain(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            io::Error::new(error.kind(), "it does not speak TLS: have it connect to the host with `tls://` before it")
        }
        Some(fault) => io::Error::new(error.kind(), handshake_fault(fault)),
        None => error,
    }
}

/// The files of a TLS client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFiles<'a> {
    /// The authorities that it trusts; none: those of the machine.
    pub ca: Option<&'a Path>,
    /// Its certificate and key.
    pub shown: Option<(&'a Path, &'a Path)>,
}

impl<'a> From<Option<&'a Path>> for ClientFiles<'a> {
    /// Of a client that shows no certificate.
    fn from(ca: Option<&'a Path>) -> Self {
        Self { ca, shown: None }
    }
}

/// A client's configuration.
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

/// The authorities in a file.
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

/// What is wrong with a file. Its lines are not shown: they may belong to a key.
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
    use super::faults::CRITICAL;
    use super::*;

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
}
