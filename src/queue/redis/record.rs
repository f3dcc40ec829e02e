//! Records: what Roster keeps in Redis of a job that is in nobody's list: it runs, waits for its time, is dead, or
//! is done and kept for its result. Pure.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

use super::super::Config;
use super::super::attempt::Update;
use super::super::change::millis;
use super::super::death::Death;
use super::super::job::{
    DEFAULT_PRIORITY, Job, JobId, MAX_DELAY, MAX_ERROR, MAX_LOST, State, Unique, Until, lease_ms, lost_too_often,
    retry_delay,
};
use super::keys::place;
use super::link::TIMEOUT;
use super::resque::{self, Extras, Item, MAX_TIME};
use crate::model::shortened;

/// Such a part of a lease may pass until the job arrives.
const ON_THE_WAY: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) queue: String,
    pub(super) state: State,
    pub(super) extras: Extras,
    pub(super) enqueued_at: u64,
    /// Where it stands in a scheduler's list, too: the second after `delayed:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduled: Option<u64>,
    /// As it was in a list, or is in that of a scheduler.
    pub(super) item: String,
    /// Of one that is done, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) result: String,
}

/// What becomes of a job that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Done,
    /// It is the first of its queue.
    Waiting(Extras),
    Kept(Box<Record>),
}

impl Next {
    pub(super) fn is_dead(&self) -> bool {
        matches!(self, Self::Kept(record) if matches!(record.state, State::Dead { .. }))
    }
}

impl Record {
    pub(super) fn new(queue: String, state: State, item: &Item, text: String, now: u64) -> Self {
        let (extras, enqueued_at) = (item.extras.clone(), item.enqueued_at.unwrap_or(now));
        Self { queue, state, extras, enqueued_at, scheduled: None, item: text, result: String::new() }
    }

    /// None: it is damaged, or somebody else's.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(Self::is_sound)
    }

    /// Anybody may have written it.
    fn is_sound(&self) -> bool {
        let (_, at) = place(self.state);
        [at, self.enqueued_at, self.scheduled.unwrap_or(0)].iter().all(|time| *time < MAX_TIME)
    }

    pub(super) fn written(&self) -> String {
        serde_json::to_string(self).expect("a record of ours has nothing that JSON cannot")
    }

    pub(super) fn timeout_ms(&self, config: &Config) -> u64 {
        self.extras.timeout_ms.unwrap_or_else(|| millis(config.timeout(&self.queue)))
    }

    /// The unique key that it has. One that is dead has it no more, and may have it again when it is put back.
    pub(super) fn unique(&self) -> Option<&Unique> {
        self.extras.unique.as_ref().filter(|_| !matches!(self.state, State::Dead { .. }))
    }

    pub(super) fn death(&self, id: JobId) -> Death {
        let error = self.extras.error.clone().unwrap_or_default();
        Death { queue: self.queue.clone(), id, name: self.name(), error }
    }

    /// Empty: it is no job.
    pub(super) fn name(&self) -> String {
        resque::read(self.item.as_bytes()).map_or_else(String::new, |item| item.name)
    }

    pub(super) fn into_job(self, id: JobId, config: &Config) -> Job {
        let (timeout, retries) = (Duration::from_millis(self.timeout_ms(config)), self.retries(config));
        let (keeps_result, unique_key) = (self.keep_result_ms(config) > 0, self.unique().map(|it| it.key.clone()));
        let (name, payload) = match resque::read(self.item.as_bytes()) {
            Some(item) => (item.name, item.payload),
            None => (String::new(), self.item.into_bytes()),
        };
        let (payload, result) = match self.state {
            State::Done { .. } => (Vec::new(), Some(BASE64_STANDARD.decode(&self.result).unwrap_or_default())),
            _ => (payload, None),
        };
        Job {
            id,
            queue: self.queue,
            name,
            payload,
            state: self.state,
            priority: DEFAULT_PRIORITY,
            attempt: self.extras.attempt,
            failures: self.extras.failures,
            retries,
            timeout,
            enqueued_at: self.enqueued_at,
            user: self.extras.user,
            error: self.extras.error,
            progress: None,
            keeps_result,
            result,
            is_buffered: false,
            unique_key,
            limit_key: None,
            due_at: self.extras.due_at,
        }
    }

    /// It is handed out. Its lease lasts a little longer, so that it is whole when the job arrives.
    pub(super) fn taken(mut self, lease: Option<Duration>, now: u64, config: &Config) -> Self {
        let lease = lease_ms(lease, self.timeout_ms(config));
        let lease = lease + (lease / ON_THE_WAY).min(millis(TIMEOUT));
        self.extras.attempt = self.extras.attempt.saturating_add(1);
        self.state = State::Running { until: now + lease };
        if self.unique().is_some_and(|unique| unique.until == Until::Start) {
            self.extras.unique = None;
        }
        self
    }

    /// What whoever has it wants of it.
    pub(super) fn after(&self, update: &Update, now: u64, config: &Config) -> Next {
        let extras = self.extras.clone();
        match update {
            Update::Done => self.done(&[], now, config),
            Update::Return { result } => self.done(result, now, config),
            Update::Fail { error } => {
                let failures = extras.failures.saturating_add(1);
                let extras = Extras { failures, error: Some(cut(error)), ..extras };
                match failures > self.retries(config) {
                    true => self.dead(extras, now),
                    false => self.rests(extras, retry_delay(failures, fastrand::f64()), now),
                }
            }
            Update::Lose { error } => {
                let (failures, lost) = (extras.failures.saturating_add(1), extras.lost.saturating_add(1));
                let with = |error: &str| Extras { failures, lost, error: Some(cut(error)), ..extras };
                match (lost >= MAX_LOST, failures > self.retries(config)) {
                    (true, _) => self.dead(with(&lost_too_often(error)), now),
                    (false, true) => self.dead(with(error), now),
                    (false, false) => Next::Waiting(with(error)),
                }
            }
            Update::Bury { error } => self.dead(Extras { error: Some(cut(error)), ..extras }, now),
            Update::Release { delay } if delay.is_zero() => Next::Waiting(extras),
            Update::Release { delay } => self.rests(extras, (*delay).min(MAX_DELAY), now),
            Update::Touch { lease } => {
                let lease = lease_ms(*lease, self.timeout_ms(config));
                self.kept(extras, State::Running { until: now + lease })
            }
            // It is nothing that is written.
            Update::Progress(_) => self.kept(extras, self.state),
        }
    }

    /// As an element of its queue.
    pub(super) fn waiting_again(&self, id: JobId, extras: Extras) -> String {
        let own = resque::read(self.item.as_bytes()).and_then(|item| item.id);
        let extras = Extras { id: Some(id).filter(|_| own != Some(id)), ..extras };
        resque::replaced(&self.item, &extras).unwrap_or_else(|| self.item.clone())
    }

    fn retries(&self, config: &Config) -> u32 {
        self.extras.retries.unwrap_or_else(|| config.retries(&self.queue))
    }

    /// How long it is kept with its result once it is done; 0: not at all.
    fn keep_result_ms(&self, config: &Config) -> u64 {
        let time = self.extras.keep_result_ms.unwrap_or_else(|| millis(config.keep_results));
        time.min(millis(MAX_DELAY))
    }

    /// It is gone, or kept with its result instead of its payload.
    fn done(&self, result: &[u8], now: u64, config: &Config) -> Next {
        let (time, most) = (self.keep_result_ms(config), config.max_job_bytes);
        if time == 0 {
            return Next::Done;
        }
        let kept = Self {
            state: State::Done { until: now + time },
            extras: Extras { unique: None, error: None, ..self.extras.clone() },
            scheduled: None,
            item: resque::named(&self.name()),
            result: BASE64_STANDARD.encode(result),
            ..self.clone()
        };
        Next::Kept(Box::new(match result.len() as u64 > most.as_u64() {
            true => kept.without_result(result.len(), &format!("`queue.max_job_bytes` is {most}")),
            false => kept,
        }))
    }

    /// It is done all the same.
    pub(super) fn without_result(self, bytes: usize, why: &str) -> Self {
        let error = Some(cut(&format!("its result of {bytes} bytes is not kept: {why}")));
        Self { extras: Extras { error, ..self.extras }, result: String::new(), ..self }
    }

    fn rests(&self, extras: Extras, delay: Duration, now: u64) -> Next {
        self.kept(extras, State::Delayed { until: now + millis(delay) })
    }

    pub(super) fn dead(&self, extras: Extras, now: u64) -> Next {
        self.kept(extras, State::Dead { since: now })
    }

    fn kept(&self, extras: Extras, state: State) -> Next {
        Next::Kept(Box::new(Self { extras, state, scheduled: None, ..self.clone() }))
    }
}

/// A record as it is written under an id. None: it is damaged, or somebody else's, or this is no id.
pub(super) fn known<'r>(id: &[u8], record: &'r [u8]) -> Option<(JobId, &'r str, Record)> {
    let (id, written) = (id_of(id)?, str::from_utf8(record).ok()?);
    Some((id, written, Record::read(written)?))
}

/// The id that a member or a field is.
pub(super) fn id_of(text: &[u8]) -> Option<JobId> {
    let id: JobId = str::from_utf8(text).ok()?.parse().ok()?;
    // Not `007`, which would never be taken away as job 7.
    (id.to_string().as_bytes() == text).then_some(id)
}

pub(super) fn cut(error: &str) -> String {
    shortened(error, MAX_ERROR).into_owned()
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn running(extras: &str) -> Record {
        let text = format!(r#"{{"class":"App\\Send","args":[{{"to":"a"}}],"roster":{extras}}}"#);
        let item = resque::read(text.as_bytes()).expect("a job");
        Record::new("mail".into(), State::Running { until: NOW }, &item, text, 1)
    }

    fn returns(record: &Record, result: &[u8], config: &Config) -> Option<Record> {
        match record.after(&Update::Return { result: result.to_vec() }, NOW, config) {
            Next::Kept(kept) => Some(*kept),
            Next::Done => None,
            Next::Waiting(_) => panic!("it is done"),
        }
    }

    #[test]
    fn a_result_is_kept_in_the_place_of_the_payload_where_the_job_or_else_the_sidecar_says_so() {
        let plain = Config::default();
        let hour = Config { keep_results: Duration::from_secs(3_600), ..Config::default() };
        assert_eq!(returns(&running("{}"), b"3", &plain), None, "nobody wants it");
        assert_eq!(returns(&running(r#"{"keep_result_ms":0}"#), b"3", &hour), None, "it says so itself");
        let of_sidecar = returns(&running("{}"), b"3", &hour).expect("it is kept");
        assert_eq!(of_sidecar.state, State::Done { until: NOW + 3_600_000 });

        let unique = r#""unique":{"key":"k","until":"Success"}"#;
        let extras = format!(r#"{{"user":33,"keep_result_ms":60000,{unique},"attempt":2,"error":"no route"}}"#);
        let record = running(&extras);
        assert!(record.unique().is_some() && record.clone().into_job(7, &plain).keeps_result);
        let done = returns(&record, b"\xff3", &plain).expect("it is kept");
        let done = Record::read(&done.written()).expect("a record");
        assert_eq!(done.unique(), None);
        let job = done.into_job(7, &plain);
        assert_eq!((job.state, job.name.as_str()), (State::Done { until: NOW + 60_000 }, "App\\Send"));
        assert_eq!((job.user, job.attempt, job.error), (Some(33), 2, None));
        assert_eq!((job.payload.len(), job.result.as_deref()), (0, Some(&b"\xff3"[..])));
    }

    #[test]
    fn one_that_is_dead_with_retries_left_says_that_it_was_lost_too_often() {
        let lost = |extras: &str| match running(extras).after(
            &Update::Lose { error: "its lease ended".to_owned() },
            NOW,
            &Config::default(),
        ) {
            Next::Kept(record) => (record.state, record.extras.error),
            next => panic!("{next:?}"),
        };
        let dead = State::Dead { since: NOW };
        let told = "it was lost 3 times, and is tried no more: its lease ended";
        assert_eq!(lost(r#"{"lost":2,"failures":2}"#), (dead, Some(told.to_owned())));
        let without_retries = lost(r#"{"retries":0}"#);
        assert_eq!(without_retries, (dead, Some("its lease ended".to_owned())));
    }

    #[test]
    fn a_job_tells_its_unique_key_for_as_long_as_it_has_it_and_for_which_time_it_recurs() {
        let config = Config::default();
        let record = running(r#"{"unique":{"key":"k","until":"Start"},"due_at":1700000000000}"#);
        let record = Record::read(&record.written()).expect("a record");
        let job = record.clone().into_job(7, &config);
        assert_eq!((job.unique_key.as_deref(), job.due_at), (Some("k"), Some(NOW)));
        let taken = record.taken(None, NOW, &config).into_job(7, &config);
        assert_eq!((taken.unique_key, taken.due_at), (None, Some(NOW)));
        let buried = running(r#"{"unique":{"key":"k","until":"Success"}}"#);
        let buried = buried.after(&Update::Bury { error: "no".to_owned() }, NOW, &config);
        let Next::Kept(dead) = buried else { panic!("{buried:?}") };
        assert!(dead.extras.unique.is_some(), "it may have it again");
        assert_eq!((dead.unique(), dead.clone().into_job(7, &config).unique_key), (None, None));
    }

    #[test]
    fn a_result_that_is_too_large_is_not_kept_and_it_is_told_why() {
        let config = Config { max_job_bytes: ByteSize(100), ..Config::default() };
        let record = running(r#"{"keep_result_ms":99999999999999}"#);
        let largest = returns(&record, &[7; 100], &config).expect("it is kept");
        assert_eq!(largest.state, State::Done { until: NOW + millis(MAX_DELAY) }, "nothing is kept for longer");
        assert_eq!(largest.into_job(7, &config).result.map(|result| result.len()), Some(100));
        for bytes in 101..104 {
            let job = returns(&record, &vec![7; bytes], &config).expect("it is kept").into_job(7, &config);
            assert_eq!(job.result, Some(Vec::new()));
            let (why, told) = (job.error.unwrap_or_default(), format!("its result of {bytes} bytes is not kept: "));
            assert!(why.starts_with(&(told + "`queue.max_job_bytes` is")), "{why}");
        }
    }

    #[test]
    fn a_result_that_another_build_or_nobody_has_written_is_read_as_far_as_it_is_one() {
        for (result, is) in [("", ""), (r#","result":"Mw==","new":2"#, "3"), (r#","result":"?""#, "")] {
            let text = format!(
                r#"{{"queue":"mail","state":{{"Done":{{"until":{NOW}}}}},"extras":{{"new":1}},"enqueued_at":1,"item":"{{}}"{result}}}"#
            );
            let job = Record::read(&text).expect("a record").into_job(7, &Config::default());
            assert_eq!(job.result.as_deref(), Some(is.as_bytes()), "{text}");
        }
    }
}
