//! JSON of registrations: objects of limited depth.

use rmpv::Value;
use serde_json::{Map, Value as Json};

use super::{Undecodable, address};

/// The deepest nesting of what is kept of it.
pub(super) const MAX_DEPTH: usize = 32;

/// The object in the data. If a key appears twice, the last one wins.
pub(super) fn object(data: &[u8]) -> Result<Map<String, Json>, Undecodable> {
    match serde_json::from_slice(data) {
        Ok(Json::Object(object)) => Ok(object),
        _ => Err(Undecodable::NotJson),
    }
}

/// The entries of an object as metadata, without nulls.
pub(super) fn metadata(object: Map<String, Json>) -> Result<Vec<(Value, Value)>, Undecodable> {
    let entries = object.into_iter().filter(|(_, value)| !value.is_null());
    entries.map(|(key, json)| Ok((key.into(), value(json, MAX_DEPTH)?))).collect()
}

fn value(json: Json, depth: usize) -> Result<Value, Undecodable> {
    let depth = depth.checked_sub(1).ok_or(Undecodable::TooDeep)?;
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(bool) => bool.into(),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().unwrap_or_default().into(),
        },
        Json::String(text) => text.into(),
        Json::Array(items) => {
            let items: Result<Vec<_>, _> = items.into_iter().map(|item| value(item, depth)).collect();
            Value::Array(items?)
        }
        Json::Object(object) => {
            let entry = |(key, json): (String, Json)| value(json, depth).map(|value| (key.into(), value));
            let entries: Result<Vec<_>, _> = object.into_iter().map(entry).collect();
            Value::Map(entries?)
        }
    })
}

/// The string under a key; empty if there is none.
pub(super) fn text<'o>(object: &'o Map<String, Json>, key: &str) -> &'o str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// The host and the port under these keys; the port may be a number or a string.
pub(super) fn host_and_port(object: &Map<String, Json>, host: &str, port: &str) -> Result<(String, u16), Undecodable> {
    Ok((address::host(text(object, host))?, self::port(object.get(port))?))
}

pub(super) fn port(json: Option<&Json>) -> Result<u16, Undecodable> {
    match json {
        Some(Json::Number(number)) => address::port(&number.to_string()),
        Some(Json::String(text)) => address::port(text),
        _ => Err(Undecodable::NoPort),
    }
}

/// A weight, as a number or a string.
pub(super) fn weight(json: Option<&Json>) -> Option<u32> {
    let weight = json?.as_u64().or_else(|| json?.as_str()?.parse().ok())?;
    u32::try_from(weight).ok().filter(|weight| i32::try_from(*weight).is_ok())
}
