//! Values, read leniently: PHP peers do not distinguish between strings and binary, nor between an empty list and a
//! map.

pub use rmpv::Value;

/// The value of a map's key. As in PHP, the last of equal keys counts.
pub fn get<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    let pairs = map.as_map()?;
    pairs.iter().rev().find(|(name, _)| is_text(name, key)).map(|(_, value)| value)
}

/// A value read as text: a string, whichever way it was sent, or an integer.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.as_str().map(str::to_owned),
        Value::Binary(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A string in the form that peers handle best: text if it is UTF-8, else binary.
pub fn string(bytes: Vec<u8>) -> Value {
    String::from_utf8(bytes).map_or_else(|error| Value::Binary(error.into_bytes()), Value::from)
}

fn is_text(value: &Value, text: &str) -> bool {
    value.as_slice() == Some(text.as_bytes())
}

/// The text under a key of a map; empty if there is none.
pub fn text_in(map: &Value, key: &str) -> String {
    get(map, key).and_then(text).unwrap_or_default()
}

pub(super) fn bytes_in(map: &Value, key: &str) -> Vec<u8> {
    get(map, key).and_then(Value::as_slice).unwrap_or_default().to_vec()
}

/// The same as [`get`], by value.
pub fn take(map: Value, key: &str) -> Option<Value> {
    let Value::Map(pairs) = map else { return None };
    pairs.into_iter().rev().find(|(name, _)| is_text(name, key)).map(|(_, value)| value)
}

/// Makes every string text if it is UTF-8 and binary if it is not, however it was sent.
pub fn normalize(value: &mut Value) {
    match value {
        Value::String(text) if text.is_err() => *value = Value::Binary(std::mem::replace(text, "".into()).into_bytes()),
        Value::Binary(bytes) => *value = string(std::mem::take(bytes)),
        Value::Array(values) => values.iter_mut().for_each(normalize),
        Value::Map(pairs) => pairs.iter_mut().for_each(|(key, value)| {
            normalize(key);
            normalize(value);
        }),
        _ => {}
    }
}

/// How much memory a value takes.
pub fn memory_size(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.as_bytes().len(),
            Value::Binary(bytes) | Value::Ext(_, bytes) => bytes.len(),
            Value::Array(items) => items.iter().map(memory_size).sum(),
            Value::Map(pairs) => pairs.iter().map(|(key, value)| memory_size(key) + memory_size(value)).sum(),
            _ => 0,
        }
}
