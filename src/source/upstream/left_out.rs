//! What a register reports and this follower leaves out: counted, and the first of it named.

use std::collections::HashMap;

/// Of so many masters it is remembered how much of each is left out; more are only counted.
const MAX_MASTERS: usize = 1_024;

/// So many are named.
const MAX_EXAMPLES: usize = 3;

/// Masters and services that are left out, since a register began to report.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    by_id: HashMap<String, (u64, String)>,
    /// Masters besides those.
    more: u64,
    is_new: bool,
    is_logged: bool,
}

impl LeftOut {
    /// So much of a master is left out: itself, or some of its services. Whether that is the first to be logged.
    pub(super) fn insert(&mut self, id: &str, count: u64, why: String) -> bool {
        self.is_new = true;
        if self.by_id.len() < MAX_MASTERS || self.by_id.contains_key(id) {
            self.by_id.insert(id.to_owned(), (count, why));
        } else {
            self.more += 1;
        }
        !std::mem::replace(&mut self.is_logged, true)
    }

    /// The master is gone, or all of it was read.
    pub(super) fn remove(&mut self, id: &str) {
        self.is_new |= self.by_id.remove(id).is_some();
    }

    /// All is reported anew.
    pub(super) fn clear(&mut self) {
        *self = Self { is_new: true, is_logged: self.is_logged, ..Self::default() };
    }

    pub(super) fn len(&self) -> u64 {
        self.more + self.by_id.values().map(|(count, _)| count).sum::<u64>()
    }

    /// Whether it is another than when that was last asked.
    pub(super) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// What is left out, in words; empty: nothing.
    pub(super) fn words(&self) -> String {
        match self.len() {
            0 => String::new(),
            1 => "left out 1 master or service that cannot be read or passes a limit".into(),
            count => format!("left out {count} masters or services that cannot be read or pass a limit"),
        }
    }

    /// Some of it by name, with why.
    pub(super) fn examples(&self) -> Vec<String> {
        let mut all: Vec<_> = self.by_id.iter().collect();
        all.sort();
        all.iter().take(MAX_EXAMPLES).map(|(id, (_, why))| format!("{id:?}: {why}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_until_it_is_gone_and_takes_no_memory_without_bound() {
        let mut left_out = LeftOut::default();
        assert!(left_out.insert("m1", 1, "too large".into()) && !left_out.insert("m1", 3, "3 of its services".into()));
        assert_eq!((left_out.len(), left_out.examples()), (3, vec!["\"m1\": 3 of its services".into()]));
        assert!(left_out.take_new() && !left_out.take_new());
        left_out.remove("m1");
        assert_eq!((left_out.len(), left_out.words()), (0, String::new()));
        for number in 0..2 * MAX_MASTERS {
            left_out.insert(&number.to_string(), 1, String::new());
        }
        assert_eq!((left_out.len(), left_out.by_id.len()), (2 * MAX_MASTERS as u64, MAX_MASTERS));
        left_out.clear();
        assert!(left_out.len() == 0 && left_out.take_new());
    }
}
