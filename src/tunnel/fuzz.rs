//! What must hold for any bytes of a peer, and for any value that PHP is given.

use rmpv::Value;

use super::frame::{Bounds, Progress, Scanner};
use super::message::Message;
use super::upstream::{Refusal, Report, Request};
use crate::model::php_value;

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

/// What a PHP master is sent has no value and no key that it would read as another.
pub fn php_values(bytes: &[u8]) {
    let Progress::Complete(end) = Scanner::new(BOUNDS).scan(bytes) else { return };
    let value = rmpv::decode::read_value(&mut &bytes[..end]).expect("what was scanned is MessagePack");
    if let Ok(value) = php_value(value) {
        assert!(is_php(&value), "{value}");
    }
}

/// What a register and a sidecar that follows it read of each other's frames is written and read again as the same.
pub fn upstream(bytes: &[u8]) {
    let Progress::Complete(end) = Scanner::new(BOUNDS).scan(bytes) else { return };
    match Message::decode(&bytes[..end]) {
        Ok(Some(Message::Data { data, .. })) => {
            let Ok(report) = Report::decode(data) else { return };
            let written = report.encode();
            let again = Report::decode(written.clone()).expect("our own is a report");
            // Not the reports themselves: what is no number equals nothing.
            assert_eq!(packed(&again.encode()), packed(&written));
        }
        Ok(Some(Message::Other(map))) => {
            if let Some(Refusal { why }) = Refusal::decode(&map) {
                assert!(why.chars().count() <= 500);
            }
            let Some(request) = Request::decode(map) else { return };
            let written = request.encode().encode();
            let Ok(Some(Message::Other(map))) = Message::decode(&written) else { panic!("our own is no command") };
            assert_eq!(Request::decode(map).expect("and is a request").encode().encode(), written);
        }
        _ => {}
    }
}

fn packed(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("a vector takes all");
    bytes
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
