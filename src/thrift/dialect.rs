//! The dialects: the protocol of a client, framed or not, detected from its first bytes.

/// How a client's messages are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Strict binary: `TBinaryProtocol`, the default of PHP's library.
    Binary,
    /// `TCompactProtocol`.
    Compact,
}

/// A client's dialect, for the lifetime of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) protocol: Protocol,
    /// Whether each message has a 4-byte length prefix: `TFramedTransport`.
    pub(super) framed: bool,
}

/// What the first bytes of a connection show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detection {
    Dialect(Dialect),
    /// More bytes are needed.
    Incomplete,
    Foreign(Foreign),
}

/// Not Thrift, or an unsupported dialect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Http,
    Tls,
    /// A frame longer than any request may be.
    Frame,
    /// A frame around something else, or the pre-2009 binary protocol, which begins with a name's length.
    Old,
    Garbage,
}

/// Frames are shorter than this, whatever the limit on requests: their length begins with a zero byte.
pub(super) const MAX_FRAME: usize = 1 << 24;

/// Detects the dialect of a connection that begins with `bytes`.
pub(super) fn detect(bytes: &[u8]) -> Detection {
    match (bytes.first(), bytes.get(1)) {
        (None, _) | (Some(0x80 | 0x82), None) => Detection::Incomplete,
        (Some(0x00), _) => detect_framed(bytes),
        (Some(0x80 | 0x82), _) => {
            detect_protocol(bytes, false).map_or(Detection::Foreign(Foreign::Garbage), Detection::Dialect)
        }
        (Some(byte), _) => Detection::Foreign(match byte {
            b'A'..=b'Z' => Foreign::Http,
            0x16 => Foreign::Tls,
            0x01..=0x7f => Foreign::Frame,
            _ => Foreign::Garbage,
        }),
    }
}

fn detect_framed(bytes: &[u8]) -> Detection {
    match bytes.get(4..6) {
        None => Detection::Incomplete,
        Some(start) => detect_protocol(start, true).map_or(Detection::Foreign(Foreign::Old), Detection::Dialect),
    }
}

fn detect_protocol(start: &[u8], framed: bool) -> Option<Dialect> {
    let protocol = match start {
        [0x80, 0x01, ..] => Protocol::Binary,
        // The lower five bits are the version, 1; the upper three the type of the message.
        [0x82, version, ..] if version & 0x1f == 1 => Protocol::Compact,
        _ => return None,
    };
    Some(Dialect { protocol, framed })
}

impl Foreign {
    /// The name for logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Frame => "too long a frame",
            Self::Old => "old or unknown protocol in a frame",
            Self::Garbage => "garbage",
        }
    }

    /// What the peer is sent before the connection is closed.
    pub(super) fn refusal(self) -> &'static [u8] {
        match self {
            Self::Http => {
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 58\r\n\r\n\
                  This is Roster's Thrift endpoint; it does not speak HTTP.\n"
            }
            // A TLS alert: fatal, unexpected message. So the client reports that this is not a TLS server.
            Self::Tls => &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x0a],
            Self::Frame | Self::Old | Self::Garbage => {
                b"roster: not a Thrift message: use TBinaryProtocol (strict) or TCompactProtocol, framed or not\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_dialects_are_detected_as_soon_as_they_can_be() {
        let dialect = |protocol, framed| Detection::Dialect(Dialect { protocol, framed });
        for (bytes, detection) in [
            (&[0x80, 0x01, 0, 1][..], dialect(Protocol::Binary, false)),
            (&[0x82, 0x21], dialect(Protocol::Compact, false)),
            (&[0, 0, 0, 9, 0x80, 0x01], dialect(Protocol::Binary, true)),
            (&[0, 0, 0, 9, 0x82, 0x81], dialect(Protocol::Compact, true)),
        ] {
            assert_eq!(detect(bytes), detection);
            let needed = if bytes[0] == 0 { 6 } else { 2 };
            for cut in 0..needed {
                assert_eq!(detect(&bytes[..cut]), Detection::Incomplete, "{bytes:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_not_thrift_is_detected_at_its_first_bytes() {
        for (bytes, foreign) in [
            (&b"GET / HTTP/1.1\r\n"[..], Foreign::Http),
            (&[0x16, 0x03, 0x01], Foreign::Tls),
            (&[0x7f, 0xff, 0xff, 0xff], Foreign::Frame),
            (&[0x00, 0x00, 0x00, 0x06, b'z', b'k'], Foreign::Old),
            (&[0xff], Foreign::Garbage),
            (&[0x80, 0x02], Foreign::Garbage),
            (&[0x82, 0x22], Foreign::Garbage),
        ] {
            assert_eq!(detect(bytes), Detection::Foreign(foreign), "{bytes:?}");
        }
    }

    #[test]
    fn the_http_refusal_has_the_length_it_says() {
        let refusal = String::from_utf8(Foreign::Http.refusal().to_vec()).expect("text");
        let (head, body) = refusal.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{refusal}");
    }
}
