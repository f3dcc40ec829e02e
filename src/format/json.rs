//! JSON of registrations: objects of limited depth, whose texts are borrowed from the data where they stand in it as they
//! are.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use rmp::encode::{
    write_array_len, write_bool, write_f64, write_map_len, write_nil, write_sint, write_str, write_uint,
};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::{Undecodable, address};
use crate::model::{MetadataWriter, weight_of};

/// The deepest nesting of what is kept of it.
pub(super) const MAX_DEPTH: usize = 32;

/// The object of a registration has no more keys as a rule: there is room for them at once.
const USUAL_KEYS: usize = 12;

/// Up to this many keys are compared with each other, which is faster than hashing them.
const FEW_KEYS: usize = 32;

/// What is written into a vector.
const TAKES_ALL: &str = "a vector takes all";

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
    let mut data = serde_json::Deserializer::from_slice(data);
    let json = data.deserialize_any(AnyVisitor { keys: USUAL_KEYS }).ok()?;
    data.end().ok().map(|()| json)
}

/// The object in the data.
pub(super) fn object(data: &[u8]) -> Result<Object<'_>, Undecodable> {
    match read(data) {
        Some(Json::Object(object)) => Ok(object),
        _ => Err(Undecodable::NotJson),
    }
}

/// The values under these keys of the object in the data. What is under other keys is passed over.
pub(super) fn parts<'d, const N: usize>(data: &'d [u8], keys: [&str; N]) -> Result<[Option<Part<'d>>; N], Undecodable> {
    let mut data = serde_json::Deserializer::from_slice(data);
    let parts = data.deserialize_map(Parts(keys)).map_err(|_| Undecodable::NotJson)?;
    data.end().map(|()| parts).map_err(|_| Undecodable::NotJson)
}

/// A value that was not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'d>(&'d RawValue);

impl<'d> Part<'d> {
    pub(super) fn read(self) -> Result<Json<'d>, Undecodable> {
        read(self.0.get().as_bytes()).ok_or(Undecodable::NotJson)
    }

    /// The values under these keys, if it is an object.
    pub(super) fn parts<const N: usize>(self, keys: [&str; N]) -> Option<[Option<Part<'d>>; N]> {
        parts(self.0.get().as_bytes(), keys).ok()
    }

    /// The first item, if it is an array.
    pub(super) fn first(self) -> Option<Json<'d>> {
        serde_json::Deserializer::from_str(self.0.get()).deserialize_seq(First).ok().flatten()
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

    /// Writes it as MessagePack.
    fn pack(&self, to: &mut Vec<u8>, depth: usize) -> Result<(), Undecodable> {
        let depth = depth.checked_sub(1).ok_or(Undecodable::TooDeep)?;
        match self {
            Json::Null => write_nil(to).expect(TAKES_ALL),
            Json::Bool(bool) => write_bool(to, *bool).expect(TAKES_ALL),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => drop(write_uint(to, number).expect(TAKES_ALL)),
                (_, Some(number)) => drop(write_sint(to, number).expect(TAKES_ALL)),
                _ => write_f64(to, number.as_f64().unwrap_or_default()).expect(TAKES_ALL),
            },
            Json::Text(text) => write_str(to, text).expect(TAKES_ALL),
            Json::Array(items) => {
                write_array_len(to, items.len() as u32).expect(TAKES_ALL);
                items.iter().try_for_each(|item| item.pack(to, depth))?;
            }
            Json::Object(Object(entries)) => {
                write_map_len(to, entries.len() as u32).expect(TAKES_ALL);
                for (key, json) in entries {
                    write_str(to, key).expect(TAKES_ALL);
                    json.pack(to, depth)?;
                }
            }
        }
        Ok(())
    }
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

    /// Adds the entries to metadata, but nulls.
    pub(super) fn add_to(&self, metadata: &mut MetadataWriter) -> Result<(), Undecodable> {
        let mut entries = self.iter().filter(|(_, value)| !value.is_null());
        entries.try_for_each(|(key, value)| value.pack(metadata.value_of(key), MAX_DEPTH))
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
    weight_of(match json? {
        Json::Number(number) => number.as_f64()?,
        json => json.as_str()?.parse().ok()?,
    })
}

impl<'d> Deserialize<'d> for Json<'d> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor { keys: 0 })
    }
}

/// Any value; a key is always a text.
struct AnyVisitor {
    /// For how many keys there is room from the beginning. None in what is nested: a small node may nest many objects.
    keys: usize,
}

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
        let mut entries = Vec::with_capacity(self.keys);
        while let Some((Key(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Json::Object(Object::of(entries)))
    }
}

struct Parts<'k, const N: usize>([&'k str; N]);

impl<'d, const N: usize> Visitor<'d> for Parts<'_, N> {
    type Value = [Option<Part<'d>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts = [None; N];
        while let Some(Key(key)) = map.next_key()? {
            match self.0.iter().position(|wanted| *wanted == key) {
                Some(number) => parts[number] = Some(Part(map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(parts)
    }
}

struct First;

impl<'d> Visitor<'d> for First {
    type Value = Option<Json<'d>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let first = sequence.next_element()?;
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

struct Key<'d>(Cow<'d, str>);

impl<'d> Deserialize<'d> for Key<'d> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(AnyVisitor { keys: 0 })? {
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
            let mut packed = Vec::new();
            let own = own.map(|json| json.pack(&mut packed, MAX_DEPTH).expect(text));
            let own = own.map(|()| rmpv::decode::read_value(&mut &*packed).expect(text));
            let of_crate = of_crate.map(|json| serde_json::from_value::<rmpv::Value>(json).expect(text));
            assert_eq!(own, of_crate, "{text}");
        }
        let data = br#"{"a":"x","b":"y\t"}"#;
        let object = object(data).expect("an object");
        assert!(matches!(object.get("a"), Some(Json::Text(Cow::Borrowed("x")))), "{object:?}");
        assert_eq!(object.text("b"), "y\t");
    }
    #[test]
    fn only_what_is_wanted_is_read() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let data = format!(r#"{{"a":1,"\u0062":"x","other":{deep},"list":[{{"c":2}},{deep}],"deep":{deep},"a":null}}"#);
        let [a, b, list, deep, none] = parts(data.as_bytes(), ["a", "b", "list", "deep", "none"]).expect("an object");
        assert!(none.is_none() && a.expect("it is there").read() == Ok(Json::Null));
        assert_eq!(b.expect("it is there").read(), Ok(Json::Text("x".into())));
        let list = list.expect("it is there");
        let first = list.first();
        assert_eq!(first.as_ref().and_then(Json::as_object).and_then(|it| it.get("c")), Some(&Json::Number(2.into())));
        assert!(list.parts(["c"]).is_none() && b.is_some_and(|b| b.first().is_none()));
        assert_eq!(deep.expect("it is there").read(), Err(Undecodable::NotJson), "readers do not go so deep");
        for text in ["[]", "1", "", "{", r#"{"a":}"#, r#"{"a":1}x"#, r#"{"other":[}"#] {
            assert_eq!(parts(text.as_bytes(), ["a"]).map(|_| ()), Err(Undecodable::NotJson), "{text}");
        }
    }
}
