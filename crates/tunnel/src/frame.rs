//! The scanner: finds where a MessagePack value ends, and checks its limits, before anything is decoded.
//!
//! A frame does not contain its length: its end is found by walking through its values. The walk stops where bytes are
//! missing and resumes when more have arrived, so that a frame sent byte by byte costs no more than one sent at once.
//! It allocates nothing but its stack, which has a maximum depth.
//!
//! Format: `spec.md` of `msgpack/msgpack`.

/// The limits of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Its length in bytes.
    pub bytes: usize,
    /// The nesting depth of containers.
    pub depth: usize,
}

impl Bounds {
    /// The limits before authentication.
    pub const STRANGER: Self = Self { bytes: 4 * 1024, depth: 4 };
    /// The default limits.
    pub const DEFAULT: Self = Self { bytes: 1024 * 1024, depth: 32 };

    pub(super) fn at_least(self, depth: usize) -> Self {
        Self { depth: self.depth.max(depth), ..self }
    }
}

/// How many values a message that is queued as a whole may contain, including map keys and the containers themselves:
/// each takes up to 40 times as much memory as its bytes. Answers to requests are limited by that memory.
pub const MAX_COMMAND_VALUES: usize = 65_536;

/// The progress of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The frame ends before this byte.
    Complete(usize),
    Incomplete,
    Wrong(Wrong),
}

/// Why the bytes are not an acceptable frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    #[error("a frame is longer than its bound")]
    Bytes,
    #[error("a command holds more than {MAX_COMMAND_VALUES} values")]
    Values,
    #[error("a frame is nested deeper than its bound")]
    Depth,
    #[error("a map's key is neither text nor an integer")]
    Key,
    #[error("bytes that are not MessagePack")]
    Marker,
    #[error("a frame is not a map")]
    NotAMap,
    #[error("it is TLS, which is spoken to a host with `tls://` before it")]
    Tls,
    #[error("a token is not text")]
    Token,
    #[error("a command needs a text under \"cmd\": {{\"cmd\": \"reload\"}}")]
    Nameless,
    #[error("`{0}` is a command of the tunnel itself")]
    Reserved(&'static str),
}

/// A walk through one frame.
#[derive(Debug)]
pub struct Scanner {
    bounds: Bounds,
    /// Where the next value begins, possibly beyond the available bytes.
    at: usize,
    /// The value itself, and those that its containers have announced.
    values: usize,
    stack: Vec<Level>,
    has_odd_key: bool,
}

/// A container with this many values left. In a map a key is next if their number is even.
#[derive(Clone, Copy, Debug)]
struct Level {
    left: usize,
    map: bool,
}

/// The header of a value.
enum Head {
    /// A value that ends this many bytes after its header.
    Plain {
        bytes: usize,
        key: bool,
    },
    Container(Level),
}

impl Scanner {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, at: 0, values: 1, stack: Vec::new(), has_odd_key: false }
    }

    /// How many values the frame contains, as far as known.
    pub fn values(&self) -> usize {
        self.values
    }

    /// Whether a map key is neither a string nor an integer, as far as known. No PHP peer can read such a frame.
    pub fn has_odd_key(&self) -> bool {
        self.has_odd_key
    }

    /// Continues in another buffer, which follows all bytes that were passed.
    pub(super) fn go_on(&mut self) {
        self.bounds.bytes = self.bounds.bytes.saturating_sub(self.at);
        self.at = 0;
    }

    /// Walks as far as `bytes` reach: everything that has arrived of the frame.
    pub fn scan(&mut self, bytes: &[u8]) -> Progress {
        loop {
            if self.at > self.bounds.bytes {
                return Progress::Wrong(Wrong::Bytes);
            }
            if self.at > 0 && self.stack.is_empty() {
                return if self.at <= bytes.len() { Progress::Complete(self.at) } else { Progress::Incomplete };
            }
            match self.step(bytes) {
                Ok(true) => {}
                Ok(false) if bytes.len() >= self.bounds.bytes => return Progress::Wrong(Wrong::Bytes),
                Ok(false) => return Progress::Incomplete,
                Err(wrong) => return Progress::Wrong(wrong),
            }
        }
    }

    /// Passes one value's header, and its content if it is not a container. False: bytes are missing.
    fn step(&mut self, bytes: &[u8]) -> Result<bool, Wrong> {
        let mut reader = Reader { bytes, at: self.at };
        let Some(head) = reader.head()? else { return Ok(false) };
        self.at = reader.at;
        let is_key = self.stack.last_mut().is_some_and(|level| {
            level.left -= 1;
            level.map && level.left % 2 == 1
        });
        self.has_odd_key |= is_key && !matches!(head, Head::Plain { key: true, .. });
        match head {
            Head::Plain { bytes, .. } => self.at = self.at.saturating_add(bytes),
            Head::Container(level) => self.enter(level)?,
        }
        while self.stack.last().is_some_and(|level| level.left == 0) {
            self.stack.pop();
        }
        Ok(true)
    }

    fn enter(&mut self, level: Level) -> Result<(), Wrong> {
        if self.stack.len() >= self.bounds.depth {
            return Err(Wrong::Depth);
        }
        self.values = self.values.saturating_add(level.left);
        self.stack.push(level);
        Ok(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next value's header; none: it has not arrived.
    fn head(&mut self) -> Result<Option<Head>, Wrong> {
        let Some(marker) = self.number(1) else { return Ok(None) };
        let plain = |bytes| Some(Head::Plain { bytes, key: false });
        let key = |bytes| Some(Head::Plain { bytes, key: true });
        let array = |left| Some(Head::Container(Level { left, map: false }));
        let map = |pairs: usize| Some(Head::Container(Level { left: pairs.saturating_mul(2), map: true }));
        Ok(match marker {
            0x00..=0x7f | 0xe0..=0xff => key(0),
            0x80..=0x8f => map(marker & 0x0f),
            0x90..=0x9f => array(marker & 0x0f),
            0xa0..=0xbf => key(marker & 0x1f),
            0xc0 | 0xc2 | 0xc3 => plain(0),
            0xc4..=0xc6 => self.number(1 << (marker - 0xc4)).and_then(key),
            0xc7..=0xc9 => self.number(1 << (marker - 0xc7)).and_then(|length| plain(length.saturating_add(1))),
            0xca => plain(4),
            0xcb => plain(8),
            0xcc..=0xcf => key(1 << (marker - 0xcc)),
            0xd0..=0xd3 => key(1 << (marker - 0xd0)),
            0xd4..=0xd8 => plain(1 + (1 << (marker - 0xd4))),
            0xd9..=0xdb => self.number(1 << (marker - 0xd9)).and_then(key),
            0xdc | 0xdd => self.number(2 << (marker - 0xdc)).and_then(array),
            0xde | 0xdf => self.number(2 << (marker - 0xde)).and_then(map),
            _ => return Err(Wrong::Marker),
        })
    }

    /// A big-endian number of this many bytes; none: they have not arrived.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let end = self.at.checked_add(bytes)?;
        let read = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(read.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmpv::Value;

    const BOUNDS: Bounds = Bounds { bytes: 200_000, depth: 5 };

    fn written(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).expect("a vector takes all");
        bytes
    }

    /// A value of every kind, and of every length of each.
    fn every_kind() -> Value {
        let text = |length| Value::from("x".repeat(length));
        let binary = |length| Value::Binary(vec![0xff; length]);
        let integers =
            [0, 127, 128, 255, 256, 65_536, i64::MAX, -1, -32, -33, -129, -32_769, i64::MIN].map(Value::from);
        let extension = |length| Value::Ext(7, vec![1; length]);
        Value::Map(vec![
            ("text".into(), Value::Array(vec![text(0), text(31), text(32), text(300), text(66_000)])),
            (Value::Binary(b"binary".to_vec()), Value::Array(vec![binary(0), binary(300), binary(66_000)])),
            (7.into(), Value::Array(integers.into())),
            (
                Value::from(-700),
                Value::Array(vec![Value::Nil, true.into(), false.into(), 1.5f32.into(), 1.5f64.into()]),
            ),
            (u64::MAX.into(), Value::Array([1, 2, 4, 8, 16, 3, 300].map(extension).into())),
            (
                "small".into(),
                Value::Map(vec![("empty".into(), Value::Map(vec![])), ("none".into(), Value::Array(vec![]))]),
            ),
            ("long".into(), Value::Array(vec![Value::Nil; 16])),
            ("wide".into(), Value::Map((0..16).map(|key| (key.into(), Value::Nil)).collect())),
        ])
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        let frame = written(&every_kind());
        let followed = [frame.clone(), frame.clone()].concat();
        assert_eq!(Scanner::new(BOUNDS).scan(&followed), Progress::Complete(frame.len()));
        let mut scanner = Scanner::new(BOUNDS);
        for cut in 0..frame.len() {
            assert_eq!(scanner.scan(&frame[..cut]), Progress::Incomplete, "cut at {cut}");
        }
        assert_eq!(scanner.scan(&followed), Progress::Complete(frame.len()));
        for cut in 0..frame.len() {
            let mut scanner = Scanner::new(BOUNDS);
            assert_eq!(scanner.scan(&frame[..cut]), Progress::Incomplete);
            assert_eq!(scanner.scan(&followed), Progress::Complete(frame.len()), "in two, cut at {cut}");
        }
        let wide = written(&Value::Array(vec![Value::Nil; 70_000]));
        assert_eq!(Scanner::new(BOUNDS).scan(&wide), Progress::Complete(wide.len()));
    }

    #[test]
    fn what_passes_a_bound_is_wrong_before_it_has_come() {
        let scan = |bytes: &[u8]| Scanner::new(BOUNDS).scan(bytes);
        assert_eq!(scan(&[0xdb, 0xff, 0xff, 0xff, 0xff]), Progress::Wrong(Wrong::Bytes));
        assert_eq!(scan(&[0xc6, 0, 3, 0x0d, 0x40]), Progress::Wrong(Wrong::Bytes));
        assert_eq!(scan(&[0xc9, 0xff, 0xff, 0xff, 0xff]), Progress::Wrong(Wrong::Bytes));
        assert_eq!(scan(&[0xdd, 0xff, 0xff, 0xff, 0xff].repeat(6)), Progress::Wrong(Wrong::Depth));
        assert_eq!(scan(&[0x91; 6]), Progress::Wrong(Wrong::Depth));
        assert_eq!(scan(&[0xc1]), Progress::Wrong(Wrong::Marker));
    }

    #[test]
    fn a_frame_with_a_key_that_php_does_not_know_ends_where_it_ends() {
        let odd = [
            Value::Nil,
            true.into(),
            1.5f32.into(),
            1.5f64.into(),
            every_kind(),
            Value::Array(vec!["a".into(), Value::Nil]),
            Value::Ext(1, vec![2]),
        ];
        for (keys, is_odd) in [(odd.to_vec(), true), (vec!["a".into(), 7.into(), Value::Binary(vec![0xff])], false)] {
            for key in keys {
                let frame = written(&Value::Map(vec![("cmd".into(), "own".into()), (key.clone(), Value::Nil)]));
                let mut scanner = Scanner::new(BOUNDS);
                for cut in 0..frame.len() {
                    assert_eq!(scanner.scan(&frame[..cut]), Progress::Incomplete, "{key}");
                }
                assert_eq!((scanner.scan(&frame), scanner.has_odd_key()), (Progress::Complete(frame.len()), is_odd));
            }
        }
    }

    #[test]
    fn a_frame_of_many_pieces_costs_no_more_than_one_at_once() {
        // If walked from its beginning for every piece, this frame would take minutes.
        let frame = written(&Value::Array(vec![Value::Nil; 60_000]));
        let mut scanner = Scanner::new(BOUNDS);
        for cut in 1..frame.len() {
            assert_eq!(scanner.scan(&frame[..cut]), Progress::Incomplete);
        }
        assert_eq!(scanner.scan(&frame), Progress::Complete(frame.len()));
        assert_eq!(scanner.values(), 60_001);
    }
}
