//! What must hold for any bytes from a register, or from a sidecar that follows it.

pub use roster_tunnel::fuzz::*;

use super::frame::{Progress, Scanner};
use super::message::Message;
use super::upstream::{Refusal, Report, Request};
use super::value::Value;

/// What a register and its follower read of each other's frames stays the same when written and read again.
pub fn upstream(bytes: &[u8]) {
    let Progress::Complete(end) = Scanner::new(BOUNDS).scan(bytes) else { return };
    match Message::decode(&bytes[..end]) {
        Ok(Some(Message::Data { data, .. })) => {
            let Ok(report) = Report::decode(data) else { return };
            let written = report.encode();
            let again = Report::decode(written.clone()).expect("our own is a report");
            // Not the reports themselves: NaN equals nothing.
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
