//! Masters and services as the shared file tells them: with the names of the Thrift interface.

use std::sync::Arc;

use rmpv::Value;
use serde::{Deserialize, Serialize};

use super::entry::written;
use crate::model::json::Object;
use crate::model::{self, Service};
use crate::store::{Entry, Feed};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Master<'a> {
    id: &'a str,
    address: &'a str,
    connected_at: i64,
    services: Vec<Offer<'a>>,
    ways: usize,
    outstanding: Uncounted,
    /// The names of those that know it.
    sources: Vec<&'a str>,
}

#[derive(Serialize)]
struct Instance<'a> {
    master: &'a str,
    address: &'a str,
    offer: Offer<'a>,
    outstanding: Uncounted,
}

#[derive(Serialize)]
struct Offer<'a> {
    name: &'a str,
    version: String,
    metadata: Object<'a>,
}

/// Always 0. The file is not written anew with each call.
type Uncounted = u32;

/// What `master/<id>` holds.
pub(super) fn master(entry: &Entry, feeds: &[Arc<Feed>]) -> Vec<u8> {
    let master = &entry.master;
    written(&Master {
        id: &master.id,
        address: &master.address,
        connected_at: master.connected_at,
        services: master.services.iter().map(offer).collect(),
        ways: entry.lines().count(),
        outstanding: 0,
        sources: entry.feeds().filter_map(|feed| feeds.get(feed)).map(|feed| feed.name()).collect(),
    })
}

/// What `service/<name>` holds.
pub(super) fn instances<'a>(offers: impl Iterator<Item = (&'a Arc<Entry>, &'a Service)>) -> Vec<u8> {
    let instance = |(entry, service): (&'a Arc<Entry>, &'a Service)| Instance {
        master: &entry.master.id,
        address: &entry.master.address,
        offer: offer(service),
        outstanding: 0,
    };
    written(&offers.map(instance).collect::<Vec<_>>())
}

/// What `master/<id>` held for an earlier process.
pub(super) struct Left {
    pub(super) master: Arc<model::Master>,
    /// The names of those that knew it.
    pub(super) sources: Vec<String>,
}

impl Left {
    /// None: it does not tell enough.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            id: String,
            address: String,
            connected_at: i64,
            services: Vec<Offered>,
            sources: Vec<String>,
        }
        let Entry { id, address, connected_at, services, sources } = serde_json::from_slice(json).ok()?;
        let services = services.into_iter().map(Offered::service).collect();
        Some(Self { master: Arc::new(model::Master { id, address, connected_at, services }), sources })
    }
}

#[derive(Deserialize)]
struct Offered {
    name: String,
    version: String,
    metadata: Value,
}

impl Offered {
    /// The service, with the version in its name unless the metadata tell it.
    fn service(self) -> Service {
        let Self { name, version, metadata } = self;
        let service = Service { name, metadata };
        if service.version().to_string() == version {
            return service;
        }
        Service { name: format!("{}@{version}", service.name), ..service }
    }
}

fn offer(service: &Service) -> Offer<'_> {
    Offer { name: service.base_name(), version: service.version().to_string(), metadata: Object(&service.metadata) }
}
