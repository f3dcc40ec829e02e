//! Checks: what a job may not be, wherever it is kept.

use super::Config;
use super::change::Refused;
use super::job::{
    MAX_AT_ONCE, MAX_DELAY, MAX_JOB_NAME, MAX_KEY, MAX_PRIORITY, MAX_QUEUE_NAME, MAX_RETRIES, MAX_TIMEOUT, NewJob,
};

pub(super) fn check(jobs: &[NewJob], config: &Config) -> Result<(), Refused> {
    if jobs.len() > MAX_AT_ONCE {
        return Err(Refused::Invalid("jobs", format!("{} at once, at most {MAX_AT_ONCE}", jobs.len())));
    }
    jobs.iter().try_for_each(|job| check_one(job, config))
}

fn check_one(job: &NewJob, config: &Config) -> Result<(), Refused> {
    let invalid = |field, message: String| Err(Refused::Invalid(field, message));
    check_name("queue", &job.queue, MAX_QUEUE_NAME)?;
    check_name("name", &job.name, MAX_JOB_NAME)?;
    if let Some(unique) = &job.unique {
        check_name("uniqueKey", &unique.key, MAX_KEY)?;
    }
    if let Some(key) = &job.limit_key {
        check_name("limitKey", key, MAX_KEY)?;
    }
    let (bytes, most) = (job.payload.len() as u64, config.max_job_bytes);
    if bytes > most.as_u64() {
        return invalid("payload", format!("it has {bytes} bytes, and `queue.max_job_bytes` is {most}"));
    }
    if job.priority.is_some_and(|priority| priority > MAX_PRIORITY) {
        return invalid("priority", format!("it is from 0, the most urgent, to {MAX_PRIORITY}"));
    }
    if job.priority.is_some() && config.backend.is_some() {
        return invalid("priority", "queues in Redis have no order by it: use a queue of its own instead".to_owned());
    }
    if job.limit_key.is_some() && config.backend.is_some() {
        let why =
            "limits of queues in Redis are of whole queues: use a queue of its own, with a `[[queue.limit]]`, instead";
        return invalid("limitKey", why.to_owned());
    }
    if job.delay > MAX_DELAY {
        return invalid("delayMs", format!("it is longer than {} days", MAX_DELAY.as_secs() / 86_400));
    }
    if job.keep_result.is_some_and(|time| time > MAX_DELAY) {
        return invalid("keepResultMs", format!("it is longer than {} days", MAX_DELAY.as_secs() / 86_400));
    }
    if job.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
        return invalid("timeoutMs", "it is from 1 ms to a day".to_owned());
    }
    if job.retries.is_some_and(|retries| retries > MAX_RETRIES) {
        return invalid("retries", format!("at most {MAX_RETRIES}"));
    }
    Ok(())
}

pub(super) fn check_name(field: &'static str, name: &str, most: usize) -> Result<(), Refused> {
    match name.len() {
        bytes if bytes == 0 || bytes > most => {
            Err(Refused::Invalid(field, format!("it has {bytes} bytes, and is to have from 1 to {most}")))
        }
        _ if name.chars().any(char::is_control) => Err(Refused::Invalid(field, "it has control characters".to_owned())),
        _ => Ok(()),
    }
}
