//! Kafka brokers: `brokers/ids/<number>` with JSON.

use super::json::Json;
use super::registered::{Draft, endpoint};
use super::url::Url;
use super::{Config, Located, Reading, Registered, Undecodable, json};
use crate::model::{Endpoint, MAX_ENDPOINTS};

const DEFAULT_NAME: &str = "kafka";

pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let ([.., "ids", number] | [number]) = parts else { return None };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let name = if config.name.is_empty() { DEFAULT_NAME } else { &config.name };
    if is_number { Located::instance(name, 1) } else { None }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let mut object = json::object(&reading.node.data)?;
    let listed = object.remove("endpoints");
    let texts = listed.as_ref().and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let listed = texts.filter_map(listener).take(MAX_ENDPOINTS);
    // If there are listeners, `host` and `port` repeat the one without TLS, if any.
    let mut endpoints: Vec<Endpoint> = listed.collect();
    if endpoints.is_empty() {
        endpoints.push(endpoint("", object.host_and_port("host", "port")?));
    }
    let mut draft = Draft::of(endpoints);
    draft.zone = object.text("rack").to_owned();
    ["host", "port", "features"].iter().for_each(|key| drop(object.remove(key)));
    object.add_to(&mut draft.metadata)?;
    draft.metadata.add("broker", reading.name);
    Ok(draft.finish(reading))
}

/// `PLAINTEXT://10.0.0.9:9092`: a listener and its name, which also serves as the protocol.
fn listener(text: &str) -> Option<Endpoint> {
    let url = Url::parse(text).ok()?;
    Some(endpoint(url.protocol.to_ascii_lowercase(), url.host_and_port().ok()?))
}
