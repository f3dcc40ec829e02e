//! TLS faults, in sentences with their fixes: the library mostly reports just the names of its variants.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, PeerIncompatible};

/// The most names of a certificate in a message.
const MAX_NAMES: usize = 8;

pub(super) const CRITICAL: &str =
    "it has a critical extension that is not known here: have it issued without, or not as critical";

/// What is wrong with a certificate, and how to fix it. The verifier mostly reports just the names of its variants.
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

/// Extracts `zk1` from the library's `DnsName("zk1")`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')').trim_matches('"'));
    inner.escape_debug().to_string()
}

/// The same for faults that the verifier only names.
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

/// What ended a handshake, apart from certificates.
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

/// The meaning of the other end's TLS alert.
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
        AlertDescription::AccessDenied => "it refuses the name in the certificate shown to it: have it allow that name",
        other => return format!("it ends TLS with {other:?}"),
    };
    plain.to_owned()
}

/// The name of an algorithm that is no longer trusted, by its identifier.
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
