//! What must hold for any bytes of a peer, and for any value that PHP is given.

use rmpv::Value;

use super::frame::{Bounds, Progress, Scanner};
use super::message::Message;
use super::php::write_value;

const BOUNDS: Bounds = Bounds { bytes: 64 * 1024, ..Bounds::DEFAULT };

/// The scanner finds the same end wherever the bytes are cut, and the end that the decoder finds; what is understood
/// of the frame is written and understood again as the same.
pub fn frames(bytes: &[u8]) {
    let found = Scanner::new(BOUNDS).scan(bytes);
    let mut piecemeal = Scanner::new(BOUNDS);
    let first = (0..=bytes.len()).map(|end| piecemeal.scan(&bytes[..end])).find(|found| *found != Progress::Incomplete);
    assert_eq!(first.unwrap_or(Progress::Incomplete), found);
    let Progress::Complete(end) = found else { return };
    let mut rest = bytes;
    rmpv::decode::read_value(&mut rest).expect("what was scanned is MessagePack");
    assert_eq!(bytes.len() - rest.len(), end);
    if let Ok(Some(message)) = Message::decode(&bytes[..end]) {
        let written = message.encode();
        let again = Message::decode(&written).expect("our own is understood").expect("and is a message");
        assert_eq!(again.encode(), written);
    }
}

/// What is written of a value is one value of PHP, whose texts cannot be taken for anything else.
pub fn php_values(bytes: &[u8]) {
    let Progress::Complete(end) = Scanner::new(BOUNDS).scan(bytes) else { return };
    let value = rmpv::decode::read_value(&mut &bytes[..end]).expect("what was scanned is MessagePack");
    let mut written = Vec::new();
    if write_value(&value, &mut written).is_ok() {
        let mut reader = Reader(&written);
        reader.same(&value);
        assert!(reader.0.is_empty(), "something follows the value");
    }
}

/// Reads as PHP's `unserialize()` does, and compares.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn same(&mut self, value: &Value) {
        match (self.until(b";:"), value) {
            (b"N", Value::Nil) => {}
            (b"b", Value::Boolean(yes)) => assert_eq!(self.until(b";"), if *yes { b"1" } else { b"0" }),
            (b"i", Value::Integer(number)) => assert_eq!(Some(self.number(b";")), number.as_i64()),
            (b"d", Value::Integer(number)) => assert_eq!(self.float(), number.as_f64().expect("a number")),
            (b"d", Value::F32(number)) => self.same_float((*number).into()),
            (b"d", Value::F64(number)) => self.same_float(*number),
            (b"s", Value::String(text)) => assert_eq!(self.text(), text.as_bytes()),
            (b"s", Value::Binary(bytes)) => assert_eq!(self.text(), bytes),
            (b"a", Value::Array(values)) => {
                self.open(values.len());
                for (index, value) in values.iter().enumerate() {
                    self.same(&index.into());
                    self.same(value);
                }
                self.expect(b"}");
            }
            (b"a", Value::Map(pairs)) => {
                self.open(pairs.len());
                for (key, value) in pairs {
                    self.same_key(key);
                    self.same(value);
                }
                self.expect(b"}");
            }
            (kind, value) => panic!("{} for {value}", String::from_utf8_lossy(kind)),
        }
    }

    fn same_key(&mut self, key: &Value) {
        let written = match self.until(b":") {
            b"i" => self.number(b";").to_string().into_bytes(),
            b"s" => self.text().to_vec(),
            kind => panic!("{} as a key", String::from_utf8_lossy(kind)),
        };
        let expected = key.as_slice().map_or_else(|| key.to_string().into_bytes(), <[u8]>::to_vec);
        assert_eq!(written, expected);
    }

    fn same_float(&mut self, expected: f64) {
        let number = self.float();
        assert!(number.to_bits() == expected.to_bits() || number.is_nan() && expected.is_nan());
    }

    fn float(&mut self) -> f64 {
        let text = self.until(b";");
        let is_number = text.iter().all(|byte| b"0123456789.e-".contains(byte));
        assert!(is_number || matches!(text, b"INF" | b"-INF" | b"NAN"));
        str::from_utf8(text).expect("text").parse().expect("a number")
    }

    fn text(&mut self) -> &'a [u8] {
        let length = self.number(b":") as usize;
        self.expect(b"\"");
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        self.expect(b"\";");
        text
    }

    fn open(&mut self, length: usize) {
        assert_eq!(self.number(b":") as usize, length);
        self.expect(b"{");
    }

    fn number(&mut self, end: &[u8]) -> i64 {
        str::from_utf8(self.until(end)).expect("text").parse().expect("a number")
    }

    fn expect(&mut self, bytes: &[u8]) {
        self.0 = self.0.strip_prefix(bytes).expect("what PHP expects");
    }

    /// All before one of these bytes, and passes that byte too.
    fn until(&mut self, ends: &[u8]) -> &'a [u8] {
        let at = self.0.iter().position(|byte| ends.contains(byte)).expect("an end");
        let (before, rest) = self.0.split_at(at);
        self.0 = &rest[1..];
        before
    }
}
