//! Motan: `/motan/<group>/<service>/{server,unavailableServer}/<host:port>`, whose data is a URL as plain text or as a
//! serialized Java string.

use super::registered::{Draft, endpoint};
use super::url::Url;
use super::{Located, Reading, Registered, Undecodable, address};
use crate::model::weight_of;

/// The port of a host without one.
const DEFAULT_PORT: u16 = 80;

/// The header of a Java object stream.
const STREAM: [u8; 4] = [0xac, 0xed, 0x00, 0x05];

/// The tag of a string: with its length in 2 bytes, or in 8.
const SHORT_STRING: u8 = 0x74;
const LONG_STRING: u8 = 0x7c;

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        [_, service, "server" | "unavailableServer", _] => Located::instance(*service, 1),
        _ => None,
    }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let [group, _, category, name] = reading.parts else { return Err(Undecodable::Malformed) };
    let text = string(&reading.node.data).unwrap_or_default();
    let url = Url::parse(text).ok().filter(|url| url.port.is_some());
    let mut draft = match &url {
        Some(url) => Draft::at(endpoint(url.protocol, url.host_and_port()?)),
        // Motan's clients use the name then.
        None => Draft::at(endpoint("", by_name(name)?)),
    };
    draft.group = (*group).to_owned();
    for (key, value) in url.iter().flat_map(|url| url.parameters.iter()) {
        draft.metadata.add(key, value);
    }
    if let Some(url) = &url {
        draft.version = url.parameter("version").to_owned();
        draft.weight = url.parameter("weights").parse().ok().and_then(weight_of).unwrap_or(draft.weight);
    }
    Ok(draft.up_if(*category == "server").finish(reading))
}

fn by_name(name: &str) -> Result<(String, u16), Undecodable> {
    match address::host_and_port(name) {
        Err(Undecodable::NoPort) if !name.contains(':') => Ok((address::host(name)?, DEFAULT_PORT)),
        result => result,
    }
}

/// A string, either plain or serialized by Java.
fn string(data: &[u8]) -> Option<&str> {
    let bytes = match data.strip_prefix(&STREAM) {
        None => data,
        Some(rest) => {
            let (kind, rest) = rest.split_first()?;
            let (length, bytes) = match *kind {
                SHORT_STRING => {
                    rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))
                }
                LONG_STRING => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest)),
                _ => None,
            }?;
            bytes.get(..usize::try_from(length).ok()?)?
        }
    };
    std::str::from_utf8(bytes).ok()
}
