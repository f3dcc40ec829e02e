//! Finagle's serversets: `<service>/member_<n>` with JSON, and `<service>/vector_<n>`, which sets weights of members.

use std::collections::HashMap;

use rmp::encode::write_sint;

use super::json::{Json, Object};
use super::registered::{Draft, endpoint};
use super::{Config, Located, Reading, Registered, Rule, Undecodable, json};
use crate::model::{DEFAULT_WEIGHT, Endpoint, MAX_ENDPOINTS, weight_of};

const MEMBER: &str = "member_";
pub(super) const VECTOR: &str = "vector_";

/// The most entries of a vector, and the most bytes of its data: they are read again with each member that changes.
const MAX_ENTRIES: usize = 1_024;
const MAX_VECTOR_BYTES: usize = 64 << 10;

/// Weights by selector: there may be many.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector(HashMap<Select, f64>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    let main = endpoint("", service.host_and_port("host", "port")?);
    let shard = object.get("shard").and_then(|shard| shard.as_number()?.as_i64());
    let weight = weight(reading.rules, reading.name, &main, shard);
    let mut draft = Draft::at(main).up_if(object.text("status") == "ALIVE");
    draft.weight = weight;
    if let Some(Json::Object(others)) = object.remove("additionalEndpoints") {
        draft.endpoints.extend(others.iter().filter_map(additional).take(MAX_ENDPOINTS - 1));
    }
    if let Some(Json::Object(metadata)) = object.remove("metadata") {
        metadata.add_to(&mut draft.metadata)?;
    }
    if let Some(shard) = shard {
        write_sint(draft.metadata.value_of("shard"), shard).expect("a vector takes all");
    }
    Ok(draft.finish(reading))
}

/// One that cannot be read is omitted: the service itself can be reached without it.
fn additional((name, it): (&str, &Json<'_>)) -> Option<Endpoint> {
    let at = it.as_object()?.host_and_port("host", "port").ok()?;
    Some(Endpoint { name: name.to_owned(), ..endpoint("", at) })
}

pub(super) fn rule(data: &[u8]) -> Result<Vector, Undecodable> {
    if data.len() > MAX_VECTOR_BYTES {
        return Err(Undecodable::TooLong(MAX_VECTOR_BYTES));
    }
    let mut object = json::object(data)?;
    let Some(Json::Array(entries)) = object.remove("vector") else { return Err(Undecodable::NotJson) };
    let mut weights = HashMap::new();
    for (select, weight) in entries.iter().take(MAX_ENTRIES).filter_map(|it| selected(it.as_object()?)) {
        let known = weights.entry(select).or_insert(1.0);
        *known = times(*known, weight);
    }
    Ok(Vector(weights))
}

fn selected(entry: &Object<'_>) -> Option<(Select, f64)> {
    let weight =
        entry.get("weight").map_or(Some(1.0), |weight| weight.as_number()?.as_f64()).filter(|weight| *weight >= 0.0)?;
    let select = match entry.text("select").split_once('=')? {
        ("inet", address) => Select::Inet(address.to_owned()),
        ("member", name) => Select::Member(name.to_owned()),
        ("shard", number) => Select::Shard(number.parse().ok()?),
        _ => return None,
    };
    Some((select, weight))
}

/// Never infinite: an infinite weight times zero is not a number.
fn times(one: f64, other: f64) -> f64 {
    (one * other).min(f64::MAX)
}

/// The product of all matching entries.
fn weight(rules: &[Rule], member: &str, at: &Endpoint, shard: Option<i64>) -> u32 {
    if rules.is_empty() {
        return DEFAULT_WEIGHT;
    }
    let mut selects = vec![Select::Inet(at.address()), Select::Member(member.to_owned())];
    selects.extend(shard.map(Select::Shard));
    let vectors = rules.iter().filter_map(|rule| match rule {
        Rule::Vector(Vector(weights)) => Some(weights),
        _ => None,
    });
    let matching = vectors.flat_map(|weights| selects.iter().filter_map(|select| weights.get(select)));
    let product = matching.fold(1.0, |product, weight| times(product, *weight));
    weight_of((product * f64::from(DEFAULT_WEIGHT)).min(f64::from(i32::MAX))).unwrap_or(DEFAULT_WEIGHT)
}
