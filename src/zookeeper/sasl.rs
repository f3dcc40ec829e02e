//! SASL DIGEST-MD5, as ZooKeeper's own clients do it (RFC 2831): the server sends a challenge, and the reply proves
//! knowledge of the password; then the server proves that it knows it too.

use bytes::{BufMut, BytesMut};
use md5::{Digest, Md5};

use crate::secret::Secret;

/// The SASL service name of ZooKeeper's servers.
const URI: &str = "zookeeper/zk-sasl-md5";

/// The only round of an exchange.
const ROUND: &str = "00000001";

/// Why a server's part of the exchange is invalid.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SaslError {
    #[error("it asks for no DIGEST-MD5: `sasl:USER:PASSWORD` is for that alone")]
    Challenge,
    #[error("it does not prove that it knows the password")]
    Server,
}

/// The reply to a server's challenge, and what the server must answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) answer: Secret<BytesMut>,
    expected: Secret<String>,
}

impl Exchange {
    /// `nonce`: must be unique.
    pub(super) fn new(user: &str, password: &str, challenge: &[u8], nonce: &str) -> Result<Self, SaslError> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| SaslError::Challenge)?;
        let given = |name: &str| directive(challenge, name);
        let theirs = given("nonce").ok_or(SaslError::Challenge)?;
        let realm = given("realm").unwrap_or_default();
        let has_auth = given("qop").is_none_or(|qop| qop.split(',').any(|qop| qop.trim() == "auth"));
        if !has_auth || given("algorithm").as_deref() != Some("md5-sess") {
            return Err(SaslError::Challenge);
        }
        let secret = md5(&[&latin_1(user), b":", &latin_1(&realm), b":", &latin_1(password)]);
        let session = hex(&md5(&[&secret, b":", theirs.as_bytes(), b":", nonce.as_bytes()]));
        let proof = |method: &str| {
            let asked = hex(&md5(&[method.as_bytes(), b":", URI.as_bytes()]));
            hex(&md5(&[format!("{session}:{theirs}:{ROUND}:{nonce}:auth:{asked}").as_bytes()]))
        };
        let mut answer = BytesMut::new();
        let charset = if given("charset").is_some() { "charset=utf-8," } else { "" };
        answer.put_slice(
            format!(
                "{charset}username={},realm={},nonce={},nc={ROUND},cnonce={},digest-uri={},maxbuf=65536,response={},\
                 qop=auth",
                quoted(user),
                quoted(&realm),
                quoted(&theirs),
                quoted(nonce),
                quoted(URI),
                proof("AUTHENTICATE"),
            )
            .as_bytes(),
        );
        Ok(Self { answer: Secret(answer), expected: Secret(proof("")) })
    }

    /// Whether the server has proven that it knows the password too.
    pub(super) fn check(&self, last: &[u8]) -> Result<(), SaslError> {
        let last = std::str::from_utf8(last).map_err(|_| SaslError::Server)?;
        let proven = directive(last, "rspauth").is_some_and(|proof| proof == self.expected.0);
        proven.then_some(()).ok_or(SaslError::Server)
    }
}

/// The value of a directive among comma-separated `name=value` and `name="value"`.
fn directive(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (found, after) = rest.trim_start_matches([',', ' ', '\t']).split_once('=')?;
        let (value, more) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if found.trim() == name {
            return Some(value);
        }
        rest = more;
    }
}

/// The text before the closing quote, and the rest.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(characters.next()?.1),
            (_, character) => value.push(character),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The bytes of a name or a password for hashing: in ISO 8859-1 if possible, as the RFC requires.
fn latin_1(text: &str) -> Vec<u8> {
    let latin: Option<Vec<u8>> = text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
    latin.unwrap_or_else(|| text.as_bytes().to_vec())
}

fn md5(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_and_the_server_is_held_to_its_proof() {
        let challenge = br#"realm="zk-sasl-md5",nonce="OA6MG9tEQGm2hh",charset=utf-8,algorithm=md5-sess,qop="auth""#;
        let exchange = Exchange::new("bob", "secret", challenge, "OA6MHXh6VqTrRk").expect("a challenge");
        let answer = String::from_utf8(exchange.answer.0.to_vec()).expect("text");
        for part in [
            r#"username="bob""#,
            r#"realm="zk-sasl-md5""#,
            r#"nonce="OA6MG9tEQGm2hh""#,
            r#"cnonce="OA6MHXh6VqTrRk""#,
            "nc=00000001",
            "qop=auth",
            r#"digest-uri="zookeeper/zk-sasl-md5""#,
        ] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        let proof = format!("rspauth={}", exchange.expected.0);
        assert_eq!(exchange.check(proof.as_bytes()), Ok(()));
        assert_eq!(exchange.check(b"rspauth=00"), Err(SaslError::Server));
        assert_eq!(exchange.check(b""), Err(SaslError::Server));
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        let no_md5 = br#"nonce="n",algorithm=md5"#;
        let no_auth = br#"nonce="n",algorithm=md5-sess,qop="auth-conf""#;
        for wrong in [&b""[..], b"\xff", b"nonce=\"n", br#"realm="r",algorithm=md5-sess"#, no_md5, no_auth] {
            assert_eq!(Exchange::new("u", "p", wrong, "c").err(), Some(SaslError::Challenge));
        }
    }

    #[test]
    fn quotes_and_commas_in_directives_are_taken_as_they_are() {
        let text = r#"a="1,\"2\"\\", b=3 ,c="""#;
        let values = ["a", "b", "c", "d"].map(|name| directive(text, name));
        assert_eq!(values, [Some(r#"1,"2"\"#.into()), Some("3".into()), Some(String::new()), None]);
        assert_eq!(directive(&format!("a={}", quoted(r#"x"\y"#)), "a"), Some(r#"x"\y"#.into()));
    }
}
