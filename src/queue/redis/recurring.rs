//! Recurring jobs in Redis: what is settled of each is one text, and who enqueues the job of a time replaces that in the same
//! step. Whoever comes later, or was cut off or slow, finds another text than it has read.
//!
//! Each schedule has a text of its own: hosts that have different ones for a name would else begin anew by turns.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use nix::unistd::geteuid;
use redis::Value;

use super::super::Place;
use super::super::change::Refused;
use super::super::recurring::{Recurrence, Settled, Todo};
use super::buffer::Buffer;
use super::enqueue::{Draft, NotEnqueued};
use super::keys::Step;
use super::link::Failed;
use super::{Redis, TICK, no_matter};

/// How often a text is read again that others replace meanwhile.
const MAX_TRIES: usize = 8;

/// A text that takes the place of another one; empty: of none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling<'t> {
    pub(super) field: &'t str,
    pub(super) before: &'t [u8],
    pub(super) after: &'t str,
}

impl Redis {
    /// Looks at those that are due, so that what is listed is current.
    pub(in crate::queue) async fn look_at_recurring(self: &Arc<Self>, place: Place) -> Result<(), Refused> {
        let look = |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move { Ok(redis.recur().await?) })
        };
        self.ask(&place, look, no_matter).await
    }

    /// Enqueues what recurs and is due, unless another sidecar has. While nothing is due, Redis is asked nothing.
    pub(super) async fn recur(&self) -> Result<(), Failed> {
        let mut recurrences = self.recurrences.lock().await;
        let (now, until) = (self.link.now()?, Instant::now() + TICK);
        let mut unknown = None;
        for it in recurrences.due(now) {
            let why = match self.recur_one(it, now, until).await {
                Ok(why) => why,
                // It keeps no other one waiting, and nothing else from being done.
                Err(failed) if failed.is_of_a_key => {
                    Some(format!("{:?} of Redis at {} is no hash", self.keys.recurring(), self.link.server))
                }
                Err(failed) if failed.is_of_this_alone() => Some(failed.to_string()),
                Err(failed) => return Err(failed),
            };
            if let Some(why) = why {
                it.wait(None, now, why.clone());
                unknown = Some(why);
            }
            if Instant::now() >= until {
                break;
            }
        }
        if let Some(told) = recurrences.told() {
            self.known.recurring.store(Arc::new(told));
            recurrences.note_unknown(unknown);
        }
        Ok(())
    }

    /// Does what is due of one. Where there is no time for all that it makes up for, the rest comes in the next ticks. Some:
    /// why it is not known what is due.
    async fn recur_one(&self, it: &mut Recurrence, now: u64, until: Instant) -> Result<Option<String>, Failed> {
        let shown = it.shown();
        let (key, field) = (self.keys.recurring(), field_of(&shown.name, &shown.schedule, &shown.time_zone));
        'again: for _ in 0..MAX_TRIES {
            let text = match self.field(&key, &field).await? {
                Value::Int(bytes) => {
                    tracing::error!(key, field, bytes, "what is settled of a recurring job is damaged: it begins anew");
                    self.change(Step::new(&self.keys).unsettle(&field, bytes)).await?;
                    continue 'again;
                }
                Value::BulkString(text) => Some(text),
                _ => None,
            };
            if text.is_none()
                && let Some(why) = self.buffer.as_ref().and_then(Buffer::keeps_settled)
            {
                return Ok(Some(why));
            }
            let mut before = text.unwrap_or_default();
            for (nth, todo) in it.decide(read(&before), now).into_iter().enumerate() {
                if nth > 0 && Instant::now() >= until {
                    return Ok(None);
                }
                let settled = match self.carry_out(it, todo, &field, &before).await {
                    Ok(Some(settled)) => settled,
                    Ok(None) => continue 'again,
                    Err(NotEnqueued::Failed(failed)) if !failed.is_refused || todo.slot().is_none() => {
                        return Err(failed);
                    }
                    Err(why) => {
                        it.wait(todo.slot(), now, why.to_string());
                        return Ok(None);
                    }
                };
                it.settle(&settled);
                before = written(&settled).into_bytes();
            }
            it.rest(now);
            return Ok(None);
        }
        Ok(None)
    }

    /// What is settled then. None: somebody else has written something before, and nothing is done.
    async fn carry_out(
        &self,
        it: &Recurrence,
        todo: Todo,
        field: &str,
        before: &[u8],
    ) -> Result<Option<Settled>, NotEnqueued> {
        match todo {
            Todo::Settle(until) => {
                let settled = it.settled(until, None);
                let after = written(&settled);
                let step = Step::new(&self.keys).settle(Settling { field, before, after: &after });
                Ok(self.change(step).await?.then_some(settled))
            }
            Todo::Enqueue(slot) => {
                let draft = Draft::new(it.job(slot), Some(geteuid().as_raw()))?;
                let settled = it.settled(slot, Some(draft.id));
                let after = written(&settled);
                let is_enqueued = self.enqueue_and_settle(&draft, Settling { field, before, after: &after }).await?;
                Ok(is_enqueued.then_some(settled))
            }
        }
    }

    /// Has Redis know what the folder of the buffer had settled before it was one, unless Redis has its own.
    pub(super) async fn hand_over_settled(&self, buffer: &Buffer) -> Result<(), Failed> {
        let all = buffer.settled();
        for (name, settled) in &all {
            let (field, after) = (field_of(name, &settled.schedule, &settled.time_zone), written(settled));
            let step = Step::new(&self.keys).settle(Settling { field: &field, before: b"", after: &after });
            match self.change(step).await {
                Ok(_) => {}
                // The recurring jobs that wait for it say why, and all else is delivered.
                Err(failed) if failed.is_of_this_alone() => {
                    buffer.keep_settled(failed.to_string());
                    return Ok(());
                }
                Err(failed) => return Err(failed),
            }
        }
        if !all.is_empty()
            && let Err(why) = buffer.forget_settled().await
        {
            buffer.keep_settled(why.to_string());
        }
        Ok(())
    }
}

fn field_of(name: &str, schedule: &str, time_zone: &str) -> String {
    serde_json::to_string(&(name, schedule, time_zone)).expect("a text has nothing that JSON cannot")
}

/// None: it is damaged, or somebody else's.
fn read(text: &[u8]) -> Option<Settled> {
    serde_json::from_slice(text).ok().filter(Settled::is_sound)
}

fn written(settled: &Settled) -> String {
    serde_json::to_string(settled).expect("a value of ours has nothing that JSON cannot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_may_have_written_is_read_if_no_time_in_it_is_beyond_reason() {
        let text = r#"{"until":5,"last":[5,7],"schedule":"@daily","time_zone":"UTC","from":1,"others":[{"from":0,"until":3}]}"#;
        let settled = read(text.as_bytes()).expect("it is sound");
        assert_eq!(written(&settled), text);
        let runs = [r#"{"from":0,"until":3}"#; 17].join(",");
        for (part, wrong) in [
            (r#""until":5"#, r#""until":18446744073709551615"#),
            (r#""from":1"#, r#""from":9007199254740992"#),
            ("[5,7]", "[9007199254740992,7]"),
            (r#""until":3"#, r#""until":18446744073709551615"#),
            (r#"{"from":0,"until":3}"#, runs.as_str()),
            (r#""schedule":"@daily","#, ""),
            ("}]}", "}]"),
        ] {
            assert_eq!(read(text.replace(part, wrong).as_bytes()), None, "{wrong}");
        }
        assert_eq!(read(b""), None);
    }

    #[test]
    fn no_two_schedules_have_the_same_field() {
        assert_eq!(field_of("digest", "30 6 * * *", "UTC"), r#"["digest","30 6 * * *","UTC"]"#);
        assert_ne!(field_of(r#"a","b"#, "c", "UTC"), field_of("a", r#"b","c"#, "UTC"));
    }
}
