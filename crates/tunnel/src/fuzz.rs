//! What must hold for any bytes of a peer, and for any value that is sent to PHP.

use rmpv::Value;

use super::frame::{Bounds, Progress, Scanner};
use super::message::Message;
use crate::php_value;

/// The limits in use.
pub const BOUNDS: Bounds = Bounds { bytes: 64 * 1024, ..Bounds::DEFAULT };

/// The scanner finds the same end wherever the bytes are cut, and the same as the decoder; a decoded frame stays the
/// same when it is written and decoded again.
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

/// A PHP master gets no value and no key that it would read as another.
pub fn php_values(bytes: &[u8]) {
    let Progress::Complete(end) = Scanner::new(BOUNDS).scan(bytes) else { return };
    let value = rmpv::decode::read_value(&mut &bytes[..end]).expect("what was scanned is MessagePack");
    if let Ok(value) = php_value(value) {
        assert!(is_php(&value), "{value}");
    }
}

fn is_php(value: &Value) -> bool {
    let is_key = |key: &Value| key.as_i64().is_some() || key.as_slice().is_some();
    match value {
        Value::Integer(number) => number.as_i64().is_some(),
        Value::Array(values) => values.iter().all(is_php),
        Value::Map(pairs) => pairs.iter().all(|(key, value)| is_key(key) && is_php(value)),
        Value::Ext(..) => false,
        _ => true,
    }
}
