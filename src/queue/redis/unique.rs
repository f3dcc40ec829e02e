//! Unique keys: who has one, where too many jobs wait for Redis to see that at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Instant;

use redis::Script;
use tokio::time::sleep;

use super::super::job::JobId;
use super::enqueue::{Draft, MAX_HELD_BYTES, NotEnqueued, Patience, turn_in_time};
use super::link::{Arguments, Failed};
use super::search::Turn;
use super::{LOOK_INTERVAL, Redis};

/// Each run looks again at so many elements of the last one, and at no more than half of them: what is removed meanwhile moves
/// others nearer to the end.
const MAX_OVERLAP: i64 = 100;

/// Looks for those who are said to have unique keys of a queue, from the end of its list on: how far that has come, -1 if
/// there are no more elements, and the ids that were found. What is pushed or taken off meanwhile moves none of those that
/// are yet to be looked at nearer to the end; what is removed does, of which there are few.
///
/// Of those who have keys no more bytes are read than `ENQUEUE` admits; of the list so many elements, or 512 KiB, or as many
/// bytes as of those, in parts that are as small as the elements are large.
static SEEK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, q, before, from, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
        local unique, wanted, looked, part, held = p .. 'roster:unique:' .. q, {}, from, 1, 0
        for number = 6, #ARGV do
            held = held + redis.call('HSTRLEN', unique, ARGV[number])
            if held > room then break end
            local of, text = string.match(redis.call('HGET', unique, ARGV[number]) or '', '^(%d+) (.*)$')
            if of then wanted[text] = of end
        end
        local reply, to, bytes = {0}, from + 5000, math.max(524288, math.min(held, room))
        -- It comes further each time, however large the elements are.
        while looked < to and (bytes > 0 or looked <= before) do
            local items = redis.pcall('LRANGE', p .. 'queue:' .. q, -looked - part, -looked - 1)
            if #items == 0 then
                looked = -1
                -- Those that were taken off meanwhile.
                for text, of in pairs(wanted) do
                    if redis.call('HEXISTS', p .. 'roster:jobs', of) == 1
                        or redis.call('ZSCORE', p .. 'roster:popped', #q .. ':' .. q .. text) then table.insert(reply, of) end
                end
                break
            end
            local left = bytes
            for _, item in ipairs(items) do
                if wanted[item] then table.insert(reply, wanted[item]) end
                bytes = bytes - #item
            end
            looked = looked + part
            part = left - bytes < 65536 and math.min(part * 2, 16) or math.ceil(part / 2)
        end
        reply[1] = looked
        return reply",
    )
});

/// What is known of who has which unique key of which queue.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<(String, String), Holder>);

#[derive(Clone, Copy, Debug)]
enum Holder {
    /// This job waits.
    Waits(JobId),
    /// This one does not: others have performed it, who know nothing of the key.
    Gone(JobId),
}

impl Holders {
    /// The job that has the key of another one.
    pub(super) fn of(&self, draft: &Draft) -> Option<JobId> {
        match self.get(draft)? {
            Holder::Waits(id) => Some(id),
            Holder::Gone(_) => None,
        }
    }

    /// The job that had it.
    pub(super) fn gone(&self, draft: &Draft) -> Option<JobId> {
        match self.get(draft)? {
            Holder::Gone(id) => Some(id),
            Holder::Waits(_) => None,
        }
    }

    fn get(&self, draft: &Draft) -> Option<Holder> {
        self.0.get(&key_of(draft)?).copied()
    }
}

impl Redis {
    /// Looks for who is said to have the keys of jobs, in steps, so that Redis does other things in between, and others have
    /// their turns, which are no time of Redis's. Who has none rests for as long.
    pub(super) async fn seek(
        &self,
        said: &[(&Draft, JobId)],
        holders: &mut Holders,
        turn: &mut Option<Turn<'_>>,
        patience: &mut Option<Patience>,
    ) -> Result<(), NotEnqueued> {
        let mut queues = BTreeMap::<String, HashMap<String, JobId>>::new();
        for (draft, id) in said {
            if let Some((queue, key)) = key_of(draft) {
                queues.entry(queue).or_default().insert(key, *id);
            }
        }
        for (queue, keys) in queues {
            let found = self.found(&queue, &keys, turn, patience).await?;
            holders.0.extend(keys.into_iter().map(|(key, id)| {
                let holder = if found.contains(&id) { Holder::Waits(id) } else { Holder::Gone(id) };
                ((queue.clone(), key), holder)
            }));
        }
        Ok(())
    }

    /// Which of those who are said to have these keys of a queue wait in it.
    async fn found(
        &self,
        queue: &str,
        keys: &HashMap<String, JobId>,
        turn: &mut Option<Turn<'_>>,
        patience: &mut Option<Patience>,
    ) -> Result<HashSet<JobId>, NotEnqueued> {
        let (mut looked, mut overlap, mut found) = (0, 0, HashSet::new());
        while looked >= 0 && !keys.values().all(|id| found.contains(id)) {
            let from = looked - overlap;
            let arguments = Arguments::new(&self.keys.0).text(queue).number(looked as u64).number(from as u64);
            let arguments = arguments.number(MAX_HELD_BYTES).texts(keys.keys());
            if let Some(turn) = turn.as_mut() {
                turn_in_time(patience, turn.comes()).await?;
            }
            let began = Instant::now();
            let reply: Result<Vec<i64>, Failed> = self.in_time(*patience, self.link.run(&SEEK, arguments)).await;
            let took = began.elapsed();
            match turn.as_mut() {
                Some(turn) => {
                    turn.is_over(took);
                    patience.iter_mut().for_each(|patience| patience.rests(took.min(LOOK_INTERVAL)));
                }
                None => sleep(took.min(LOOK_INTERVAL)).await,
            }
            let reply = reply?;
            looked = reply.first().copied().unwrap_or(-1);
            overlap = ((looked - from) / 2).clamp(0, MAX_OVERLAP);
            found.extend(reply.into_iter().skip(1).map(|id| id as JobId));
        }
        Ok(found)
    }
}

fn key_of(draft: &Draft) -> Option<(String, String)> {
    let unique = draft.extras.unique.as_ref()?;
    Some((draft.job.queue.clone(), unique.key.clone()))
}
