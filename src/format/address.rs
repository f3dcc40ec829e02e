//! Hosts and ports in registrations.

use std::net::IpAddr;

use super::Undecodable;
use crate::model::{MAX_LABEL_BYTES, is_of_one_host};

/// Parses `host:port`, with IPv6 in brackets or bare: the last colon is the separator.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), Undecodable> {
    let (host, number) = text.rsplit_once(':').ok_or(Undecodable::NoPort)?;
    Ok((self::host(host)?, port(number)?))
}

/// A single host, without IPv6 brackets.
pub(super) fn host(text: &str) -> Result<String, Undecodable> {
    let host = any_host(text)?;
    if ip(host).is_some_and(|ip| !is_of_one_host(ip)) {
        return Err(Undecodable::NotOneHost);
    }
    Ok(host.to_owned())
}

/// The same, or an address of several, such as `0.0.0.0`.
pub(super) fn any_host(text: &str) -> Result<&str, Undecodable> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_host = ip(bare).is_some() || is_name(bare) && !is_number(bare);
    match is_host && bare.len() <= MAX_LABEL_BYTES {
        true => Ok(bare),
        false if bare.is_empty() => Err(Undecodable::NoHost),
        false => Err(Undecodable::WrongHost),
    }
}

/// An address; one of IPv6 may have a zone.
fn ip(host: &str) -> Option<IpAddr> {
    match host.split_once('%') {
        Some((address, zone)) => address.parse().ok().filter(|ip: &IpAddr| ip.is_ipv6() && is_name(zone)),
        None => host.parse().ok(),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|character| character.is_alphanumeric() || "-._".contains(character))
}

/// Whether clients would take it for a number, and that for an address of IPv4: `0`, `127.1`, `0x7f000001`.
fn is_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
        for text in [
            "10.0.0.5",
            "web-1.example.",
            "my_host",
            "b\u{fc}ro.example",
            "::1",
            "fe80::1%eth0",
            "::ffff:10.0.0.5",
            "1a",
        ] {
            assert_eq!(host(text).as_deref(), Ok(text));
        }
        for text in [
            "$(id)",
            "-h",
            "';DROP",
            "a\\b",
            "`id`",
            "a|b",
            "a;b",
            "a&b",
            "a\"b",
            "<b>",
            "a:b",
            "a*",
            "a,b",
            "{a}",
            "10.0.0.5%a",
            "fe80::1%$(id)",
            "0",
            "0.0",
            "127.1",
            "0x7f000001",
            "a.0x1",
            "0.0.0.0.",
            "10.0.0.256",
            ".",
        ] {
            assert_eq!(host(text), Err(Undecodable::WrongHost), "{text}");
        }
        for text in
            ["0.0.0.0", "::", "[::]", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "ff02::1%eth0", "255.255.255.255"]
        {
            assert_eq!(host(text), Err(Undecodable::NotOneHost), "{text}");
            assert!(any_host(text).is_ok());
        }
        for text in ["a b:1", "a/b:1", "\u{1}:1", "[::1:1", "u@h:1", &format!("{}:1", "x".repeat(257))] {
            assert_eq!(host_and_port(text), Err(Undecodable::WrongHost), "{text}");
        }
        assert_eq!(host_and_port(":80"), Err(Undecodable::NoHost));
    }
}
