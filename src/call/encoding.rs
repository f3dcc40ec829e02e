//! Encodings: converts between the JSON or MessagePack of clients and the values of masters.

use std::cell::Cell;
use std::fmt;

use indexmap::IndexMap;
use rmpv::Value;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::model::json::Json;
use crate::tunnel::frame::MAX_COMMAND_VALUES;

/// The deepest nesting of a client's value, which is the limit of the JSON reader.
const MAX_DEPTH: usize = 128;

/// The most values in one, including containers: as many as a master reads in one message.
const MAX_VALUES: usize = MAX_COMMAND_VALUES;

/// How a client encodes values, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    MsgPack,
}

impl Encoding {
    /// Decodes one value. A JSON integer beyond 64 bits becomes a float.
    pub fn read(self, bytes: &[u8]) -> Result<Value, String> {
        match self {
            Self::Json => read_json(bytes),
            Self::MsgPack => read_msgpack(bytes),
        }
    }

    /// Encodes one value, or says why it cannot be encoded.
    pub fn write(self, value: &Value) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        match self {
            Self::MsgPack => rmpv::encode::write_value(&mut bytes, value).expect("a vector takes all"),
            Self::Json if is_json(value) => {
                serde_json::to_writer(&mut bytes, &Json(value)).expect("every key is a text, and a vector takes all");
            }
            Self::Json => return Err("it gave NaN or INF, which JSON does not have; ask for MSGPACK".into()),
        }
        Ok(bytes)
    }
}

fn read_json(bytes: &[u8]) -> Result<Value, String> {
    let (left, mut document) = (Cell::new(MAX_VALUES), serde_json::Deserializer::from_slice(bytes));
    let value = FromJson(Count(&left)).deserialize(&mut document);
    let value = value.and_then(|value| document.end().map(|()| value));
    // Every JSON document is a value, so a data error means that it is too large.
    value.map_err(|error| if error.is_data() { too_many() } else { format!("no JSON: {error}") })
}

fn read_msgpack(bytes: &[u8]) -> Result<Value, String> {
    // A decoded value takes up to 40 times its encoded bytes. Each has at least one byte.
    if bytes.len() > MAX_VALUES && count(bytes) > MAX_VALUES {
        return Err(too_many());
    }
    let mut rest = bytes;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH);
    let value = value.map_err(|error| format!("no MessagePack: {error}"))?;
    if rest.is_empty() { Ok(value) } else { Err("no MessagePack: something follows the value".into()) }
}

/// Whether JSON can represent all of its numbers.
fn is_json(value: &Value) -> bool {
    match value {
        Value::F32(number) => number.is_finite(),
        Value::F64(number) => number.is_finite(),
        Value::Array(values) => values.iter().all(is_json),
        Value::Map(pairs) => pairs.iter().all(|(_, value)| is_json(value)),
        _ => true,
    }
}

fn too_many() -> String {
    format!("more than {MAX_VALUES} values")
}

/// Counts MessagePack values, stopping one beyond the limit or at what cannot be read.
fn count(bytes: &[u8]) -> usize {
    let left = Cell::new(MAX_VALUES + 1);
    let mut bytes = rmp_serde::Deserializer::from_read_ref(bytes);
    bytes.set_max_depth(MAX_DEPTH);
    // Errors are reported when the values are read.
    let _ = Count(&left).deserialize(&mut bytes);
    MAX_VALUES + 1 - left.get()
}

/// Counts the values it visits, down from what is left.
#[derive(Clone, Copy)]
struct Count<'a>(&'a Cell<usize>);

impl Count<'_> {
    fn one<E: de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<(), E> {
        self.one()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, extension: D) -> Result<(), D::Error> {
        extension.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.one()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        self.one()?;
        while pairs.next_key_seed(self)?.is_some() {
            pairs.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// Decodes a JSON value for a master, and counts the values.
#[derive(Clone, Copy)]
struct FromJson<'a>(Count<'a>);

impl<'de> DeserializeSeed<'de> for FromJson<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FromJson<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.one()?;
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.one()?;
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.one()?;
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.one()?;
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.one()?;
        Ok(value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.0.one()?;
        Ok(Value::Nil)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.one()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        list.shrink_to_fit();
        Ok(Value::Array(list))
    }

    /// Of two entries with the same key the last wins, as in PHP.
    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        self.0.one()?;
        let mut entries = IndexMap::new();
        while let Some(key) = pairs.next_key::<String>()? {
            self.0.one()?;
            entries.insert(key, pairs.next_value_seed(self)?);
        }
        let mut entries: Vec<(Value, Value)> = entries.into_iter().map(|(key, value)| (key.into(), value)).collect();
        entries.shrink_to_fit();
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::text;

    fn json(text: &str) -> Value {
        Encoding::Json.read(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn json_comes_back_as_it_went() {
        for json_text in [
            r#"{"z":1,"a":[null,true,-9223372036854775808,9223372036854775807,18446744073709551615],"":{}}"#,
            r#"["x'); system('rm -rf /'); //","$a\u0000\"",1.5,1e300,-0.1,"😀",[[[]]],1.0]"#,
            "[]",
        ] {
            assert_eq!(text(&json(json_text)), json_text.replace("1e300", "1e+300"), "{json_text}");
        }
    }

    #[test]
    fn of_two_entries_with_one_key_the_last_stands() {
        assert_eq!(json(r#"{"a":1,"b":2,"a":{"c":3,"c":4}}"#), json(r#"{"a":{"c":4},"b":2}"#));
    }

    #[test]
    fn message_pack_comes_back_as_it_went() {
        let value = Value::Map(vec![
            (7.into(), Value::Binary(vec![0, 0xff])),
            ("big".into(), u64::MAX.into()),
            (Value::Nil, Value::Array(vec![i64::MIN.into(), Value::F32(0.5), Value::Ext(3, vec![1])])),
        ]);
        let bytes = Encoding::MsgPack.write(&value).expect("MessagePack has all");
        assert_eq!(Encoding::MsgPack.read(&bytes), Ok(value));
        assert!(Encoding::MsgPack.read(&[&bytes[..], &[0xc0]].concat()).is_err(), "something follows");
        assert!(Encoding::MsgPack.read(&bytes[..bytes.len() - 1]).is_err(), "something is missing");
    }

    #[test]
    fn a_result_that_json_does_not_have_is_an_error_and_not_null() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = Value::Map(vec![("a".into(), Value::Array(vec![number.into(), Value::F32(number as f32)]))]);
            assert!(Encoding::Json.write(&value).expect_err("no JSON").contains("INF"));
            assert!(Encoding::MsgPack.write(&value).is_ok());
        }
    }

    #[test]
    fn what_json_lacks_is_written_as_it_can_be() {
        let broken = rmpv::decode::read_value(&mut &[0xa1, 0xff][..]).expect("a str that is not UTF-8");
        let value = Value::Map(vec![
            (1.into(), Value::Binary(b"text".to_vec())),
            (true.into(), f64::NAN.into()),
            (Value::Array(vec![1.into()]), f64::INFINITY.into()),
            (Value::Binary(b"k".to_vec()), broken),
        ]);
        assert_eq!(text(&value), r#"{"1":{"base64":"dGV4dA=="},"true":null,"[1]":null,"k":{"base64":"/w=="}}"#);
    }

    #[test]
    fn very_many_values_are_refused_before_they_are_decoded() {
        let list = |items: usize| format!("[{}0]", "0,".repeat(items - 1));
        assert!(Encoding::Json.read(list(MAX_VALUES - 1).as_bytes()).is_ok());
        let refused = Encoding::Json.read(list(MAX_VALUES).as_bytes()).expect_err("too many");
        assert!(refused.contains("65536 values"), "{refused}");
        let packed = |items: usize| {
            let items = vec![Value::Nil; items];
            let values = Value::Array(vec![Value::Array(items), Value::Map(vec![(1.into(), Value::Nil)])]);
            Encoding::MsgPack.write(&values).expect("MessagePack has all")
        };
        assert!(Encoding::MsgPack.read(&packed(MAX_VALUES - 5)).is_ok());
        assert!(Encoding::MsgPack.read(&packed(MAX_VALUES - 4)).is_err());
        assert!(Encoding::Json.read(format!("[\"{}\"]", ",".repeat(MAX_VALUES * 2)).as_bytes()).is_ok());
        let extension = Value::Array(vec![Value::Ext(1, vec![0; MAX_VALUES * 2])]);
        let packed = Encoding::MsgPack.write(&extension).expect("MessagePack has all");
        assert!(Encoding::MsgPack.read(&packed).is_ok());
    }

    #[test]
    fn no_nesting_and_no_length_costs_more_than_its_bytes() {
        assert!(Encoding::Json.read("[".repeat(100_000).as_bytes()).is_err());
        assert!(Encoding::MsgPack.read(&[0x91].repeat(100_000)).is_err());
        assert!(Encoding::MsgPack.read(&[0xdd, 0xff, 0xff, 0xff, 0xff].repeat(50)).is_err());
        assert!(Encoding::MsgPack.read(&[0xc6, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
