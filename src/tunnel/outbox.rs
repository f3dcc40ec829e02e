//! The outbox: frames that wait to be written, bounded, so that a peer that does not read costs little memory.

use std::collections::VecDeque;

use bytes::Bytes;

#[derive(Debug)]
pub(super) struct Outbox {
    /// Written before all others.
    first: VecDeque<Bytes>,
    frames: VecDeque<Bytes>,
    /// How many of the ordinary frames have left, which is the number of the next to leave.
    left: u64,
    bytes: usize,
    most_frames: usize,
    max_path_len: usize,
}

/// There is no room for one more frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    pub(super) fn new(most_frames: usize, max_path_len: usize) -> Self {
        Self { first: VecDeque::new(), frames: VecDeque::new(), left: 0, bytes: 0, most_frames, max_path_len }
    }

    /// Adds a frame at the end; its number.
    pub(super) fn push(&mut self, frame: Bytes) -> Result<u64, Full> {
        self.add(frame, 1, false)
    }

    /// Adds at the end what keeps streams in order: there is as much room again for it. Without that either, the peer
    /// has stopped to read.
    pub(super) fn push_beyond(&mut self, frame: Bytes) -> Result<u64, Full> {
        self.add(frame, 2, false)
    }

    /// Adds the same before all that is not urgent.
    pub(super) fn push_first(&mut self, frame: Bytes) -> Result<u64, Full> {
        self.add(frame, 2, true)
    }

    fn add(&mut self, frame: Bytes, times: usize, urgent: bool) -> Result<u64, Full> {
        let frames = self.first.len() + self.frames.len();
        let bytes = self.bytes.saturating_add(frame.len());
        if frames >= times.saturating_mul(self.most_frames) || bytes > times.saturating_mul(self.max_path_len) {
            return Err(Full);
        }
        self.bytes = bytes;
        let number = self.left + self.frames.len() as u64;
        if urgent { &mut self.first } else { &mut self.frames }.push_back(frame);
        Ok(number)
    }

    /// Throws away what has not left, which now never will.
    pub(super) fn clear(&mut self) {
        self.first.clear();
        self.frames.clear();
        self.bytes = 0;
    }

    /// Takes a frame back. False: it has left.
    pub(super) fn withdraw(&mut self, number: u64) -> bool {
        let frame = number.checked_sub(self.left).and_then(|index| self.frames.get_mut(index as usize));
        let Some(frame) = frame else { return false };
        self.bytes -= frame.len();
        *frame = Bytes::new();
        true
    }

    pub(super) fn has_left(&self, number: u64) -> bool {
        number < self.left
    }

    /// The next frames, together no longer than `most` unless one alone is. Empty: there are none.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        let first = self.next(usize::MAX).unwrap_or_default();
        let Some(second) = self.next(most.saturating_sub(first.len())) else { return first };
        let mut taken = Vec::from(first);
        taken.extend_from_slice(&second);
        while let Some(next) = self.next(most.saturating_sub(taken.len())) {
            taken.extend_from_slice(&next);
        }
        taken.into()
    }

    /// Takes the next frame, if it is no longer than `most`; what was withdrawn is passed over.
    fn next(&mut self, most: usize) -> Option<Bytes> {
        loop {
            let is_first = !self.first.is_empty();
            let frames = if is_first { &mut self.first } else { &mut self.frames };
            frames.front().filter(|next| next.len() <= most)?;
            let next = frames.pop_front()?;
            self.left += u64::from(!is_first);
            self.bytes -= next.len();
            if !next.is_empty() {
                return Some(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_urgent_goes_first_and_has_room_when_requests_have_none() {
        let mut outbox = Outbox::new(2, 10);
        assert_eq!(outbox.push("123456".into()), Ok(0));
        assert_eq!(outbox.push("12345".into()), Err(Full), "too many bytes");
        assert_eq!(outbox.push("abcd".into()), Ok(1));
        assert_eq!(outbox.push(Bytes::new()), Err(Full), "too many frames");
        assert!(outbox.push_first("pong".into()).is_ok());
        assert_eq!(outbox.push_beyond("1234567".into()), Err(Full));
        assert_eq!(outbox.push_beyond("end".into()), Ok(2));
        assert_eq!(outbox.push_first(Bytes::new()), Err(Full));
        assert_eq!(outbox.take(10), "pong123456");
        assert!(outbox.has_left(0) && !outbox.has_left(1));
        assert_eq!(outbox.take(1), "abcd");
        assert_eq!(outbox.take(100), "end");
        assert_eq!(outbox.take(100), "");
        assert_eq!(outbox.push("again".into()), Ok(3), "there is room again");
    }

    #[test]
    fn a_frame_is_withdrawn_until_it_has_left() {
        let mut outbox = Outbox::new(9, 10);
        let numbers = ["a", "bc", "d"].map(|frame| outbox.push(frame.into()).expect("there is room"));
        assert_eq!(outbox.take(1), "a");
        assert!(!outbox.withdraw(numbers[0]));
        assert!(outbox.withdraw(numbers[1]));
        assert_eq!(outbox.take(1), "d");
        assert_eq!(outbox.push(vec![0; 10].into()), Ok(3), "what was withdrawn takes no room");
    }

    #[test]
    fn a_frame_that_leaves_alone_is_not_copied() {
        let mut outbox = Outbox::new(9, 1_000);
        let shared = Bytes::from(vec![7; 100]);
        for frame in ["a".into(), shared.clone(), "b".into()] {
            outbox.push(frame).expect("there is room");
        }
        assert_eq!(outbox.take(50), "a");
        assert_eq!(outbox.take(50).as_ptr(), shared.as_ptr());
        assert_eq!(outbox.take(50), "b");
    }
}
