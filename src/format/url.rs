//! URLs of Dubbo and related systems: `protocol://[user@]host[:port]/path?key=value&…`, also form-encoded as a node
//! name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Undecodable, address};

/// A URL with its parameters as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url<'u> {
    pub(super) protocol: &'u str,
    pub(super) host: &'u str,
    pub(super) port: Option<u16>,
    pub(super) path: &'u str,
    pub(super) parameters: Parameters<'u>,
}

/// Parameters by key, ordered. There are few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters<'u>(Vec<(&'u str, &'u str)>);

impl<'u> Parameters<'u> {
    /// If a key appears twice, the last one wins.
    fn of(mut pairs: Vec<(&'u str, &'u str)>) -> Self {
        pairs.sort_by_key(|(key, _)| *key);
        pairs.dedup_by(|next, last| {
            let is_same = next.0 == last.0;
            if is_same {
                last.1 = next.1;
            }
            is_same
        });
        Self(pairs)
    }

    /// A parameter; empty if there is none.
    pub(super) fn get(&self, key: &str) -> &'u str {
        self.0.binary_search_by_key(&key, |(key, _)| key).map_or("", |number| self.0[number].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'u str, &'u str)> {
        self.0.iter().copied()
    }
}

impl<'u> From<BTreeMap<&'u str, &'u str>> for Parameters<'u> {
    fn from(ordered: BTreeMap<&'u str, &'u str>) -> Self {
        Self(ordered.into_iter().collect())
    }
}

impl<'u> Url<'u> {
    pub(super) fn parse(text: &'u str) -> Result<Self, Undecodable> {
        let (protocol, rest) = text.split_once("://").ok_or(Undecodable::NotUrl)?;
        if protocol.is_empty() || !protocol.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
        {
            return Err(Undecodable::NotUrl);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
        let has_port = authority.rfind(':').is_some_and(|colon| authority.rfind(']').is_none_or(|end| end < colon));
        let (host, port) = if has_port {
            let (host, port) = authority.rsplit_once(':').ok_or(Undecodable::NoPort)?;
            // Dubbo writes 0 for any port.
            let is_any = !port.is_empty() && port.bytes().all(|byte| byte == b'0');
            (host, if is_any { None } else { Some(address::port(port)?) })
        } else {
            (authority, None)
        };
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let parameters = Parameters::of(pairs.filter(|(key, _)| !key.is_empty()).collect());
        Ok(Self { protocol, host: address::any_host(host)?, port, path, parameters })
    }

    /// A parameter; empty if there is none.
    pub(super) fn parameter(&self, key: &str) -> &'u str {
        self.parameters.get(key)
    }

    pub(super) fn host_and_port(&self) -> Result<(String, u16), Undecodable> {
        Ok((address::host(self.host)?, self.port.ok_or(Undecodable::NoPort)?))
    }
}

/// Decodes the output of Java's `URLEncoder` and PHP's `urlencode`; invalid escapes stand for themselves.
pub(super) fn form_decoded(name: &str) -> Result<Cow<'_, str>, Undecodable> {
    let (mut decoded, mut rest) = (Vec::new(), name.as_bytes());
    while let Some(plain) = rest.iter().position(|byte| matches!(byte, b'%' | b'+')) {
        decoded.reserve_exact(if decoded.is_empty() { name.len() } else { 0 });
        decoded.extend_from_slice(&rest[..plain]);
        let (byte, after) = (rest[plain], &rest[plain + 1..]);
        let escaped = after.first_chunk().filter(|_| byte == b'%').and_then(|digits| hex(*digits));
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    if decoded.is_empty() {
        return Ok(name.into());
    }
    decoded.extend_from_slice(rest);
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| Undecodable::NotUtf8)
}

/// Encodes as Java's `URLEncoder` does.
pub(super) fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'*' => encoded.push(byte.into()),
            b' ' => encoded.push('+'),
            byte => encoded.extend(["%".to_owned(), format!("{byte:02X}")]),
        }
    }
    encoded
}

fn hex([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_place_and_parameters() {
        let url = Url::parse("dubbo://user:pass@[::1]:20880/com.acme.Foo?b=1&a=x,y&b=2&c&=d").expect("a URL");
        assert_eq!((url.protocol, url.host, url.port, url.path), ("dubbo", "::1", Some(20_880), "com.acme.Foo"));
        assert_eq!(url.parameters.0, [("a", "x,y"), ("b", "2"), ("c", "")]);
        let bare = Url::parse("override://0.0.0.0?weight=5").expect("a URL");
        assert_eq!((bare.host, bare.port, bare.path), ("0.0.0.0", None, ""));
        assert_eq!(Url::parse("tri://h:0/x").expect("a URL").host_and_port(), Err(Undecodable::NoPort));
        for text in
            ["", "h:1/x", "://h:1", "a b://h:1", "dubbo://", "dubbo://:1/x", "dubbo://h:65536/x", "dubbo://h:1x"]
        {
            Url::parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_name_is_decoded_as_java_and_php_encode_it() {
        assert_eq!(form_decoded("a%3A%2F%2f+b*c%C3%BC").as_deref(), Ok("a:// b*c\u{fc}"));
        assert_eq!(form_decoded("100%").as_deref(), Ok("100%"));
        assert_eq!(form_decoded("%4").as_deref(), Ok("%4"));
        assert_eq!(form_decoded("%zz%+1").as_deref(), Ok("%zz% 1"));
        assert_eq!(form_decoded("%ff"), Err(Undecodable::NotUtf8));
        assert_eq!(form_encoded("a:// b*c\u{fc}"), "a%3A%2F%2F+b*c%C3%BC");
    }
}
