//! The model: of every key (a path, or a master) all that ever was, in order, with times.

use std::collections::HashMap;
use std::time::Instant;

/// What a key can hold. Data is known by the number that was written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Absent,
    Data(u64),
    /// Nobody knows: any answer is right.
    Anything,
}

/// A state in which a key was, or may have been.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) value: Value,
    /// Before this it cannot have been seen.
    pub(crate) since: Instant,
    /// From this on the states before it were over. None: nobody knows whether it ever came to be.
    pub(crate) certain: Option<Instant>,
}

/// Why an answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    NeverWas,
    NotYet,
    /// It was over, then, before the earliest time at which the answer claims that it was true.
    TooOld(Instant),
    WentBack,
}

/// When an answer claims to have been true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// None: whenever.
    pub(crate) from: Option<Instant>,
    pub(crate) until: Instant,
}

/// Histories by their keys.
#[derive(Debug, Default)]
pub(crate) struct Model {
    histories: HashMap<String, Vec<State>>,
}

impl Model {
    /// A value is about to be written, and may be seen from now on. Answers the number of its state.
    pub(crate) fn begin(&mut self, key: &str, value: Value) -> usize {
        let history = self.histories.entry(key.to_owned()).or_default();
        history.push(State { value, since: Instant::now(), certain: None });
        history.len() - 1
    }

    /// It is known that a state came to be.
    pub(crate) fn confirm(&mut self, key: &str, state: usize) {
        if let Some(state) = self.histories.get_mut(key).and_then(|history| history.get_mut(state)) {
            state.certain.get_or_insert_with(Instant::now);
        }
    }

    /// It was read that a key holds this value now. Writes of which nobody knew are known by that.
    pub(crate) fn found(&mut self, key: &str, value: Value) -> Result<(), String> {
        let history = self.histories.entry(key.to_owned()).or_default();
        let found = history.iter().rposition(|state| state.value == value);
        let possible = found.filter(|found| history[found + 1..].iter().all(|later| later.certain.is_none()));
        let state = possible.ok_or_else(|| format!("ZooKeeper holds {value:?} at {key}, which nobody wrote last"))?;
        history[state].certain.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// From `since` on a key holds this, by no write of ours.
    pub(crate) fn become_now(&mut self, key: &str, value: Value, since: Instant) {
        let history = self.histories.entry(key.to_owned()).or_default();
        if history.last().is_none_or(|last| last.value != value || last.certain.is_none()) {
            history.push(State { value, since, certain: Some(Instant::now()) });
        }
    }

    /// What a key held last for certain.
    pub(crate) fn last(&self, key: &str) -> Value {
        let last = self.history(key).iter().rfind(|state| state.certain.is_some());
        last.map_or(Value::Absent, |state| state.value)
    }

    pub(crate) fn history(&self, key: &str) -> &[State] {
        self.histories.get(key).map_or(&[], Vec::as_slice)
    }

    /// The earliest state, not before the state `first`, as which `value` was true at a time of the claim.
    pub(crate) fn find(&self, key: &str, value: Value, claim: Claim, first: usize) -> Result<usize, Wrong> {
        let history = self.history(key);
        let (mut found, mut wrong, mut over) = (None, Wrong::NeverWas, None);
        for (number, state) in history.iter().enumerate().rev() {
            let is_over = over.zip(claim.from).is_some_and(|(over, from)| over < from);
            if (found.is_some() || wrong != Wrong::NeverWas) && (is_over || number < first) {
                break;
            }
            if state.value == value || state.value == Value::Anything {
                match over {
                    _ if number < first => wrong = Wrong::WentBack,
                    Some(over) if is_over => wrong = Wrong::TooOld(over),
                    _ if state.since > claim.until => wrong = Wrong::NotYet,
                    _ => found = Some(number),
                }
            }
            over = state.certain.or(over);
        }
        found.ok_or(wrong)
    }
}

/// The data with a number. Its last digit says how much there is.
pub(crate) fn data_of(number: u64) -> Vec<u8> {
    let mut data = format!("{number}.").into_bytes();
    let length = SIZES[(number % 10) as usize % SIZES.len()];
    data.resize(data.len().max(length), b'x');
    data
}

/// What data is, if it is whole.
pub(crate) fn value_of(data: &[u8]) -> Option<Value> {
    let digits = data.split(|byte| *byte == b'.').next()?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (data == data_of(number)).then_some(Value::Data(number))
}

/// The last digits of numbers, and what they mean.
const SIZES: [usize; 5] = [0, 300, 40_000, LIMIT, LIMIT + 1];

/// The most that a node may hold to be mirrored.
pub(crate) const LIMIT: usize = 700_000;
