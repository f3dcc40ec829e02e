//! Metadata: what a service publishes about itself.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use rmpv::decode::{read_value, read_value_ref};
use rmpv::encode::write_value;
use rmpv::{Value, ValueRef};
use roster_tunnel::frame::{Bounds, Progress, Scanner};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::json;

/// A map; an empty PHP map is an empty list. An object in JSON, as far as JSON can represent it; in MessagePack, as the
/// master sent it.
///
/// Kept as MessagePack, since values take a multiple of the memory. None: an empty map.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Arc<[u8]>>);

/// Metadata under construction. The caller adds each key once.
#[derive(Debug, Default)]
pub struct MetadataWriter {
    count: u32,
    entries: Vec<u8>,
}

const EMPTY_MAP: &[u8] = &[0x80];

/// What was written has no bounds that matter.
const WHOLE: Bounds = Bounds { bytes: usize::MAX, depth: usize::MAX };

/// A fraction of 9 bytes may be the text `1.0`; and the most bytes before the content of a value.
const MOST_BYTES_OF_CHARACTER: usize = 3;
const MAX_HEAD: usize = 6;

/// What most metadata have room in.
const USUAL_BYTES: usize = 128;

impl Metadata {
    /// How many bytes they are as MessagePack.
    pub fn packed_bytes(&self) -> usize {
        self.packed().len()
    }

    pub fn value(&self) -> Value {
        read_value(&mut self.packed()).expect("a value was written")
    }

    pub(super) fn read(&self) -> ValueRef<'_> {
        read(self.packed())
    }

    /// The JSON text of the object.
    pub fn json(&self) -> String {
        json::written(self)
    }

    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.packed();
        let count = rmp::decode::read_map_len(&mut rest).unwrap_or(0);
        entries(rest, count)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        rmp::decode::read_map_len(&mut self.packed()).map_or(0, |count| count as usize)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys whose values are others in `newer`.
    pub fn changed_keys<'m>(&'m self, newer: &'m Self) -> BTreeSet<Cow<'m, str>> {
        if self == newer {
            return BTreeSet::new();
        }
        let by_key = |metadata: &'m Self| {
            let mut by_key = BTreeMap::new();
            for (name, value) in metadata.entries() {
                // Of several with one name the first counts.
                key(name).into_iter().for_each(|key| _ = by_key.entry(key).or_insert(value));
            }
            by_key
        };
        let [before, after] = [by_key(self), by_key(newer)];
        let keys = before.keys().chain(after.keys());
        keys.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
    }

    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.entries().filter_map(|(name, _)| key(name))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<ValueRef<'_>> {
        found(self.entries(), key).map(read)
    }

    /// The same, unless it is a list or an object: those are not read.
    pub fn scalar(&self, key: &str) -> Option<ValueRef<'_>> {
        scalar(self.entries(), key)
    }

    /// The text of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        text_of(self.scalar(key)?)
    }

    /// The number of a key, which may be a string.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.scalar(key)? {
            ValueRef::Integer(number) => number.as_f64(),
            ValueRef::F32(number) => Some(number.into()),
            ValueRef::F64(number) => Some(number),
            ValueRef::String(text) => text.as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether there are all of these: strings as they are, other values as their JSON text.
    pub fn has(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, wanted)| found(self.entries(), key).is_some_and(|value| is_told_by(value, wanted)))
    }

    fn packed(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(EMPTY_MAP)
    }
}

/// The entries of a map, each with its key and its value as MessagePack.
fn entries(mut packed: &[u8], count: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut next = move || {
        let Progress::Complete(end) = Scanner::new(WHOLE).scan(packed) else { unreachable!("a value was written") };
        let (value, rest) = packed.split_at(end);
        packed = rest;
        value
    };
    (0..count).map(move |_| (next(), next()))
}

/// The value of a key. The others are passed over.
fn found<'m>(mut entries: impl Iterator<Item = (&'m [u8], &'m [u8])>, wanted: &str) -> Option<&'m [u8]> {
    entries.find(|(name, _)| key(name).is_some_and(|key| key == wanted)).map(|(_, value)| value)
}

fn scalar<'m>(entries: impl Iterator<Item = (&'m [u8], &'m [u8])>, key: &str) -> Option<ValueRef<'m>> {
    use rmp::Marker::{Array16, Array32, FixArray, FixMap, Map16, Map32};

    let value = found(entries, key)?;
    match rmp::Marker::from_u8(*value.first()?) {
        FixArray(_) | Array16 | Array32 | FixMap(_) | Map16 | Map32 => None,
        _ => Some(read(value)),
    }
}

/// A key as text: one that looks like a number is an integer in PHP.
fn key(packed: &[u8]) -> Option<Cow<'_, str>> {
    let text = rmp::decode::read_str_from_slice(packed).map(|(text, _)| Cow::Borrowed(text));
    let number = || rmp::decode::read_int::<i128, _>(&mut &*packed).map(|number| number.to_string().into());
    text.ok().or_else(|| number().ok())
}

fn read(mut packed: &[u8]) -> ValueRef<'_> {
    read_value_ref(&mut packed).expect("a value was written")
}

fn is_told_by(packed: &[u8], text: &str) -> bool {
    // The text of a value has at least a third of its bytes. What is larger is not read.
    packed.len() <= MOST_BYTES_OF_CHARACTER * text.len() + MAX_HEAD
        && match read(packed) {
            ValueRef::String(own) => own.as_bytes() == text.as_bytes(),
            ValueRef::Binary(bytes) => bytes == text.as_bytes(),
            other => json::is_text(&other, text),
        }
}

fn text_of(value: ValueRef<'_>) -> Option<&str> {
    if let ValueRef::String(text) = value { text.into_str() } else { None }
}

impl MetadataWriter {
    pub fn add(&mut self, key: &str, value: &str) {
        rmp::encode::write_str(self.value_of(key), value).expect("a vector takes all");
    }

    /// Adds a key; the caller then writes its value as MessagePack.
    pub fn value_of(&mut self, key: &str) -> &mut Vec<u8> {
        if self.count == 0 {
            self.entries.reserve(USUAL_BYTES);
        }
        self.count += 1;
        rmp::encode::write_str(&mut self.entries, key).expect("a vector takes all");
        &mut self.entries
    }

    /// The value of a key, unless it is a list or an object.
    pub fn scalar(&self, key: &str) -> Option<ValueRef<'_>> {
        scalar(entries(&self.entries, self.count), key)
    }

    /// The text of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        text_of(self.scalar(key)?)
    }

    pub fn finish(self) -> Metadata {
        if self.count == 0 {
            return Metadata::default();
        }
        let mut packed = Vec::with_capacity(size_of::<u32>() + 1 + self.entries.len());
        rmp::encode::write_map_len(&mut packed, self.count).expect("a vector takes all");
        packed.extend_from_slice(&self.entries);
        Metadata(Some(packed.into()))
    }
}

impl From<Value> for Metadata {
    fn from(value: Value) -> Self {
        let mut packed = Vec::new();
        write_value(&mut packed, &value).expect("a vector takes all");
        Self((packed != EMPTY_MAP).then(|| packed.into()))
    }
}

impl Debug for Metadata {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { json::Object(&self.read()).serialize(to) } else { self.value().serialize(to) }
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Value::deserialize(from).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, Value)]) -> Metadata {
        Value::Map(entries.iter().map(|(key, value)| ((*key).into(), value.clone())).collect()).into()
    }

    #[test]
    fn what_was_put_in_is_found_however_it_was_put_in() {
        let many = (0..1_000).map(|number| (number.to_string().into(), number.into())).collect();
        for value in [Value::Map(vec![]), Value::Array(vec![]), Value::Nil, Value::Map(many), Value::from("x")] {
            let metadata = Metadata::from(value.clone());
            assert_eq!(metadata.value(), value);
            assert_eq!(metadata.len(), value.as_map().map_or(0, Vec::len));
            assert_eq!(metadata.packed_bytes(), rmp_serde::to_vec(&value).expect("MessagePack").len());
        }
        assert_eq!(Metadata::from(Value::Map(vec![])), Metadata::default());
        let mut writer = MetadataWriter::default();
        (0..1_000).for_each(|number| writer.add(&number.to_string(), &(2 * number).to_string()));
        assert_eq!((writer.text("999"), writer.scalar("1000")), (Some("1998"), None));
        let written = writer.finish();
        assert_eq!((written.len(), written.text("7"), written.text("x")), (1_000, Some("14"), None));
        assert!(written.keys().eq((0..1_000).map(|number| number.to_string())));
        assert_eq!(MetadataWriter::default().finish(), Metadata::default());
    }

    #[test]
    fn values_are_read_by_their_kind() {
        let nested = Value::Map(vec![("b".into(), Value::Array(vec![1.into(), Value::Nil]))]);
        let of_number = (Value::from(7), Value::from("under a number"));
        let metadata = map(&[("s", "text".into()), ("n", 1.5.into()), ("i", 3.into()), ("t", "-2.5".into())]);
        assert_eq!(
            ["s", "n", "i", "t", "x"].map(|key| metadata.number(key)),
            [None, Some(1.5), Some(3.0), Some(-2.5), None]
        );
        assert_eq!(["s", "n"].map(|key| metadata.text(key)), [Some("text"), None]);
        let metadata =
            Metadata::from(Value::Map(vec![of_number, ("a".into(), nested), ("raw".into(), Value::Binary(vec![255]))]));
        assert!(metadata.keys().eq(["7", "a", "raw"]));
        assert_eq!((metadata.text("7"), metadata.text("07")), (Some("under a number"), None));
        assert!(metadata.get("a").is_some() && metadata.scalar("a").is_none() && metadata.scalar("raw").is_some());
        let has = |key: &str, text: &str| metadata.has(&[(key.to_owned(), text.to_owned())].into());
        assert!(has("a", r#"{"b":[1,null]}"#) && !has("a", r#"{"b":[1,null]} "#) && !has("b", "1"));
        assert!(Metadata::default().has(&BTreeMap::new()));
        let many = |value: Value| Value::Array(vec![value; 1_000]);
        for (value, text) in
            [(1.0.into(), "1.0"), (0.into(), "0"), (Value::Nil, "null"), (128.into(), "128"), ("".into(), "\"\"")]
        {
            let text = format!("[{}]", vec![text; 1_000].join(","));
            let has = |text: &str| map(&[("a", many(value.clone()))]).has(&[("a".to_owned(), text.to_owned())].into());
            assert!(has(&text) && !has("[1.0]") && !has("1"), "{text}");
        }
    }

    #[test]
    fn they_are_an_object_in_json_also_where_php_wrote_a_list() {
        let json = |value: Value| Metadata::from(value).json();
        assert_eq!(json(Value::Array(vec![])), "{}");
        assert_eq!(json(Value::Array(vec![1.into(), Value::Array(vec![2.into()])])), r#"{"0":1,"1":[2]}"#);
        assert_eq!(
            json(Value::Map(vec![("a".into(), f64::NAN.into()), (1.into(), true.into())])),
            r#"{"a":null,"1":true}"#
        );
        assert_eq!(json(Value::Nil), "{}");
    }

    #[test]
    fn they_are_equal_to_themselves_also_with_what_is_no_number() {
        let of = |number: f64| map(&[("x", number.into())]);
        assert_eq!(of(f64::NAN), of(f64::NAN));
        assert_eq!(of(f64::NAN).changed_keys(&of(f64::NAN)), BTreeSet::new());
        let other = map(&[("x", 1.into()), ("y", Value::Nil)]);
        assert_eq!(of(f64::NAN).changed_keys(&other), BTreeSet::from(["x".into(), "y".into()]));
        assert_eq!(other.changed_keys(&map(&[("x", 1.into())])), BTreeSet::from(["y".into()]));
        let twice = |last: i32| map(&[("y", Value::Nil), ("x", 1.into()), ("x", last.into())]);
        assert_eq!(
            [twice(2).changed_keys(&twice(3)), twice(2).changed_keys(&other)],
            [BTreeSet::new(), BTreeSet::new()]
        );
        assert_ne!(of(1.0), of(2.0));
    }
}
