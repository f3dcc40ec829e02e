//! Views: how instances and masters are written, wherever they are; with the names of the Thrift interface.

use std::sync::Arc;

use rmpv::Value;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::json::Object;
use super::{DEFAULT_WEIGHT, Endpoint, InstanceState, Record, Revision};

/// A master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Master {
    pub id: String,
    pub peer_address: String,
    pub connected_at: i64,
    #[serde(default, deserialize_with = "all_readable")]
    pub services: Vec<Service>,
    #[serde(default)]
    pub ways: u32,
    /// None where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u32>,
    /// The names of those that know it, where they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// A service that a master offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_id: Option<String>,
    /// None where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding: Option<u32>,
    /// Empty where it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provenance: Vec<Provenance>,
}

/// By what an instance is known.
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

/// A map: an object in JSON, whatever of it JSON does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata(pub Arc<Value>);

impl Master {
    /// A master that offers `services`.
    pub fn of<'a>(master: &super::Master, services: impl Iterator<Item = &'a super::Service>) -> Self {
        Self {
            id: master.id.clone(),
            peer_address: master.peer_address.clone(),
            connected_at: master.connected_at,
            services: services.map(Service::of).collect(),
            ways: 0,
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
            metadata: Metadata(service.metadata.clone()),
        }
    }
}

/// With the version in its name, unless the name or the metadata have it.
impl From<Service> for super::Service {
    fn from(Service { name, version, metadata: Metadata(metadata) }: Service) -> Self {
        let service = Self { name, metadata };
        if service.version().to_string() == version {
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
            metadata: Metadata(instance.metadata.clone()),
            state: instance.state,
            endpoints: instance.endpoints.to_vec(),
            master_id: instance.master().map(|id| id.as_ref().into()),
            outstanding: None,
            provenance: instance.provenance.iter().map(Into::into).collect(),
        }
    }
}

impl From<&super::Provenance> for Provenance {
    fn from(provenance: &super::Provenance) -> Self {
        let (path, master_id) = match &provenance.record {
            Record::Node(path) => (Some(path.to_string()), None),
            Record::Master(id) => (None, Some(id.as_ref().into())),
        };
        let (source, decoder) = (provenance.source.as_ref().into(), provenance.decoder.name().into());
        Self { source, path, master_id, decoder, since_revision: provenance.since }
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self(Value::Map(Vec::new()).into())
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Object(&self.0).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Value::deserialize(from).map(|value| Self(value.into()))
    }
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

/// Those services that are what they should be: another one harms none of them.
fn all_readable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Service>, D::Error> {
    let services = Vec::<Value>::deserialize(from)?;
    Ok(services.into_iter().filter_map(|service| rmpv::ext::from_value(service).ok()).collect())
}
