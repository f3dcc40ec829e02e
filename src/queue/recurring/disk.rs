//! On the disk: what recurs is enqueued and settled in one transaction.

use nix::unistd::geteuid;

use super::super::book::{read, written};
use super::super::change::{Change, Outcome};
use super::super::engine::{EngineError, sound};
use super::super::enqueue::Asker;
use super::super::job::JobId;
use super::super::keeper::sound_or_refused;
use super::super::keys;
use super::{Recurrence, Recurrences, Settled, Todo};

impl Recurrences {
    /// Enqueues those whose time has come.
    pub(in crate::queue) fn enqueue_due(&mut self, change: &mut Change<'_, '_>) -> Result<(), EngineError> {
        if !self.is_clean {
            let names = self.all.iter().map(|it| keys::recurring(&it.config.name)).collect::<Vec<_>>();
            forget(change, |key| !names.contains(key))?;
            self.is_clean = true;
        }
        for it in self.due(change.now.wall) {
            it.enqueue_due(change)?;
        }
        Ok(())
    }
}

impl Recurrence {
    fn enqueue_due(&mut self, change: &mut Change<'_, '_>) -> Result<(), EngineError> {
        let (key, now) = (keys::recurring(&self.config.name), change.now.wall);
        for todo in self.decide(settled_at(change, &key)?, now) {
            let settled = match todo {
                Todo::Settle(until) => self.settled(until, None),
                Todo::Enqueue(slot) => match sound_or_refused(self.enqueue(slot, change))? {
                    Ok(id) => self.settled(slot, Some(id)),
                    Err(why) => {
                        self.wait(Some(slot), now, why.to_string());
                        return Ok(());
                    }
                },
            };
            change.txn.put(&key, &written(&settled))?;
            change.book.be_written();
            self.settle(&settled);
        }
        self.rest(now);
        Ok(())
    }

    fn enqueue(&self, slot: u64, change: &mut Change<'_, '_>) -> Outcome<JobId> {
        let sidecar = Asker { uid: Some(geteuid().as_raw()), is_admin: true };
        let enqueued = change.enqueue(&[self.job(slot)], sidecar)?;
        Ok(enqueued.first().ok_or(EngineError::Damaged)?.id)
    }
}

/// What is settled, by the names of all that recurs.
pub(in crate::queue) fn settled_on_disk(change: &Change<'_, '_>) -> Result<Vec<(String, Settled)>, EngineError> {
    let mut all = Vec::new();
    for key in change.txn.keys(keys::RECURRING) {
        let key = key?;
        let name = String::from_utf8(key[keys::RECURRING.len()..].to_vec());
        all.extend(name.ok().zip(settled_at(change, &key)?));
    }
    Ok(all)
}

/// Forgets all of that.
pub(in crate::queue) fn forget_settled(change: &mut Change<'_, '_>) -> Result<(), EngineError> {
    forget(change, |_| true)
}

fn forget(change: &mut Change<'_, '_>, is_forgotten: impl Fn(&Vec<u8>) -> bool) -> Result<(), EngineError> {
    let keys = change.txn.keys(keys::RECURRING).collect::<Result<Vec<_>, _>>()?;
    for key in keys.iter().filter(|key| is_forgotten(key)) {
        change.txn.delete(key)?;
        change.book.be_written();
    }
    Ok(())
}

fn settled_at(change: &Change<'_, '_>, key: &[u8]) -> Result<Option<Settled>, EngineError> {
    let value = sound(change.txn.get(key))?.flatten();
    Ok(value.and_then(|value| read(&value).ok()))
}
