//! JSON of registrations: objects of limited depth, whose texts are borrowed from the data where they stand in it as they
//! are.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use rmpv::Value;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::{Undecodable, address};

/// The deepest nesting of what is kept of it.
pub(super) const MAX_DEPTH: usize = 32;

/// Up to this many keys are compared with each other, which is faster than hashing them.
const FEW_KEYS: usize = 32;

#[derive(Debug, PartialEq)]
pub(super) enum Json<'d> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'d, str>),
    Array(Vec<Json<'d>>),
    Object(Object<'d>),
}

/// Each key once, in the order of the data.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Object<'d>(Vec<(Cow<'d, str>, Json<'d>)>);

/// The value in the data; None: they are no JSON.
pub(super) fn read(data: &[u8]) -> Option<Json<'_>> {
    serde_json::from_slice(data).ok()
}

/// The object in the data.
pub(super) fn object(data: &[u8]) -> Result<Object<'_>, Undecodable> {
    match read(data) {
        Some(Json::Object(object)) => Ok(object),
        _ => Err(Undecodable::NotJson),
    }
}

impl<'d> Json<'d> {
    pub(super) fn is_null(&self) -> bool {
        *self == Json::Null
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        if let Json::Bool(bool) = self { Some(*bool) } else { None }
    }

    pub(super) fn as_number(&self) -> Option<&Number> {
        if let Json::Number(number) = self { Some(number) } else { None }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn as_array(&self) -> Option<&[Json<'d>]> {
        if let Json::Array(items) = self { Some(items) } else { None }
    }

    pub(super) fn as_object(&self) -> Option<&Object<'d>> {
        if let Json::Object(object) = self { Some(object) } else { None }
    }

    fn into_value(self, depth: usize) -> Result<Value, Undecodable> {
        let depth = depth.checked_sub(1).ok_or(Undecodable::TooDeep)?;
        Ok(match self {
            Json::Null => Value::Nil,
            Json::Bool(bool) => bool.into(),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => number.into(),
                (_, Some(number)) => number.into(),
                _ => number.as_f64().unwrap_or_default().into(),
            },
            Json::Text(text) => text.into_owned().into(),
            Json::Array(items) => {
                Value::Array(items.into_iter().map(|item| item.into_value(depth)).collect::<Result<_, _>>()?)
            }
            Json::Object(Object(entries)) => {
                let entry =
                    |(key, json): (Cow<'_, str>, Json<'_>)| json.into_value(depth).map(|value| (text(key), value));
                Value::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
            }
        })
    }
}

fn text(text: Cow<'_, str>) -> Value {
    text.into_owned().into()
}

impl<'d> Object<'d> {
    /// If a key appears twice, the last value counts.
    fn of(entries: Vec<(Cow<'d, str>, Json<'d>)>) -> Self {
        let is_repeated = |number: usize| entries[..number].iter().any(|(key, _)| *key == entries[number].0);
        if entries.len() <= FEW_KEYS && !(1..entries.len()).any(is_repeated) {
            return Self(entries);
        }
        Self(entries.into_iter().collect::<IndexMap<_, _>>().into_iter().collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&Json<'d>> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The string under a key; empty if there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Json::as_str).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'d>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Json<'d>> {
        let number = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(number).1)
    }

    /// The same with one more key.
    pub(super) fn with(mut self, key: &'static str, value: Json<'d>) -> Self {
        self.remove(key);
        self.0.push((key.into(), value));
        self
    }

    /// The entries as metadata, without nulls.
    pub(super) fn into_metadata(self) -> Result<Vec<(Value, Value)>, Undecodable> {
        let mut metadata = Vec::with_capacity(self.0.len());
        for (key, json) in self.0.into_iter().filter(|(_, value)| !value.is_null()) {
            metadata.push((text(key), json.into_value(MAX_DEPTH)?));
        }
        Ok(metadata)
    }

    /// The host and the port under these keys; the port may be a number or a string.
    pub(super) fn host_and_port(&self, host: &str, port: &str) -> Result<(String, u16), Undecodable> {
        Ok((address::host(self.text(host))?, self::port(self.get(port))?))
    }
}

pub(super) fn port(json: Option<&Json<'_>>) -> Result<u16, Undecodable> {
    match json {
        Some(Json::Number(number)) => {
            let port = number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
            port.ok_or(Undecodable::NoPort)
        }
        Some(Json::Text(text)) => address::port(text),
        _ => Err(Undecodable::NoPort),
    }
}

/// A weight, as a number or a string.
pub(super) fn weight(json: Option<&Json<'_>>) -> Option<u32> {
    let weight = match json? {
        Json::Number(number) => number.as_u64(),
        json => json.as_str()?.parse().ok(),
    };
    weight.and_then(|weight| u32::try_from(weight).ok()).filter(|weight| i32::try_from(*weight).is_ok())
}

impl<'d> Deserialize<'d> for Json<'d> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

/// Any value; a key is always a text.
struct AnyVisitor;

impl<'d> Visitor<'d> for AnyVisitor {
    type Value = Json<'d>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'d>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, bool: bool) -> Result<Json<'d>, E> {
        Ok(Json::Bool(bool))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json<'d>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json<'d>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json<'d>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'d str) -> Result<Json<'d>, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json<'d>, E> {
        Ok(Json::Text(text.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut sequence: A) -> Result<Json<'d>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Json<'d>, A::Error> {
        let mut entries = Vec::new();
        while let Some((Key(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Json::Object(Object::of(entries)))
    }
}

struct Key<'d>(Cow<'d, str>);

impl<'d> Deserialize<'d> for Key<'d> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(AnyVisitor)? {
            Json::Text(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a key is a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_by_the_crate_and_the_last_value_of_a_key_counts() {
        let many: String = (0..100).map(|n| format!(r#","k{}":{n}"#, n % 40)).collect();
        for text in [
            r#"{"b":1,"a":[-1,0.5,true,null,"x\ny","ü"],"c\u0041":{"d":{}},"e":18446744073709551615,"f":1e300}"#,
            r#"{"a":1,"b":2,"a":{"a":3,"a":4},"c":null}"#,
            &format!(r#"{{"a":1{many}}}"#),
            r#"{"a":1e999}"#,
            r#"{"a":1}x"#,
            r#"{"a"}"#,
            r#"{1:2}"#,
            "{",
            "",
            &"[".repeat(200),
        ] {
            let (own, of_crate) = (read(text.as_bytes()), serde_json::from_str::<serde_json::Value>(text).ok());
            let own = own.map(|json| json.into_value(MAX_DEPTH).expect(text));
            let of_crate = of_crate.map(|json| serde_json::from_value::<Value>(json).expect(text));
            assert_eq!(own, of_crate, "{text}");
        }
        let data = br#"{"a":"x","b":"y\t"}"#;
        let object = object(data).expect("an object");
        assert!(matches!(object.get("a"), Some(Json::Text(Cow::Borrowed("x")))), "{object:?}");
        assert_eq!(object.text("b"), "y\t");
    }
}
