//! Checks the consistency of everything in a shared file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Contents;
use super::contents::{json, of_path};
use super::entry::{self, CHILDREN, INSTANCES, MASTER, SERVICE};
use super::image::{Image, InvalidFile};
use crate::model::{NodePath, view};

/// The content of a sound file, and any contradictions in it.
#[derive(Debug)]
pub struct Checked {
    pub contents: Contents,
    pub contradictions: Vec<String>,
    /// The size of the file in bytes.
    pub size: u64,
    /// How many reader slots were ever taken, and how many there are; None: there is no lock file.
    pub readers: Option<(u32, u32)>,
}

/// Beyond the checksum: the names of children must match the nodes, and the instances the masters.
pub(super) fn contradictions(image: &Image, contents: &Contents) -> Result<Vec<String>, InvalidFile> {
    let mut found = children(image, contents)?;
    let (by_master, by_service) = (offers_of_masters(contents, &mut found), offers_of_services(contents, &mut found));
    found.extend(uncounted(contents));
    for (service, master) in by_master.symmetric_difference(&by_service) {
        found.push(format!("service {service:?} and master {master:?} do not agree on whether it is offered there"));
    }
    Ok(found)
}

fn children(image: &Image, contents: &Contents) -> Result<Vec<String>, InvalidFile> {
    let mut expected = names(contents);
    let (mut wrong, mut other) = (Vec::new(), Vec::new());
    image.walk(&mut |key, value| {
        if of_path(key, CHILDREN).is_none() {
            return Ok(());
        }
        match expected.remove(key) {
            Some((path, names)) if json::<Vec<String>>(value)? != names => {
                wrong.push(format!("the names of the children of {path} are not those of the nodes"));
            }
            Some(_) => {}
            None => other.push(format!("{:?} names children of what is not there", String::from_utf8_lossy(key))),
        }
        Ok(())
    })?;
    wrong.append(&mut other);
    wrong.extend(expected.into_values().map(|(path, _)| format!("the children of {path} are not named")));
    Ok(wrong)
}

/// The path and the children's names of each node, by key.
fn names(contents: &Contents) -> BTreeMap<Vec<u8>, (NodePath, Vec<String>)> {
    let mut families: BTreeMap<NodePath, Vec<String>> = BTreeMap::new();
    for path in contents.nodes.keys() {
        families.entry(path.clone()).or_default();
        let (mut child, mut above) = (path.clone(), path.parent());
        while let Some(parent) = above {
            let names = families.entry(parent.clone()).or_default();
            let name = parent.child_towards(&child).unwrap_or_default();
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
            above = parent.parent().filter(|_| !contents.nodes.contains_key(&parent));
            child = parent;
        }
    }
    families.into_iter().map(|(path, names)| (entry::key(CHILDREN, &path), (path, names))).collect()
}

/// Instances registered by nodes that no service counts.
fn uncounted(contents: &Contents) -> Vec<String> {
    let counts = contents.registered.iter().filter(|(key, _)| of_path(key, INSTANCES).is_some());
    let counts: BTreeMap<&[u8], BTreeMap<String, usize>> =
        counts.filter_map(|(key, value)| Some((key.as_slice(), json(value).ok()?))).collect();
    let mut found = Vec::new();
    for instance in contents.registered() {
        let Ok(view::Instance { service_name, version, .. }) = json(instance) else {
            found.push("an instance that a node registers cannot be read".to_owned());
            continue;
        };
        let is_counted = counts.get(&*entry::instances(&service_name)).is_some_and(|of| of.contains_key(&version));
        if !is_counted {
            found.push(format!("an instance of the service {service_name:?} {version} is not counted there"));
        }
    }
    found
}

/// Services by name, each with the id of a master.
type Offers = BTreeSet<(String, String)>;

fn offers_of_masters(contents: &Contents, found: &mut Vec<String>) -> Offers {
    let masters = readable::<view::Master>(contents, MASTER, found);
    let offers = masters.into_iter().flat_map(|view::Master { id, services, .. }| {
        services.into_iter().map(move |service| (service.name, id.clone()))
    });
    offers.collect()
}

fn offers_of_services(contents: &Contents, found: &mut Vec<String>) -> Offers {
    let instances = readable::<Vec<view::Instance>>(contents, SERVICE, found).into_iter().flatten();
    instances.filter_map(|it| Some((it.service_name, it.master_id?))).collect()
}

/// The readable entries of a kind. An unreadable one is reported, and the others are still checked.
fn readable<'c, T: Deserialize<'c>>(contents: &'c Contents, kind: &str, found: &mut Vec<String>) -> Vec<T> {
    let read = contents.entries(kind).filter_map(|(name, value)| match serde_json::from_slice(value) {
        Ok(entry) => Some(entry),
        Err(error) => {
            found.push(format!("{kind} {:?} cannot be read: {error}", name.unwrap_or("of a long name")));
            None
        }
    });
    read.collect()
}
