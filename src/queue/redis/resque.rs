//! Resque's JSON: what php-resque, Ruby's resque and their schedulers write into a list, and what Roster adds. Pure.
//!
//! `{"class":"C","args":[…],"id":"<32 hex>","prefix":"","queue_time":1700000000.1234}` waits;
//! `{"class":"C","args":[…],"queue":"q"}` is delayed, and is removed by whoever writes the very same text again: so texts are
//! escaped as PHP's `json_encode` does it. What Roster knows beside that is a last member, `"roster"`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::super::job::{JobId, MAX_ERROR, MAX_JOB_NAME, MAX_RETRIES, MAX_TIMEOUT, NewJob, Unique};

/// Ids have no more bits, so that the numbers of JSON, and of Lua, hold them.
const ID_BITS: u32 = 52;

/// No time is later, in ms since 1970.
pub(super) const MAX_TIME: u64 = 1 << 53;

/// So many of them are of its queue.
const QUEUE_BITS: u32 = 6;

/// What Roster knows of a job that waits, beside what Resque does. What is as by default is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extras {
    /// Of a job whose own id tells none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keep_result_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unique: Option<Unique>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) attempt: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) failures: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) lost: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// For which time it recurs, in ms since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due_at: Option<u64>,
}

/// An element of a list, as far as anybody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    /// What its own id tells, where it has one.
    pub(super) id: Option<JobId>,
    /// Of one that is delayed.
    pub(super) queue: Option<String>,
    /// In ms since 1970.
    pub(super) enqueued_at: Option<u64>,
    pub(super) extras: Extras,
}

#[derive(Deserialize)]
struct Members<'a> {
    class: String,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    queue: Option<&'a RawValue>,
    #[serde(borrow)]
    queue_time: Option<&'a RawValue>,
    #[serde(borrow)]
    roster: Option<&'a RawValue>,
}

/// A job that waits.
pub(super) fn waiting(job: &NewJob, args: &str, id: JobId, now: u64, extras: &Extras) -> String {
    let class = text(&job.name);
    let time = format!("{}.{:04}", now / 1_000, now % 1_000 * 10);
    let item = format!(r#"{{"class":{class},"args":[{args}],"id":"{id:032x}","prefix":"","queue_time":{time}}}"#);
    with_extras(&item, extras)
}

/// A job as a scheduler has it.
pub(super) fn delayed(job: &NewJob, args: &str) -> String {
    format!(r#"{{"class":{},"args":[{args}],"queue":{}}}"#, text(&job.name), text(&job.queue))
}

/// What is left of a job that is done.
pub(super) fn named(name: &str) -> String {
    format!(r#"{{"class":{}}}"#, text(name))
}

/// A delayed job of anybody's as it waits when its time has come: with the same class and arguments.
pub(super) fn due(item: &str, id: JobId, now: u64, extras: &Extras) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(item).ok()?;
    let (class, args) = (text(&members.class), members.args.map_or("[null]", RawValue::get));
    let time = format!("{}.{:04}", now / 1_000, now % 1_000 * 10);
    let item = format!(r#"{{"class":{class},"args":{args},"id":"{id:032x}","prefix":"","queue_time":{time}}}"#);
    Some(with_extras(&item, extras))
}

/// The arguments of a payload. None: it is no JSON.
pub(super) fn args(payload: &[u8]) -> Option<String> {
    let payload = std::str::from_utf8(payload).ok()?.trim();
    match payload {
        "" => Some("null".to_owned()),
        json => serde_json::from_str::<&RawValue>(json).ok().map(|json| escaped(json.get())),
    }
}

/// What an element of a list says. None: it is no job.
pub(super) fn read(item: &[u8]) -> Option<Item> {
    let item = std::str::from_utf8(item).ok()?;
    let members: Members<'_> = serde_json::from_str(item).ok()?;
    let is_name = !members.class.is_empty()
        && members.class.len() <= MAX_JOB_NAME
        && !members.class.chars().any(char::is_control);
    if !is_name {
        return None;
    }
    let extras: Option<Extras> = members.roster.and_then(|it| serde_json::from_str(it.get()).ok());
    let extras = extras.filter(Extras::are_sound);
    let string = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let seconds = |raw: &RawValue| serde_json::from_str::<f64>(raw.get()).ok();
    let is_time = |seconds: &f64| (0.0..1e11).contains(seconds);
    Some(Item {
        payload: plain(payload(members.args, extras.is_some())).into_bytes(),
        name: members.class,
        id: members.id.and_then(string).and_then(|id| id_of(&id)),
        queue: members.queue.and_then(string),
        enqueued_at: members.queue_time.and_then(seconds).filter(is_time).map(|time| (time * 1_000.0) as u64),
        extras: extras.unwrap_or_default(),
    })
}

/// The same job with other extras; the rest of its text stays as it is. None: it is no job.
pub(super) fn replaced(item: &str, extras: &Extras) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(item).ok()?;
    let Some(found) = members.roster.map(RawValue::get) else { return Some(with_extras(item, extras)) };
    let from = found.as_ptr() as usize - item.as_ptr() as usize;
    let written = serde_json::to_string(extras).ok()?;
    Some([item.get(..from)?, &written, item.get(from + found.len()..)?].concat())
}

/// A number for a job that tells none, or whose own another job has.
pub(super) fn new_id() -> JobId {
    fastrand::u64(1..1 << ID_BITS)
}

/// The same of a job that is enqueued here: it tells its queue from most others, so that the job is looked for there first.
pub(super) fn new_id_in(queue: &str) -> JobId {
    (new_id() >> QUEUE_BITS << QUEUE_BITS | bits_of(queue)).max(1)
}

/// Whether a job with this id may have been enqueued here into this queue.
pub(super) fn may_be_of(id: JobId, queue: &str) -> bool {
    id % (1 << QUEUE_BITS) == bits_of(queue)
}

fn bits_of(queue: &str) -> u64 {
    xxh3_64(queue.as_bytes()) >> (64 - QUEUE_BITS)
}

/// The one of a job that has no id, while it waits.
pub(super) fn id_of_text(item: &[u8]) -> JobId {
    xxh3_64(item) >> (64 - ID_BITS)
}

/// Our ids are numbers, of which php-resque's 32 hexadecimal digits have the first ones.
fn id_of(id: &str) -> Option<JobId> {
    let is_id = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(id, 16).ok().filter(|_| is_id)?;
    let number = if number >> ID_BITS == 0 { number } else { number >> (128 - ID_BITS) };
    u64::try_from(number).ok().filter(|id| *id > 0)
}

impl Item {
    /// Something that is no job.
    pub(super) fn none(text: &[u8]) -> Self {
        let (name, payload, extras) = (String::new(), text.to_vec(), Extras::default());
        Self { name, payload, id: None, queue: None, enqueued_at: None, extras }
    }
}

impl Extras {
    /// Anybody may have written them.
    fn are_sound(&self) -> bool {
        let most = MAX_TIMEOUT.as_millis() as u64;
        self.id.is_none_or(|id| (1..1 << ID_BITS).contains(&id))
            && self.retries.is_none_or(|retries| retries <= MAX_RETRIES)
            && self.timeout_ms.is_none_or(|timeout| (1..=most).contains(&timeout))
            && self.error.as_ref().is_none_or(|error| error.chars().count() <= MAX_ERROR + 1)
            && self.due_at.is_none_or(|time| time < MAX_TIME)
    }
}

/// php-resque's arguments are a list of one map, or of null; those of Ruby may be any list.
fn payload(args: Option<&RawValue>, is_ours: bool) -> &str {
    let Some(args) = args.map(RawValue::get) else { return "null" };
    match serde_json::from_str::<Vec<&RawValue>>(args).as_deref() {
        Ok([one]) if is_ours || one.get().starts_with(['{', '[', 'n']) => one.get(),
        _ => args,
    }
}

fn with_extras(item: &str, extras: &Extras) -> String {
    let written = serde_json::to_string(extras).expect("a value of ours has nothing that JSON cannot");
    match item.trim_end().strip_suffix('}') {
        Some(open) => format!(r#"{open},"roster":{written}}}"#),
        None => item.to_owned(),
    }
}

fn text(text: &str) -> String {
    escaped(&serde_json::to_string(text).expect("a text has nothing that JSON cannot"))
}

/// As `json_encode` writes it: nothing between the values, `\/`, and `\u` for all that is not ASCII.
fn escaped(json: &str) -> String {
    let (mut out, mut is_text, mut is_escape) = (String::with_capacity(json.len() + 16), false, false);
    for c in json.chars() {
        match c {
            _ if !is_text && c.is_ascii_whitespace() => continue,
            '/' if !is_escape => out.push_str("\\/"),
            _ if c.is_ascii() => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a String takes all");
                }
            }
        }
        if c == '"' && !is_escape {
            is_text = !is_text;
        }
        is_escape = c == '\\' && !is_escape;
    }
    out
}

/// The same without those escapes: no longer than what `escaped` had.
fn plain(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (c, length) = match after.as_bytes() {
            [b'/', ..] => (Some('/'), 1),
            [b'u', ..] => unit(after).map_or((None, 1), |(c, length)| (Some(c), length)),
            _ => (None, 1),
        };
        match c.filter(|c| *c == '/' || !c.is_ascii()) {
            Some(c) => out.push(c),
            None => {
                out.push('\\');
                out.push_str(after.get(..length).unwrap_or_default());
            }
        }
        rest = after.get(length..).unwrap_or_default();
    }
    out + rest
}

/// The character of `uXXXX`, or of a pair of them, and how long that is.
fn unit(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u16::from_str_radix(text.get(at..at + 4)?, 16).ok();
    let first = unit(1)?;
    let second = text.get(5..7).filter(|text| *text == "\\u").and_then(|_| unit(7));
    let mut decoded = char::decode_utf16([first].into_iter().chain(second));
    match decoded.next()? {
        Ok(c) => Some((c, if c.len_utf16() == 2 { 11 } else { 5 })),
        Err(_) => None,
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(payload: &str) -> NewJob {
        NewJob { queue: "mail/é".into(), name: "App\\Send".into(), payload: payload.into(), ..NewJob::default() }
    }

    #[test]
    fn a_job_is_written_to_the_letter_as_php_resque_writes_it() {
        let args = args(r#"{ "to": "é/\u00e9\/\\/😀", "n": 1.50 }"#.as_bytes()).expect("it is JSON");
        assert_eq!(args, r#"{"to":"\u00e9\/\u00e9\/\\\/\ud83d\ude00","n":1.50}"#);
        let extras = Extras { user: Some(33), ..Extras::default() };
        let item = waiting(&job(""), &args, 0xabc, 1_700_000_000_123, &extras);
        let start =
            format!(r#"{{"class":"App\\Send","args":[{args}],"id":"00000000000000000000000000000abc","prefix":"","#);
        assert_eq!(item, start + r#""queue_time":1700000000.1230,"roster":{"user":33}}"#);
        assert_eq!(delayed(&job(""), "null"), r#"{"class":"App\\Send","args":[null],"queue":"mail\/\u00e9"}"#);
    }

    #[test]
    fn what_is_enqueued_is_read_again_as_it_was() {
        for payload in [r#"{"to":"é/\\/\n","n":12345678901234567890,"x":"\ud800"}"#, "[1,2]", "null", "5", r#""a""#] {
            let item = waiting(&job(payload), &args(payload.as_bytes()).expect("JSON"), 7, 1_000, &Extras::default());
            let read = read(item.as_bytes()).expect("a job");
            assert_eq!(String::from_utf8_lossy(&read.payload), payload);
            assert_eq!((read.name.as_str(), read.id, read.enqueued_at), ("App\\Send", Some(7), Some(1_000)));
        }
        assert!([&b"\xff"[..], b"{", b"a", b"{} {}"].iter().all(|wrong| args(wrong).is_none()));
    }

    #[test]
    fn what_php_and_ruby_enqueue_is_read() {
        let php = r#"{"class":"C","args":[{"a":"\u00e9\/"}],"id":"d41d8cd98f00b204e9800998ecf8427e","queue_time":1.5}"#;
        let php = read(php.as_bytes()).expect("a job");
        assert_eq!((String::from_utf8_lossy(&php.payload).as_ref(), php.enqueued_at), (r#"{"a":"é/"}"#, Some(1_500)));
        assert_eq!(php.id, Some(0x000d_41d8_cd98_f00b), "its first digits");
        for (ruby, payload) in [
            (r#"{"class":"C","args":[1,"x"]}"#, r#"[1,"x"]"#),
            (r#"{"class":"C","args":[5]}"#, "[5]"),
            (r#"{"class":"C","args":[null]}"#, "null"),
            (r#"{"class":"C"}"#, "null"),
            (r#"{"class":"C","args":[]}"#, "[]"),
        ] {
            let ruby = read(ruby.as_bytes()).expect("a job");
            assert_eq!((String::from_utf8_lossy(&ruby.payload).as_ref(), ruby.id), (payload, None));
        }
    }

    #[test]
    fn what_is_no_job_is_none_and_foreign_extras_are_as_none() {
        let long = format!(r#"{{"class":"{}"}}"#, "x".repeat(256));
        for wrong in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"class":""}"#,
            r#"{"class":5}"#,
            r#"{"class":"a\n"}"#,
            &long,
            "{\"class\":\"C\"} x",
        ] {
            assert_eq!(read(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(read(b"{\"class\":\"\xff\"}"), None);
        for odd in [
            r#"{"retries":99999}"#,
            r#"{"timeout_ms":0}"#,
            r#"{"attempt":-1}"#,
            r#"{"id":0}"#,
            r#"{"due_at":9007199254740992}"#,
            "5",
            "[]",
        ] {
            let item = format!(r#"{{"class":"C","id":7,"queue_time":"x","queue":[],"roster":{odd}}}"#);
            let item = read(item.as_bytes()).expect("a job");
            assert_eq!((item.extras, item.id, item.queue), (Extras::default(), None, None), "{odd}");
        }
    }

    #[test]
    fn how_long_a_result_is_kept_is_among_the_extras_and_of_what_is_done_the_name_is_left() {
        let extras = Extras { keep_result_ms: Some(600_000), ..Extras::default() };
        let item = waiting(&job(""), "null", 7, 1_000, &extras);
        assert!(item.ends_with(r#","queue_time":1.0000,"roster":{"keep_result_ms":600000}}"#), "{item}");
        assert_eq!(read(item.as_bytes()).expect("a job").extras, extras);
        let left = read(named("App\\Send").as_bytes()).expect("a job");
        assert_eq!((left.name.as_str(), left.payload.as_slice()), ("App\\Send", &b"null"[..]));
    }

    #[test]
    fn extras_are_replaced_and_nothing_else_is() {
        let extras = Extras { attempt: 2, error: Some("no \"route\"".into()), ..Extras::default() };
        let foreign = r#"{"class":"C", "args":[1.10],"x":12345678901234567890123} "#;
        let once = replaced(foreign, &extras).expect("a job");
        assert_eq!(
            once,
            r#"{"class":"C", "args":[1.10],"x":12345678901234567890123,"roster":{"attempt":2,"error":"no \"route\""}}"#
        );
        assert_eq!(read(once.as_bytes()).expect("a job").extras, extras);
        let twice = replaced(&once, &Extras { attempt: 3, ..Extras::default() }).expect("a job");
        assert_eq!(twice, r#"{"class":"C", "args":[1.10],"x":12345678901234567890123,"roster":{"attempt":3}}"#);
        assert_eq!(replaced("x", &extras), None);
    }
}
