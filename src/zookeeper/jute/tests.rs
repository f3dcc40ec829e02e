//! Messages as servers send them, and invalid ones.

use bytes::BufMut;

use super::requests::{put_bytes, put_multi_header};
use super::*;

/// The reply to listing one node: the number of names, and some of them.
fn listing(count: i32, names: &[&[u8]]) -> Bytes {
    let mut body = BytesMut::new();
    put_multi_header(&mut body, op::GET_CHILDREN, false);
    body.put_i32(count);
    names.iter().for_each(|name| put_bytes(&mut body, name));
    put_multi_header(&mut body, op::ERROR, true);
    body.freeze()
}

#[test]
fn a_count_or_a_length_reserves_no_memory() {
    let malformed = Err(Malformed("a message ends too early"));
    assert_eq!(listings(&listing(i32::MAX, &[b"a"]), 1), malformed);
    let mut body = BytesMut::new();
    put_multi_header(&mut body, op::GET_DATA, false);
    body.put_i32(i32::MAX);
    assert_eq!(read_results(&body, 1), Err(Malformed("a message ends too early")));
    assert_eq!(read_results(&body, usize::MAX), Err(Malformed("a message ends too early")));
}

#[test]
fn names_are_what_came_and_what_is_not_utf_8_is_told() {
    let listed = listings(&listing(3, &[b"a", b"", b"\xff"]), 1).expect("a list");
    let [Listing::Names(names)] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "", "\u{fffd}"]);
}

#[test]
fn damaged_messages_are_refused_or_read_and_nothing_else() {
    let mut body = BytesMut::new();
    for _ in 0..2 {
        put_multi_header(&mut body, op::GET_DATA, false);
        put_bytes(&mut body, b"data");
        body.put_bytes(1, 68);
    }
    let messages = [body.freeze(), listing(3, &[b"a", b"", b"\xff"])];
    for message in &messages {
        for (at, byte) in (0..message.len()).flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|byte| (at, byte))) {
            let mut damaged = message.to_vec();
            damaged[at] = byte;
            for bytes in [Bytes::copy_from_slice(&message[..at]), damaged.into()] {
                let _ = read_results(&bytes, 2);
                let _ = listings(&bytes, 2).map(|listed| listed.len());
                let _ = (header(bytes.clone()), greeting(&bytes).is_ok(), event(&bytes).is_ok());
                let _ = frame(&mut BytesMut::from(&bytes[..]), 50);
            }
        }
    }
    assert_eq!(read_results(&messages[0], 2).map(|read| read.len()), Ok(2));
}

#[test]
fn a_password_that_is_longer_than_any_server_gives_is_none() {
    let greet = |password: &[u8]| {
        let mut body = BytesMut::new();
        body.put_bytes(0, 16);
        put_bytes(&mut body, password);
        greeting(&body).map(|(ticket, _)| ticket.password.0)
    };
    for length in [0, PASSWORD_BYTES] {
        assert_eq!(greet(&vec![7; length]), Ok(vec![7; length]));
    }
    assert_eq!(greet(&[7; PASSWORD_BYTES + 1]), Err(Malformed("a session with too long a password")));
}

#[test]
fn fewer_answers_than_questions_are_none() {
    assert_eq!(listings(&listing(0, &[]), 2), Err(Malformed("fewer answers than questions")));
}

#[test]
fn a_frame_is_taken_when_it_is_whole_and_passed_over_when_it_is_too_large() {
    let mut whole = BytesMut::new();
    put_request(&mut whole, 7, 0, b"four");
    let mut received = BytesMut::new();
    for byte in &whole[..whole.len() - 1] {
        received.put_u8(*byte);
        assert_eq!(frame(&mut received, 100), Ok(Frame::Incomplete));
    }
    received.put_u8(b'r');
    assert_eq!(frame(&mut received, 100), Ok(Frame::Complete(whole.freeze().slice(4..))));
    received.put_i32(i32::MAX);
    assert_eq!(frame(&mut received, 100), Ok(Frame::Incomplete));
    received.put_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
    let header = ReplyHeader { xid: 9, zxid: 8, error: 0 };
    assert_eq!(frame(&mut received, 100), Ok(Frame::TooLarge(header, i32::MAX as usize - HEADER_BYTES)));
    received.put_i32(-1);
    assert_eq!(frame(&mut received, 100), Err(Malformed("a frame of a negative length")));
}
