//! Curator's x-discovery, `<root>/<service>/<id>` with JSON, and what others put into its payload: Spring Cloud
//! ZooKeeper, and Dubbo 3 for its applications. The payload itself shows which of them it is.

use super::json::{Json, Object, Part};
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
    let [address, port, ssl_port, payload, enabled, uri] =
        json::parts(&reading.node.data, ["address", "port", "sslPort", "payload", "enabled", "uriSpec"])?;
    let [address, port, ssl_port, payload, enabled] =
        [read(address)?, read(port)?, read(ssl_port)?, read(payload)?, read(enabled)?];
    let of_payload = payload.as_ref().and_then(Json::as_object);
    let is_spring = of_payload.is_some_and(|payload| payload.text("@class").starts_with(SPRING));
    let mut metadata = match payload {
        Some(Json::Object(mut payload)) => match payload.remove("metadata") {
            Some(Json::Object(metadata)) => metadata,
            Some(other) => payload.with("metadata", other),
            None => payload,
        },
        None => Object::default(),
        Some(other) => Object::default().with("payload", other),
    };
    if metadata.text("dubbo.metadata.revision") == NOTHING {
        return Ok(None);
    }
    let host = address::host(address.as_ref().and_then(Json::as_str).unwrap_or_default())?;
    let exported = exported(&metadata, &host)?;
    let is_up = enabled.as_ref().and_then(Json::as_bool) != Some(false)
        && metadata.get("instance_status").is_none_or(|status| {
            status.as_str().is_some_and(|status| status.is_empty() || status.eq_ignore_ascii_case("UP"))
        });
    let endpoints = match exported.is_empty() {
        true => own(&host, [port, ssl_port], uri, is_spring)?,
        false => exported,
    };
    metadata.remove("@class");
    let mut draft = Draft::of(endpoints).up_if(is_up);
    metadata.add_to(&mut draft.metadata)?;
    let mut draft = draft.placed_by_metadata();
    if is_spring {
        // Spring's clients do not choose by it: it often tells of the build.
        draft.version.clear();
    }
    Ok(Some(draft.finish(reading)))
}

/// None: it is null, or not there.
fn read(part: Option<Part<'_>>) -> Result<Option<Json<'_>>, Undecodable> {
    Ok(part.map(Part::read).transpose()?.filter(|it| !it.is_null()))
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
fn own(
    host: &str,
    ports: [Option<Json<'_>>; 2],
    uri: Option<Part<'_>>,
    is_spring: bool,
) -> Result<Vec<Endpoint>, Undecodable> {
    let [plain, secured] = ports.map(|port| port.map(|port| json::port(Some(&port))).transpose());
    let secured = secured?;
    let scheme = uri.map_or(Scheme::None, scheme);
    let is_variable = matches!(scheme, Scheme::Http);
    let at = |scheme: &str, port: u16| endpoint(scheme, (host.to_owned(), port));
    let (http, https) = match &scheme {
        Scheme::Http => ("http", "https"),
        Scheme::Other(other) => (&**other, &**other),
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
enum Scheme {
    /// A variable, which is `http` or `https`.
    Http,
    Other(String),
    None,
}

fn scheme(uri: Part<'_>) -> Scheme {
    let first = uri.parts(["parts"]).and_then(|[parts]| parts?.first());
    let Some(Json::Object(part)) = first else { return Scheme::None };
    let value = part.text("value");
    let is_variable = part.get("variable").and_then(Json::as_bool).unwrap_or_default();
    match value.split_once(':') {
        _ if is_variable && value == "scheme" => Scheme::Http,
        _ if is_variable => Scheme::None,
        Some((scheme, _)) => Scheme::Other(scheme.to_owned()),
        None => Scheme::Other(value.to_owned()),
    }
}
