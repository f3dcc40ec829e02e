//! Nodes of no particular system: `host:port` as a name or as data, or JSON with configured keys.

use super::json::{Json, Object};
use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Undecodable, address, json};
use crate::model::MAX_LABEL_BYTES;

/// The parent of a node is its service; children of the root belong to the root's own service.
pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let (_, above) = parts.split_last()?;
    Located::instance(config.by_path(above), 1)
}

/// None: it only has nodes below it.
pub(super) fn decode(reading: &Reading<'_>) -> Result<Option<Registered>, Undecodable> {
    let text = reading.text()?.trim();
    if text.is_empty() && !reading.name.contains(':') {
        return Ok(None);
    }
    if text.starts_with('{') {
        return by_fields(reading, json::object(text.as_bytes())?).map(Some);
    }
    let by_name = || address::host_and_port(reading.name);
    let at = if text.is_empty() {
        by_name()
    } else {
        address::host_and_port(text).or_else(|error| by_name().map_err(|_| error))
    };
    Ok(Some(Draft::at(endpoint("", at?)).finish(reading)))
}

fn by_fields(reading: &Reading<'_>, object: Object<'_>) -> Result<Registered, Undecodable> {
    let fields = &reading.config.fields;
    let text = |key: &str| found(&object, key).and_then(Json::as_str).filter(|text| text.len() <= MAX_LABEL_BYTES);
    let host = found(&object, &fields.host).and_then(Json::as_str);
    let host = host.ok_or_else(|| Undecodable::NoHostAt(fields.host.clone()))?;
    let at = match found(&object, &fields.port) {
        None | Some(Json::Null) => address::host_and_port(host)?,
        port => (address::host(host)?, json::port(port)?),
    };
    let label = |key: &str| text(key).unwrap_or_default().to_owned();
    let mut draft = Draft::at(endpoint(label(&fields.protocol), at));
    (draft.version, draft.group, draft.zone) = (label(&fields.version), label(&fields.group), label(&fields.zone));
    draft.weight = json::weight(found(&object, &fields.weight)).unwrap_or(draft.weight);
    object.add_to(&mut draft.metadata)?;
    Ok(draft.finish(reading))
}

/// The value of a key, possibly nested: `address.host`.
fn found<'o, 'd>(object: &'o Object<'d>, key: &str) -> Option<&'o Json<'d>> {
    if let Some(whole) = object.get(key) {
        return Some(whole);
    }
    let (first, rest) = key.split_once('.')?;
    found(object.get(first)?.as_object()?, rest)
}
