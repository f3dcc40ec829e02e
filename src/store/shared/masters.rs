//! Masters and services as the shared file tells them: with the names of the Thrift interface.

use std::sync::Arc;

use serde::Serialize;

use super::entry::written;
use crate::model::Service;
use crate::model::json::Object;
use crate::store::Entry;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Master<'a> {
    id: &'a str,
    address: &'a str,
    connected_at: i64,
    services: Vec<Offer<'a>>,
    ways: usize,
    outstanding: Uncounted,
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
pub(super) fn master(entry: &Entry) -> Vec<u8> {
    let master = &entry.master;
    written(&Master {
        id: &master.id,
        address: &master.address,
        connected_at: master.connected_at,
        services: master.services.iter().map(offer).collect(),
        ways: entry.lines().count(),
        outstanding: 0,
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

fn offer(service: &Service) -> Offer<'_> {
    Offer { name: service.base_name(), version: service.version().to_string(), metadata: Object(&service.metadata) }
}
