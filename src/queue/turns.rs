//! Turns: from which of several queues the next job is taken, by their weights.

use std::collections::{HashMap, HashSet};

use super::attempt::Most;
use super::keys::QueueNumber;

/// No queue is further ahead or behind, whatever weights others name for it.
const MAX_CREDIT: i64 = 100_000;

/// The highest weight of a queue.
pub const MAX_WEIGHT: u32 = 100;

/// The queues from which jobs are taken, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub(super) queues: Vec<(String, u32)>,
    /// Whether an earlier one is emptied before a later one, whatever their weights.
    pub(super) are_in_order: bool,
}

impl From<Vec<String>> for Sources {
    fn from(queues: Vec<String>) -> Self {
        Self { are_in_order: true, ..Self::by_weight(queues.into_iter().map(|queue| (queue, 1)).collect()) }
    }
}

impl Sources {
    pub fn by_weight(mut queues: Vec<(String, u32)>) -> Self {
        let mut seen = HashSet::new();
        queues.retain(|(queue, _)| seen.insert(queue.clone()));
        Self { queues, are_in_order: false }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.queues.iter().map(|(queue, _)| queue.as_str())
    }

    /// An order of them, for one who knows no turns: with weights each is the first as often as its weight says, of one job.
    pub(super) fn by_chance(self, most: Most) -> (Vec<String>, Most) {
        let mut queues = self.queues;
        if self.are_in_order {
            return (queues.into_iter().map(|(queue, _)| queue).collect(), most);
        }
        queues.sort_by_cached_key(|(_, weight)| {
            let chance = -fastrand::f64().max(f64::MIN_POSITIVE).ln() / f64::from(*weight);
            // Numbers from 0 on are in the order of their bits.
            chance.to_bits()
        });
        let jobs = if queues.len() == 1 { most.jobs } else { 1 };
        (queues.into_iter().map(|(queue, _)| queue).collect(), Most { jobs, ..most })
    }
}

/// How far each queue is behind its share: smooth weighted round robin, as nginx has it.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<QueueNumber, i64>);

impl Turns {
    /// Which of these, with their weights, is next; the first one of equals.
    pub(super) fn next(&mut self, queues: &[(QueueNumber, u32)]) -> Option<usize> {
        let mut best: Option<(usize, i64)> = None;
        for (nth, (queue, weight)) in queues.iter().enumerate() {
            let credit = self.0.entry(*queue).or_default();
            *credit = (*credit + i64::from(*weight)).min(MAX_CREDIT);
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((nth, *credit));
            }
        }
        let (nth, _) = best?;
        let total: i64 = queues.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let credit = self.0.entry(queues.get(nth)?.0).or_default();
        *credit = (*credit - total).max(-MAX_CREDIT);
        Some(nth)
    }

    pub(super) fn forget(&mut self, queue: QueueNumber) {
        self.0.remove(&queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(turns: &mut Turns, queues: &[(QueueNumber, u32)], count: usize) -> Vec<QueueNumber> {
        (0..count)
            .filter_map(|_| turns.next(queues))
            .filter_map(|nth| queues.get(nth))
            .map(|(queue, _)| *queue)
            .collect()
    }

    #[test]
    fn each_has_as_many_turns_as_its_weight_evenly_spread() {
        let mut turns = Turns::default();
        let queues = [(1, 5), (2, 1), (3, 1)];
        for _ in 0..3 {
            assert_eq!(order(&mut turns, &queues, 7), [1, 1, 2, 1, 3, 1, 1]);
        }
        assert_eq!(turns.next(&[]), None);
    }

    #[test]
    fn by_chance_each_is_first_as_often_as_its_weight_says() {
        let sources =
            Sources::by_weight([("mail", 3), ("img", 1), ("mail", 9)].map(|(it, weight)| (it.into(), weight)).into());
        let most = Most { jobs: 9, bytes: 9 };
        let first = |_: &usize| {
            let (queues, few) = sources.clone().by_chance(most);
            assert_eq!((queues.len(), few.jobs), (2, 1));
            queues[0] == "mail"
        };
        let mail = (0..4_000).filter(first).count();
        assert!((2_800..3_200).contains(&mail), "{mail}");
        let in_order = Sources::from(vec!["b".to_owned(), "a".to_owned(), "b".to_owned()]);
        assert_eq!(in_order.by_chance(most), (vec!["b".to_owned(), "a".to_owned()], most));
    }

    #[test]
    fn one_that_was_left_out_has_no_more_than_its_share_later() {
        let mut turns = Turns::default();
        order(&mut turns, &[(1, 3)], 1_000);
        let both = order(&mut turns, &[(1, 3), (2, 1)], 400);
        assert_eq!(both.iter().filter(|queue| **queue == 2).count(), 100);
    }

    #[test]
    fn whatever_weights_others_name_nobody_starves() {
        let mut turns = Turns::default();
        for _ in 0..10_000 {
            // Takes the second one's turns with a weight that nobody else names.
            turns.next(&[(1, 1), (2, 100), (3, 100)]);
        }
        let all = order(&mut turns, &[(1, 1), (2, 1)], 1_000);
        assert!(all.contains(&1) && all.contains(&2), "{:?}", turns);
    }
}
