//! Finagle's serversets: `<service>/member_<n>` with JSON, and `<service>/vector_<n>`, which weighs members.

use serde_json::{Map, Value as Json};

use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Rule, Undecodable, json};
use crate::model::{DEFAULT_WEIGHT, Endpoint, MAX_ENDPOINTS};

const MEMBER: &str = "member_";
pub(super) const VECTOR: &str = "vector_";

/// The most entries of a vector.
const MAX_ENTRIES: usize = 1_024;

/// By what a member is weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector(Vec<(Select, f64)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Select {
    /// `host:port`
    Inet(String),
    Member(String),
    Shard(i64),
}

pub(super) fn locate(config: &Config, parts: &[&str]) -> Option<Located> {
    let (name, above) = parts.split_last()?;
    if name.starts_with(MEMBER) {
        Located::instance(config.by_path(above), 1)
    } else if name.starts_with(VECTOR) {
        Located::rule(config.by_path(above), 1)
    } else {
        None
    }
}

pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let mut object = json::object(&reading.node.data)?;
    let Some(Json::Object(service)) = object.remove("serviceEndpoint") else { return Err(Undecodable::NoHost) };
    let main = endpoint("", json::host_and_port(&service, "host", "port")?);
    let shard = object.get("shard").and_then(Json::as_i64);
    let weight = weight(reading.rules, reading.name, &main, shard);
    let mut draft = Draft::at(main).up_if(json::text(&object, "status") == "ALIVE");
    draft.weight = weight;
    if let Some(Json::Object(others)) = object.remove("additionalEndpoints") {
        draft.endpoints.extend(others.iter().filter_map(additional).take(MAX_ENDPOINTS - 1));
    }
    if let Some(Json::Object(metadata)) = object.remove("metadata") {
        draft.metadata = json::metadata(metadata)?;
    }
    if let Some(shard) = shard {
        draft.add("shard", shard);
    }
    Ok(draft.finish(reading))
}

/// One that cannot be read is left out: the service itself can be reached without it.
fn additional((name, it): (&String, &Json)) -> Option<Endpoint> {
    let at = json::host_and_port(it.as_object()?, "host", "port").ok()?;
    Some(Endpoint { name: name.clone(), ..endpoint("", at) })
}

pub(super) fn rule(data: &[u8]) -> Result<Vector, Undecodable> {
    let mut object = json::object(data)?;
    let Some(Json::Array(entries)) = object.remove("vector") else { return Err(Undecodable::NotJson) };
    let entries = entries.iter().take(MAX_ENTRIES).filter_map(|it| selected(it.as_object()?));
    Ok(Vector(entries.collect()))
}

fn selected(entry: &Map<String, Json>) -> Option<(Select, f64)> {
    let weight = entry.get("weight").map_or(Some(1.0), Json::as_f64).filter(|weight| *weight >= 0.0)?;
    let select = match json::text(entry, "select").split_once('=')? {
        ("inet", address) => Select::Inet(address.to_owned()),
        ("member", name) => Select::Member(name.to_owned()),
        ("shard", number) => Select::Shard(number.parse().ok()?),
        _ => return None,
    };
    Some((select, weight))
}

/// What all entries that match weigh together.
fn weight(rules: &[Rule], member: &str, at: &Endpoint, shard: Option<i64>) -> u32 {
    let address = at.address();
    let entries = rules.iter().flat_map(|rule| match rule {
        Rule::Vector(Vector(entries)) => entries.as_slice(),
        _ => &[],
    });
    let matching = entries.filter(|(select, _)| match select {
        Select::Inet(inet) => *inet == address,
        Select::Member(name) => name == member,
        Select::Shard(number) => Some(*number) == shard,
    });
    // Not infinite, of which no part would be nothing.
    let product = matching.fold(1.0, |product: f64, (_, weight)| (product * weight).min(f64::MAX));
    let weight = (product * f64::from(DEFAULT_WEIGHT)).min(f64::from(i32::MAX));
    // What is not nothing weighs something.
    if weight > 0.0 { (weight as u32).max(1) } else { 0 }
}
