//! Rules of settings: each is stated next to its key, and a value that breaks it is refused on reading.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

const ZERO: &str = "0 leaves nothing to work with; leave the key out for its default";

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoDuration {
    /// `M` is a month to the parser, and a minute to most who write it.
    #[error(
        "{text:?} is of months: for minutes write {minutes:?}, for months {months:?}",
        minutes = .text.replace('M', "m"),
        months = .text.replace('M', "months")
    )]
    Months { text: String },
    #[error("{0:?} is no unit of time: write ms, s, m, h or d, as in \"250ms\" or \"1h 30m\"")]
    Unit(String),
    #[error(transparent)]
    Form(humantime::DurationError),
}

/// A duration as people write it: `250ms`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, NoDuration> {
    if text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M") {
        return Err(NoDuration::Months { text: text.to_owned() });
    }
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, .. } if !unit.is_empty() => NoDuration::Unit(unit),
        error => NoDuration::Form(error),
    })
}

/// A duration as a setting has it.
struct Written(Duration);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a duration")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                duration(text).map_err(|error| match error {
                    NoDuration::Form(_) => E::invalid_value(Unexpected::Str(text), &self),
                    error => E::custom(error),
                })
            }
        }

        value.deserialize_str(Text).map(Self)
    }
}

/// A number or a size of at least 1.
pub(crate) fn positive<'de, D, T>(value: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    some(T::deserialize(value)?)
}

/// The same for an optional key.
pub(crate) fn some_positive<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    positive(value).map(Some)
}

pub(crate) fn at_least_kib<'de, D: Deserializer<'de>, const LEAST: u64>(value: D) -> Result<ByteSize, D::Error> {
    let least = ByteSize::kib(LEAST);
    enough(positive(value)?, least, least)
}

/// The same, with a maximum: catches a slip of a unit, and keeps stacks from overflowing.
pub(crate) fn at_most<'de, D: Deserializer<'de>, const MOST: usize>(value: D) -> Result<usize, D::Error> {
    bounded(positive(value)?, MOST, MOST)
}

/// The same, or nothing.
pub(crate) fn no_more_than<'de, D: Deserializer<'de>, const MOST: usize>(value: D) -> Result<usize, D::Error> {
    bounded(usize::deserialize(value)?, MOST, MOST)
}

/// A number between these.
pub(crate) fn between<'de, D, const LEAST: usize, const MOST: usize>(value: D) -> Result<usize, D::Error>
where
    D: Deserializer<'de>,
{
    enough(at_most::<_, MOST>(value)?, LEAST, LEAST)
}

pub(crate) fn between_kib_and_tib<'de, D, const LEAST: u64, const MOST: u64>(value: D) -> Result<ByteSize, D::Error>
where
    D: Deserializer<'de>,
{
    let (least, most) = (ByteSize::kib(LEAST), ByteSize::tib(MOST));
    enough(bounded(positive(value)?, most, most)?, least, least)
}

/// The allowed nesting depth of JSON documents.
pub(crate) fn json_depth<'de, D, const LEAST: usize, const MOST: usize>(value: D) -> Result<usize, D::Error>
where
    D: Deserializer<'de>,
{
    let depth = enough(positive(value)?, LEAST, LEAST)?;
    if depth > MOST {
        return Err(Error::custom(format_args!("is more than readers of JSON take: at most {MOST}")));
    }
    Ok(depth)
}

/// A TOML value as JSON; dates become strings.
pub(crate) fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(entries) => entries.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
    }
}

/// Whether it contains a number that JSON cannot represent.
pub(crate) fn has_no_json(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => !number.is_finite(),
        toml::Value::Array(items) => items.iter().any(has_no_json),
        toml::Value::Table(entries) => entries.values().any(has_no_json),
        _ => false,
    }
}

/// A duration with a maximum in seconds, so that no clock overflows; optionally not zero.
pub(crate) struct Within<const SECONDS: u64, const IS_POSITIVE: bool>;

pub(crate) type WithinADay = Within<86_400, false>;
pub(crate) type SomeWithinADay = Within<86_400, true>;
pub(crate) type WithinAYear = Within<31_622_400, false>;
pub(crate) type SomeWithinAYear = Within<31_622_400, true>;
pub(crate) type WithinAnHour = Within<3_600, false>;
pub(crate) type SomeWithinAnHour = Within<3_600, true>;

impl<const SECONDS: u64, const IS_POSITIVE: bool> Within<SECONDS, IS_POSITIVE> {
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
        let Written(value) = Written::deserialize(value)?;
        let most = Duration::from_secs(SECONDS);
        let value = if IS_POSITIVE { some(value)? } else { value };
        // A year of `humantime` is no number of days.
        let days = SECONDS / 86_400;
        let shown = if days > 1 { format!("{days}days") } else { humantime::format_duration(most).to_string() };
        bounded(value, most, shown)
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(value, serializer)
    }
}

/// An optional duration of at least this many seconds.
pub(crate) fn at_least_seconds<'de, D, const LEAST: u64>(value: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let value = Option::<Written>::deserialize(value)?;
    let least = Duration::from_secs(LEAST);
    value.map(|Written(value)| enough(value, least, humantime::format_duration(least))).transpose()
}

/// The name by which a path is requested; a reader that knows the file's location makes it absolute.
pub(crate) const PATH: &str = "path";

/// A path: in the configuration file relative to the file's folder, elsewhere to the working directory.
pub(crate) fn path<'de, D: Deserializer<'de>>(value: D) -> Result<PathBuf, D::Error> {
    struct Path;

    impl<'de> Visitor<'de> for Path {
        type Value = PathBuf;

        fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<PathBuf, D::Error> {
            PathBuf::deserialize(value)
        }
    }

    value.deserialize_newtype_struct(PATH, Path)
}

pub(crate) fn some_path<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PathBuf>, D::Error> {
    path(value).map(Some)
}

fn some<T: Default + PartialEq, E: Error>(value: T) -> Result<T, E> {
    if value == T::default() { Err(E::custom(ZERO)) } else { Ok(value) }
}

fn enough<T: PartialOrd, E: Error>(value: T, least: T, name: impl Display) -> Result<T, E> {
    if value < least {
        return Err(E::custom(format_args!("is too small: at least {name}")));
    }
    Ok(value)
}

fn bounded<T: PartialOrd, E: Error>(value: T, most: T, name: impl Display) -> Result<T, E> {
    if value > most {
        return Err(E::custom(format_args!("is more than anybody can need: at most {name}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_written_out_since_a_minute_may_be_meant() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("2months"), humantime::parse_duration("2months").map_err(NoDuration::Form));
        for (text, told) in [
            ("5M", "\"5M\" is of months: for minutes write \"5m\", for months \"5months\""),
            ("1h 5M", "\"1h 5M\" is of months: for minutes write \"1h 5m\", for months \"1h 5months\""),
            ("5x", "\"x\" is no unit of time: write ms, s, m, h or d, as in \"250ms\" or \"1h 30m\""),
        ] {
            assert_eq!(duration(text).expect_err(text).to_string(), told);
        }
        assert!(matches!(duration("soon"), Err(NoDuration::Form(_))));
    }
}
