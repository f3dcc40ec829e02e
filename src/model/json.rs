//! Values of masters as JSON.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rmpv::{Value, ValueRef};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The nesting depth that JSON readers accept; serde_json accepts the least.
pub(crate) const MAX_DEPTH: usize = 127;

/// A value: bytes become an object with the key `base64`, NaN and infinities null, and every key a string.
#[derive(Debug)]
pub(crate) struct Json<'a, V>(pub(crate) &'a V);

/// A map. PHP's maps with the keys 0, 1, 2, … and empty ones arrive as lists.
#[derive(Debug)]
pub(super) struct Object<'a>(pub(super) &'a ValueRef<'a>);

/// The JSON text of a value.
pub(crate) fn text(value: &Value) -> String {
    written(&Json(value))
}

pub(super) fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("every key is a text, and a vector takes all")
}

/// Whether this is the JSON text of a value; stops writing at the first difference.
pub(super) fn is_text(value: &ValueRef<'_>, text: &str) -> bool {
    let mut rest = Rest(text.as_bytes());
    serde_json::to_writer(&mut rest, &Json(value)).is_ok() && rest.0.is_empty()
}

/// The expected remainder; accepts nothing else.
struct Rest<'a>(&'a [u8]);

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ValueRef::Map(_) => Json(self.0).serialize(to),
            ValueRef::Array(items) => to.collect_map(items.iter().map(Json).enumerate()),
            _ => to.serialize_map(Some(0))?.end(),
        }
    }
}

/// Owned values and borrowed ones have the same variants.
macro_rules! as_json {
    ($values:ident $(<$borrowed:lifetime>)?) => {
        impl Serialize for Json<'_, $values$(<$borrowed>)?> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    $values::Nil => to.serialize_unit(),
                    $values::Boolean(bool) => to.serialize_bool(*bool),
                    $values::Integer(integer) => match (integer.as_u64(), integer.as_i64()) {
                        (Some(number), _) => to.serialize_u64(number),
                        (_, number) => to.serialize_i64(number.unwrap_or_default()),
                    },
                    $values::F32(number) => to.serialize_f32(*number),
                    $values::F64(number) => to.serialize_f64(*number),
                    $values::String(text) => match text.as_str() {
                        Some(text) => to.serialize_str(text),
                        None => base64(text.as_bytes(), to),
                    },
                    $values::Binary(bytes) | $values::Ext(_, bytes) => base64(bytes, to),
                    $values::Array(items) => to.collect_seq(items.iter().map(Json)),
                    $values::Map(entries) => {
                        let key = |name| match name {
                            &$values::String(ref text) => String::from_utf8_lossy(text.as_bytes()),
                            &$values::Binary(ref bytes) => String::from_utf8_lossy(bytes),
                            other => written(&Json(other)).into(),
                        };
                        to.collect_map(entries.iter().map(|(name, value)| (key(name), Json(value))))
                    }
                }
            }
        }
    };
}

as_json!(Value);
as_json!(ValueRef<'_>);

fn base64<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let mut object = to.serialize_map(Some(1))?;
    object.serialize_entry("base64", &BASE64_STANDARD.encode(bytes))?;
    object.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_go_as_deep_as_is_said_and_no_deeper() {
        let is_read = |depth| {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            serde_json::from_str::<serde_json::Value>(&text).is_ok()
        };
        assert!(is_read(MAX_DEPTH) && !is_read(MAX_DEPTH + 1));
    }
}
