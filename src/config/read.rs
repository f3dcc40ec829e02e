//! Reads a room's settings from the tree; what cannot be read is refused with its key.

use std::collections::btree_map;
use std::fmt;
use std::iter::Enumerate;
use std::path::Path;
use std::slice;

use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::diagnostic::Key;
use super::tree::{Entry, Value};
use crate::{rule, secret};

/// The minimum similarity (of 1) at which a known key is suggested for an unknown one.
const ALIKE: f64 = 0.85;

pub(super) const UNKNOWN: &str = "this version of Roster has no such key";

/// Keys of earlier versions, each with its replacement.
const RENAMED: [(&str, &str); 4] = [
    ("max_waiting_replies", "max_memory"),
    ("max_strangers", "max_unauthenticated"),
    ("max_strangers_per_address", "max_unauthenticated"),
    ("max_waiting_strangers", "max_unauthenticated"),
];

/// An entry with an invalid value or an unknown key.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub(super) struct Refusal {
    pub(super) key: Key,
    pub(super) unknown: bool,
    /// Whether a list was expected.
    pub(super) list: bool,
    pub(super) message: String,
}

impl Refusal {
    fn new(message: String) -> Self {
        Self { key: Key::default(), unknown: false, list: false, message }
    }

    fn within(self, part: impl ToString) -> Self {
        Self { key: self.key.within(part), ..self }
    }
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let list = expected.to_string() == "a sequence";
        Self { list, ..Self::new(format!("expected {}, found {}", wanted(expected), given(found))) }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match found {
            Unexpected::Signed(number) if number < 0 => {
                Self::new(format!("expected {} from 0 on, found {number}", wanted(expected)))
            }
            found => Self::invalid_type(found, expected),
        }
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        let expected: Vec<_> = expected.iter().map(|variant| format!("{variant:?}")).collect();
        Self::new(format!("expected {}, found {found:?}", expected.join(" or ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let likeness = |known: &&&str| (strsim::jaro_winkler(field, known) * 1000.0) as u32;
        let nearest = expected.iter().filter(|known| strsim::jaro_winkler(field, known) >= ALIKE).max_by_key(likeness);
        let successor = RENAMED.iter().find(|(old, new)| *old == field && expected.contains(new));
        let hint = match (successor, nearest) {
            (Some((_, new)), _) => format!("; `{new}` took its place"),
            (None, Some(known)) => format!("; did you mean `{known}`?"),
            (None, None) => String::new(),
        };
        Self { unknown: true, ..Self::new(format!("{UNKNOWN}{hint}")).within(field) }
    }
}

/// What serde and the types expect, in the words of the configuration's readers.
fn wanted(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a duration" => "a duration such as \"30s\" or \"250ms\"".into(),
        "an integer or string" | "parsable string" | "integer overflow" => "a size such as \"64KiB\"".into(),
        "usize" | "u64" | "i64" | "i32" => "a whole number".into(),
        "u8" => "a number from 0 to 255".into(),
        "a sequence" => "a list".into(),
        "path string" => "a string".into(),
        table if table.starts_with("struct ") => "a table".into(),
        other => other.into(),
    }
}

fn given(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Map => "a table".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Signed(number) => number.to_string(),
        other => other.to_string(),
    }
}

impl Entry {
    /// The string, as it was written.
    fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(self.raw.as_ref().unwrap_or(text)),
            Value::Nothing => None,
            _ => self.raw.as_deref(),
        }
    }

    /// The path that it names, if it is neither empty nor the name of a variable; relative to the folder of its file,
    /// or else to the working directory.
    fn absolute_path(&self) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text() else { return Ok(None) };
        if text.is_empty() || secret::variable(Path::new(text)).is_some() {
            return Ok(None);
        }
        let Ok(absolute) = std::path::absolute(self.location.folder().join(text)) else { return Ok(None) };
        match absolute.into_os_string().into_string() {
            Ok(path) => Ok(Some(path)),
            Err(_) => Err(Refusal::new("lies in a folder that is not UTF-8: write an absolute path elsewhere".into())),
        }
    }
}

impl<'de> Deserializer<'de> for &'de Entry {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            // Only the root is ever read when left out: everything is default then.
            Value::Nothing => visitor.visit_map(Entries { rest: btree_map::Iter::default(), next: None }),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), next: None }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.text() {
            Some(text) => visitor.visit_borrowed_str(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        match if name == rule::PATH { self.absolute_path()? } else { None } {
            Some(path) => visitor.visit_newtype_struct(path.into_deserializer()),
            None => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(Refusal::new("expected a string".to_owned())),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de>(Enumerate<slice::Iter<'de, Entry>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some((number, item)) = self.0.find(|(_, item)| item.is_set()) else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|refusal| refusal.within(number))
    }
}

struct Entries<'de> {
    rest: btree_map::Iter<'de, String, Entry>,
    next: Option<(&'de String, &'de Entry)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.next = self.rest.find(|(_, entry)| entry.is_set());
        self.next.map(|(name, _)| seed.deserialize(name.as_str().into_deserializer())).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refusal> {
        let (name, entry) = self.next.take().expect("serde asks for a value after its key");
        seed.deserialize(entry).map_err(|refusal| refusal.within(name))
    }
}
