//! The schedule: what is delayed stands in the lists of a resque-scheduler, by the second, and is moved in their order.

use std::sync::LazyLock;

use redis::{Script, Value};

use super::super::check::check_name;
use super::super::job::{JobId, MAX_QUEUE_NAME, State};
use super::Redis;
use super::keys::Step;
use super::link::{Arguments, Failed};
use super::record::Record;
use super::resque::{self, Extras};
use super::scripts::{CHANGES, RECORD};
use super::tick::BATCH;
use crate::clock::Moment;

/// An element of a scheduler's list, or the length of a large one; and the id and the record of the job here that it is, or none.
type Element = (Value, Vec<u8>, Value);

/// The queue that an element is moved to, or why it is set aside; and its text.
type Move = (Result<String, &'static str>, Vec<u8>);

/// The first elements of a second's list, or the length of one that is too large and nobody's, and whose each is: `{element, id,
/// record, …}`, up to so many bytes.
///
/// A job that is delayed here has a mark, `SECOND:SHA1 OF ITS TEXT:ID`: by it an element is known in the order of the list,
/// however many others stand in it.
static SCHEDULED: LazyLock<Script> = LazyLock::new(|| {
    let scheduled = r"
        local p, second, most, largest, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), 1048576
        local reply, seen = {}, {}
        for at = 0, most - 1 do
            local item = redis.pcall('LINDEX', p .. 'delayed:' .. second, at)
            if type(item) ~= 'string' or bytes <= 0 then break end
            local id, record, read = '', '', 0
            if #item <= math.max(largest, 16777216) then
                local text = second .. ':' .. redis.sha1hex(item)
                local from, to = '[' .. text .. ':', '(' .. text .. ';'
                local nth = seen[text] or 0
                local mark = redis.call('ZRANGEBYLEX', p .. 'roster:scheduled', from, to, 'LIMIT', nth, 1)[1]
                if mark then
                    seen[text] = nth + 1
                    -- What is longer is no id.
                    id = string.sub(mark, #text + 2, #text + 22)
                    record, read = record_of(p, id, ARGV[5])
                end
            end
            table.insert(reply, #item > largest and id == '' and #item or item)
            table.insert(reply, id)
            table.insert(reply, record)
            bytes = bytes - #item - read
        end
        return reply";
    Script::new(&[RECORD, scheduled].concat())
});

/// Marks jobs that a build without marks has delayed until a second, from a place among all that is due at that moment on: how
/// many were looked at, and how many of them are marked.
static MARK: LazyLock<Script> = LazyLock::new(|| {
    let mark = r"
        local p, second, from, most, bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], 1048576
        -- As in `POP`.
        redis.pcall('ZREM', p .. 'roster:popped', '')
        local due, looked, marked = p .. 'roster:due', 0, 0
        for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, second .. '000', second .. '000', 'LIMIT', from, most)) do
            local text, read = record_of(p, id, ARGV[5])
            if read == 0 then text = '' end
            local is_json, record = pcall(cjson.decode, text)
            if is_json and type(record) == 'table' and type(record.item) == 'string' and record.scheduled == tonumber(second) then
                redis.call('ZADD', p .. 'roster:scheduled', 0, second .. ':' .. redis.sha1hex(record.item) .. ':' .. id)
                redis.call('ZREM', due, id)
                marked = marked + 1
            end
            looked = looked + 1
            bytes = bytes - read
            if bytes <= 0 then break end
        end
        return {looked, marked}";
    Script::new(&[RECORD, mark].concat())
});

/// Marks of the oldest second that has some, if it is over and its list is gone, with their records: `{mark, id, record, …}`. A
/// list that is there is in the schedule from then on: others may have taken it from there just when it was filled again.
///
/// What is no mark is taken away at once: it would stand before the marks, and keep them from being looked at.
static STRAY: LazyLock<Script> = LazyLock::new(|| {
    let stray = r"
        local p, now, most, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 1048576
        local reply, marks, second, at = {}, p .. 'roster:scheduled', nil, 0
        for _ = 1, most do
            local mark = redis.call('ZRANGE', marks, at, at)[1]
            if not mark or bytes <= 0 then break end
            bytes = bytes - #mark
            local of, id
            if #mark <= 80 then of, id = string.match(mark, '^([1-9]%d*):%x+:(%d+)$') end
            if not of or #of > 10 then
                redis.call('ZREM', marks, mark)
            else
                if not second then
                    second = of
                    if tonumber(second) > now then break end
                    if redis.call('TYPE', p .. 'delayed:' .. second).ok == 'list' then
                        -- As in `POP`.
                        redis.pcall('ZREM', p .. 'roster:popped', '')
                        redis.call('ZADD', p .. 'delayed_queue_schedule', second, second)
                        break
                    end
                elseif of ~= second then
                    break
                end
                local record, read = record_of(p, id, ARGV[4])
                table.insert(reply, mark)
                table.insert(reply, id)
                table.insert(reply, record)
                bytes = bytes - read
                at = at + 1
            end
        end
        return reply";
    Script::new(&[RECORD, stray].concat())
});

/// Seconds of the schedule that are over: the first ones, or the last ones. What is longer than any is taken away.
static SECONDS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local key, now, most, reply = ARGV[1], ARGV[2], ARGV[3], {}
        local command, from, to = 'ZRANGEBYSCORE', '-inf', now
        if ARGV[4] == 'last' then command, from, to = 'ZREVRANGEBYSCORE', now, '-inf' end
        for _, second in ipairs(redis.call(command, key, from, to, 'LIMIT', 0, most)) do
            if #second > 64 then redis.call('ZREM', key, second) else table.insert(reply, second) end
        end
        return reply",
    )
});

impl Redis {
    /// Moves what is delayed as a resque-scheduler does, some of each second: of the first ones that are due and of the last
    /// ones, so that a mass in many keeps no other waiting. How many.
    pub(super) async fn move_scheduled(&self, now: u64) -> Result<usize, Failed> {
        let (schedule, now_in_s, half) = (self.keys.schedule(), now / 1_000, BATCH as usize / 2);
        let some = Arguments::default().text(&schedule).number(now_in_s).number(half as u64);
        let mut seconds: Vec<Vec<u8>> = self.link.run(&SECONDS, some.clone().text("first")).await?;
        if seconds.len() >= half {
            let last: Vec<Vec<u8>> = self.link.run(&SECONDS, some.text("last")).await?;
            let others: Vec<_> = last.into_iter().rev().filter(|second| !seconds.contains(second)).collect();
            seconds.extend(others);
        }
        let mut moved = 0;
        for second in seconds {
            let Ok(second) = String::from_utf8(second.clone()) else {
                self.change(Step::new(&self.keys).then_bytes([b"ZREM", schedule.as_bytes(), &second])).await?;
                continue;
            };
            let list = self.keys.delayed(&second);
            moved += self.passes_over(&list, self.move_second(&second, &list, now).await)?.unwrap_or(0);
        }
        Ok(moved)
    }

    async fn move_second(&self, second: &str, list: &str, now: u64) -> Result<usize, Failed> {
        let mut elements = self.elements_of(second).await?;
        // What has no mark may be of a build that made none, rather than somebody else's.
        if elements.iter().any(|(_, id, _)| id.is_empty()) && self.mark(second).await? {
            elements = self.elements_of(second).await?;
        }
        if elements.is_empty() {
            let step = Step::new(&self.keys).if_no_list(list).then(["ZREM", &self.keys.schedule(), second]);
            self.change(step).await?;
            return Ok(0);
        }
        let moves = elements.into_iter().map(|element| self.planned(second, list, element, now));
        let (moves, mut steps): (Vec<Move>, Vec<Step<'_>>) = moves.unzip();
        steps.push(Step::new(&self.keys).then(["UNLIST", list, &self.keys.schedule(), second]));
        let (done, wrong): (usize, Vec<u8>) = self.link.run(&CHANGES, Step::arguments_of(&self.keys, &steps)).await?;
        let mut moved = done.min(moves.len());
        let aside = self.keys.set_aside();
        for (to, _) in moves.iter().take(moved) {
            match to {
                Ok(queue) => self.is_ready(queue),
                Err(why) => tracing::error!(list, aside, why, "a delayed element is set aside"),
            }
        }
        if !wrong.is_empty() {
            let key = String::from_utf8_lossy(&wrong);
            if self.notices.are_due(&format!("{key} for {list}"), Moment::now()) {
                tracing::warn!(list, key = &*key, "a key of Redis is of another type than it should be");
            }
            if key != aside
                && let Some((_, text)) = moves.get(moved)
            {
                let step = self.set_aside(list, text);
                moved += usize::from(self.passes_over(&aside, self.change(step).await)?.unwrap_or(false));
            }
        }
        Ok(moved)
    }

    async fn elements_of(&self, second: &str) -> Result<Vec<Element>, Failed> {
        let arguments = Arguments::new(&self.keys.0).text(second).number(BATCH).number(self.largest());
        let arguments = arguments.number(self.longest());
        self.link.run(&SCHEDULED, arguments).await
    }

    /// Whether there were some to be marked.
    async fn mark(&self, second: &str) -> Result<bool, Failed> {
        if second.parse::<u64>().is_err() {
            return Ok(false);
        }
        let (mut from, mut has_any) = (0, false);
        loop {
            let arguments = Arguments::new(&self.keys.0).text(second).number(from).number(10 * BATCH);
            let arguments = arguments.number(self.longest());
            let (looked, marked): (u64, u64) = self.link.run(&MARK, arguments).await?;
            if looked == 0 {
                return Ok(has_any);
            }
            from += looked.saturating_sub(marked);
            has_any |= marked > 0;
        }
    }

    /// Moves an element to its queue, if it is the first then. What is no job, or cannot be put there, is set aside, so that it
    /// keeps no other one waiting.
    fn planned(&self, second: &str, list: &str, (item, id, record): Element, now: u64) -> (Move, Step<'_>) {
        let Value::BulkString(text) = item else {
            let (aside, largest) = (self.keys.set_aside(), self.largest().to_string());
            let step = Step::new(&self.keys).if_first_larger(list, &largest).then(["ASIDE", list, &aside, &largest]);
            return ((Err("it is too large to be a job"), Vec::new()), step);
        };
        let record = self.text_of(&self.keys.jobs(), &id, record);
        let moved = match known(&id, &record, second) {
            Some((id, written, record)) => Some(self.own(list, (id, written, &record))),
            None => self.foreign(list, &text, now),
        };
        match moved {
            Some((queue, step)) => ((Ok(queue), text), step),
            None => {
                let step = self.set_aside(list, &text);
                ((Err("it is no job"), text), step)
            }
        }
    }

    fn set_aside(&self, list: &str, text: &[u8]) -> Step<'_> {
        let aside = self.keys.set_aside();
        let step = Step::new(&self.keys).if_first(list, text);
        step.then_bytes([b"RPUSH", aside.as_bytes(), text]).then(["LPOP", list])
    }

    /// A delayed job that is known here keeps what is known of it.
    fn own(&self, list: &str, (id, written, record): (JobId, &str, &Record)) -> (String, Step<'_>) {
        let due = resque::due(&record.item, id, record.enqueued_at, &record.extras);
        let due = due.unwrap_or_else(|| record.item.clone());
        let step = Step::new(&self.keys)
            .if_first(list, record.item.as_bytes())
            .if_record(id, written)
            .push("RPUSH", &record.queue, &due)
            .hold(id, record, &due)
            .then(["LPOP", list])
            .forget(id, record);
        (record.queue.clone(), step)
    }

    /// One of somebody else's. None: it is no job.
    fn foreign(&self, list: &str, text: &[u8], now: u64) -> Option<(String, Step<'_>)> {
        let queue = resque::read(text)?.queue?;
        check_name("queue", &queue, MAX_QUEUE_NAME).ok()?;
        let item = std::str::from_utf8(text).ok()?;
        let due = resque::due(item, resque::new_id(), now, &Extras::default())?;
        let (of_item, key) =
            (self.keys.key(&format!("timestamps:{item}")), list.strip_prefix(&*self.keys.0).unwrap_or(list));
        let step = Step::new(&self.keys)
            .if_first(list, text)
            .push("RPUSH", &queue, &due)
            .then(["LPOP", list])
            .then(["TRY", "SREM", &of_item, key]);
        Some((queue, step))
    }

    /// Forgets what another scheduler has moved, or somebody has removed there. How many.
    pub(super) async fn forget_strays(&self, now: u64) -> Result<usize, Failed> {
        let arguments = Arguments::new(&self.keys.0).number(now / 1_000).number(BATCH);
        let arguments = arguments.number(self.longest());
        let strays: Vec<(Vec<u8>, Vec<u8>, Value)> = self.link.run(&STRAY, arguments).await?;
        let marks = self.keys.scheduled();
        let mut count = 0;
        for (mark, id, record) in strays {
            let second = str::from_utf8(&mark).ok().and_then(|mark| Some(mark.split_once(':')?.0));
            let (step, record) = (Step::new(&self.keys), self.text_of(&self.keys.jobs(), &id, record));
            let step = match second.and_then(|second| known(&id, &record, second)) {
                Some((id, written, record)) => step.if_record(id, written).free(id, &record).forget(id, &record),
                None => step,
            };
            let step = step.then_bytes([b"ZREM", marks.as_bytes(), &mark]);
            count += usize::from(self.change(step).await?);
        }
        Ok(count)
    }
}

/// The record of a job that is delayed until this second, if it still is.
fn known<'r>(id: &[u8], record: &'r [u8], second: &str) -> Option<(JobId, &'r str, Record)> {
    let (id, written, record) = super::record::known(id, record)?;
    let is_delayed = matches!(record.state, State::Delayed { .. });
    let is_until = record.scheduled.is_some_and(|until| until.to_string() == second);
    (is_delayed && is_until).then_some((id, written, record))
}
