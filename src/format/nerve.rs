//! Nerve, of SmartStack: `<service>/<id>_<n>` with JSON, or with the JSON in the name: `base64_<length>_<base64>_<n>`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;

use super::json::Json;
use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Undecodable, json};

const ENCODED: &str = "base64_";

pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let (name, above) = parts.split_last()?;
    let number = name.rsplit_once('_')?.1;
    let is_numbered = number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_numbered { Located::instance(config.by_path(above), 1) } else { None }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let in_name = reading.name.strip_prefix(ENCODED).map(decoded).transpose()?;
    let mut object = json::object(in_name.as_deref().unwrap_or(&reading.node.data))?;
    let mut draft = Draft::at(endpoint("", object.host_and_port("host", "port")?));
    draft.weight = json::weight(object.get("weight")).unwrap_or(draft.weight);
    ["host", "port", "weight"].iter().for_each(|key| drop(object.remove(key)));
    if let Some(Json::Object(labels)) = object.remove("labels") {
        draft.zone = labels.text("zone").to_owned();
        labels.add_to(&mut draft.metadata)?;
        labels.iter().filter(|(_, value)| !value.is_null()).for_each(|(label, _)| drop(object.remove(label)));
    }
    object.add_to(&mut draft.metadata)?;
    Ok(draft.finish(reading))
}

/// Takes as many characters as its length says, since this base64 alphabet contains `_`.
fn decoded(encoded: &str) -> Result<Vec<u8>, Undecodable> {
    let (length, rest) = encoded.split_once('_').ok_or(Undecodable::NotBase64)?;
    let length: usize = length.parse().map_err(|_| Undecodable::NotBase64)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Undecodable::NotBase64)?;
    if !after.starts_with('_') {
        return Err(Undecodable::NotBase64);
    }
    BASE64_URL_SAFE.decode(text).map_err(|_| Undecodable::NotBase64)
}
