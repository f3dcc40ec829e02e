//! The outbox: frames waiting to be written, bounded, so that a peer that does not read costs little memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::charged::charged;
use super::handle::SendError;
use super::message::Message;
use crate::share::Share;

/// A queued frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) head: Bytes,
    /// Bytes that may be shared, such as the arguments of a call.
    pub(super) end: Bytes,
    /// Whether it takes no room.
    is_free: bool,
}

impl Outgoing {
    /// A message; if there is an end, it replaces the message's last value, which is nil.
    pub(super) fn new(message: Message, end: Bytes) -> Self {
        let mut head = message.encode();
        if !end.is_empty() {
            let nil = head.pop();
            debug_assert_eq!(nil, Some(0xc0), "the last value is nil");
        }
        Self { head: head.into(), end, is_free: false }
    }

    /// The same, with its head charged to a user.
    pub(super) fn charged(self, memory: Option<&Arc<Share>>) -> Result<Self, SendError> {
        Ok(Self { head: charged(self.head, memory)?, ..self })
    }

    /// The same, with its end charged too.
    pub(super) fn wholly_charged(self, memory: Option<&Arc<Share>>) -> Result<Self, SendError> {
        Self { end: charged(self.end, memory)?, ..self }.charged(memory)
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.end.len()
    }
}

impl From<Bytes> for Outgoing {
    fn from(head: Bytes) -> Self {
        Self { head, ..Self::default() }
    }
}

#[derive(Debug)]
pub(super) struct Outbox {
    /// The end of the frame whose head was taken last.
    rest: Bytes,
    /// Written before all others.
    first: VecDeque<Outgoing>,
    /// The ordinary frames, by their numbers.
    frames: BTreeMap<u64, Outgoing>,
    /// The number of the next one that is added.
    next_number: u64,
    /// Those with a lower number have left, or were withdrawn.
    left: u64,
    /// How many of them take no room: closes.
    free: usize,
    /// Of the others.
    bytes: usize,
    max_frames: usize,
    max_bytes: usize,
}

/// There is no room for another frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    pub(super) fn new(max_frames: usize, max_bytes: usize) -> Self {
        let (rest, first, frames) = (Bytes::new(), VecDeque::new(), BTreeMap::new());
        Self { rest, first, frames, next_number: 0, left: 0, free: 0, bytes: 0, max_frames, max_bytes }
    }

    /// Adds a frame at the end; returns its number.
    pub(super) fn push(&mut self, frame: Outgoing) -> Result<u64, Full> {
        self.take_room(&frame, 1)?;
        Ok(self.append(frame))
    }

    /// Adds a frame that keeps streams in order at the end: there is as much room again for these. If that is full too,
    /// the peer has stopped reading.
    pub(super) fn push_beyond(&mut self, frame: Outgoing) -> Result<(), Full> {
        self.take_room(&frame, 2)?;
        self.append(frame);
        Ok(())
    }

    /// Adds a frame of the same kind before everything that is not urgent.
    pub(super) fn push_first(&mut self, frame: Outgoing) -> Result<(), Full> {
        self.take_room(&frame, 2)?;
        self.first.push_back(frame);
        Ok(())
    }

    /// Adds a small frame at the end, for which there always is room: one for each request that has left, of which those
    /// that are not answered are few. No caller is to end the conversation of all others by giving up.
    pub(super) fn push_close(&mut self, frame: Outgoing) {
        self.free += 1;
        self.append(Outgoing { is_free: true, ..frame });
    }

    fn append(&mut self, frame: Outgoing) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.frames.insert(number, frame);
        number
    }

    fn take_room(&mut self, frame: &Outgoing, times: usize) -> Result<(), Full> {
        let frames = self.first.len() + self.frames.len() - self.free;
        let bytes = self.bytes.saturating_add(frame.len());
        if frames >= times.saturating_mul(self.max_frames) || bytes > times.saturating_mul(self.max_bytes) {
            return Err(Full);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Discards what was not sent, which now never will be.
    pub(super) fn clear(&mut self) {
        self.rest.clear();
        self.first.clear();
        self.frames.clear();
        (self.free, self.bytes) = (0, 0);
    }

    /// Withdraws a frame, of which nothing is left then, however long the peer does not read. False: it has been sent.
    pub(super) fn withdraw(&mut self, number: u64) -> bool {
        let Some(frame) = self.frames.remove(&number) else { return false };
        self.bytes -= frame.len();
        true
    }

    pub(super) fn has_left(&self, number: u64) -> bool {
        number < self.left
    }

    /// The next frames, together no longer than `most` unless a single one is; its shared bytes are not copied. Empty:
    /// there are none.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        if !self.rest.is_empty() {
            return std::mem::take(&mut self.rest);
        }
        let first = self.next(usize::MAX).unwrap_or_default();
        if first.len() > most {
            self.rest = first.end;
            return first.head;
        }
        let second = self.next(most - first.len());
        if second.is_none() && first.end.is_empty() {
            return first.head;
        }
        let mut taken = Vec::from(first.head);
        taken.extend_from_slice(&first.end);
        let mut next = second;
        while let Some(Outgoing { head, end, .. }) = next {
            taken.extend_from_slice(&head);
            taken.extend_from_slice(&end);
            next = self.next(most.saturating_sub(taken.len()));
        }
        taken.into()
    }

    /// Takes the next frame, if it is no longer than `most`.
    fn next(&mut self, most: usize) -> Option<Outgoing> {
        let next = match self.first.front() {
            Some(first) if first.len() > most => return None,
            Some(_) => self.first.pop_front()?,
            None => {
                let first = self.frames.first_entry().filter(|first| first.get().len() <= most)?;
                self.left = first.key() + 1;
                first.remove()
            }
        };
        if next.is_free {
            self.free -= 1;
        } else {
            self.bytes -= next.len();
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str) -> Outgoing {
        Bytes::from(text).into()
    }

    #[test]
    fn what_is_urgent_goes_first_and_has_room_when_requests_have_none() {
        let mut outbox = Outbox::new(2, 10);
        assert_eq!(outbox.push(frame("123456")), Ok(0));
        assert_eq!(outbox.push(frame("12345")), Err(Full), "too many bytes");
        assert_eq!(outbox.push(frame("abcd")), Ok(1));
        assert_eq!(outbox.push(Outgoing::default()), Err(Full), "too many frames");
        assert!(outbox.push_first(frame("pong")).is_ok());
        assert_eq!(outbox.push_beyond(frame("1234567")), Err(Full));
        assert_eq!(outbox.push_beyond(frame("end")), Ok(()));
        assert_eq!(outbox.push_first(Outgoing::default()), Err(Full));
        assert_eq!(outbox.take(10), "pong123456");
        assert!(outbox.has_left(0) && !outbox.has_left(1));
        assert_eq!(outbox.take(1), "abcd");
        assert_eq!(outbox.take(100), "end");
        assert_eq!(outbox.take(100), "");
        assert_eq!(outbox.push(frame("again")), Ok(3), "there is room again");
    }

    #[test]
    fn a_frame_is_withdrawn_until_it_has_left() {
        let mut outbox = Outbox::new(9, 10);
        let numbers = ["a", "bc", "d"].map(|text| outbox.push(frame(text)).expect("there is room"));
        assert_eq!(outbox.take(1), "a");
        assert!(!outbox.withdraw(numbers[0]));
        assert!(outbox.withdraw(numbers[1]));
        assert_eq!(outbox.take(1), "d");
        assert_eq!(outbox.push(Bytes::from(vec![0; 10]).into()), Ok(3), "what was withdrawn takes no room");
    }

    #[test]
    fn what_was_withdrawn_is_gone_while_the_peer_does_not_read() {
        let mut outbox = Outbox::new(2, 100);
        assert_eq!(outbox.push(frame("first")), Ok(0));
        for number in 1..10_000 {
            assert_eq!(outbox.push(frame("given up")), Ok(number));
            assert!(outbox.withdraw(number));
            assert!(!outbox.withdraw(number), "it is withdrawn already");
        }
        assert_eq!((outbox.frames.len(), outbox.bytes), (1, 5));
        assert_eq!(outbox.push(frame("last")), Ok(10_000));
        outbox.push_first(frame("stop")).expect("there is room");
        assert_eq!(outbox.take(100), "stopfirstlast");
        assert!(outbox.has_left(10_000) && !outbox.has_left(10_001));
    }

    #[test]
    fn closes_and_what_was_withdrawn_take_no_room() {
        let mut outbox = Outbox::new(2, 10);
        let numbers = ["a", "b"].map(|text| outbox.push(frame(text)).expect("there is room"));
        assert_eq!(outbox.push(frame("c")), Err(Full));
        (0..9).for_each(|_| outbox.push_close(frame("close")));
        assert!(outbox.withdraw(numbers[1]));
        assert!(outbox.push(frame("d")).is_ok());
        assert!(outbox.push_first(frame("ping")).is_ok());
        assert_eq!(outbox.take(100), format!("pinga{}d", "close".repeat(9)));
        assert_eq!((outbox.free, outbox.bytes), (0, 0));
    }

    #[test]
    fn a_frame_that_leaves_alone_is_not_copied() {
        let mut outbox = Outbox::new(9, 1_000);
        let shared = Bytes::from(vec![7; 100]);
        for bytes in ["a".into(), shared.clone(), "b".into()] {
            outbox.push(bytes.into()).expect("there is room");
        }
        assert_eq!(outbox.take(50), "a");
        assert_eq!(outbox.take(50).as_ptr(), shared.as_ptr());
        assert_eq!(outbox.take(50), "b");
    }

    #[test]
    fn a_shared_end_follows_its_head_before_all_that_is_urgent_and_is_not_copied_if_it_is_long() {
        let shared = Bytes::from(vec![7; 100]);
        let with_end = || Outgoing { end: shared.clone(), ..frame("head") };
        let mut outbox = Outbox::new(9, 1_000);
        outbox.push(with_end()).expect("there is room");
        outbox.push(with_end()).expect("there is room");
        assert_eq!(outbox.take(50), "head");
        outbox.push_first(frame("pong")).expect("there is room");
        assert_eq!(outbox.take(50).as_ptr(), shared.as_ptr());
        assert_eq!(outbox.take(1_000), [b"pong", b"head", &shared[..]].concat(), "what is short leaves with others");
        assert_eq!(outbox.take(1_000), "");
        outbox.push(with_end()).expect("there is room");
        assert_eq!(outbox.take(50), "head");
        outbox.clear();
        assert_eq!(outbox.take(50), "", "the conversation has ended in the middle");
    }
}
