//! The scanner: finds where a message ends, and checks its limits, before anything is decoded.
//!
//! An unframed message does not contain its length: its end is found by walking through its fields. The walk stops
//! where bytes are missing and resumes when more have arrived, so that a message sent byte by byte costs no more than
//! one sent at once. It allocates nothing but its stack, which has a maximum depth.
//!
//! Formats: `thrift-binary-protocol.md` and `thrift-compact-protocol.md` of Apache Thrift's `doc/specs`.

use std::ops::Range;

use super::Config;
use super::dialect::Protocol;
use super::methods::{self, LONGEST_NAME, Method};

/// The limits of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) message: usize,
    /// Like `message`, for methods that carry application-defined arguments.
    pub(super) call: usize,
    pub(super) string: usize,
    pub(super) container: usize,
    pub(super) depth: usize,
}

impl Bounds {
    /// The limits of the configuration.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            message: config.max_request.as_u64() as usize,
            call: config.max_call.as_u64() as usize,
            string: config.max_string.as_u64() as usize,
            container: config.max_container,
            depth: config.max_depth,
        }
    }
}

/// The progress of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The message ends before this byte.
    Complete(usize),
    Incomplete,
    Violation(Violation),
}

/// Why the bytes are not an acceptable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("the message is longer than max_request allows, or max_call for a call")]
    Message,
    #[error("a string is longer than max_string allows")]
    String,
    #[error("a container has more elements than max_container allows")]
    Container,
    #[error("the message is nested deeper than max_depth allows")]
    Depth,
    #[error("an unknown type, or bytes that are not of the protocol")]
    Type,
    #[error("a length below zero, or a number that does not end")]
    Number,
    #[error("only calls are answered, and oneway calls")]
    Call,
    #[error("the frame is longer or shorter than its message")]
    Frame,
}

/// The header of a message. Positions refer to what was scanned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// None: there is no such method.
    pub(super) method: Option<&'static Method>,
    pub(super) name: Range<usize>,
    pub(super) sequence_number: i32,
    /// Whether no reply is expected.
    pub(super) is_oneway: bool,
    /// Where the arguments begin.
    pub(super) arguments: usize,
}

/// A walk through one message.
#[derive(Debug)]
pub(super) struct Scanner {
    protocol: Protocol,
    bounds: Bounds,
    /// Where the next step begins, possibly beyond the available bytes.
    at: usize,
    /// Once it has arrived; in the binary protocol still without its sequence number.
    head: Option<Head>,
    /// The limit of the message, once its name is known.
    most: usize,
    stack: Stack,
}

/// The values around the current position.
pub(super) type Stack = Vec<StackFrame>;

/// A value that contains others.
#[derive(Clone, Copy, Debug)]
pub(super) enum StackFrame {
    Struct,
    /// This many elements are left, alternating between these types.
    Elements {
        left: usize,
        types: [Kind; 2],
    },
}

/// The kind of a value on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Fixed(usize),
    Varint,
    String,
    Struct,
    List,
    Map,
}

/// Why a step is not complete: missing bytes, or an error.
enum StepError {
    Incomplete,
    Violation(Violation),
}

type Step<T> = Result<T, StepError>;

impl Scanner {
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn new(protocol: Protocol, start: usize, bounds: Bounds) -> Self {
        Self::with_stack(protocol, start, bounds, Vec::new())
    }

    /// A walk through a message that begins at `start`, reusing the stack of a previous one.
    pub(super) fn with_stack(protocol: Protocol, start: usize, bounds: Bounds, stack: Stack) -> Self {
        Self { protocol, bounds, at: start, head: None, most: bounds.message.max(bounds.call), stack }
    }

    /// Ends a complete walk.
    pub(super) fn end(self, bytes: &[u8]) -> Option<(Head, Stack)> {
        let mut head = self.head?;
        if self.protocol == Protocol::Binary {
            let before = bytes.get(..head.arguments)?;
            head.sequence_number = i32::from_be_bytes(*before.last_chunk()?);
        }
        Some((head, self.stack))
    }

    /// The limit of the message, as far as known.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Walks as far as `bytes` reach: everything since the connection's last message.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Progress {
        loop {
            let mut reader = Reader { bytes, at: self.at };
            match self.step(&mut reader) {
                Ok(()) => self.at = reader.at,
                Err(StepError::Violation(violation)) => return Progress::Violation(violation),
                Err(StepError::Incomplete) if bytes.len() >= self.most => {
                    return Progress::Violation(Violation::Message);
                }
                Err(StepError::Incomplete) => return Progress::Incomplete,
            }
            if self.at > self.most {
                return Progress::Violation(Violation::Message);
            }
            if self.stack.is_empty() && self.at <= bytes.len() {
                return Progress::Complete(self.at);
            }
        }
    }

    fn step(&mut self, reader: &mut Reader<'_>) -> Step<()> {
        if self.head.is_none() {
            let head = self.head(reader)?;
            let is_call = head.method.is_some_and(|method| method.large.is_some());
            self.most = if is_call { self.bounds.call } else { self.bounds.message };
            self.head = Some(head);
            return self.enter(StackFrame::Struct);
        }
        match self.stack.last().copied() {
            None => reader.need(0),
            Some(StackFrame::Struct) => match self.field(reader)? {
                Some(kind) => self.value(kind, reader),
                None => {
                    self.stack.pop();
                    Ok(())
                }
            },
            Some(StackFrame::Elements { left: 0, .. }) => {
                self.stack.pop();
                Ok(())
            }
            Some(StackFrame::Elements { left, types }) => {
                let below = self.stack.len();
                self.value(types[left % 2], reader)?;
                if let Some(StackFrame::Elements { left, .. }) = self.stack.get_mut(below - 1) {
                    *left -= 1;
                }
                Ok(())
            }
        }
    }

    fn head(&self, reader: &mut Reader<'_>) -> Step<Head> {
        let (kind, sequence_number, length) = match self.protocol {
            Protocol::Binary => {
                let [0x80, 0x01, _, kind] = reader.array()? else { return Err(StepError::Violation(Violation::Type)) };
                (kind & 0x07, 0, reader.length()?)
            }
            Protocol::Compact => {
                let [0x82, version_and_type] = reader.array()? else {
                    return Err(StepError::Violation(Violation::Type));
                };
                if version_and_type & 0x1f != 1 {
                    return Err(StepError::Violation(Violation::Type));
                }
                (version_and_type >> 5, reader.varint()? as i32, reader.varint()? as usize)
            }
        };
        let name = reader.at..reader.at.saturating_add(length);
        let method = reader.method(length)?;
        if self.protocol == Protocol::Binary {
            reader.pass(4);
        }
        const CALL: u8 = 1;
        const ONEWAY: u8 = 4;
        if kind != CALL && kind != ONEWAY {
            return Err(StepError::Violation(Violation::Call));
        }
        Ok(Head { method, name, sequence_number, is_oneway: kind == ONEWAY, arguments: reader.at })
    }

    /// The next field of a struct; none: the end.
    fn field(&self, reader: &mut Reader<'_>) -> Step<Option<Kind>> {
        let [head] = reader.array()?;
        if head == 0 {
            return Ok(None);
        }
        match self.protocol {
            Protocol::Binary => {
                reader.array::<2>()?;
                Ok(Some(binary_kind(head)?))
            }
            Protocol::Compact => {
                if head >> 4 == 0 {
                    reader.varint()?;
                }
                // The type of a boolean field is also its value.
                Ok(Some(if let 1 | 2 = head & 0x0f { Kind::Fixed(0) } else { compact_kind(head & 0x0f)? }))
            }
        }
    }

    fn value(&mut self, kind: Kind, reader: &mut Reader<'_>) -> Step<()> {
        match (kind, self.protocol) {
            (Kind::Fixed(bytes), _) => reader.pass(bytes),
            (Kind::Varint, _) => drop(reader.varint()?),
            (Kind::String, protocol) => {
                let length = match protocol {
                    Protocol::Binary => reader.length()?,
                    Protocol::Compact => reader.varint()? as usize,
                };
                if length > self.bounds.string {
                    return Err(StepError::Violation(Violation::String));
                }
                reader.pass(length);
            }
            (Kind::Struct, _) => return self.enter(StackFrame::Struct),
            (Kind::List, Protocol::Binary) => {
                let [element] = reader.array()?;
                let left = reader.length()?;
                return self.list(left, || binary_kind(element));
            }
            (Kind::List, Protocol::Compact) => {
                let [head] = reader.array()?;
                let left = if head >> 4 == 15 { reader.varint()? as usize } else { usize::from(head >> 4) };
                return self.list(left, || compact_kind(head & 0x0f));
            }
            (Kind::Map, Protocol::Binary) => {
                let [key, value] = reader.array()?;
                let pairs = reader.length()?;
                if pairs == 0 {
                    return Ok(());
                }
                return self.pairs(pairs, binary_kind(key)?, binary_kind(value)?);
            }
            (Kind::Map, Protocol::Compact) => {
                let pairs = reader.varint()? as usize;
                if pairs == 0 {
                    return Ok(());
                }
                let [types] = reader.array()?;
                return self.pairs(pairs, compact_kind(types >> 4)?, compact_kind(types & 0x0f)?);
            }
        }
        Ok(())
    }

    /// An empty list may have any element type, even none.
    fn list(&mut self, left: usize, kind: impl FnOnce() -> Step<Kind>) -> Step<()> {
        if left == 0 {
            return Ok(());
        }
        let kind = kind()?;
        self.elements(left, [kind, kind])
    }

    fn pairs(&mut self, pairs: usize, key: Kind, value: Kind) -> Step<()> {
        // With an even number left a key is next, with an odd one a value.
        self.elements(pairs.saturating_mul(2), [key, value])
    }

    fn elements(&mut self, left: usize, types: [Kind; 2]) -> Step<()> {
        if left > self.bounds.container {
            return Err(StepError::Violation(Violation::Container));
        }
        self.enter(StackFrame::Elements { left, types })
    }

    fn enter(&mut self, frame: StackFrame) -> Step<()> {
        if self.stack.len() >= self.bounds.depth {
            return Err(StepError::Violation(Violation::Depth));
        }
        self.stack.push(frame);
        Ok(())
    }
}

fn binary_kind(byte: u8) -> Step<Kind> {
    Ok(match byte {
        2 | 3 => Kind::Fixed(1),
        4 | 10 => Kind::Fixed(8),
        6 => Kind::Fixed(2),
        8 => Kind::Fixed(4),
        11 => Kind::String,
        12 => Kind::Struct,
        13 => Kind::Map,
        14 | 15 => Kind::List,
        16 => Kind::Fixed(16),
        _ => return Err(StepError::Violation(Violation::Type)),
    })
}

fn compact_kind(nibble: u8) -> Step<Kind> {
    Ok(match nibble {
        1..=3 => Kind::Fixed(1),
        4..=6 => Kind::Varint,
        7 => Kind::Fixed(8),
        8 => Kind::String,
        9 | 10 => Kind::List,
        11 => Kind::Map,
        12 => Kind::Struct,
        13 => Kind::Fixed(16),
        _ => return Err(StepError::Violation(Violation::Type)),
    })
}

/// Reads what it must check, and skips the rest, even bytes that are yet to arrive.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn need(&self, more: usize) -> Step<()> {
        if self.at.saturating_add(more) <= self.bytes.len() { Ok(()) } else { Err(StepError::Incomplete) }
    }

    fn pass(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// The method whose name has this many bytes. A name that is too long for any is not waited for.
    fn method(&mut self, length: usize) -> Step<Option<&'static Method>> {
        let name = match length {
            ..=LONGEST_NAME => Some(self.bytes.get(self.at..self.at + length).ok_or(StepError::Incomplete)?),
            _ => None,
        };
        self.pass(length);
        Ok(name.and_then(methods::find))
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(StepError::Incomplete)?;
        self.at += N;
        Ok(*bytes)
    }

    fn length(&mut self) -> Step<usize> {
        usize::try_from(i32::from_be_bytes(self.array()?)).map_err(|_| StepError::Violation(Violation::Number))
    }

    fn varint(&mut self) -> Step<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(StepError::Violation(Violation::Number))
    }
}

#[cfg(test)]
mod tests;
