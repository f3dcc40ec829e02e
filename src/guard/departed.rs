//! Instances that vanished lately, and were not held.

use std::sync::Arc;

use imbl::OrdMap;

use super::{Now, Vanished};
use crate::clock::Moment;

/// In the order in which they vanished. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct DepartedList {
    by_number: OrdMap<u64, Departed>,
    numbers: OrdMap<Arc<str>, u64>,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Departed {
    pub(super) vanished: Arc<Vanished>,
    pub(super) at: Now,
    /// When it came, if that was within the window.
    pub(super) came: Option<Moment>,
    /// Whether there was no room when it was to be recalled.
    is_refused: bool,
    bytes: usize,
}

impl Departed {
    pub(super) fn new(vanished: Vanished, at: Now, came: Option<Moment>) -> Self {
        Self { bytes: vanished.size(), vanished: vanished.into(), at, came, is_refused: false }
    }
}

impl DepartedList {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// About how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn oldest(&self) -> Option<Now> {
        self.by_number.get_min().map(|(_, departed)| departed.at)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Departed> {
        self.by_number.get(self.numbers.get(id)?)
    }

    pub(super) fn insert(&mut self, departed: Departed) {
        self.remove(&departed.vanished.id);
        let number = self.by_number.get_max().map_or(0, |(newest, _)| newest + 1);
        self.numbers.insert(departed.vanished.id.clone(), number);
        self.bytes += departed.bytes;
        self.by_number.insert(number, departed);
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(number) = self.numbers.get(id).copied() {
            self.take(number);
        }
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Departed> {
        let number = self.by_number.get_min()?.0;
        self.take(number)
    }

    pub(super) fn pop_newest(&mut self) -> Option<Departed> {
        let number = self.by_number.get_max()?.0;
        self.take(number)
    }

    /// Notes that there is no room for the newest ones, up to this many and to the first one of which that is no news;
    /// returns their ids.
    pub(super) fn refuse_newest(&mut self, most: usize) -> Vec<Arc<str>> {
        let newest = self.by_number.iter().rev().take(most).take_while(|(_, departed)| !departed.is_refused);
        let numbers: Vec<u64> = newest.map(|(number, _)| *number).collect();
        let refuse = |number| {
            let departed = self.by_number.get_mut(number)?;
            departed.is_refused = true;
            Some(departed.vanished.id.clone())
        };
        numbers.iter().filter_map(refuse).collect()
    }

    fn take(&mut self, number: u64) -> Option<Departed> {
        let departed = self.by_number.remove(&number)?;
        self.numbers.remove(&departed.vanished.id);
        self.bytes -= departed.bytes;
        Some(departed)
    }
}
