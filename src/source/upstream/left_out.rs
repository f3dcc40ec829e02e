//! What a register reports and this follower omits: counted, with the first few named.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64;

use crate::model::shortened;

/// For how many masters the omissions are tracked individually. With more, the data is incomplete until it is reported
/// again.
const MAX_MASTERS: usize = 65_536;

/// How many are named, and with how many characters.
const MAX_EXAMPLES: usize = 3;
pub(super) const MAX_NAME: usize = 100;

/// Masters and services omitted since a register began its report. Only hashes of ids are kept, which may be as long as
/// a message.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    counts: HashMap<u64, u64>,
    /// Some of them, in words.
    named: BTreeMap<u64, String>,
    are_too_many: bool,
    is_new: bool,
    is_logged: bool,
}

impl LeftOut {
    /// Records what is omitted of a master: itself, or some of its services. Returns whether it is the first to be
    /// logged.
    pub(super) fn insert(&mut self, id: &str, count: u64, why: &str) -> bool {
        let key = xxh3_64(id.as_bytes());
        self.is_new = true;
        if self.counts.len() < MAX_MASTERS || self.counts.contains_key(&key) {
            self.counts.insert(key, count);
        } else {
            self.are_too_many = true;
        }
        if self.named.len() < MAX_EXAMPLES || self.named.contains_key(&key) {
            self.named.insert(key, format!("{:?}: {why}", shortened(id, MAX_NAME)));
        }
        !std::mem::replace(&mut self.is_logged, true)
    }

    /// The master is gone, or was read completely.
    pub(super) fn remove(&mut self, id: &str) {
        let key = xxh3_64(id.as_bytes());
        self.is_new |= self.counts.remove(&key).is_some();
        self.named.remove(&key);
    }

    /// Everything is reported again.
    pub(super) fn clear(&mut self) {
        *self = Self { is_new: true, is_logged: self.is_logged, ..Self::default() };
    }

    pub(super) fn len(&self) -> u64 {
        u64::from(self.are_too_many) + self.counts.values().sum::<u64>()
    }

    /// Whether it has changed since this was last called.
    pub(super) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// What is omitted, in words; empty: nothing.
    pub(super) fn words(&self) -> String {
        match self.len() {
            0 => String::new(),
            1 => "left out 1 master or service that cannot be read or passes a limit".into(),
            count => format!("left out {count} masters or services that cannot be read or pass a limit"),
        }
    }

    /// Some of it by name, with the reason.
    pub(super) fn examples(&self) -> Vec<String> {
        let mut named: Vec<_> = self.named.values().cloned().collect();
        named.sort();
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_until_it_is_gone_and_takes_no_memory_without_bound() {
        let mut left_out = LeftOut::default();
        assert!(left_out.insert("m1", 1, "too large") && !left_out.insert("m1", 3, "3 of its services"));
        assert_eq!((left_out.len(), left_out.examples()), (3, vec!["\"m1\": 3 of its services".into()]));
        assert!(left_out.take_new() && !left_out.take_new());
        left_out.remove("m1");
        assert_eq!((left_out.len(), left_out.words()), (0, String::new()));
        let ids = || (0..MAX_MASTERS).map(|number| number.to_string());
        ids().chain(ids()).for_each(|id| assert!(!left_out.insert(&id, 1, "")));
        assert_eq!((left_out.len(), left_out.examples().len()), (MAX_MASTERS as u64, MAX_EXAMPLES));
        ids().for_each(|id| left_out.remove(&id));
        assert_eq!((left_out.len(), left_out.examples().len()), (0, 0), "all of it is repaired");
        ids().chain(["one more".to_owned()]).for_each(|id| assert!(!left_out.insert(&id, 1, "")));
        ids().for_each(|id| left_out.remove(&id));
        assert_eq!(left_out.len(), 1, "nobody knows which it was");
        left_out.clear();
        assert!(left_out.len() == 0 && left_out.take_new());
    }

    #[test]
    fn masters_of_long_ids_are_told_apart_and_taken_back_and_take_no_room() {
        let mut left_out = LeftOut::default();
        let long = |end: &str| "x".repeat(1 << 20) + end;
        ["a", "b"].iter().for_each(|end| assert_eq!(left_out.insert(&long(end), 1, "its id is too long"), *end == "a"));
        assert_eq!(left_out.len(), 2);
        assert!(left_out.examples().iter().all(|example| example.len() < 2 * MAX_NAME), "{:?}", left_out.examples());
        left_out.remove(&long("a"));
        assert_eq!((left_out.len(), left_out.examples().len()), (1, 1));
    }
}
