//! Scripts: what Redis does as one step. They compare and move texts; what a text means is decided here alone.
//!
//! What adds comes before what removes: a key of the wrong type ends a script in the middle, and may then leave a job in
//! two places, but never in none.

use std::sync::LazyLock;

use redis::Script;

/// Enqueues all of the jobs or none: `{}` of ids and whether each is new, or why it is refused. With a time it remembers of
/// each that it was enqueued, and enqueues none again.
///
/// One without an element is dead since it was due.
///
/// Whoever has a unique key is looked for near both ends of the list, among so many elements for all of the request, and fewer
/// for a large one, with which it takes longer to compare each. `LOOK` and, of each job for whose key these did not do, its number
/// and who is said to have the key: `SEEK` looks at the others, in turns. One that was not found so is given as `gone`. Unless it is
/// to be exact, a key counts as held while more jobs wait than `SEEK` is to look at.
///
/// A user, unless it is an administrator, may have made as many queues as it leaves free. A queue is full by its jobs that wait
/// or are delayed, and only one that has some:
/// what is said to be so is told to others by its name.
///
/// With a `field` it is the job of a time: `SETTLED`, unless what is settled is as `before`. With the job it is as `after`.
pub(super) static ENQUEUE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, most, most_queues, now, is_exact = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
        local user, is_admin, bytes = ARGV[6], ARGV[7] == '1', tonumber(ARGV[8])
        local recurring, field, before, after, first = p .. 'roster:recurring', ARGV[9], ARGV[10], ARGV[11], 12
        if field ~= '' and (redis.call('HGET', recurring, field) or '') ~= before then return 'SETTLED' end
        local waiting, wanted, is_new, queues, new = {}, {}, {}, redis.call('SCARD', p .. 'queues'), 0
        local full
        for at = first, #ARGV, 8 do
            local q, key = ARGV[at], ARGV[at + 2]
            if not wanted[q] then
                local key = p .. 'queue:' .. q
                local type = redis.call('TYPE', key).ok
                if type ~= 'list' and type ~= 'none' then return 'TYPE ' .. key .. ' ' .. type end
                local delayed = redis.pcall('ZCARD', p .. 'roster:delayed:' .. q)
                waiting[q], wanted[q] = redis.call('LLEN', key) + (tonumber(delayed) or 0), 0
                if redis.call('SISMEMBER', p .. 'queues', q) == 0 then
                    is_new[q] = true
                    new = new + 1
                end
            end
            wanted[q] = wanted[q] + 1
            -- What is to be written is looked at before anything is: all of the jobs or none.
            if ARGV[at + 4] ~= '' then
                local is_dead = ARGV[at + 3] == ''
                redis.call('HLEN', p .. 'roster:jobs')
                redis.call('ZCARD', p .. (is_dead and 'roster:dead:' or 'roster:delayed:') .. q)
                if is_dead then
                    redis.call('ZCARD', p .. 'roster:due')
                else
                    redis.call('ZCARD', p .. 'roster:scheduled')
                    redis.call('ZCARD', p .. 'delayed_queue_schedule')
                    redis.call('LLEN', p .. 'delayed:' .. string.sub(ARGV[at + 4], 1, -4))
                end
            end
            if wanted[q] > most then return 'MUCH ' .. q end
            if waiting[q] + wanted[q] > most then full = q end
            if key ~= '' then bytes = bytes - redis.call('HSTRLEN', p .. 'roster:unique:' .. q, key) end
        end
        if bytes < 0 then return 'KEYS' end
        if new > 0 and queues + new > most_queues then return 'QUEUES' end
        local creators = p .. 'roster:queue_creators'
        if new > 0 and not is_admin then
            local own, made = 0, redis.pcall('HGETALL', creators)
            for at = 1, #made, 2 do
                if redis.call('SISMEMBER', p .. 'queues', made[at]) == 0 then redis.call('HDEL', creators, made[at])
                elseif made[at + 1] == user then own = own + 1 end
            end
            if own + new > most_queues - queues - new then return 'SHARE ' .. own end
        end
        if full then return 'FULL ' .. full end
        local all, left, look = 100000, 5000, 'LOOK'
        local function holder_of(number, q, key, gone)
            local of, text = string.match(redis.call('HGET', p .. 'roster:unique:' .. q, key) or '', '^(%d+) (.*)$')
            if not of then return false end
            local list = p .. 'queue:' .. q
            if redis.call('HEXISTS', p .. 'roster:jobs', of) == 1
                or redis.call('ZSCORE', p .. 'roster:popped', #q .. ':' .. q .. text) then return of end
            if of == gone then
                -- It may have been put back since.
                return (redis.call('LPOS', list, text, 'MAXLEN', 100)
                    or redis.call('LPOS', list, text, 'RANK', -1, 'MAXLEN', 100)) and of
            end
            local length, cost = redis.call('LLEN', list), 1 + math.floor(#text / 100)
            local most = math.ceil(math.min(length, math.floor(left / cost)) / 2)
            if most > 0 then
                local at = redis.call('LPOS', list, text, 'MAXLEN', most)
                    or redis.call('LPOS', list, text, 'RANK', -1, 'MAXLEN', most)
                left = left - 2 * most * cost
                if at then return of end
            end
            if length <= 2 * most then return false end
            if length > all and not is_exact then return of end
            look = look .. ' ' .. number .. ' ' .. of
            return false
        end
        local holders, of_keys, is_there = {}, {}, {}
        for at = first, #ARGV, 8 do
            local q, id, key = unpack(ARGV, at, at + 2)
            is_there[at] = now ~= '' and redis.call('ZSCORE', p .. 'roster:enqueued', id)
            if key ~= '' and not is_there[at] then
                local of_key = #q .. ':' .. q .. key
                if of_keys[of_key] == nil then
                    holders[at] = holder_of((at - first) / 8, q, key, ARGV[at + 7])
                    of_keys[of_key] = holders[at] or id
                else
                    holders[at] = of_keys[of_key]
                end
            end
        end
        if look ~= 'LOOK' then return look end
        -- Before the jobs: whatever Redis refuses then, none is enqueued again and again.
        if field ~= '' then redis.call('HSET', recurring, field, after) end
        local reply = {}
        for at = first, #ARGV, 8 do
            local q, id, key, item, due, record, full = unpack(ARGV, at, at + 6)
            if not holders[at] and not is_there[at] then
                redis.call('SADD', p .. 'queues', q)
                if is_new[q] then redis.pcall('HSET', creators, q, user) end
                if due == '' then
                    redis.call('RPUSH', p .. 'queue:' .. q, item)
                elseif item == '' then
                    redis.call('HSET', p .. 'roster:jobs', id, record)
                    redis.call('ZADD', p .. 'roster:due', due, id)
                    redis.call('ZADD', p .. 'roster:dead:' .. q, due, id)
                else
                    local second = string.sub(due, 1, -4)
                    redis.call('HSET', p .. 'roster:jobs', id, record)
                    redis.call('ZADD', p .. 'roster:delayed:' .. q, due, id)
                    redis.call('ZADD', p .. 'roster:scheduled', 0, second .. ':' .. redis.sha1hex(item) .. ':' .. id)
                    redis.call('ZADD', p .. 'delayed_queue_schedule', second, second)
                    redis.call('RPUSH', p .. 'delayed:' .. second, item)
                    -- By which Ruby's resque-scheduler finds it. One of another type is somebody else's.
                    redis.pcall('SADD', p .. 'timestamps:' .. item, 'delayed:' .. second)
                end
                if key ~= '' then redis.call('HSET', p .. 'roster:unique:' .. q, key, id .. ' ' .. full) end
                if now ~= '' then redis.call('ZADD', p .. 'roster:enqueued', now, id) end
            end
            table.insert(reply, holders[at] or id)
            table.insert(reply, holders[at] and 0 or 1)
        end
        return reply",
    )
});

/// Before scripts that read records: anybody may have written one, and its length is read first.
pub(super) const RECORD: &str = r"
        -- A record, or its length where it is too large to be one; and how many bytes are read of it.
        local function record_of(p, id, longest)
            local length = redis.call('HSTRLEN', p .. 'roster:jobs', id)
            if length > tonumber(longest) then return length, 0 end
            return redis.call('HGET', p .. 'roster:jobs', id) or '', length
        end";

/// Before scripts that keep to limits: they are given the prefix, the time in ms, and how many limits there are; of
/// each its queue, how many jobs may run, how long one takes by the rate, and how long the bucket takes to fill, in µs;
/// 0: without. What else they are given begins at `first`.
///
/// `roster:rates` has when the bucket of each queue is full, in µs. The time of whoever wrote that may be ahead of this
/// one by as long as Redis may take to answer, 5 s: what is later than that is of a clock that was set back since.
const LIMITS: &str = r"
        local p, now, limits, first = ARGV[1], tonumber(ARGV[2]), {}, 4 + 4 * tonumber(ARGV[3])
        for at = 4, first - 1, 4 do
            local most, interval, fill = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
            limits[ARGV[at]] = {most = most, interval = interval, fill = fill}
        end
        local popped, are_too_many
        -- How many jobs of a queue are taken off it and not settled yet.
        local function unsettled(q)
            if not popped then
                local key, bytes = p .. 'roster:popped', 8388608
                local count = redis.pcall('ZCARD', key)
                popped, are_too_many = {}, type(count) ~= 'number' or count > 1000
                for at = 0, are_too_many and -1 or count - 1 do
                    local member = redis.call('ZRANGE', key, at, at)[1]
                    local length = string.match(member, '^(%d+):')
                    if length then
                        local of = string.sub(member, #length + 2, #length + 1 + length)
                        popped[of] = (popped[of] or 0) + 1
                    end
                    bytes = bytes - #member
                    if bytes <= 0 then
                        are_too_many = true
                        break
                    end
                end
            end
            return are_too_many and math.huge or popped[q] or 0
        end
        local function set_full_at(call, q, full_at)
            limits[q].full_at = full_at
            call('HSET', p .. 'roster:rates', q, string.format('%.0f', full_at))
        end
        -- How many more jobs of a queue may begin; and which key is of another type, so that this is not known.
        local function more_of(q)
            local limit, more = limits[q], math.huge
            if not limit then return more end
            -- What ended a minute ago may have no record by which it is looked at, and would have its place for ever.
            local key = p .. 'roster:running:' .. q
            local running = redis.pcall('ZCOUNT', key, now - 60000, '+inf')
            if type(running) ~= 'number' then return 0, key end
            if limit.most > 0 then more = limit.most - running - unsettled(q) end
            if limit.interval > 0 then
                key = p .. 'roster:rates'
                local length = redis.pcall('HSTRLEN', key, q)
                if type(length) == 'table' then return 0, key end
                local held = length <= 20 and redis.call('HGET', key, q)
                local now = now * 1000
                limit.full_at = math.max(tonumber(string.match(held or '', '^%d+$') or 0), now)
                if limit.full_at > now + limit.fill + 5000000 then set_full_at(redis.pcall, q, now + limit.fill) end
                more = math.min(more, math.floor((now + limit.fill - limit.full_at) / limit.interval))
            end
            return more
        end";

/// Takes elements off queues and keeps each in a set, from which it comes back unless what takes it is soon settled:
/// `{queue, element, …}`. One that is too large is set aside: `{queue, length, …}`. A queue whose limit lets none begin
/// is passed over.
pub(super) static POP: LazyLock<Script> = LazyLock::new(|| {
    let pop = r"
        local largest, most, bytes = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
        local back, reply, taken = tonumber(ARGV[first + 3]), {}, 0
        if redis.pcall('GETRANGE', p .. 'pause-all-workers', 0, 4) == 'true' then return reply end
        -- What begins with a write that makes nothing grow is not refused where there is no memory left.
        redis.pcall('ZREM', p .. 'roster:popped', '')
        for number = first + 4, #ARGV do
            local q = ARGV[number]
            local key = p .. 'queue:' .. q
            if redis.call('SISMEMBER', p .. 'roster:paused', q) == 0 then
                local more, limit = more_of(q), limits[q]
                while taken < most and bytes > 0 and more > 0 do
                    local item = redis.pcall('LINDEX', key, 0)
                    if type(item) ~= 'string' then break end
                    if #item > largest then
                        redis.call('RPUSH', p .. 'roster:set_aside', item)
                        redis.call('LTRIM', key, 1, -1)
                        table.insert(reply, q)
                        table.insert(reply, #item)
                    else
                        local member = #q .. ':' .. q .. item
                        if redis.call('ZSCORE', p .. 'roster:popped', member) then break end
                        if limit and limit.interval > 0 then
                            set_full_at(redis.call, q, limit.full_at + limit.interval)
                        end
                        -- What is put back last is the first again: parts of a millisecond have their order.
                        redis.call('ZADD', p .. 'roster:popped', back + (most - taken) / 1024, member)
                        redis.call('LPOP', key)
                        more = more - 1
                        table.insert(reply, q)
                        table.insert(reply, item)
                    end
                    bytes = bytes - #item
                    taken = taken + 1
                end
            end
        end
        return reply";
    Script::new(&[LIMITS, pop].concat())
});

/// A step: it carries out commands if all is as expected. `FREE` frees the unique key of a job; `ASIDE` moves a list's first
/// element if it is too large; `CUT` takes an element from a list which is near an end of it; `UNLIST` takes a list that is gone
/// from the schedule; `UNMARK` takes away the mark of a delayed job (`schedule`), and, with the last one of a text in a second,
/// that second from those where Ruby's resque-scheduler finds the text; `TRY` may fail.
const STEP: &str = r"
        -- As in `POP`.
        redis.pcall('ZREM', ARGV[1], '')
        -- The key that was used last: what Redis says of one of another type does not name it.
        local used = ''
        local function is_done(at, last)
            local guards = tonumber(ARGV[at])
            at = at + 1
            for guard = 1, guards do
                local kind, key, field, expected = unpack(ARGV, at, at + 3)
                at, used = at + 4, key
                local found
                if kind == 'hash' then
                    found = redis.call('HSTRLEN', key, field) == #expected
                        and (redis.call('HGET', key, field) or '') == expected
                elseif kind == 'length' then found = redis.call('HSTRLEN', key, field) == tonumber(expected)
                elseif kind == 'sorted' then found = redis.call('ZSCORE', key, field)
                elseif kind == 'first' then found = redis.call('LINDEX', key, 0) == field
                elseif kind == 'large' then found = #(redis.call('LINDEX', key, 0) or '') > tonumber(field)
                elseif kind == 'nolist' then found = redis.call('TYPE', key).ok ~= 'list'
                elseif kind == 'near' then
                    found = redis.call('LPOS', key, field, 'MAXLEN', expected)
                        or redis.call('LPOS', key, field, 'RANK', -1, 'MAXLEN', expected)
                else found = redis.call('LPOS', key, field) end
                if not found then return false end
            end
            while at <= last do
                local length = tonumber(ARGV[at])
                local name = ARGV[at + 1]
                used = ARGV[at + 2]
                if name == 'FREE' then
                    local _, key, field, id = unpack(ARGV, at + 1, at + 4)
                    local held = redis.call('HSTRLEN', key, field) <= 67108864 and redis.call('HGET', key, field)
                    if held and string.match(held, '^%d+') == id then redis.call('HDEL', key, field) end
                elseif name == 'ASIDE' then
                    local _, from, to, largest = unpack(ARGV, at + 1, at + 4)
                    local item = redis.call('LINDEX', from, 0)
                    if item and #item > tonumber(largest) then
                        used = to
                        redis.call('RPUSH', to, item)
                        redis.call('LTRIM', from, 1, -1)
                    end
                elseif name == 'CUT' then
                    local _, list, item, most = unpack(ARGV, at + 1, at + 4)
                    redis.call('LREM', list, redis.call('LPOS', list, item, 'MAXLEN', most) and 1 or -1, item)
                elseif name == 'UNLIST' then
                    local _, list, schedule, second = unpack(ARGV, at + 1, at + 4)
                    used = schedule
                    if redis.call('EXISTS', list) == 0 then redis.call('ZREM', schedule, second) end
                elseif name == 'UNMARK' then
                    local _, key, second, item, id, p = unpack(ARGV, at + 1, at + 6)
                    local text = second .. ':' .. redis.sha1hex(item)
                    redis.call('ZREM', key, text .. ':' .. id)
                    if not redis.call('ZRANGEBYLEX', key, '[' .. text .. ':', '(' .. text .. ';', 'LIMIT', 0, 1)[1] then
                        redis.pcall('SREM', p .. 'timestamps:' .. item, 'delayed:' .. second)
                    end
                elseif name == 'TRY' then
                    redis.pcall(unpack(ARGV, at + 2, at + length))
                else
                    redis.call(unpack(ARGV, at + 1, at + length))
                end
                at = at + length + 1
            end
            return true
        end";

/// Carries out a step: 1, or 0 if not all is as expected.
pub(super) static CHANGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[STEP, " return is_done(2, #ARGV) and 1 or 0"].concat()));

/// Carries out steps one after the other, up to the first where not all is as expected: how many, and which key that the next one
/// needs is of the wrong type, if one is.
pub(super) static CHANGES: LazyLock<Script> = LazyLock::new(|| {
    let all = r"
        local at, count = 2, 0
        while at <= #ARGV do
            local last = at + tonumber(ARGV[at])
            local is_sound, done = pcall(is_done, at + 1, last)
            if not is_sound then
                local why = type(done) == 'table' and done.err or tostring(done)
                if not string.find(why, 'WRONGTYPE', 1, true) then error(done) end
                return {count, used}
            end
            if not done then break end
            at, count = last + 1, count + 1
        end
        return {count, ''}";
    Script::new(&[STEP, all].concat())
});

/// Whether there is room for one more result of a queue: not where as many are kept as may be, or Redis uses 7/8 of the memory
/// that it may, of which the rest is for jobs.
pub(super) static ROOM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, q, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
        local kept, all = redis.pcall('ZCARD', p .. 'roster:done:' .. q), redis.pcall('ZCARD', p .. 'roster:results')
        -- One of another type would end the step that writes the result in the middle.
        if type(kept) ~= 'number' or type(all) ~= 'number' or kept >= most then return 0 end
        -- It writes nothing, and is refused as what makes something grow.
        local tried = redis.pcall('SETRANGE', p .. 'roster:room', 0, '')
        if type(tried) == 'table' and string.find(tried.err, 'OOM', 1, true) then return 0 end
        -- Rules may refuse that.
        local memory = redis.pcall('INFO', 'memory')
        if type(memory) ~= 'string' then return 1 end
        local function bytes(name) return tonumber(string.match(memory, name .. ':(%d+)') or 0) end
        local limit = bytes('maxmemory')
        return (limit == 0 or bytes('used_memory') < limit * 7 / 8) and 1 or 0",
    )
});

/// Forgets jobs that are kept for results whose time is over: how many.
pub(super) static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, now, most = unpack(ARGV)
        local results = p .. 'roster:results'
        local over = redis.call('ZRANGEBYSCORE', results, '-inf', now, 'LIMIT', 0, most)
        for _, member in ipairs(over) do
            local id, q = string.match(member, '^(%d+):(.*)$')
            if id then
                redis.call('HDEL', p .. 'roster:jobs', id)
                redis.pcall('ZREM', p .. 'roster:done:' .. q, id)
            end
            redis.call('ZREM', results, member)
        end
        return #over",
    )
});

/// Writes nothing, also not into the log of Redis, and is refused as what makes something grow.
pub(super) static PROBE: LazyLock<Script> =
    LazyLock::new(|| Script::new("redis.call('ZADD', ARGV[1], 'XX', 0, '') return 1"));

/// Members of a sorted set whose time has come, and their records: `{id, record, …}`, up to so many bytes. Of one that is too large
/// there is the length in the place of its record; and no id, where that is too large itself: it is looked at again `later`, if
/// that is some time.
pub(super) static DUE: LazyLock<Script> = LazyLock::new(|| {
    let due = r"
        local p, key, from, to, offset, most, longest, later = unpack(ARGV)
        local reply, large, bytes = {}, {}, 0
        for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, from, to, 'LIMIT', offset, most)) do
            if #id > tonumber(longest) then
                table.insert(large, id)
                table.insert(reply, '')
                table.insert(reply, #id)
            else
                local record, read = '', 0
                if id ~= '' then record, read = record_of(p, id, longest) end
                -- Members may be whole elements, of which there is more in one reply.
                bytes = bytes + read + #id / 8
                table.insert(reply, id)
                table.insert(reply, record)
            end
            if bytes > 1048576 then break end
        end
        if later ~= '' and #large > 0 then
            -- As in `POP`.
            redis.pcall('ZREM', p .. 'roster:popped', '')
            for _, id in ipairs(large) do redis.call('ZADD', key, later, id) end
        end
        return reply";
    Script::new(&[RECORD, due].concat())
});

/// A field of a hash, or its length where it is too large.
pub(super) static FIELD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local key, field, longest = ARGV[1], ARGV[2], tonumber(ARGV[3])
        local length = redis.call('HSTRLEN', key, field)
        if length > longest then return length end
        return redis.call('HGET', key, field)",
    )
});

/// Elements of a list from a place on, up to so many bytes; of those that are too large, their length alone.
pub(super) static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local key, from, most, largest, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), 1048576
        local reply = {}
        for at = from, from + most - 1 do
            local item = redis.pcall('LINDEX', key, at)
            if type(item) ~= 'string' or bytes <= 0 then break end
            table.insert(reply, #item > largest and #item or item)
            bytes = bytes - #item
        end
        return reply",
    )
});

/// Where a text is in a list, near the end of an element, among so many from a place on: how many were looked at, -1 if there are
/// no more; its element; how many bytes these had; whether the last element of the step before, told by the SHA-1 of its end, is among the
/// first ones, so that none was passed over; and the SHA-1 of the last one. Redis takes some 6 ms at most for the 512 KiB after
/// which it looks at no more, but at one behind those that it looks at again.
pub(super) static SEARCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local key, from, most, largest, text = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
        local reach, mark, overlap, looked, bytes, part = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), 0, 0, 1
        local joins, last = mark == '', ''
        -- It comes further each time, unless that is as much as is looked at of a queue.
        while looked < most and (bytes < 524288 or looked <= overlap and bytes < 33554432) do
            local items = redis.pcall('LRANGE', key, from + looked, from + looked + part - 1)
            if #items == 0 then return {-1, '', bytes, joins and 1 or 0, ''} end
            local before = bytes
            for _, item in ipairs(items) do
                looked, bytes, last = looked + 1, bytes + #item, item
                -- Those that were put in front meanwhile have moved it further back.
                if not joins and looked <= 2 * overlap and redis.sha1hex(string.sub(item, -reach)) == mark then
                    joins = true
                elseif #item <= largest and string.find(string.sub(item, -reach), text, 1, true) then
                    return {looked, item, bytes, joins and 1 or 0, redis.sha1hex(string.sub(item, -reach))}
                end
            end
            -- To come to a place takes a while, too: so not one by one.
            part = bytes - before < 32768 and math.min(part * 2, 16) or math.ceil(part / 2)
        end
        return {looked, '', bytes, joins and 1 or 0, redis.sha1hex(string.sub(last, -reach))}",
    )
});

/// What was taken off a queue and is not settled, and has this text near its end, unless it is too large; and whether all of that
/// was looked at.
pub(super) static POPPED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local bytes = 2097152
        for at = 0, 999 do
            local member = redis.call('ZRANGE', ARGV[1], at, at)[1]
            if not member then return {1, ''} end
            local is_whole = #member <= tonumber(ARGV[4])
            if is_whole and string.find(string.sub(member, -tonumber(ARGV[3])), ARGV[2], 1, true) then return {1, member} end
            bytes = bytes - math.min(#member, 262144)
            if bytes <= 0 then break end
        end
        return {0, ''}",
    )
});

/// How a queue stands: whether it is paused, its lengths (-1: it is no list), whether its limit lets none begin of what
/// waits, which key of another type is in the way of that limit, and its first element, if it is not too large.
/// To look at large ones takes Redis a while: after so many bytes of them, which may be none, it looks at no more.
pub(super) static COUNT: LazyLock<Script> = LazyLock::new(|| {
    let count = r"
        local largest, bytes, reply = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), {}
        local function size(command, key)
            local size = redis.pcall(command, key)
            return type(size) == 'number' and size or nil
        end
        for number = first + 2, #ARGV do
            local q = ARGV[number]
            local length = size('LLEN', p .. 'queue:' .. q) or -1
            local is_paused = redis.call('SISMEMBER', p .. 'roster:paused', q)
            table.insert(reply, is_paused)
            table.insert(reply, length)
            for _, state in ipairs({'delayed', 'running', 'dead', 'done'}) do
                table.insert(reply, size('ZCARD', p .. 'roster:' .. state .. ':' .. q) or 0)
            end
            local more, in_the_way = 1, nil
            local waits = limits[q] and length > 0 and is_paused == 0
            if waits and redis.pcall('GETRANGE', p .. 'pause-all-workers', 0, 4) ~= 'true' then more, in_the_way = more_of(q) end
            table.insert(reply, more > 0 and 0 or 1)
            table.insert(reply, in_the_way or '')
            local first = bytes > 0 and length > 0 and redis.call('LINDEX', p .. 'queue:' .. q, 0) or ''
            bytes = bytes - #first
            table.insert(reply, #first <= largest and first or '')
        end
        return reply";
    Script::new(&[LIMITS, count].concat())
});

/// Which of these queues have jobs to hand out.
pub(super) static READY: LazyLock<Script> = LazyLock::new(|| {
    let ready = r"
        local reply = {}
        if redis.pcall('GETRANGE', p .. 'pause-all-workers', 0, 4) == 'true' then return reply end
        for number = first, #ARGV do
            local q = ARGV[number]
            local length = redis.pcall('LLEN', p .. 'queue:' .. q)
            if type(length) == 'number' and length > 0 and redis.call('SISMEMBER', p .. 'roster:paused', q) == 0
                and more_of(q) > 0 then
                table.insert(reply, q)
            end
        end
        return reply";
    Script::new(&[LIMITS, ready].concat())
});

/// Removes the unique keys of queues that have no jobs that could hold one; and where there are more than half as many queues as
/// there may be, those of which nothing is there; or more than a quarter, those that somebody here has made. A queue with a key
/// of the wrong type is passed over. What Redis refuses is told once all of them were looked at.
pub(super) static TIDY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, refused = ARGV[1], nil
        if redis.pcall('ZCARD', p .. 'roster:popped') ~= 0 then return 0 end
        local function remove(...)
            local removed = redis.pcall(...)
            if type(removed) == 'table' and removed.err then refused = refused or removed end
        end
        local creators, part = p .. 'roster:queue_creators', redis.call('SCARD', p .. 'queues') / tonumber(ARGV[2])
        for number = 3, #ARGV do
            local q = ARGV[number]
            if redis.pcall('LLEN', p .. 'queue:' .. q) == 0 and redis.pcall('ZCARD', p .. 'roster:delayed:' .. q) == 0
                and redis.pcall('ZCARD', p .. 'roster:running:' .. q) == 0 then
                remove('UNLINK', p .. 'roster:unique:' .. q)
                local is_spare = part > 0.5 or part > 0.25 and redis.pcall('HEXISTS', creators, q) == 1
                if is_spare and redis.pcall('ZCARD', p .. 'roster:dead:' .. q) == 0
                    and redis.pcall('ZCARD', p .. 'roster:done:' .. q) == 0
                    and redis.pcall('SISMEMBER', p .. 'roster:paused', q) == 0 then
                    remove('HDEL', creators, q)
                    remove('SREM', p .. 'queues', q)
                end
            end
        end
        return refused or 1",
    )
});

/// The names of queues, as many as there may be.
pub(super) static NAMES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local p, most, longest, reply = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
        for _, q in ipairs(redis.call('SRANDMEMBER', p .. 'queues', most)) do
            if #q <= longest then table.insert(reply, q) end
        end
        return reply",
    )
});
