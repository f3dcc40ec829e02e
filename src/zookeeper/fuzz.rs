//! What must hold for any bytes from a server.

use bytes::BytesMut;

use super::jute::{self, Frame, Listing, Malformed};

const MAX_FRAME: usize = 16 * 1024;

/// The first frame is the same however its bytes arrive, and its content is read or refused.
pub fn replies(bytes: &[u8]) {
    let mut received = BytesMut::from(bytes);
    let at_once = jute::frame(&mut received, MAX_FRAME);
    assert_eq!(piecemeal(bytes), at_once);
    let Ok(Frame::Complete(message)) = at_once else { return };
    let _ = jute::greeting(&message);
    let Ok((header, body)) = jute::header(message) else { return };
    let _ = (jute::event(&body).is_ok(), jute::node(&body), jute::stat(&body));
    if let Ok(names) = jute::listed(&body) {
        holds_its_names(&Listing::Names(names));
    }
    // As many as the reply may answer.
    let count = header.xid as usize % 1_024;
    if let Ok(readings) = jute::read_results(&body, count) {
        assert_eq!(readings.len(), count);
    }
    if let Ok(listings) = jute::listings(&body, count) {
        assert_eq!(listings.len(), count);
        listings.iter().for_each(holds_its_names);
    }
}

fn piecemeal(bytes: &[u8]) -> Result<Frame, Malformed> {
    let mut received = BytesMut::new();
    for byte in bytes {
        received.extend([byte]);
        match jute::frame(&mut received, MAX_FRAME) {
            Ok(Frame::Incomplete) => {}
            found => return found,
        }
    }
    Ok(Frame::Incomplete)
}

fn holds_its_names(listing: &Listing) {
    if let Listing::Names(names) = listing {
        assert_eq!(names.iter().count(), names.count());
        assert!(names.iter().all(|name| name.len() <= 3 * names.bytes.len()));
    }
}

/// Besides the corpus, any damage to a reply.
#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn damaged_replies_are_refused_or_read() {
        let reply = Bytes::from_static(include_bytes!("../../fuzz/corpus/replies/names"));
        for at in 0..reply.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = reply.to_vec();
                damaged[at] = byte;
                replies(&damaged);
                replies(&damaged[..at]);
            }
        }
    }
}
