//! Hosts and ports in registrations.

use super::Undecodable;
use super::registered::checked;

/// Parses `host:port`, with IPv6 in brackets or bare: the last colon is the separator.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), Undecodable> {
    let (host, number) = text.rsplit_once(':').ok_or(Undecodable::NoPort)?;
    Ok((self::host(host)?, port(number)?))
}

/// A host without IPv6 brackets.
pub(super) fn host(text: &str) -> Result<String, Undecodable> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.contains(['[', ']', '@', '?', '#']) {
        return Err(Undecodable::NoHost);
    }
    checked(bare)
}

pub(super) fn port(text: &str) -> Result<u16, Undecodable> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or(Undecodable::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_splits_a_host_from_its_port() {
        for (text, host, port) in [
            ("10.0.0.5:80", "10.0.0.5", 80),
            ("web-1.example:65535", "web-1.example", 65_535),
            ("[::1]:1", "::1", 1),
            ("fe80::1:8080", "fe80::1", 8_080),
        ] {
            assert_eq!(host_and_port(text), Ok((host.to_owned(), port)), "{text}");
        }
        for text in ["", ":", "a", ":80", "a:", "a:0", "a:65536", "a:+1", "a: 1", "a:99999999999999999999", "[::1]"] {
            host_and_port(text).expect_err(text);
        }
        for text in ["a b:1", "a/b:1", "\u{1}:1", "[::1:1", "u@h:1", &format!("{}:1", "x".repeat(257))] {
            assert_eq!(host_and_port(text), Err(Undecodable::NoHost), "{text}");
        }
    }
}
