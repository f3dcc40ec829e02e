//! Patroni's PostgreSQL clusters: `<root>/<scope>/members/<name>` with JSON, and `<root>/<scope>/leader` with the name
//! of a member.

use super::json::Json;
use super::registered::{Draft, endpoint};
use super::url::Url;
use super::{Located, Reading, Registered, Rule, Undecodable, address, json};

const DEFAULT_PORT: u16 = 5_432;

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        [scope, "members", _] => Located::instance(*scope, 2),
        [scope, "leader"] => Located::rule(*scope, 1),
        _ => None,
    }
}

/// The role becomes metadata: `primary` for the leader, `replica` for any other member, unless it has another role
/// (`standby_leader`).
pub(super) fn decode(reading: &Reading<'_>) -> Result<Registered, Undecodable> {
    let mut object = json::object(&reading.node.data)?;
    let url = Url::parse(object.text("conn_url"))?;
    let at = (address::host(url.host)?, url.port.unwrap_or(DEFAULT_PORT));
    let is_up = matches!(object.text("state"), "running" | "streaming" | "in archive recovery");
    let mut draft = Draft::at(endpoint("postgres", at)).up_if(is_up);
    let leader = reading.rules.iter().find_map(|rule| match rule {
        Rule::Leader(name) => Some(name),
        _ => None,
    });
    let role = match object.text("role") {
        "standby_leader" => "standby_leader",
        // The last leader may not know yet that there is another.
        "master" | "primary" if leader.is_none() => "primary",
        _ if leader.is_some_and(|leader| leader == reading.name) => "primary",
        _ => "replica",
    };
    ["conn_url", "role"].iter().for_each(|key| drop(object.remove(key)));
    // They change every few seconds, and no client needs them.
    ["xlog_location", "receive_lsn", "replay_lsn"].iter().for_each(|key| drop(object.remove(key)));
    if let Some(Json::Object(tags)) = object.get("tags") {
        draft.zone = tags.text("zone").to_owned();
        // As for load balancers: a replica with this tag fails Patroni's health checks.
        if role == "replica" && tags.get("noloadbalance") == Some(&Json::Bool(true)) {
            draft.weight = 0;
        }
    }
    // First, as a terminal shows no more than the beginning of all.
    draft.metadata.add("role", role);
    draft.metadata.add("member", reading.name);
    object.add_to(&mut draft.metadata)?;
    Ok(draft.finish(reading))
}

pub(super) fn leader(data: &[u8]) -> Result<String, Undecodable> {
    let name = std::str::from_utf8(data).map_err(|_| Undecodable::NotUtf8)?;
    Ok(name.trim().to_owned())
}
