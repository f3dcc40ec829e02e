//! Curator's x-discovery, `<root>/<service>/<id>` with JSON, and what others put into its payload: Spring Cloud
//! ZooKeeper, and Dubbo 3 for its applications. The payload itself shows which of them it is.

use super::json::{Json, Object};
use super::registered::{Draft, endpoint};
use super::{Located, Reading, Registered, Undecodable, address, json};
use crate::model::{Endpoint, MAX_ENDPOINTS};

/// The revision of a Dubbo application that exports nothing.
const NOTHING: &str = "0";

/// The package of Spring Cloud's payload classes.
const SPRING: &str = "org.springframework.cloud.";

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        [service, _] => Located::instance(*service, 1),
        _ => None,
    }
}

/// None: it exports nothing.
pub(super) fn decode(reading: &Reading<'_>) -> Result<Option<Registered>, Undecodable> {
    let mut object = json::object(&reading.node.data)?;
    let payload = object.get("payload").and_then(Json::as_object);
    let is_spring = payload.is_some_and(|payload| payload.text("@class").starts_with(SPRING));
    let mut metadata = match object.remove("payload") {
        Some(Json::Object(mut payload)) => match payload.remove("metadata") {
            Some(Json::Object(metadata)) => metadata,
            Some(other) => payload.with("metadata", other),
            None => payload,
        },
        None | Some(Json::Null) => Object::default(),
        Some(other) => Object::default().with("payload", other),
    };
    if metadata.text("dubbo.metadata.revision") == NOTHING {
        return Ok(None);
    }
    let host = address::host(object.text("address"))?;
    let exported = exported(&metadata, &host)?;
    let is_up = object.get("enabled").and_then(Json::as_bool) != Some(false)
        && metadata.get("instance_status").is_none_or(|status| {
            status.as_str().is_some_and(|status| status.is_empty() || status.eq_ignore_ascii_case("UP"))
        });
    let endpoints = if exported.is_empty() { own(&object, host, is_spring)? } else { exported };
    metadata.remove("@class");
    let mut draft = Draft::of(endpoints).up_if(is_up);
    draft.metadata = metadata.into_metadata()?;
    let mut draft = draft.placed_by_metadata();
    if is_spring {
        // Spring's clients do not choose by it: it often tells of the build.
        draft.version.clear();
    }
    Ok(Some(draft.finish(reading)))
}

/// The ports of a Dubbo application, which are JSON in a string; none: it is not one. A port that cannot be read is
/// left out.
fn exported(metadata: &Object<'_>, host: &str) -> Result<Vec<Endpoint>, Undecodable> {
    let Some(text) = metadata.get("dubbo.endpoints").and_then(Json::as_str) else { return Ok(Vec::new()) };
    let Some(Json::Array(all)) = json::read(text.as_bytes()) else { return Err(Undecodable::NotJson) };
    let read = all.iter().filter_map(|it| {
        let it = it.as_object()?;
        Some(endpoint(it.text("protocol"), (host.to_owned(), json::port(it.get("port")).ok()?)))
    });
    let read: Vec<_> = read.take(MAX_ENDPOINTS).collect();
    if read.is_empty() && !all.is_empty() { Err(Undecodable::NoPort) } else { Ok(read) }
}

/// The port, and the TLS port; if there is only the latter, it is the service's own. The same holds where clients
/// prefer it: those of Spring, and those of a URI whose scheme becomes `https`.
fn own(object: &Object<'_>, host: String, is_spring: bool) -> Result<Vec<Endpoint>, Undecodable> {
    let is_told = |key: &str| object.get(key).is_some_and(|port| !port.is_null());
    let secured = is_told("sslPort").then(|| json::port(object.get("sslPort"))).transpose()?;
    let plain = is_told("port").then(|| json::port(object.get("port"))).transpose();
    let scheme = scheme(object);
    let is_variable = matches!(scheme, Scheme::Http);
    let at = |scheme: &str, port: u16| endpoint(scheme, (host.clone(), port));
    let (http, https) = match scheme {
        Scheme::Http => ("http", "https"),
        Scheme::Other(other) => (other, other),
        Scheme::None if is_spring => ("", "https"),
        Scheme::None => ("", ""),
    };
    match (plain, secured) {
        // Those with a TLS port may write anything into the other.
        (Ok(Some(plain)), Some(secured)) if plain != secured && (is_spring || is_variable) => {
            Ok(vec![at(https, secured), Endpoint { name: "plain".into(), ..at(http, plain) }])
        }
        (Ok(Some(plain)), Some(secured)) if plain != secured => {
            Ok(vec![at(http, plain), Endpoint { name: "ssl".into(), ..at(https, secured) }])
        }
        (_, Some(secured)) => Ok(vec![at(https, secured)]),
        (Ok(Some(plain)), None) => Ok(vec![at(http, plain)]),
        (Ok(None), None) => Err(Undecodable::NoPort),
        (Err(error), None) => Err(error),
    }
}

/// How the URI of an instance begins.
enum Scheme<'o> {
    /// A variable, which is `http` or `https`.
    Http,
    Other(&'o str),
    None,
}

fn scheme<'o>(object: &'o Object<'_>) -> Scheme<'o> {
    let part = || object.get("uriSpec")?.as_object()?.get("parts")?.as_array()?.first()?.as_object();
    let Some(part) = part() else { return Scheme::None };
    let value = part.text("value");
    let is_variable = part.get("variable").and_then(Json::as_bool).unwrap_or_default();
    match value.split_once(':') {
        _ if is_variable && value == "scheme" => Scheme::Http,
        _ if is_variable => Scheme::None,
        Some((scheme, _)) => Scheme::Other(scheme),
        None => Scheme::Other(value),
    }
}
