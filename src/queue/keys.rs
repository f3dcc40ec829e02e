//! Keys: how jobs, their order, and what is counted lie in one ordered file.
//!
//! | key | value |
//! |---|---|
//! | `m` | the format, and the next numbers |
//! | `q` name | a queue: its number, its counts |
//! | `u` user | how much a user has |
//! | `j` id | the head of a job: all but what the application gave |
//! | `p` id | its name and payload, which never change until it is done and its result is in their place |
//! | `w` queue, priority, id | it waits, |
//! | `l` queue, time, id | is delayed until then, |
//! | `r` queue, id | runs, |
//! | `d` queue, time, id | is dead since then, |
//! | `f` queue, time, id | is done, and kept until then |
//! | `k` queue, key | the job that has a unique key |
//! | `c` name | when a recurring job was due that was enqueued last |
//! | `b` | it is a buffer: its jobs are for Redis, also those that were there before, which have lower ids than this |
//! | NUL | the generation of the log of what follows |
//! | NUL `g` | there was a gap in the log: what is counted may be wrong |

use super::job::JobId;

pub(super) const GENERATION: &[u8] = b"\0";
pub(super) const GAP: &[u8] = b"\0g";
pub(super) const META: &[u8] = b"m";
pub(super) const QUEUES: &[u8] = b"q";
pub(super) const USERS: &[u8] = b"u";
pub(super) const JOBS: &[u8] = b"j";
pub(super) const WAITING: &[u8] = b"w";
pub(super) const DELAYED: &[u8] = b"l";
pub(super) const RUNNING: &[u8] = b"r";
pub(super) const DEAD: &[u8] = b"d";
pub(super) const RECURRING: &[u8] = b"c";
pub(super) const DONE: &[u8] = b"f";
pub(super) const BUFFER: &[u8] = b"b";

/// No queue's number.
pub(super) type QueueNumber = u32;

pub(super) fn queue(name: &str) -> Vec<u8> {
    [QUEUES, name.as_bytes()].concat()
}

/// Nobody knows who enqueues over TCP: all of them are one user.
pub(super) fn user(uid: Option<u32>) -> Vec<u8> {
    [USERS, &uid.map_or(-1, i64::from).to_be_bytes()].concat()
}

pub(super) fn job(id: JobId) -> Vec<u8> {
    [JOBS, &id.to_be_bytes()].concat()
}

pub(super) fn body(id: JobId) -> Vec<u8> {
    [b"p".as_slice(), &id.to_be_bytes()].concat()
}

pub(super) fn waiting(queue: QueueNumber, priority: u8, id: JobId) -> Vec<u8> {
    [WAITING, &queue.to_be_bytes(), &[priority], &id.to_be_bytes()].concat()
}

pub(super) fn delayed(queue: QueueNumber, until: u64, id: JobId) -> Vec<u8> {
    [DELAYED, &queue.to_be_bytes(), &until.to_be_bytes(), &id.to_be_bytes()].concat()
}

pub(super) fn running(queue: QueueNumber, id: JobId) -> Vec<u8> {
    [RUNNING, &queue.to_be_bytes(), &id.to_be_bytes()].concat()
}

pub(super) fn dead(queue: QueueNumber, since: u64, id: JobId) -> Vec<u8> {
    [DEAD, &queue.to_be_bytes(), &since.to_be_bytes(), &id.to_be_bytes()].concat()
}

pub(super) fn done(queue: QueueNumber, until: u64, id: JobId) -> Vec<u8> {
    [DONE, &queue.to_be_bytes(), &until.to_be_bytes(), &id.to_be_bytes()].concat()
}

pub(super) fn unique(queue: QueueNumber, key: &str) -> Vec<u8> {
    [b"k".as_slice(), &queue.to_be_bytes(), key.as_bytes()].concat()
}

pub(super) fn recurring(name: &str) -> Vec<u8> {
    [RECURRING, name.as_bytes()].concat()
}

/// The queue in a key of an order.
pub(super) fn queue_in(key: &[u8]) -> Option<QueueNumber> {
    key.get(1..5)?.try_into().ok().map(QueueNumber::from_be_bytes)
}

/// The job that a key of an order ends with.
pub(super) fn id_in(key: &[u8]) -> Option<JobId> {
    key.last_chunk().copied().map(JobId::from_be_bytes)
}

/// The time in a key of those that are delayed, dead or done.
pub(super) fn time_in(key: &[u8]) -> Option<u64> {
    key.get(5..13)?.try_into().ok().map(u64::from_be_bytes)
}

/// Where keys begin that follow this one.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
