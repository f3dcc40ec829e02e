//! Keys, and steps: what Redis is to have found, and what it does then, all at once.

use super::super::job::{JobId, State};
use super::link::Arguments;
use super::record::Record;
use super::recurring::Settling;

/// So many elements at each end of a list are near it.
const NEAR_END: usize = 1_000;

/// Resque's keys, and beside them Roster's own, which begin with `roster:`.
#[derive(Clone, Debug)]
pub(super) struct Keys(pub(super) String);

impl Keys {
    /// A prefix ends with a colon, as clients of Resque add it where there is none.
    pub(super) fn new(prefix: &str) -> Self {
        let colon = if prefix.is_empty() || prefix.ends_with(':') { "" } else { ":" };
        Self(format!("{prefix}{colon}"))
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    pub(super) fn queue(&self, queue: &str) -> String {
        format!("{}queue:{queue}", self.0)
    }

    /// What is delayed until this second.
    pub(super) fn delayed(&self, second: &str) -> String {
        format!("{}delayed:{second}", self.0)
    }

    pub(super) fn jobs(&self) -> String {
        self.key("roster:jobs")
    }

    /// When something is to be done with each of those.
    pub(super) fn due(&self) -> String {
        self.key("roster:due")
    }

    /// When the result of a job of a queue is to be forgotten, many at once (`scripts::FORGET`): `ID:QUEUE`.
    pub(super) fn results(&self) -> String {
        self.key("roster:results")
    }

    /// Where it is kept when something is to be done with a record, and by which member.
    fn due_of(&self, id: JobId, record: &Record) -> (String, String) {
        match record.state {
            State::Done { .. } => (self.results(), format!("{id}:{}", record.queue)),
            _ => (self.due(), id.to_string()),
        }
    }

    /// Which delayed job is which element of a scheduler's list (`schedule`).
    pub(super) fn scheduled(&self) -> String {
        self.key("roster:scheduled")
    }

    pub(super) fn schedule(&self) -> String {
        self.key("delayed_queue_schedule")
    }

    pub(super) fn popped(&self) -> String {
        self.key("roster:popped")
    }

    pub(super) fn set_aside(&self) -> String {
        self.key("roster:set_aside")
    }

    /// What is settled of recurring jobs, by their names, schedules and zones.
    pub(super) fn recurring(&self) -> String {
        self.key("roster:recurring")
    }

    /// The jobs of a queue in this state: `delayed`, `running`, `dead` or `done`.
    pub(super) fn state(&self, state: &str, queue: &str) -> String {
        format!("{}roster:{state}:{queue}", self.0)
    }

    pub(super) fn unique(&self, queue: &str) -> String {
        format!("{}roster:unique:{queue}", self.0)
    }
}

/// The name of a state that a record may have, and its moment.
pub(super) fn place(state: State) -> (&'static str, u64) {
    match state {
        State::Running { until } => ("running", until),
        State::Delayed { until } => ("delayed", until),
        State::Dead { since } => ("dead", since),
        // It is in a list, or gone, and has no record.
        State::Waiting => ("waiting", 0),
        State::Done { until } => ("done", until),
    }
}

/// What `CHANGE` is given, and `CHANGES` several of.
#[derive(Debug)]
pub(super) struct Step<'k> {
    keys: &'k Keys,
    guards: Vec<[Vec<u8>; 4]>,
    commands: Vec<Vec<Vec<u8>>>,
}

impl<'k> Step<'k> {
    pub(super) fn new(keys: &'k Keys) -> Self {
        Self { keys, guards: Vec::new(), commands: Vec::new() }
    }

    /// If the record of a job is this one; empty: if there is none.
    pub(super) fn if_record(self, id: JobId, record: impl AsRef<[u8]>) -> Self {
        let jobs = self.keys.jobs();
        self.guard("hash", &jobs, id.to_string().as_bytes(), record.as_ref())
    }

    /// If no job has the unique key that this one is to have.
    pub(super) fn if_key_is_free(self, record: &Record) -> Self {
        let Some(unique) = record.unique() else { return self };
        let key = self.keys.unique(&record.queue);
        self.guard("hash", &key, unique.key.as_bytes(), b"")
    }

    pub(super) fn if_popped(self, member: &[u8]) -> Self {
        let popped = self.keys.popped();
        self.guard("sorted", &popped, member, b"")
    }

    pub(super) fn if_in_list(self, key: &str, item: &[u8]) -> Self {
        self.guard("list", key, item, b"")
    }

    /// If this element is near an end of a list.
    pub(super) fn if_near_end(self, key: &str, item: &[u8]) -> Self {
        self.guard("near", key, item, near_end(item).as_bytes())
    }

    pub(super) fn if_first(self, key: &str, item: &[u8]) -> Self {
        self.guard("first", key, item, b"")
    }

    pub(super) fn if_first_larger(self, key: &str, size: &str) -> Self {
        self.guard("large", key, size.as_bytes(), b"")
    }

    pub(super) fn if_no_list(self, key: &str) -> Self {
        self.guard("nolist", key, b"", b"")
    }

    /// Takes away what is settled of a recurring job, if it has so many bytes.
    pub(super) fn unsettle(self, field: &str, bytes: i64) -> Self {
        let key = self.keys.recurring();
        let step = self.guard("length", &key, field.as_bytes(), bytes.to_string().as_bytes());
        step.then(["HDEL", &key, field])
    }

    /// Writes what is settled of a recurring job, if nobody else has written something since.
    pub(super) fn settle(self, Settling { field, before, after }: Settling<'_>) -> Self {
        let (key, field) = (self.keys.recurring(), field.as_bytes());
        self.guard("hash", &key, field, before).then_bytes([b"HSET", key.as_bytes(), field, after.as_bytes()])
    }

    fn guard(mut self, kind: &str, key: &str, field: &[u8], expected: &[u8]) -> Self {
        self.guards.push([kind.into(), key.into(), field.into(), expected.into()]);
        self
    }

    pub(super) fn then<const N: usize>(self, command: [&str; N]) -> Self {
        self.then_bytes(command.map(str::as_bytes))
    }

    /// What is in a list may be no text.
    pub(super) fn then_bytes<const N: usize>(mut self, command: [&[u8]; N]) -> Self {
        self.commands.push(command.map(<[u8]>::to_vec).to_vec());
        self
    }

    /// Puts a job at an end of its queue.
    pub(super) fn push(self, command: &str, queue: &str, item: &str) -> Self {
        let (key, queues) = (self.keys.queue(queue), self.keys.key("queues"));
        self.then([command, &key, item]).then(["SADD", &queues, queue])
    }

    /// Keeps a record, and looks at it again when `due` has come.
    pub(super) fn keep(self, id: JobId, record: &Record, due: u64) -> Self {
        let (state, at) = place(record.state);
        let (jobs, of_state) = (self.keys.jobs(), self.keys.state(state, &record.queue));
        let (all_due, member) = self.keys.due_of(id, record);
        let id = id.to_string();
        // The record last: a set of another type leaves none behind that nothing looks at.
        let step =
            self.then(["ZADD", &of_state, &at.to_string(), &id]).then(["ZADD", &all_due, &due.to_string(), &member]);
        let step = step.then(["HSET", &jobs, &id, &record.written()]);
        match record.state {
            // It was there while it ran.
            State::Done { .. } => {
                let before = step.keys.due();
                step.then(["ZREM", &before, &id])
            }
            _ => step,
        }
    }

    /// Takes a record from where its state has it.
    pub(super) fn unplace(self, id: JobId, record: &Record) -> Self {
        let of_state = self.keys.state(place(record.state).0, &record.queue);
        self.then(["ZREM", &of_state, &id.to_string()])
    }

    /// Takes a delayed job from its scheduler's list, and an empty list from the schedule.
    pub(super) fn unlist(self, list: &str, second: u64, item: &[u8]) -> Self {
        let schedule = self.keys.schedule();
        let step = self.then_bytes([b"LREM", list.as_bytes(), b"1", item]);
        step.then(["UNLIST", list, &schedule, &second.to_string()])
    }

    /// The same of one that is near an end of the list.
    pub(super) fn unlist_near_end(self, list: &str, second: u64, item: &[u8]) -> Self {
        let schedule = self.keys.schedule();
        let step = self.then_bytes([b"CUT", list.as_bytes(), item, near_end(item).as_bytes()]);
        step.then(["UNLIST", list, &schedule, &second.to_string()])
    }

    pub(super) fn forget(self, id: JobId, record: &Record) -> Self {
        let (jobs, (due, member), marks) = (self.keys.jobs(), self.keys.due_of(id, record), self.keys.scheduled());
        let (number, prefix) = (id.to_string(), &self.keys.0);
        let step = self.unplace(id, record).then(["ZREM", &due, &member]).then(["HDEL", &jobs, &number]);
        let Some(second) = record.scheduled else { return step };
        step.then(["UNMARK", &marks, &second.to_string(), &record.item, &number, prefix])
    }

    /// Frees the unique key of a job, unless another one has it by now.
    pub(super) fn free(self, id: JobId, record: &Record) -> Self {
        let Some(unique) = record.unique() else { return self };
        let key = self.keys.unique(&record.queue);
        self.then(["FREE", &key, &unique.key, &id.to_string()])
    }

    /// The unique key is that of a job which waits with this text.
    pub(super) fn hold(self, id: JobId, record: &Record, item: &str) -> Self {
        let Some(unique) = record.unique() else { return self };
        let key = self.keys.unique(&record.queue);
        self.then(["HSET", &key, &unique.key, &format!("{id} {item}")])
    }

    pub(super) fn count(self, statistic: &str) -> Self {
        let key = self.keys.key(&format!("stat:{statistic}"));
        self.then(["TRY", "INCR", &key])
    }

    pub(super) fn arguments(&self) -> Arguments {
        self.follow(Arguments::default().text(self.keys.popped()))
    }

    /// What `CHANGES` is given.
    pub(super) fn arguments_of(keys: &Keys, steps: &[Self]) -> Arguments {
        let begin = Arguments::default().text(keys.popped());
        steps.iter().fold(begin, |all, step| step.follow(all.number(step.length() as u64)))
    }

    fn follow(&self, arguments: Arguments) -> Arguments {
        let guards = arguments.number(self.guards.len() as u64).texts(self.guards.iter().flatten());
        self.commands.iter().fold(guards, |all, command| all.number(command.len() as u64).texts(command))
    }

    /// How many arguments those are.
    fn length(&self) -> usize {
        let commands: usize = self.commands.iter().map(|command| 1 + command.len()).sum();
        1 + self.guards.iter().flatten().count() + commands
    }
}

/// Among how many elements from each end of a list one is looked for: fewer where it takes longer to compare each.
fn near_end(item: &[u8]) -> String {
    (NEAR_END / (1 + item.len() / 100)).max(1).to_string()
}
