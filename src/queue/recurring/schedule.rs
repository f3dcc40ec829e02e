//! Schedules: when something recurs, by the clocks of a time zone. Pure.
//!
//! Each time that the clocks show is one slot, and a slot comes once: where clocks are set forward, what they skip comes at the
//! end of the gap; where they are set back, what they show twice comes the first time. What recurs every hour, or in each of
//! them every so many minutes, goes by the time that passes instead.

use std::collections::VecDeque;
use std::iter;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

const FIELDS: &str = "it has five fields: minute, hour, day of the month, month and day of the week, as \"*/5 * * * *\", or is \
                      @hourly, @daily, @weekly, @monthly or @yearly";

/// What each field is, and what it may be.
const VALUES: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31"),
    ("month", "1 to 12, or jan to dec"),
    ("day of the week", "0 to 7, or sun to sat"),
];

/// An expression as cron has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression {
    text: String,
    cron: Cron,
    /// Whether it goes by the time that passes.
    is_of_each_hour: bool,
}

/// A time zone by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&text).map_err(|_| {
            let why = wrong_field(&text, |alone| parser.parse(alone).is_err());
            format!("{text:?} is no expression of cron: {}", why.unwrap_or_else(|| FIELDS.to_owned()))
        })?;
        let hours = text.split_whitespace().nth(1);
        let is_of_each_hour = hours.map_or(text.eq_ignore_ascii_case("@hourly"), |hours| hours.starts_with('*'));
        let expression = Self { text, cron, is_of_each_hour };
        match expression.after(&TimeZone::UTC, 0) {
            Some(_) => Ok(expression),
            None => Err(format!("{:?} never comes: no month that it names has such a day", expression.text)),
        }
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.text
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let zone = TimeZone::get(&name);
        let zone =
            zone.map_err(|_| format!("{name:?} is no time zone: name one as \"Europe/Amsterdam\", or \"UTC\""))?;
        Ok(Self { name, zone })
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }
}

impl Zone {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Expression {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first slot after a time, both in ms since 1970. None: there is none.
    pub(super) fn next(&self, zone: &Zone, time: u64) -> Option<u64> {
        self.after(&zone.zone, time)
    }

    /// The last slots after one time and up to another one, the oldest first.
    pub(super) fn between(&self, zone: &Zone, after: u64, until: u64, most: usize) -> VecDeque<u64> {
        let mut width = 60_000;
        loop {
            let from = until.saturating_sub(width).max(after);
            let mut last = VecDeque::new();
            let slots = iter::successors(self.next(zone, from), |slot| self.next(zone, *slot));
            for slot in slots.take_while(|slot| *slot <= until) {
                last.push_back(slot);
                if last.len() > most {
                    last.pop_front();
                }
            }
            if last.len() == most || from <= after {
                return last;
            }
            width = width.saturating_mul(2);
        }
    }

    fn after(&self, zone: &TimeZone, time: u64) -> Option<u64> {
        let from = Timestamp::from_second(i64::try_from(time / 1_000).ok()?).ok()?.to_zoned(zone.clone());
        if self.is_of_each_hour {
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            return u64::try_from(next.timestamp().as_millisecond()).ok();
        }
        let mut shown = from.datetime();
        loop {
            shown = self.cron.find_next_occurrence(&shown, false).ok()?;
            let instant = instant_of(shown, zone)?;
            if instant > from.timestamp() {
                return u64::try_from(instant.as_millisecond()).ok();
            }
        }
    }
}

/// Which of five fields is wrong, also where the others say nothing.
fn wrong_field(text: &str, is_wrong: impl Fn(&str) -> bool) -> Option<String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != VALUES.len() {
        return None;
    }
    fields.iter().zip(VALUES).enumerate().find_map(|(nth, (field, (name, values)))| {
        let mut alone = ["*"; VALUES.len()];
        alone[nth] = field;
        is_wrong(&alone.join(" "))
            .then(|| format!("its {name} cannot be {field:?}: expected {values}, as *, 1, 1-3, 1,3 or */2"))
    })
}

/// When clocks show a time for the first time, or the end of the gap in which they do not.
fn instant_of(shown: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(shown);
    if !ambiguous.is_ambiguous() {
        return ambiguous.compatible().ok();
    }
    let earlier = ambiguous.earlier().ok()?;
    match ambiguous.offset() {
        // The earlier one of a time in a gap lies before it.
        jiff::tz::AmbiguousOffset::Gap { .. } => zone.following(earlier).next().map(|change| change.timestamp()),
        _ => Some(earlier),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn expression(text: &str) -> Expression {
        Expression::try_from(text.to_owned()).expect("an expression")
    }

    fn zone(name: &str) -> Zone {
        Zone::try_from(name.to_owned()).expect("a zone")
    }

    fn time(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond() as u64
    }

    /// All slots after a time and up to another one, in UTC.
    fn slots(text: &str, name: &str, from: &str, until: &str) -> Vec<String> {
        let (expression, zone) = (expression(text), zone(name));
        let slots = iter::successors(expression.next(&zone, time(from)), |slot| expression.next(&zone, *slot));
        let slots: Vec<u64> = slots.take_while(|slot| *slot <= time(until)).collect();
        assert_eq!(expression.between(&zone, time(from), time(until), 10_000), slots, "looking back");
        let shown =
            |slot: &u64| Timestamp::from_millisecond(*slot as i64).expect("a time").strftime("%H:%M").to_string();
        slots.iter().map(shown).collect()
    }

    #[test]
    fn an_expression_is_what_cron_takes_and_nothing_else() {
        for text in ["*/5 * * * *", "0 9-17/2 * jan,JUL mon-fri", "@hourly", "@Daily", "30 2 29 2 *", "0 0 * * 7"] {
            assert_eq!(String::from(expression(text)), text);
        }
        for (wrong, told) in [
            ("", "five fields"),
            ("* * * *", "five fields"),
            ("* * * * * *", "five fields"),
            ("@reboot", "five fields"),
            ("60 * * * *", "its minute cannot be \"60\": expected 0 to 59"),
            ("x * * * *", "its minute cannot be \"x\""),
            ("5-1 * * * *", "its minute cannot be \"5-1\""),
            ("0 */0 * * *", "its hour cannot be \"*/0\""),
            ("0 6 * * lundi", "its day of the week cannot be \"lundi\": expected 0 to 7, or sun to sat"),
        ] {
            let why = Expression::try_from(wrong.to_owned()).expect_err("no expression");
            assert!(why.contains(told), "{wrong}: {why}");
        }
        let why = Expression::try_from("0 0 31 2 *".to_owned()).expect_err("no such day");
        assert!(why.contains("never"), "{why}");
        assert!(Zone::try_from("Europe/Amstredam".to_owned()).is_err_and(|why| why.contains("Europe/Amsterdam")));
    }

    #[test]
    fn what_clocks_skip_comes_once_at_the_end_of_the_gap() {
        // On 2026-03-29 at 01:00 UTC it is 03:00 instead of 02:00.
        let of = |text| slots(text, "Europe/Amsterdam", "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z");
        assert_eq!(of("30 2 * * *"), ["01:00"]);
        assert_eq!(of("0,30 2,3 * * *"), ["01:00", "01:30"], "what falls together is one");
        assert_eq!(of("30 * * * *"), ["00:30", "01:30", "02:30"]);
        assert_eq!(of("@hourly"), ["01:00", "02:00", "03:00"]);
        // On 2026-10-03 at 15:30 UTC it is 02:30 instead of 02:00; and a whole day was skipped at 10:00 UTC on 2011-12-30.
        let of = |text| slots(text, "Australia/Lord_Howe", "2026-10-03T15:00:00Z", "2026-10-03T17:00:00Z");
        assert_eq!(
            (of("15 2 * * *"), of("0,45 2 * * *")),
            (vec!["15:30".into()], vec!["15:30".into(), "15:45".into()])
        );
        let of = |text| slots(text, "Pacific/Apia", "2011-12-30T00:00:00Z", "2011-12-31T10:00:00Z");
        assert_eq!(of("30 12 30 12 *"), ["10:00"]);
        assert_eq!(of("30 12 * * *"), ["10:00", "22:30"]);
    }

    #[test]
    fn what_clocks_show_twice_comes_the_first_time_alone() {
        // On 2026-10-25 at 01:00 UTC it is 02:00 again.
        let of = |text| slots(text, "Europe/Amsterdam", "2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z");
        assert_eq!(of("30 2 * * *"), ["00:30"]);
        assert_eq!(of("30 2,3 * * *"), ["00:30", "02:30"]);
        assert_eq!(of("30 * * * *"), ["23:30", "00:30", "01:30", "02:30"], "what recurs hourly goes on");
        let next = expression("30 2 * * *").next(&zone("Europe/Amsterdam"), time("2026-10-25T01:10:00Z"));
        assert_eq!(next, Some(time("2026-10-26T01:30:00Z")), "seen from between the two");
    }

    #[test]
    fn what_recurs_within_each_hour_comes_in_each_that_passes() {
        for (from, until) in [
            ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z"),
            ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            ("2026-04-03T12:00:00Z", "2026-04-05T12:00:00Z"),
            ("2026-10-02T12:00:00Z", "2026-10-04T12:00:00Z"),
        ] {
            // In the last one it is half an hour that is skipped, and shown twice.
            for name in ["Europe/Amsterdam", "UTC", "Australia/Lord_Howe"] {
                assert_eq!(slots("*/5 * * * *", name, from, until).len(), 48 * 12, "{name} from {from}");
            }
        }
    }

    #[test]
    fn the_last_slots_of_a_long_time_are_found_without_all_of_them() {
        let (often, utc, now) = (expression("* * * * *"), Zone::default(), time("2026-11-28T12:00:30Z"));
        let last = often.between(&utc, 0, now, 3);
        assert_eq!(last, [3, 2, 1].map(|ago| now - 30_000 - (ago - 1) * MINUTE));
        assert_eq!(often.between(&utc, now, now, 3), VecDeque::new());
        assert_eq!(expression("0 0 29 2 *").between(&utc, 0, now, 1), [time("2024-02-29T00:00:00Z")]);
    }
}
