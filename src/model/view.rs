//! Views: the one serialized form of nodes, instances, masters and freshness, with the names of the Thrift interface.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rmpv::Value;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    DEFAULT_WEIGHT, Decoder, Endpoint, Format, Held, InstanceState, Metadata, NodePath, Origin, Record, Revision, Stat,
    Withheld, Withholding,
};

/// A coordination node; data that is not UTF-8 is base64 under another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    pub stat: Stat,
}

/// How far an answer can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    pub revision: Revision,
    pub age_ms: u64,
    pub origin: Origin,
    pub complete: bool,
}

/// A master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Master {
    pub id: String,
    #[serde(default)]
    pub peer_address: String,
    #[serde(default)]
    pub connected_at: i64,
    #[serde(default, deserialize_with = "all_readable")]
    pub services: Vec<Service>,
    #[serde(default)]
    pub routes: u32,
    /// None if nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u32>,
    /// The names of the sources that know it, where they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// A service that a master offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// Empty: the version is in the name or the metadata.
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub metadata: Metadata,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub service_name: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    #[serde(default = "default_weight")]
    pub weight: u32,
    #[serde(default)]
    pub metadata: Metadata,
    pub state: InstanceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<Withholding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<Withholding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_id: Option<String>,
    /// None if nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u32>,
    /// Empty where it is omitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provenance: Vec<Provenance>,
    /// Set if no node registers it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<Held>>,
}

/// Longer paths of nodes that register an instance are not shown.
const MAX_PATH_BYTES: usize = 4 << 10;

/// The path of a node that registers or changes an instance, unless it is too long to show.
pub fn shown_path(path: &NodePath) -> Option<String> {
    Some(path.as_str()).filter(|path| path.len() <= MAX_PATH_BYTES).map(str::to_owned)
}

/// Where an instance is known from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_id: Option<String>,
    pub decoder: String,
    pub since_revision: Revision,
}

/// The given instance is not one that nodes register.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is no instance that nodes register")]
pub struct NoInstance;

impl Node {
    pub fn of(path: String, data: Vec<u8>, stat: Stat) -> Self {
        match String::from_utf8(data) {
            Ok(text) => Self { path, data: Some(text), data_base64: None, stat },
            Err(no) => Self { path, data: None, data_base64: Some(BASE64_STANDARD.encode(no.into_bytes())), stat },
        }
    }
}

impl From<super::Freshness> for Freshness {
    fn from(super::Freshness { revision, age, origin, complete }: super::Freshness) -> Self {
        Self { revision, age_ms: age.as_millis() as u64, origin, complete }
    }
}

impl Master {
    /// A master that offers `services`.
    pub fn of<'a>(master: &super::Master, services: impl Iterator<Item = &'a super::Service>) -> Self {
        Self {
            id: master.id.clone(),
            peer_address: master.peer_address.clone(),
            connected_at: master.connected_at,
            services: services.map(Service::of).collect(),
            routes: 0,
            outstanding: None,
            sources: Vec::new(),
        }
    }
}

impl From<Master> for super::Master {
    fn from(master: Master) -> Self {
        let services = master.services.into_iter().map(Into::into).collect();
        Self { id: master.id, peer_address: master.peer_address, connected_at: master.connected_at, services }
    }
}

impl Service {
    fn of(service: &super::Service) -> Self {
        Self {
            name: service.base_name().to_owned(),
            version: service.version().to_string(),
            metadata: service.metadata.clone(),
        }
    }
}

/// With the version in its name, unless the name or the metadata contain it.
impl From<Service> for super::Service {
    fn from(Service { name, version, metadata }: Service) -> Self {
        let service = Self { name, metadata };
        // A name without its version may itself look like one with a version: `mail@1@2`.
        let is_said = service.base_name() == service.name && service.version().to_string() == version;
        if version.is_empty() || is_said {
            return service;
        }
        Self { name: format!("{}@{version}", service.name), ..service }
    }
}

impl From<&super::Instance> for Instance {
    fn from(instance: &super::Instance) -> Self {
        Self {
            service_name: instance.service.as_ref().into(),
            version: instance.version.to_string(),
            group: instance.group.as_ref().into(),
            zone: instance.zone.as_ref().into(),
            weight: instance.weight,
            metadata: instance.metadata.clone(),
            state: instance.state,
            ejected: instance.withheld.ejected.as_deref().cloned(),
            drained: instance.withheld.drained.as_deref().cloned(),
            endpoints: instance.endpoints.to_vec(),
            master_id: instance.master().map(|id| id.as_ref().into()),
            outstanding: None,
            provenance: instance.provenance.iter().map(Into::into).collect(),
            held: instance.held.clone(),
        }
    }
}

/// An instance that nodes register.
impl TryFrom<Instance> for super::Instance {
    type Error = NoInstance;

    fn try_from(told: Instance) -> Result<Self, NoInstance> {
        let provenance: Result<_, _> = told.provenance.into_iter().map(TryInto::try_into).collect();
        let instance = Self {
            service: told.service_name.into(),
            version: told.version.parse().map_err(|_| NoInstance)?,
            group: told.group.into(),
            zone: told.zone.into(),
            weight: told.weight,
            metadata: told.metadata,
            state: told.state,
            withheld: Withheld::default(),
            endpoints: told.endpoints.into(),
            provenance: provenance?,
            held: told.held,
        };
        instance.check().map_err(|_| NoInstance).map(|()| instance)
    }
}

impl TryFrom<Provenance> for super::Provenance {
    type Error = NoInstance;

    fn try_from(told: Provenance) -> Result<Self, NoInstance> {
        let Provenance { source, path, decoder, since_revision: since, .. } = told;
        let path = path.and_then(|path| NodePath::parse(&path).ok()).ok_or(NoInstance)?;
        let format = Format::ALL.into_iter().find(|format| format.name() == decoder).ok_or(NoInstance)?;
        Ok(Self { source: source.into(), record: Record::Node(path), decoder: Decoder::Format(format), since })
    }
}

impl From<&super::Provenance> for Provenance {
    fn from(provenance: &super::Provenance) -> Self {
        let (path, master_id) = match &provenance.record {
            Record::Node(path) => (shown_path(path), None),
            Record::Master(id) => (None, Some(id.as_ref().into())),
        };
        let (source, decoder) = (provenance.source.as_ref().into(), provenance.decoder.name().into());
        Self { source, path, master_id, decoder, since_revision: provenance.since }
    }
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

/// The valid services: an invalid one does not affect the others.
fn all_readable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Service>, D::Error> {
    let services = Vec::<Value>::deserialize(from)?;
    Ok(services.into_iter().filter_map(|service| rmpv::ext::from_value(service).ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value as Json;

    use super::*;

    /// Reads a value and writes it again.
    fn written<T: DeserializeOwned + Serialize>(json: &Json) -> String {
        let view: T = serde_json::from_value(json.clone()).expect("a view");
        serde_json::to_string(&view).expect("JSON")
    }

    #[test]
    fn what_the_php_package_reads_is_what_is_written() {
        let vectors: Vec<Json> = serde_json::from_str(include_str!("../../tests/fixtures/views.json")).expect("JSON");
        assert!(vectors.len() >= 9);
        for vector in vectors {
            let json = &vector["json"];
            let found = match vector["of"].as_str().expect("a kind") {
                "instance" => written::<Instance>(json),
                "master" => written::<Master>(json),
                "freshness" => written::<Freshness>(json),
                "node" => written::<Node>(json),
                other => panic!("{other}"),
            };
            assert_eq!(found, vector.get("written").unwrap_or(json).to_string(), "{}", vector["what"]);
        }
    }

    #[test]
    fn a_service_that_is_none_harms_no_other() {
        let json =
            r#"{"id":"m","peerAddress":"p","connectedAt":1,"services":[{"name":7},3,{"name":"a","version":"1.0.0"}]}"#;
        let master: Master = serde_json::from_str(json).expect("a master");
        let master = super::super::Master::from(master);
        assert_eq!(master.services.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a@1.0.0"]);
    }

    #[test]
    fn data_that_is_no_text_is_base64() {
        let node = |data: &[u8]| Node::of("/a".into(), data.to_vec(), Stat::default());
        assert_eq!((node(b"").data.as_deref(), node("\u{fc}".as_bytes()).data.as_deref()), (Some(""), Some("\u{fc}")));
        assert_eq!((node(b"\xff\x00").data, node(b"\xff\x00").data_base64.as_deref()), (None, Some("/wA=")));
    }
}
