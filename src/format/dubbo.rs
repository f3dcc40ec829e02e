//! Dubbo's interfaces: `/<group>/<interface>/{providers,configurators}/<encoded URL>`, and in Dubbo 3
//! `/<group>/mapping/<interface>` with the applications that offer one.
//!
//! Everything is in the names: a provider node's data is whatever Curator wrote there.

use std::collections::BTreeMap;

use rmpv::Value;

use super::registered::{Draft, endpoint};
use super::url::{Url, form_decoded};
use super::{Located, Reading, Registered, Role, Rule, Undecodable};
use crate::model::{DEFAULT_WEIGHT, InstanceError, MAX_LABEL_BYTES, MAX_SERVICE_BYTES};

type Parameters<'p> = BTreeMap<&'p str, &'p str>;

/// What a configurator sets for the providers that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configurator {
    /// Every host, or just this one.
    host: Option<String>,
    port: Option<u16>,
    priority: i64,
    /// Whether it sets only keys that a provider lacks.
    sets_missing: bool,
    /// What a provider must have, by key; `*` and the empty value match any.
    conditions: BTreeMap<String, String>,
    sets: BTreeMap<String, String>,
}

/// The longest name of a configurator's node.
const MAX_RULE_BYTES: usize = 64 << 10;

/// Keys of a configurator that are neither settings nor conditions.
const OF_ITSELF: [&str; 10] = [
    "category",
    "check",
    "compatible_config",
    "configVersion",
    "dynamic",
    "enabled",
    "interface",
    "priority",
    "runtime",
    "side",
];

/// Keys that say whether and how often a provider is called: they apply even if there is no room for them.
const OF_CALLS: [&str; 2] = ["disabled", "weight"];

/// The most bytes of a MessagePack header of a map, or of a string within the limits.
const MAP_HEAD: usize = 5;
const TEXT_HEAD: usize = 3;

/// Keys for which a provider must have the configurator's value.
const CONDITIONS: [&str; 3] = ["application", "group", "version"];

pub(super) fn locate(parts: &[&str]) -> Option<Located> {
    match parts {
        ["mapping", interface] => Some(Located { role: Role::Interface, service: (*interface).to_owned(), up: 1 }),
        [interface, "providers", _] => Located::instance(form_decoded(interface).ok()?, 2),
        [interface, "configurators", _] => Located::rule(form_decoded(interface).ok()?, 2),
        _ => None,
    }
}

/// None: it says that there are none.
pub(super) fn decode(reading: &Reading<'_>) -> Result<Option<Registered>, Undecodable> {
    let text = form_decoded(reading.name)?;
    let url = Url::parse(&text)?;
    if url.protocol == "empty" {
        return Ok(None);
    }
    let applied = Applied::of(reading, &url);
    let registered = registered(reading, &url, &applied.parameters, &applied.metadata)?;
    let fault = applied.is_cut.then_some(Undecodable::RulesLeftOut);
    Ok(Some(Registered { by_rules: applied.bytes, fault, ..registered }))
}

/// What a provider URL with these parameters registers, with some of them as metadata.
pub(super) fn registered(
    reading: &Reading<'_>,
    url: &Url<'_>,
    parameters: &Parameters<'_>,
    metadata: &Parameters<'_>,
) -> Result<Registered, Undecodable> {
    let parameter = |key: &str| parameters.get(key).copied().unwrap_or_default();
    let is_up = parameter("enabled") != "false" && parameter("disabled") != "true";
    let mut draft = Draft::at(endpoint(url.protocol, url.host_and_port()?)).up_if(is_up);
    draft.version = parameter("version").to_owned();
    draft.group = parameter("group").to_owned();
    draft.zone = parameter("zone").to_owned();
    draft.weight = weight(parameter("weight"));
    for (key, value) in metadata.iter().filter(|(key, value)| is_kept(key, value)) {
        draft.add(key, *value);
    }
    Ok(draft.finish(reading))
}

/// Interfaces with very many methods would exceed the metadata limit by their names alone.
fn is_kept(key: &str, value: &str) -> bool {
    key != "methods" || value.len() <= MAX_SERVICE_BYTES / 2
}

/// An instance with a weight that is not positive is never called.
fn weight(text: &str) -> u32 {
    match text.parse::<i64>() {
        Ok(weight) => weight.clamp(0, i32::MAX.into()) as u32,
        Err(_) => DEFAULT_WEIGHT,
    }
}

/// A provider's parameters with its configurators applied.
struct Applied<'r> {
    parameters: Parameters<'r>,
    metadata: Parameters<'r>,
    /// The bytes that configurators add to the metadata, once decoded.
    bytes: usize,
    /// Whether one of them is omitted for lack of room.
    is_cut: bool,
}

impl<'r> Applied<'r> {
    /// Applies the matching configurators: those of a host after those of all hosts, then by priority. If they exceed
    /// the limit together, the largest are omitted, except for keys that decide whether a provider is called.
    fn of(reading: &Reading<'r>, url: &Url<'r>) -> Self {
        let matching = |rule: &'r Rule| match rule {
            Rule::Configurator(configurator) => Some(configurator).filter(|it| it.matches(url)),
            _ => None,
        };
        let mut matching: Vec<_> = reading.rules.iter().filter_map(matching).map(|it| (it, false)).collect();
        matching.sort_by_key(|(it, _)| (it.host.is_some(), it.priority));
        let own = url.parameters.iter().filter(|(key, value)| is_kept(key, value));
        let own = reading.service.len() + MAP_HEAD + own.map(|(key, value)| packed(key, value)).sum::<usize>();
        let (mut room, mut bytes) = (MAX_SERVICE_BYTES.saturating_sub(own), 0);
        let mut by_size: Vec<_> = matching.iter_mut().collect();
        by_size.sort_by_key(|(it, _)| it.packed());
        for (configurator, has_room) in by_size {
            *has_room = configurator.packed() <= room && bytes + configurator.decoded() <= reading.room_for_rules;
            if *has_room {
                room -= configurator.packed();
                bytes += configurator.decoded();
            }
        }
        let (mut parameters, mut metadata) = (url.parameters.clone(), url.parameters.clone());
        for (configurator, has_room) in &matching {
            for (key, value) in &configurator.sets {
                if *has_room {
                    configurator.set(&mut metadata, key, value);
                }
                if *has_room || OF_CALLS.contains(&key.as_str()) {
                    configurator.set(&mut parameters, key, value);
                }
            }
        }
        let is_cut = matching.iter().any(|(_, has_room)| !has_room);
        Self { parameters, metadata, bytes, is_cut }
    }
}

pub(super) fn rule(name: &str) -> Result<Configurator, Undecodable> {
    if name.len() > MAX_RULE_BYTES {
        return Err(Undecodable::TooLong(MAX_RULE_BYTES));
    }
    let text = form_decoded(name)?;
    let url = Url::parse(&text)?;
    let sets_missing = match url.protocol {
        "override" => false,
        "absent" => true,
        // There are none.
        "empty" => return Ok(Configurator::nothing()),
        _ => return Err(Undecodable::NotUrl),
    };
    if url.parameter("enabled") == "false" || url.parameter("side") == "consumer" {
        return Ok(Configurator::nothing());
    }
    let (mut conditions, mut sets) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in &url.parameters {
        match key.strip_prefix('~') {
            Some(key) => drop(conditions.insert(key.to_owned(), (*value).to_owned())),
            None if CONDITIONS.contains(key) => drop(conditions.insert((*key).to_owned(), (*value).to_owned())),
            None if OF_ITSELF.contains(key) => {}
            None => drop(sets.insert((*key).to_owned(), (*value).to_owned())),
        }
    }
    let bytes = sets.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_SERVICE_BYTES / 2 {
        return Err(InstanceError::Metadata(bytes).into());
    }
    if sets.get("zone").is_some_and(|zone| zone.len() > MAX_LABEL_BYTES) {
        return Err(InstanceError::Label("zone").into());
    }
    if sets.get("zone").is_some_and(|zone| zone.contains(char::is_control)) {
        return Err(InstanceError::Control("zone").into());
    }
    conditions.retain(|_, value| !matches!(value.as_str(), "" | "*"));
    let host = Some(url.host.clone()).filter(|host| !matches!(host.as_str(), "0.0.0.0" | "anyhost" | "::"));
    let priority = url.parameter("priority").parse().unwrap_or(0);
    Ok(Configurator { host, port: url.port, priority, sets_missing, conditions, sets })
}

impl Configurator {
    fn nothing() -> Self {
        let (conditions, sets) = (BTreeMap::new(), BTreeMap::new());
        Self { host: None, port: None, priority: 0, sets_missing: true, conditions, sets }
    }

    fn matches(&self, url: &Url<'_>) -> bool {
        self.host.as_ref().is_none_or(|host| *host == url.host)
            && (self.port.is_none() || self.port == url.port)
            && self.conditions.iter().all(|(key, value)| url.parameter(key) == value)
    }

    fn set<'r>(&'r self, parameters: &mut Parameters<'r>, key: &'r str, value: &'r str) {
        if self.sets_missing {
            parameters.entry(key).or_insert(value);
        } else {
            parameters.insert(key, value);
        }
    }

    /// The most metadata bytes that it sets, both as MessagePack and decoded.
    fn packed(&self) -> usize {
        self.sets.iter().map(|(key, value)| packed(key, value)).sum()
    }

    fn decoded(&self) -> usize {
        self.sets.iter().map(|(key, value)| 2 * size_of::<Value>() + key.len() + value.len()).sum()
    }
}

fn packed(key: &str, value: &str) -> usize {
    key.len() + value.len() + 2 * TEXT_HEAD
}
