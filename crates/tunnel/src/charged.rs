//! Charged frames: queued data takes memory of the user it is for, until it has been written.

use std::sync::Arc;

use bytes::Bytes;

use super::handle::SendError;
use crate::share::Share;

/// Shorter frames are not charged: the number of frames limits what they take together.
const UNCHARGED_BYTES: usize = 256;

/// The same frame, which takes memory while it exists.
pub(super) fn charged(frame: Bytes, memory: Option<&Arc<Share>>) -> Result<Bytes, SendError> {
    let Some(memory) = memory.filter(|_| frame.len() > UNCHARGED_BYTES) else { return Ok(frame) };
    memory.hold(frame).ok_or(SendError::NoMemory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Outbox, Outgoing};
    use crate::share::{HELD_OVERHEAD, Pool};

    #[test]
    fn a_frame_takes_memory_until_it_has_left_or_was_withdrawn() {
        let memory = Pool::new(10_000, 1).share(None);
        let charged = |size| charged(vec![7; size].into(), Some(&memory));
        let frame = |size| charged(size).map(Outgoing::from);
        let mut outbox = Outbox::new(9, 100_000);
        outbox.push(frame(1_000).expect("room")).expect("room");
        let second = outbox.push(frame(1_000).expect("room")).expect("room");
        let third = outbox.push(frame(2_000).expect("room")).expect("room");
        assert_eq!(memory.taken(), 4_000 + 3 * HELD_OVERHEAD);
        assert_eq!(charged(3_000), Err(SendError::NoMemory));
        assert!(outbox.withdraw(second) && outbox.withdraw(third));
        assert_eq!(memory.taken(), 1_000 + HELD_OVERHEAD);
        assert_eq!(outbox.take(100_000), vec![7; 1_000]);
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_is_small_is_sent_also_where_there_is_no_memory() {
        let pool = Pool::new(100, 1);
        let _all = pool.share(None).take(100);
        assert!(charged(vec![7; UNCHARGED_BYTES].into(), Some(&pool.share(None))).is_ok());
        assert!(charged(vec![7; UNCHARGED_BYTES + 1].into(), Some(&pool.share(None))).is_err());
    }
}
