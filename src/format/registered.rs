//! What a node registers, and its construction.

use std::sync::Arc;

use super::{Reading, Undecodable};
use crate::model::{
    DEFAULT_WEIGHT, Endpoint, Instance, InstanceError, InstanceState, MAX_LABEL_BYTES, MetadataWriter, Withheld,
    registered_version,
};

/// An instance as registered by one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// Without provenance.
    pub instance: Instance,
    /// Distinguishes it from others at the same address: one process may offer a service in several groups and
    /// versions.
    pub variant: String,
    /// How many bytes of its metadata rules set.
    pub by_rules: usize,
    /// Why some rules of its scope are not applied.
    pub fault: Option<Undecodable>,
}

impl Registered {
    /// Checks that the version is within the limits of an instance, as it was written.
    pub(super) fn check_version(&self) -> Result<(), InstanceError> {
        const REST: usize = "?group=&version=".len();
        let Self { instance, variant, .. } = self;
        if variant.len() > REST + instance.group.len() + MAX_LABEL_BYTES {
            return Err(InstanceError::Label("version"));
        }
        if variant.contains(char::is_control) { Err(InstanceError::Control("version")) } else { Ok(()) }
    }
}

/// A registration under construction.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) version: String,
    pub(super) group: String,
    pub(super) zone: String,
    pub(super) weight: u32,
    pub(super) metadata: MetadataWriter,
    pub(super) state: InstanceState,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Draft {
    /// An instance reached at this endpoint.
    pub(super) fn at(endpoint: Endpoint) -> Self {
        Self::of(vec![endpoint])
    }

    /// The same with at least one endpoint.
    pub(super) fn of(endpoints: Vec<Endpoint>) -> Self {
        Self {
            version: String::new(),
            group: String::new(),
            zone: String::new(),
            weight: DEFAULT_WEIGHT,
            metadata: MetadataWriter::default(),
            state: InstanceState::Up,
            endpoints,
        }
    }

    pub(super) fn up_if(self, is_up: bool) -> Self {
        Self { state: if is_up { InstanceState::Up } else { InstanceState::Down }, ..self }
    }

    /// Takes version, group, zone and weight from the metadata, like those of a master.
    pub(super) fn placed_by_metadata(mut self) -> Self {
        let label = |key| self.metadata.text(key).filter(|text| text.len() <= MAX_LABEL_BYTES).unwrap_or_default();
        let [version, group, zone] = ["version", "group", "zone"].map(|key| label(key).to_owned());
        let weight = self.metadata.scalar("weight").and_then(crate::model::weight);
        (self.version, self.group, self.zone) = (version, group, zone);
        self.weight = weight.unwrap_or(self.weight);
        self
    }

    pub(super) fn finish(self, reading: &Reading<'_>) -> Registered {
        let variant = match (self.group.as_str(), self.version.as_str()) {
            ("", "") => String::new(),
            (group, version) => format!("?group={group}&version={version}"),
        };
        let instance = Instance {
            service: reading.service.clone(),
            version: registered_version(&self.version),
            group: self.group.into(),
            zone: self.zone.into(),
            weight: self.weight,
            metadata: self.metadata.finish(),
            state: self.state,
            withheld: Withheld::default(),
            endpoints: self.endpoints.into(),
            provenance: Arc::default(),
            held: None,
        };
        Registered { instance, variant, by_rules: 0, fault: None }
    }
}

/// An endpoint of the service itself.
pub(super) fn endpoint(protocol: impl Into<String>, (host, port): (String, u16)) -> Endpoint {
    Endpoint { name: String::new(), protocol: protocol.into(), host, port }
}
