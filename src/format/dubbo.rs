//! Dubbo's interfaces: `/<group>/<interface>/{providers,configurators}/<encoded URL>`, since Dubbo 2.7
//! `/<group>/config/dubbo/<service or application>.configurators` with a document of YAML, and in Dubbo 3
//! `/<group>/mapping/<interface>` with the applications that offer one.
//!
//! A provider node's data is whatever Curator wrote there: everything is in its name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::registered::{Draft, endpoint};
use super::url::{Parameters, Url, form_decoded, form_encoded};
use super::{Located, MAX_RULES, Reading, Registered, Role, Rule, Undecodable, yaml};
use crate::model::{DEFAULT_WEIGHT, InstanceError, MAX_LABEL_BYTES, MAX_SERVICE_BYTES, weight_of};

/// What a configurator sets for the providers that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configurator {
    origin: Origin,
    /// Whether it is of single hosts.
    is_of_hosts: bool,
    priority: i64,
    /// Of which a provider must have one, unless there are none: `host`, `host:port`, or `0.0.0.0` for any host.
    addresses: BTreeSet<String>,
    /// The same once more, of a document.
    providers: BTreeSet<String>,
    /// Of which a provider must be one, unless there are none: as `service_key` writes them.
    services: BTreeSet<String>,
    /// Of which a provider must have one, unless there are none.
    applications: BTreeSet<String>,
    /// Whether it sets only keys that a provider lacks.
    sets_missing: bool,
    /// What a provider must have, by key; `*` and the empty value match any.
    conditions: BTreeMap<String, String>,
    sets: BTreeMap<String, String>,
}

/// What sets something: the later ones come after the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Url,
    OfApplication,
    OfService,
}

/// What the names of the documents that may change a provider are made of.
#[derive(Debug)]
pub(super) struct Documents {
    application: String,
    /// Empty: nobody would find the providers when such a document changes.
    interface: String,
    group: String,
    version: String,
}

/// How the name of a document ends.
const DOCUMENT: &str = ".configurators";

/// Any host.
const ANY: &str = "0.0.0.0";

/// The version of a service that has none.
const NO_VERSION: &str = "0.0.0";

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
        ["config", "dubbo", name] => {
            let service = interface_of(name.strip_suffix(DOCUMENT)?).to_owned();
            Some(Located { role: Role::Document, service, up: 3 })
        }
        _ => None,
    }
}

/// The interface of which there is a document with this name: `<interface>:<version>:<group>`, or
/// `<group>*<interface>:<version>` of the first of Dubbo 2.7. If it is that of an application, this is its name.
fn interface_of(name: &str) -> &str {
    let name = name.rsplit_once('*').map_or(name, |(_, after)| after);
    name.split_once(':').map_or(name, |(interface, _)| interface)
}

impl Documents {
    /// None: it is no provider.
    pub(super) fn of(parts: &[&str], url: &Url<'_>) -> Option<Self> {
        let [part, "providers", _] = parts else { return None };
        let interface = form_decoded(part).ok()?.into_owned();
        let interface = Some(interface).filter(|it| form_encoded(it) == *part).unwrap_or_default();
        let [application, group, of] = ["application", "group", "version"].map(|key| url.parameter(key));
        let (application, group, version) = (application.to_owned(), group.to_owned(), version(of).to_owned());
        Some(Self { application, interface, group, version })
    }

    pub(super) fn of_application(&self) -> Option<String> {
        Some(&*self.application).filter(|name| !name.is_empty()).map(str::to_owned).and_then(named)
    }

    pub(super) fn of_service(&self) -> impl Iterator<Item = String> {
        let [interface, group, version] = [&self.interface, &self.group, &self.version].map(String::as_str);
        let first = [
            group,
            if group.is_empty() { "" } else { "*" },
            interface,
            if version.is_empty() { "" } else { ":" },
            version,
        ];
        let names = (!interface.is_empty()).then(|| [format!("{interface}:{version}:{group}"), first.concat()]);
        names.into_iter().flatten().filter_map(named)
    }
}

/// The name of the document of something.
fn named(of: String) -> Option<String> {
    let is_name = of.len() <= 3 * MAX_LABEL_BYTES && !of.contains('/');
    is_name.then(|| of + DOCUMENT)
}

fn version(version: &str) -> &str {
    if version == NO_VERSION { "" } else { version }
}

/// A service as documents name it, and its interface: `[group/]interface[:version]`, or as in the name of a document.
fn service_key(text: &str) -> (String, &str) {
    let (group, rest) = text.split_once('/').unwrap_or(("", text));
    let mut parts = rest.splitn(3, ':');
    let [interface, of, last] = [(); 3].map(|()| parts.next().unwrap_or_default());
    (key(if group.is_empty() { last } else { group }, interface, of), interface)
}

fn key(group: &str, interface: &str, of: &str) -> String {
    format!("{group}/{interface}:{}", version(of))
}

/// None: it says that there are none.
pub(super) fn decode(reading: &Reading<'_>, url: &Url<'_>) -> Result<Option<Registered>, Undecodable> {
    if url.protocol == "empty" {
        return Ok(None);
    }
    let applied = Applied::of(reading, url);
    let registered = registered(reading, url, &applied.parameters, &applied.metadata)?;
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
    let is_up = parameters.get("enabled") != "false" && parameters.get("disabled") != "true";
    let mut draft = Draft::at(endpoint(url.protocol, url.host_and_port()?)).up_if(is_up);
    draft.version = parameters.get("version").to_owned();
    draft.group = parameters.get("group").to_owned();
    draft.zone = parameters.get("zone").to_owned();
    draft.weight = weight(parameters.get("weight"));
    for (key, value) in metadata.iter().filter(|(key, value)| is_kept(key, value)) {
        draft.metadata.add(key, value);
    }
    Ok(draft.finish(reading))
}

/// Interfaces with very many methods would exceed the metadata limit by their names alone.
fn is_kept(key: &str, value: &str) -> bool {
    key != "methods" || value.len() <= MAX_SERVICE_BYTES / 2
}

/// An instance with a weight that is not positive is never called.
fn weight(text: &str) -> u32 {
    match text.parse::<f64>() {
        Ok(weight) if weight < 0.0 => 0,
        Ok(weight) => weight_of(weight).unwrap_or(DEFAULT_WEIGHT),
        Err(_) => DEFAULT_WEIGHT,
    }
}

/// A provider's parameters with its configurators applied.
struct Applied<'r> {
    parameters: Parameters<'r>,
    metadata: Parameters<'r>,
    /// The most bytes that configurators add to the metadata.
    bytes: usize,
    /// Whether one of them is omitted for lack of room.
    is_cut: bool,
}

impl<'r> Applied<'r> {
    /// Applies the matching configurators: by origin, those of a host after those of all hosts, then by priority. If they exceed
    /// the limit together, the largest are omitted, except for keys that decide whether a provider is called.
    fn of(reading: &Reading<'r>, url: &Url<'r>) -> Self {
        if reading.rules.is_empty() {
            let (parameters, metadata) = (url.parameters.clone(), url.parameters.clone());
            return Self { parameters, metadata, bytes: 0, is_cut: false };
        }
        let subject = Subject::of(reading.service, url);
        let matching = |rule: &'r Rule| match rule {
            Rule::Configurator(configurator) => Some(&**configurator).filter(|it| it.matches(&subject)),
            _ => None,
        };
        let mut matching: Vec<_> = reading.rules.iter().filter_map(matching).map(|it| (it, false)).collect();
        matching.sort_by_key(|(it, _)| (it.origin, it.is_of_hosts, it.priority));
        let own = url.parameters.iter().filter(|(key, value)| is_kept(key, value));
        let own = reading.service.len() + MAP_HEAD + own.map(|(key, value)| packed(key, value)).sum::<usize>();
        let (mut room, mut bytes) = (MAX_SERVICE_BYTES.saturating_sub(own), 0);
        let mut by_size: Vec<_> = matching.iter_mut().collect();
        by_size.sort_by_key(|(it, _)| it.packed());
        for (configurator, has_room) in by_size {
            *has_room = configurator.packed() <= room && bytes + configurator.packed() <= reading.room_for_rules;
            if *has_room {
                room -= configurator.packed();
                bytes += configurator.packed();
            }
        }
        let mut parameters: BTreeMap<_, _> = url.parameters.iter().collect();
        let mut metadata = parameters.clone();
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
        Self { parameters: parameters.into(), metadata: metadata.into(), bytes, is_cut }
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
    let host = Some(url.host).filter(|host| !matches!(*host, ANY | "anyhost" | "::"));
    let addresses = match (host, url.port) {
        (None, None) => BTreeSet::new(),
        (host, None) => BTreeSet::from_iter(host.map(str::to_owned)),
        (host, Some(port)) => BTreeSet::from([format!("{}:{port}", host.unwrap_or(ANY))]),
    };
    let (is_of_hosts, priority) = (host.is_some(), url.parameter("priority").parse().unwrap_or(0));
    let setting = Configurator::setting(url.parameters.iter())?;
    Ok(Configurator { is_of_hosts, priority, addresses, sets_missing, ..setting })
}

/// The configurators in the document with this name.
pub(super) fn document(name: &str, data: &[u8]) -> Result<Vec<Configurator>, Undecodable> {
    let document = match yaml::document(data)? {
        Json::Null => return Ok(Vec::new()),
        Json::Object(document) => document,
        _ => return Err(Undecodable::Document("it is no map")),
    };
    let (name, of) = (name.strip_suffix(DOCUMENT).unwrap_or_default(), text(&document, "key"));
    let is_of_application = text(&document, "scope") == "application";
    let (service, interface) = service_key(of);
    if of.is_empty() || if is_of_application { of != name } else { interface != interface_of(name) } {
        return Err(Undecodable::Document("its `key` is not that of its name"));
    }
    let Some(Json::Array(all)) = document.get("configs") else {
        return Err(Undecodable::Document("it has no list of `configs`"));
    };
    if all.len() > MAX_RULES {
        return Err(Undecodable::Document("it has more than 64 `configs`"));
    }
    let mut configurators = Vec::new();
    for config in all {
        let Json::Object(config) = config else {
            return Err(Undecodable::Document("one of its `configs` is no map"));
        };
        let Some(configurator) = configurator(config, is_on(document.get("enabled"), true))? else { continue };
        let (services, applications) = (names(config, "services")?, names(config, "applications")?);
        configurators.push(if is_of_application {
            let services = services.iter().map(|service| service_key(service).0).collect();
            let applications = BTreeSet::from([of.to_owned()]);
            Configurator { origin: Origin::OfApplication, services, applications, ..configurator }
        } else {
            let services = BTreeSet::from([service.clone()]);
            Configurator { origin: Origin::OfService, services, applications, ..configurator }
        });
    }
    Ok(configurators)
}

/// One of the `configs` of a document; None: it changes no provider.
fn configurator(config: &Map<String, Json>, is_document_on: bool) -> Result<Option<Configurator>, Undecodable> {
    if config.get("match").is_some_and(|it| !it.is_null()) {
        // Without it, it would change what it must not.
        return Err(Undecodable::Document("one of its `configs` has a `match`, which is not supported"));
    }
    let parameters = config.get("parameters").and_then(Json::as_object).filter(|parameters| !parameters.is_empty());
    let Some(parameters) = parameters else {
        return Err(Undecodable::Document("one of its `configs` has no `parameters`"));
    };
    if parameters.values().any(|it| it.is_array() || it.is_object()) {
        return Err(Undecodable::Document("one of its `parameters` is no text"));
    }
    let (addresses, providers) = (addresses(config, "addresses")?, addresses(config, "providerAddresses")?);
    // One with a type is switched by itself.
    let is_on = match text(config, "type") {
        "" | "general" => is_document_on,
        _ => is_on(config.get("enabled"), false),
    };
    // Those of consumers are for Dubbo's.
    if !is_on || text(config, "side") != "provider" {
        return Ok(None);
    }
    let parameters = parameters.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let is_of_hosts = addresses.iter().any(|address| address.split(':').next() != Some(ANY));
    Ok(Some(Configurator { is_of_hosts, addresses, providers, ..Configurator::setting(parameters)? }))
}

/// The text under a key; empty if there is none.
fn text<'o>(object: &'o Map<String, Json>, key: &str) -> &'o str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn is_on(value: Option<&Json>, default: bool) -> bool {
    match value {
        None | Some(Json::Null) => default,
        Some(value) => value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")),
    }
}

/// Without the brackets of IPv6; none: any.
fn addresses(config: &Map<String, Json>, key: &'static str) -> Result<BTreeSet<String>, Undecodable> {
    let all = texts(config, key)?;
    let is_any = |address: &String| matches!(address.as_str(), ANY | "0.0.0.0:*");
    Ok(if all.iter().any(is_any) { BTreeSet::new() } else { all.iter().map(|it| it.replace(['[', ']'], "")).collect() })
}

/// The names in a list; none: any.
fn names(config: &Map<String, Json>, key: &'static str) -> Result<BTreeSet<String>, Undecodable> {
    texts(config, key).map(|texts| if texts.contains("*") { BTreeSet::new() } else { texts })
}

/// The texts of a list. What is there and is no such list would match everything.
fn texts(config: &Map<String, Json>, key: &'static str) -> Result<BTreeSet<String>, Undecodable> {
    let wrong = || Undecodable::Document("what one of its `configs` is for is no list of texts");
    let all = match config.get(key) {
        None | Some(Json::Null) => return Ok(BTreeSet::new()),
        Some(all) => all.as_array().ok_or_else(wrong)?,
    };
    all.iter().map(|it| it.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)
}

/// What configurators are compared with.
struct Subject<'u> {
    url: &'u Url<'u>,
    /// The address in the forms in which it may be named, without that of any host at any port.
    names: [String; 3],
    key: String,
}

impl<'u> Subject<'u> {
    fn of(service: &str, url: &'u Url<'u>) -> Self {
        let (host, port) = (url.host, url.port.unwrap_or_default());
        let names = [host.to_owned(), format!("{host}:{port}"), format!("{ANY}:{port}")];
        Self { url, names, key: key(url.parameter("group"), service, url.parameter("version")) }
    }
}

impl Configurator {
    fn nothing() -> Self {
        let (none, sets) = (BTreeSet::new(), BTreeMap::new());
        Self {
            origin: Origin::Url,
            is_of_hosts: false,
            priority: 0,
            addresses: none.clone(),
            providers: none.clone(),
            services: none.clone(),
            applications: none,
            sets_missing: false,
            conditions: sets.clone(),
            sets,
        }
    }

    /// One with these parameters, for every provider.
    fn setting<'p>(parameters: impl Iterator<Item = (&'p str, &'p str)>) -> Result<Self, Undecodable> {
        let (mut conditions, mut sets) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in parameters {
            match key.strip_prefix('~') {
                Some(key) => drop(conditions.insert(key.to_owned(), value.to_owned())),
                None if CONDITIONS.contains(&key) => drop(conditions.insert(key.to_owned(), value.to_owned())),
                None if OF_ITSELF.contains(&key) => {}
                None => drop(sets.insert(key.to_owned(), value.to_owned())),
            }
        }
        let bytes = sets.iter().map(|(key, value): (&String, &String)| key.len() + value.len()).sum();
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
        Ok(Self { conditions, sets, ..Self::nothing() })
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let is_at = |of: &BTreeSet<String>| of.is_empty() || subject.names.iter().any(|name| of.contains(name));
        let is_one = |of: &BTreeSet<String>, name: &str| of.is_empty() || of.contains(name);
        is_at(&self.addresses)
            && is_at(&self.providers)
            && is_one(&self.services, &subject.key)
            && is_one(&self.applications, subject.url.parameter("application"))
            && self.conditions.iter().all(|(key, value)| subject.url.parameter(key) == value)
    }

    fn set<'r>(&'r self, parameters: &mut BTreeMap<&'r str, &'r str>, key: &'r str, value: &'r str) {
        if self.sets_missing {
            parameters.entry(key).or_insert(value);
        } else {
            parameters.insert(key, value);
        }
    }

    /// The most bytes of metadata that it sets.
    fn packed(&self) -> usize {
        self.sets.iter().map(|(key, value)| packed(key, value)).sum()
    }
}

fn packed(key: &str, value: &str) -> usize {
    key.len() + value.len() + 2 * TEXT_HEAD
}
