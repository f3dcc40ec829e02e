//! Whatever arrives, the end of a message is found correctly.

use super::*;
use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TFieldIdentifier, TListIdentifier, TMapIdentifier,
    TMessageIdentifier, TMessageType, TOutputProtocol, TSetIdentifier, TStructIdentifier, TType,
};

const BOUNDS: Bounds = Bounds { message: 4_096, call: 100_000, string: 1_000, container: 100, depth: 5 };

fn written(protocol: Protocol, write: impl Fn(&mut dyn TOutputProtocol) -> thrift::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match protocol {
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut bytes, true)),
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut bytes)),
    }
    .expect("a vector takes all");
    bytes
}

/// A call with a value of every type.
fn every_type(out: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    out.write_message_begin(&TMessageIdentifier::new("everything", TMessageType::Call, 70_000))?;
    out.write_struct_begin(&TStructIdentifier::new("args"))?;
    let field =
        |out: &mut dyn TOutputProtocol, kind, id| out.write_field_begin(&TFieldIdentifier::new("field", kind, id));
    field(out, TType::Bool, 1)?;
    out.write_bool(true)?;
    field(out, TType::I08, 2)?;
    out.write_i8(-1)?;
    field(out, TType::I16, 300)?;
    out.write_i16(-300)?;
    field(out, TType::I32, 4)?;
    out.write_i32(i32::MIN)?;
    field(out, TType::I64, 5)?;
    out.write_i64(i64::MIN)?;
    field(out, TType::Double, 6)?;
    out.write_double(1.5)?;
    field(out, TType::String, 7)?;
    out.write_string(&"x".repeat(200))?;
    field(out, TType::List, 8)?;
    out.write_list_begin(&TListIdentifier::new(TType::Bool, 20))?;
    (0..20).try_for_each(|i| out.write_bool(i % 2 == 0))?;
    field(out, TType::Set, 9)?;
    out.write_set_begin(&TSetIdentifier::new(TType::String, 2))?;
    out.write_string("a")?;
    out.write_string("")?;
    field(out, TType::Map, 10)?;
    out.write_map_begin(&TMapIdentifier::new(TType::String, TType::List, 2))?;
    for key in ["k1", "k2"] {
        out.write_string(key)?;
        out.write_list_begin(&TListIdentifier::new(TType::I64, 1))?;
        out.write_i64(7)?;
    }
    field(out, TType::Map, 11)?;
    out.write_map_begin(&TMapIdentifier::new(TType::I32, TType::I32, 0))?;
    field(out, TType::Struct, 12)?;
    out.write_struct_begin(&TStructIdentifier::new("inner"))?;
    field(out, TType::I32, 1)?;
    out.write_i32(1)?;
    out.write_field_stop()?;
    out.write_struct_end()?;
    out.write_field_stop()?;
    out.write_struct_end()?;
    out.write_message_end()
}

#[test]
fn the_end_is_found_however_the_bytes_come() {
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let message = written(protocol, every_type);
        let mut followed = message.clone();
        followed.extend(&message);
        let end = Progress::Complete(message.len());
        assert_eq!(Scanner::new(protocol, 0, BOUNDS).scan(&followed), end, "{protocol:?} at once");
        let mut scanner = Scanner::new(protocol, 0, BOUNDS);
        for cut in 0..message.len() {
            assert_eq!(scanner.scan(&message[..cut]), Progress::Incomplete, "{protocol:?} cut at {cut}");
            let mut fresh = Scanner::new(protocol, 0, BOUNDS);
            assert_eq!(fresh.scan(&message[..cut]), Progress::Incomplete);
            assert_eq!(fresh.scan(&followed), end, "{protocol:?} in two, cut at {cut}");
        }
        assert_eq!(scanner.scan(&message), end, "{protocol:?} byte by byte");
    }
}

#[test]
fn what_passes_a_bound_is_wrong_before_it_has_come() {
    let call = |protocol, fields: &[u8]| {
        let mut bytes = match protocol {
            Protocol::Binary => vec![0x80, 1, 0, 1, 0, 0, 0, 1, b'm', 0, 0, 0, 1],
            Protocol::Compact => vec![0x82, 0x21, 1, 1, b'm'],
        };
        bytes.extend(fields);
        Scanner::new(protocol, 0, BOUNDS).scan(&bytes)
    };
    use Protocol::*;
    let huge = [0x7f, 0xff, 0xff, 0xff];
    let varint = [0xff, 0xff, 0xff, 0xff, 0x07];
    assert_eq!(call(Binary, &[&[11, 0, 1][..], &huge].concat()), Progress::Violation(Violation::String));
    assert_eq!(call(Binary, &[&[15, 0, 1, 8][..], &huge].concat()), Progress::Violation(Violation::Container));
    assert_eq!(call(Binary, &[&[13, 0, 1, 8, 8][..], &huge].concat()), Progress::Violation(Violation::Container));
    assert_eq!(call(Binary, &[15, 0, 1, 8, 0xff, 0xff, 0xff, 0xff]), Progress::Violation(Violation::Number));
    assert_eq!(call(Binary, &[12, 0, 1].repeat(10)), Progress::Violation(Violation::Depth));
    assert_eq!(call(Binary, &[99, 0, 1]), Progress::Violation(Violation::Type));
    assert_eq!(call(Compact, &[&[0x18][..], &varint].concat()), Progress::Violation(Violation::String));
    assert_eq!(call(Compact, &[&[0x19, 0xf8][..], &varint].concat()), Progress::Violation(Violation::Container));
    assert_eq!(call(Compact, &[&[0x1b][..], &varint, &[0x88]].concat()), Progress::Violation(Violation::Container));
    assert_eq!(call(Compact, &[0x1c].repeat(10)), Progress::Violation(Violation::Depth));
    assert_eq!(call(Compact, &[0x16; 12].map(|_| 0xf6)), Progress::Violation(Violation::Number));
    assert_eq!(call(Compact, &[0x1f]), Progress::Violation(Violation::Type));
    let reply = [0x80, 1, 0, 2, 0, 0, 0, 1, b'm', 0, 0, 0, 1];
    assert_eq!(Scanner::new(Binary, 0, BOUNDS).scan(&reply), Progress::Violation(Violation::Call));
    let long = [&[0x80, 1, 0, 1][..], &huge].concat();
    assert_eq!(Scanner::new(Binary, 0, BOUNDS).scan(&long), Progress::Violation(Violation::Message));
}

#[test]
fn a_call_may_be_longer_and_is_told_by_its_name() {
    let of_bytes = |protocol, name: &str, bytes: usize| {
        let message = written(protocol, |out| {
            out.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Call, 1))?;
            for id in 0..bytes / 1_000 {
                out.write_field_begin(&TFieldIdentifier::new("field", TType::String, id as i16 + 1))?;
                out.write_bytes(&[b'x'; 1_000])?;
            }
            out.write_field_stop()
        });
        let (mut scanner, mut progress) = (Scanner::new(protocol, 0, BOUNDS), Progress::Incomplete);
        for end in (0..message.len()).step_by(7).chain([message.len()]) {
            progress = scanner.scan(&message[..end]);
            if progress != Progress::Incomplete {
                break;
            }
        }
        (progress, message.len())
    };
    for protocol in [Protocol::Binary, Protocol::Compact] {
        for name in
            ["call", "Roster:call", "callAll", "callMany", "Roster:callInOrder", "Roster:startCall", "broadcast"]
        {
            let (progress, length) = of_bytes(protocol, name, 90_000);
            assert_eq!(progress, Progress::Complete(length), "{protocol:?} {name}");
            assert_eq!(of_bytes(protocol, name, 100_000).0, Progress::Violation(Violation::Message));
        }
        for name in ["get", "Roster:get", "calls", "Call", "", "other:call", "Roster:Roster:call"] {
            assert_eq!(
                of_bytes(protocol, name, 5_000).0,
                Progress::Violation(Violation::Message),
                "{protocol:?} {name}"
            );
        }
    }
}

#[test]
fn no_bytes_make_it_panic_or_run_on() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let message = written(protocol, every_type);
        for _ in 0..20_000 {
            let mut mutant = message.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() as usize % mutant.len();
                mutant[at] = random() as u8;
            }
            if let Progress::Complete(end) = Scanner::new(protocol, 0, BOUNDS).scan(&mutant) {
                assert!(end <= mutant.len());
            }
        }
    }
}
