//! Framing: finds one request after the other in what a connection has received.

use super::dialect::{self, Detection, Dialect, Foreign, MAX_FRAME};
use super::scan::{Bounds, Head, Progress, Scanner, Stack, Violation};

/// The next request in what was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Its header, and where the next one begins.
    Request {
        dialect: Dialect,
        head: Head,
        end: usize,
    },
    Incomplete,
    /// The peer uses another protocol.
    Foreign(Foreign),
    /// It uses this dialect, but violates it.
    Violation(Dialect, Violation),
}

/// Finds the ends of the requests of one connection.
#[derive(Debug)]
pub(super) struct RequestDecoder {
    bounds: Bounds,
    dialect: Option<Dialect>,
    /// The walk through an incomplete request.
    scanner: Option<Scanner>,
    /// Reused from the previous walk, to avoid an allocation for each.
    stack: Stack,
}

impl RequestDecoder {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, dialect: None, scanner: None, stack: Stack::new() }
    }

    /// The peer's dialect, once known.
    pub(super) fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Looks for a request at the beginning of `received`. After a `Request`, remove its bytes before the next call.
    pub(super) fn next(&mut self, received: &[u8]) -> Decoded {
        let dialect = match self.dialect.map_or_else(|| dialect::detect(received), Detection::Dialect) {
            Detection::Dialect(dialect) => *self.dialect.insert(dialect),
            Detection::Incomplete => return Decoded::Incomplete,
            Detection::Foreign(foreign) => return Decoded::Foreign(foreign),
        };
        if received.is_empty() {
            return Decoded::Incomplete;
        }
        match if dialect.framed { self.framed(dialect, received) } else { self.bare(dialect, 0, received) } {
            Progress::Complete(end) => {
                let ended = self.scanner.take().and_then(|scanner| scanner.end(&received[..end]));
                let Some((head, stack)) = ended else { return Decoded::Violation(dialect, Violation::Type) };
                self.stack = stack;
                Decoded::Request { dialect, head, end }
            }
            Progress::Incomplete => Decoded::Incomplete,
            Progress::Violation(violation) => Decoded::Violation(dialect, violation),
        }
    }

    fn framed(&mut self, dialect: Dialect, received: &[u8]) -> Progress {
        let Some(length) = received.first_chunk::<4>() else { return Progress::Incomplete };
        let end = 4 + u32::from_be_bytes(*length) as usize;
        let progress = self.bare(dialect, 4, &received[..end.min(received.len())]);
        // Before its name has arrived, the limit is the highest one.
        if end > self.scanner.as_ref().map_or(0, Scanner::most).min(MAX_FRAME) {
            return Progress::Violation(Violation::Message);
        }
        match progress {
            Progress::Complete(found) if found != end => Progress::Violation(Violation::Frame),
            Progress::Incomplete if received.len() >= end => Progress::Violation(Violation::Frame),
            progress => progress,
        }
    }

    fn bare(&mut self, dialect: Dialect, start: usize, received: &[u8]) -> Progress {
        let (bounds, stack) = (self.bounds, &mut self.stack);
        let begin = || Scanner::with_stack(dialect.protocol, start, bounds, std::mem::take(stack));
        let scanner = self.scanner.get_or_insert_with(begin);
        scanner.scan(received)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Protocol;
    use super::super::methods;
    use super::*;

    const BOUNDS: Bounds = Bounds { message: 1_000, call: 3_000, string: 100, container: 100, depth: 5 };
    const STATUS: [u8; 19] = *b"\x80\x01\x00\x01\x00\x00\x00\x06status\x00\x00\x00\x01\x00";

    /// The request `STATUS`, after this many bytes.
    fn status(dialect: Dialect, start: usize) -> Decoded {
        let (name, end) = (start + 8..start + 14, start + 19);
        let method = methods::find(b"status");
        let head = Head { method, name, sequence_number: 1, is_oneway: false, arguments: start + 18 };
        Decoded::Request { dialect, head, end }
    }

    fn framed(message: &[u8], length: u32) -> Vec<u8> {
        [&length.to_be_bytes()[..], message].concat()
    }

    #[test]
    fn requests_are_cut_one_after_the_other() {
        let dialect = Dialect { protocol: Protocol::Binary, framed: false };
        let mut decoder = RequestDecoder::new(BOUNDS);
        let two = STATUS.repeat(2);
        assert_eq!(decoder.next(&two), status(dialect, 0));
        assert_eq!(decoder.next(&two[19..]), status(dialect, 0));
        assert_eq!(decoder.next(&[]), Decoded::Incomplete);
        let dialect = Dialect { framed: true, ..dialect };
        let mut decoder = RequestDecoder::new(BOUNDS);
        let two = framed(&STATUS, 19).repeat(2);
        for cut in 0..23 {
            assert_eq!(decoder.next(&two[..cut]), Decoded::Incomplete, "cut at {cut}");
        }
        assert_eq!(decoder.next(&two), status(dialect, 4));
        assert_eq!(decoder.next(&two[23..]), status(dialect, 4));
    }

    #[test]
    fn the_frame_of_a_call_may_be_longer() {
        let dialect = Dialect { protocol: Protocol::Binary, framed: true };
        let call = b"\x80\x01\x00\x01\x00\x00\x00\x04call\x00\x00\x00\x01";
        for (head, length, cut) in [
            (&call[..], 2_000, Decoded::Incomplete),
            (&call[..], 4_000, Decoded::Violation(dialect, Violation::Message)),
            (&STATUS[..8], 2_000, Decoded::Incomplete),
            (&STATUS[..18], 2_000, Decoded::Violation(dialect, Violation::Message)),
        ] {
            assert_eq!(RequestDecoder::new(BOUNDS).next(&framed(head, length)), cut, "{length}");
        }
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_wrong() {
        let dialect = Dialect { protocol: Protocol::Binary, framed: true };
        for (length, violation) in [(18, Violation::Frame), (20, Violation::Frame), (5_000, Violation::Message)] {
            let mut bytes = framed(&STATUS, length);
            bytes.push(0);
            assert_eq!(RequestDecoder::new(BOUNDS).next(&bytes), Decoded::Violation(dialect, violation), "{length}");
        }
    }
}
