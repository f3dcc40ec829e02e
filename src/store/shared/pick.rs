//! `pick/…` and `lots/…`: what a client needs to choose one of a service's instances registered by nodes, and no more,
//! so that it reads a thousand in microseconds; and when one comes or goes, only a few entries are written, however many
//! there are.
//!
//! The instances are those of the newest version with a callable one, and, for when the writer is gone, of newer versions that
//! are withheld. A version with masters ends the list, since the file does not know which are connected right now.

use std::collections::BTreeMap;
use std::ops::Not;

use semver::Version;
use serde::Serialize;

use crate::store::{InstanceSet, Instances, Provider};

/// The most versions in an entry that are withheld.
const MAX_WITHHELD_VERSIONS: usize = 8;

/// How many instances share one entry with their hashes and weights.
pub(super) const CHUNK: usize = 256;

/// `pick/<service>`.
#[derive(Serialize)]
struct Choice {
    #[serde(flatten)]
    among: Among,
    /// Newer versions whose instances with a weight are all withheld, the newest first: if the writer is gone, a reader uses
    /// the first of all with an instance that is no longer withheld.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    newer: Vec<Among>,
    /// Whether the guard holds some instances of the service.
    #[serde(rename = "protected", skip_serializing_if = "Not::not")]
    is_protected: bool,
}

/// The instances of one version.
#[derive(Serialize)]
struct Among {
    version: String,
    /// How many numbers its instances have.
    count: usize,
    /// The greatest weight; above 0.
    heaviest: u32,
    /// The withheld ones, whose weight in their chunk is 0: by number, the span in ms since 1970, and the weight. If
    /// the writer is gone, a reader treats them as not withheld at any other time: so none is withheld for longer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    withheld: BTreeMap<usize, (u64, u64, u32)>,
    /// The numbers of those that are ejected and not drained, if no version has a callable instance: if the writer is gone,
    /// a reader uses these when no other is left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ejected: Vec<usize>,
}

/// The instances of a service to choose from, as JSON; None: the file does not know.
pub(super) fn choice(instances: &Instances) -> Option<Vec<u8>> {
    let (mut sets, mut is_callable) = (Vec::new(), false);
    for (version, set) in instances.iter().rev().take_while(|(_, set)| set.count_of_registered() == set.len()) {
        is_callable = set.has_callable();
        if is_callable || set.heaviest() > 0 && sets.len() < MAX_WITHHELD_VERSIONS {
            sets.push((version, set));
        }
        if is_callable {
            break;
        }
    }
    let mut newer: Vec<_> = sets.into_iter().map(|(version, set)| among(version, set, !is_callable)).collect();
    let among = newer.pop()?;
    Some(super::entry::written(&Choice { among, newer, is_protected: instances.count_of_held() > 0 }))
}

fn among(version: &Version, set: &InstanceSet, is_last_resort: bool) -> Among {
    let (mut withheld, mut ejected) = (BTreeMap::new(), Vec::new());
    for (number, provider) in set.withheld().filter(|(_, provider)| provider.weight > 0) {
        let Some(instance) = provider.instances.first() else { continue };
        withheld.extend(instance.withheld.span().map(|(since, until)| (number, (since, until, provider.weight))));
        if is_last_resort && instance.withheld.drained.is_none() {
            ejected.push(number);
        }
    }
    ejected.sort_unstable();
    Among { version: version.to_string(), count: set.len(), heaviest: set.heaviest(), withheld, ejected }
}

/// For instances with numbers from `CHUNK * chunk` on: 8 bytes each, the hash of the address; then 4 bytes each, the
/// weight, 0 if it cannot be called; then the last four bytes of the hashes once more, first the fifth bytes of all, so that
/// a reader computes with one string of each. The numbers are big-endian.
pub(super) fn chunk(set: &InstanceSet, chunk: usize) -> Option<Vec<u8>> {
    let providers: Vec<_> = (CHUNK * chunk..set.len()).take(CHUNK).map_while(|number| set.get(number)).collect();
    let hashes: Vec<_> = providers.iter().map(|provider| provider.address_hash.to_be_bytes()).collect();
    let weight = |provider: &Provider| if provider.is_withheld() { 0 } else { provider.weight };
    let mut bytes = hashes.concat();
    bytes.extend(providers.iter().flat_map(|provider| weight(provider).to_be_bytes()));
    bytes.extend((4..8).flat_map(|number| hashes.iter().map(move |hash| hash[number])));
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Decoder, Held, Instance, InstanceState, Probe, Provenance, Record, Withholding};
    use crate::store::instances::NODE_MARK;
    use crate::store::{Directory, Withhold, WithholdKind};

    fn list(directory: &mut Directory, id: &str, instance: Instance) {
        let id = format!("{NODE_MARK}{id}").into();
        directory.list(&id, "db".into(), instance.version.clone(), [instance].into());
    }

    fn choice_of(directory: &Directory) -> Option<Value> {
        let choice = directory.instances_of("db").and_then(choice)?;
        Some(serde_json::from_slice(&choice).expect("JSON"))
    }

    #[test]
    fn the_bytes_are_those_that_the_php_package_reads() {
        let vectors: Value = serde_json::from_str(include_str!("../../../tests/vectors/resolve.json")).expect("JSON");
        let picks = vectors["picks"].as_array().expect("a list");
        assert!(picks.len() >= 5);
        for vector in picks {
            let mut directory = Directory::default();
            let instances = vector["instances"].as_array().expect("a list");
            for instance in instances {
                let (address, weight) = (instance["address"].as_str(), instance["weight"].as_u64());
                let address = address.expect("an address");
                let weight = weight.expect("a weight") as u32;
                list(&mut directory, address, Instance { weight, ..Instance::at("db", address) });
            }
            let sets = directory.instances_of("db").expect("it is there");
            let set = sets.values().next().expect("a version");
            let found = chunk(set, 0).map(|bytes| BASE64_STANDARD.encode(bytes));
            assert_eq!(found.as_deref(), vector["chunk"].as_str(), "{}", vector["what"]);
            assert_eq!(chunk(set, 1), None);
            let heaviest = instances.iter().map(|instance| instance["weight"].as_u64()).max();
            let choice = json!({"version": "1.0.0", "count": instances.len(), "heaviest": heaviest});
            assert_eq!(choice_of(&directory), Some(choice));
        }
    }

    #[test]
    fn one_that_is_held_is_chosen_unless_it_is_passed_over() {
        let mut directory = Directory::default();
        let held = |passed_over| {
            let held = Held { since: 1, ends_at: 2, probe: Probe::Silent, passed_over, ..Held::default() };
            Instance { held: Some(held.into()), ..Instance::at("db", "a:1") }
        };
        let weight = |directory: &Directory| {
            let set = directory.instances_of("db").and_then(|sets| sets.values().next()).expect("a version");
            chunk(set, 0).expect("a chunk")[8..12].to_vec()
        };
        list(&mut directory, "a", held(false));
        assert_eq!(choice_of(&directory).expect("one")["protected"], true);
        assert_eq!(weight(&directory), 100_u32.to_be_bytes());
        list(&mut directory, "a", held(true));
        assert_eq!((choice_of(&directory), weight(&directory)), (None, vec![0; 4]));
        list(&mut directory, "a", Instance::at("db", "a:1"));
        assert_eq!(choice_of(&directory).expect("one").get("protected"), None, "it is back");
    }

    #[test]
    fn one_that_comes_changes_one_chunk() {
        let mut directory = Directory::default();
        let chunks = |directory: &Directory| {
            let set = directory.instances_of("db").and_then(|sets| sets.values().next()).expect("a version");
            [0, 1, 2].map(|number| chunk(set, number))
        };
        let add = |directory: &mut Directory, number: usize| {
            list(directory, &number.to_string(), Instance::at("db", &format!("h{number}:1")));
        };
        (0..300).for_each(|number| add(&mut directory, number));
        let before = chunks(&directory);
        add(&mut directory, 300);
        let after = chunks(&directory);
        assert_eq!(before.each_ref().map(|it| it.as_ref().map(Vec::len)), [Some(4_096), Some(44 * 16), None]);
        assert_eq!((&before[0], after[1].as_ref().map(Vec::len)), (&after[0], Some(45 * 16)));
    }

    #[test]
    fn what_is_withheld_weighs_nothing_and_its_end_and_its_weight_are_told() {
        let mut directory = Directory::default();
        let add = |directory: &mut Directory, id: &str, version, weight| {
            let version = Version::new(version, 0, 0);
            list(directory, id, Instance { version, weight, ..Instance::at("db", id) });
        };
        add(&mut directory, "a:1", 2, 100);
        add(&mut directory, "b:1", 2, 300);
        add(&mut directory, "c:1", 2, 0);
        add(&mut directory, "d:1", 1, 7);
        let withhold = |directory: &mut Directory, target: &str, kind, span: Option<(u64, u64)>| {
            let withholding =
                span.map(|(since, ends_at)| Withholding { since, ends_at, ..Withholding::default() }.into());
            directory.withhold(&[Withhold { service: "db".into(), target: target.into(), kind, withholding }]);
        };
        let weights = |directory: &Directory| {
            let set = directory.instances_of("db").and_then(|sets| sets.get(&Version::new(2, 0, 0))).expect("a set");
            let bytes = chunk(set, 0).expect("a chunk");
            bytes[3 * 8..3 * 12]
                .chunks(4)
                .map(|it| u32::from_be_bytes(it.try_into().expect("4 bytes")))
                .collect::<Vec<_>>()
        };
        withhold(&mut directory, "b:1", WithholdKind::Ejected, Some((10, 20)));
        withhold(&mut directory, "b:1", WithholdKind::Drained, Some((15, 40)));
        withhold(&mut directory, "c:1", WithholdKind::Drained, Some((15, 40)));
        assert_eq!(weights(&directory), [100, 0, 0]);
        let choice = json!({"version": "2.0.0", "count": 3, "heaviest": 300, "withheld": {"1": [10, 40, 300]}});
        assert_eq!(choice_of(&directory), Some(choice));
        withhold(&mut directory, "a:1", WithholdKind::Drained, Some((15, 40)));
        let newest = json!({
            "version": "2.0.0", "count": 3, "heaviest": 300, "withheld": {"0": [15, 40, 100], "1": [10, 40, 300]},
        });
        let choice = json!({"version": "1.0.0", "count": 1, "heaviest": 7, "newer": [newest]});
        assert_eq!(choice_of(&directory), Some(choice), "of the newest version all are withheld");
        withhold(&mut directory, "d:1", WithholdKind::Drained, Some((15, 40)));
        let oldest =
            json!({"version": "1.0.0", "count": 1, "heaviest": 7, "withheld": {"0": [15, 40, 7]}, "newer": [newest]});
        assert_eq!(choice_of(&directory), Some(oldest), "of the older one too");
        withhold(&mut directory, "b:1", WithholdKind::Drained, None);
        let ejected = json!({"version": "2.0.0", "count": 3, "heaviest": 300, "withheld": {"0": [15, 40, 100], "1": [10, 20, 300]}, "ejected": [1]});
        assert_eq!(choice_of(&directory).expect("one")["newer"], json!([ejected]), "where nothing else is left");
        withhold(&mut directory, "d:1", WithholdKind::Drained, None);
        for (target, kind) in [("a:1", WithholdKind::Drained), ("b:1", WithholdKind::Ejected)] {
            withhold(&mut directory, target, kind, None);
        }
        assert_eq!(weights(&directory), [100, 300, 0]);
        assert_eq!(choice_of(&directory), Some(json!({"version": "2.0.0", "count": 3, "heaviest": 300})));
    }

    #[test]
    fn it_is_of_the_newest_version_of_which_one_can_be_called_and_of_no_masters() {
        let mut directory = Directory::default();
        assert_eq!(choice_of(&directory), None);
        let at = |version, state| Instance { version: Version::new(version, 0, 0), state, ..Instance::at("db", "a:1") };
        list(&mut directory, "a", at(3, InstanceState::Down));
        assert_eq!(choice_of(&directory), None, "it is not up");
        list(&mut directory, "b", Instance { weight: 0, ..at(2, InstanceState::Up) });
        assert_eq!(choice_of(&directory), None, "it has no weight");
        list(&mut directory, "c", at(1, InstanceState::Up));
        assert_eq!(choice_of(&directory).expect("one")["version"], "1.0.0");
        let record = Record::Master("m".into());
        let provenance = Provenance { source: "register".into(), record, decoder: Decoder::Tunnel, since: 1 };
        let master = Instance { provenance: [provenance].into(), ..at(3, InstanceState::Up) };
        directory.list(&"m".into(), "db".into(), master.version.clone(), [master].into());
        assert_eq!(choice_of(&directory), None, "the sidecar alone knows who is connected");
    }

    #[test]
    fn newer_versions_that_are_withheld_stand_there_too_up_to_one_that_is_callable_or_has_masters() {
        let mut directory = Directory::default();
        let at =
            |version, address: &str| Instance { version: Version::new(version, 0, 0), ..Instance::at("db", address) };
        let versions = |directory: &Directory| {
            let choice = choice_of(directory).expect("one");
            let newer = choice["newer"].as_array().cloned().unwrap_or_default();
            newer.iter().chain([&choice]).map(|it| it["version"].as_str().expect("one").to_owned()).collect::<Vec<_>>()
        };
        let withholding = Withholding { since: 1, ends_at: 2, ..Withholding::default() };
        directory.withhold(&[Withhold {
            service: "db".into(),
            target: "h".into(),
            kind: WithholdKind::Drained,
            withholding: Some(withholding.into()),
        }]);
        for version in 3..6 {
            list(&mut directory, &format!("{version}"), at(version, &format!("h:{version}")));
        }
        assert_eq!(versions(&directory), ["5.0.0", "4.0.0", "3.0.0"], "all are withheld");
        list(&mut directory, "1", at(1, "other:1"));
        assert_eq!(versions(&directory), ["5.0.0", "4.0.0", "3.0.0", "1.0.0"]);
        let record = Record::Master("m".into());
        let provenance = Provenance { source: "register".into(), record, decoder: Decoder::Tunnel, since: 1 };
        let master = Instance { provenance: [provenance].into(), ..at(4, "a:1") };
        directory.list(&"m".into(), "db".into(), master.version.clone(), [master].into());
        assert_eq!(versions(&directory), ["5.0.0"], "the sidecar alone knows who is connected");
        for version in 6..30 {
            list(&mut directory, &format!("{version}"), at(version, &format!("h:{version}")));
        }
        assert_eq!(versions(&directory).len(), MAX_WITHHELD_VERSIONS);
    }
}
