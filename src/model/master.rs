//! Masters: processes that offer services, and how to call them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use rmpv::{Value, ValueRef};
use semver::Version;
use tokio::sync::{Mutex, mpsc};

use super::version::lenient_version;
use super::{Answers, Arguments, Command, Metadata, Refused, json};
use crate::share::Share;

/// The most services of one master, wherever it is connected: all of them are reported and listed together.
pub const MAX_SERVICES: usize = 1_024;

/// The most bytes of a service, and of all services of a master together: their names, and their metadata as
/// MessagePack.
pub const MAX_SERVICE_BYTES: usize = 16 * 1024;
pub const MAX_MASTER_BYTES: usize = 256 * 1024;

/// The deepest nesting of a service's metadata as JSON: a master in the shared file has three levels around it.
pub const MAX_SERVICE_DEPTH: usize = json::MAX_DEPTH - 3;

/// A long-running process that offers services, as a register knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Master {
    /// The same at every register that knows the master.
    pub id: String,
    /// Where it connected from; not an address at which it could be called.
    pub peer_address: String,
    /// When it connected, ms since 1970.
    pub connected_at: i64,
    pub services: Vec<Service>,
}

/// A service that a master offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The master's own name for it, even if that is `name@version`.
    pub name: String,
    pub metadata: Metadata,
}

impl Master {
    /// About how many bytes of memory it takes.
    pub fn memory_size(&self) -> usize {
        const REST: usize = 512;
        let services = self.services.iter().map(Service::memory_size).sum::<usize>();
        REST + self.id.len() + self.peer_address.len() + services
    }
}

impl Service {
    /// The name without a version.
    pub fn base_name(&self) -> &str {
        split_name(&self.name).0
    }

    /// The version: from `name@version`, or from the metadata; 0.0.0 if there is none, or none that can be compared.
    pub fn version(&self) -> Version {
        let told = || self.metadata.scalar("version").and_then(plain).as_deref().and_then(lenient_version);
        split_name(&self.name).1.or_else(told).unwrap_or(Version::new(0, 0, 0))
    }

    fn packed_bytes(&self) -> usize {
        self.name.len() + self.metadata.packed_bytes()
    }

    /// About how many bytes of memory it takes.
    pub fn memory_size(&self) -> usize {
        /// The service itself, and the master as an instance of it.
        const REST: usize = 512;
        REST + self.name.len() + self.packed_bytes()
    }
}

/// The nesting depth of a value as JSON.
fn json_depth(value: &ValueRef<'_>) -> usize {
    match value {
        ValueRef::Array(values) => 1 + values.iter().map(json_depth).max().unwrap_or(0),
        ValueRef::Map(entries) => 1 + entries.iter().map(|(_, value)| json_depth(value)).max().unwrap_or(0),
        ValueRef::Binary(_) | ValueRef::Ext(..) => 1,
        ValueRef::String(text) => text.is_err().into(),
        _ => 0,
    }
}

/// Removes services that are too large or too deep, and those after which all together are too large. Returns the first
/// of them and their number.
pub fn cut_to_bounds(services: &mut Vec<Service>) -> Option<(String, usize)> {
    let (mut total, mut left_out) = (0, None::<(String, usize)>);
    services.retain(|service| {
        let bytes = service.packed_bytes();
        let fits = bytes <= MAX_SERVICE_BYTES
            && total + bytes <= MAX_MASTER_BYTES
            && json_depth(&service.metadata.read()) <= MAX_SERVICE_DEPTH;
        if fits {
            total += bytes;
        } else {
            left_out.get_or_insert_with(|| (service.name.chars().take(100).collect(), 0)).1 += 1;
        }
        fits
    });
    left_out
}

/// A string; or a number as people write it: PHP has `2` and `1.5` where others use quotes.
fn plain(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::F32(number) => Some(number.to_string()),
        ValueRef::F64(number) => Some(number.to_string()),
        ValueRef::String(text) => text.into_string(),
        _ => None,
    }
}

/// The name of a service, and the version in it: `mail@1.2`. An invalid version is part of the name: `mail@work`.
pub fn split_name(name: &str) -> (&str, Option<Version>) {
    let split = name.rsplit_once('@').filter(|(base, _)| !base.is_empty());
    match split.map(|(base, version)| (base, lenient_version(version))) {
        Some((base, Some(version))) => (base, Some(version)),
        _ => (name, None),
    }
}

/// One call of a method.
#[derive(Clone, Debug)]
pub struct Call {
    /// The service by the master's name for it.
    pub service: String,
    pub method: String,
    pub arguments: Arguments,
    /// Until when its caller waits; none: unknown.
    pub until: Option<Instant>,
    /// What its caller sends while it runs; none: nothing.
    pub input: Option<Input>,
    /// The caller's share, for what waits to be sent to the master, and for what came from it and was not taken.
    pub memory: Arc<Share>,
}

/// Values on their way to a method, besides its arguments. Each is received by one of the clones.
#[derive(Clone, Debug)]
pub struct Input(Arc<Mutex<mpsc::Receiver<Value>>>);

impl Input {
    pub fn new() -> (mpsc::Sender<Value>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(Arc::new(Mutex::new(receiver))))
    }

    /// The next value; none: there are no more.
    pub async fn next(&self) -> Option<Value> {
        self.0.lock().await.recv().await
    }
}

impl PartialEq for Input {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A line to a master. None of its methods wait.
pub trait Line: Debug + Send + Sync {
    /// Sends a call.
    fn call(&self, call: Call) -> Result<Answers, Refused>;

    /// Sends an application-defined command.
    fn send(&self, command: &Command) -> Result<(), Refused>;

    /// Whether calls on this line may have an input.
    fn takes_input(&self) -> bool {
        false
    }

    /// How many calls to this master are under way on this line.
    fn outstanding(&self) -> usize;

    /// Whether its connection to the master is up.
    fn is_connected(&self) -> bool {
        true
    }

    /// Whether it is connected, and the other end is responsive.
    fn is_answering(&self) -> bool {
        self.is_connected()
    }

    /// Whether the other end is the master itself, rather than a register that reported it.
    fn is_direct(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_too_large_alone_or_together_are_left_out() {
        let service =
            |name: &str, bytes: usize| Service { name: name.into(), metadata: Value::from("x".repeat(bytes)).into() };
        let mut services = vec![service("small", 10), service("large", MAX_SERVICE_BYTES), service("too", 1_000_000)];
        assert_eq!(cut_to_bounds(&mut services), Some(("large".into(), 2)));
        assert_eq!(services, [service("small", 10)]);
        assert_eq!(cut_to_bounds(&mut services), None);
        let mut many: Vec<_> = (0..30).map(|number| service(&number.to_string(), 15_000)).collect();
        assert_eq!(cut_to_bounds(&mut many), Some(("17".into(), 13)));
        assert_eq!(many.len(), 17);
    }

    #[test]
    fn metadata_deeper_than_readers_of_json_go_are_left_out() {
        let deep = |levels: usize, inmost: Value| {
            let metadata = (0..levels).fold(inmost, |value, _| Value::Array(vec![value]));
            Service { name: levels.to_string(), metadata: metadata.into() }
        };
        let mut services = vec![
            deep(MAX_SERVICE_DEPTH, 1.into()),
            deep(MAX_SERVICE_DEPTH + 1, 1.into()),
            // An object in JSON.
            deep(MAX_SERVICE_DEPTH, Value::Binary(vec![0xff])),
        ];
        assert_eq!(cut_to_bounds(&mut services).map(|(_, count)| count), Some(2));
        let master = Master { id: "m".into(), peer_address: String::new(), connected_at: 0, services };
        let view = super::super::view::Master::of(&master, master.services.iter());
        let json = serde_json::to_string(&view).expect("JSON");
        serde_json::from_str::<super::super::view::Master>(&json).expect("it is read");
    }

    #[test]
    fn all_that_a_master_tells_of_itself_takes_memory() {
        let size = |id: &str, address: &str, services: usize| {
            let services = vec![Service { name: String::new(), metadata: Value::Nil.into() }; services];
            Master { id: id.into(), peer_address: address.into(), connected_at: 0, services }.memory_size()
        };
        let long = "x".repeat(1_000);
        assert_eq!(size(&long, &long, 0), size("", "", 0) + 2_000);
        assert!(size("", "", 1_000) >= 1_000 * (size_of::<Service>() + 128), "{}", size("", "", 1_000));
    }

    #[test]
    fn what_is_no_version_is_a_part_of_the_name() {
        for (name, base, version) in [
            ("mail@1.0.0", "mail", Some("1.0.0")),
            ("mail@work", "mail@work", None),
            ("mail@work@v2", "mail@work", Some("2.0.0")),
            ("mail@", "mail@", None),
            ("@1.0.0", "@1.0.0", None),
            ("7", "7", None),
        ] {
            let (found, of) = split_name(name);
            assert_eq!((found, of.map(|of| of.to_string()).as_deref()), (base, version), "{name}");
        }
    }

    #[test]
    fn a_version_stands_in_the_name_or_in_the_metadata() {
        let version = |name: &str, metadata: Option<&str>| {
            let metadata = metadata.map_or(Value::Array(vec![]), |v| Value::Map(vec![("version".into(), v.into())]));
            Service { name: name.into(), metadata: metadata.into() }.version().to_string()
        };
        assert_eq!(version("mail", Some("1.2.3")), "1.2.3");
        assert_eq!(version("mail", Some("1")), "1.0.0");
        assert_eq!(version("mail@v2.1", None), "2.1.0");
        assert_eq!(version("mail@2.0.0-rc.1", Some("9.9.9")), "2.0.0-rc.1");
        assert_eq!(version("mail", Some("latest")), "0.0.0");
        let number = |number: Value| {
            Service { name: "mail".into(), metadata: Value::Map(vec![("version".into(), number)]).into() }
                .version()
                .to_string()
        };
        assert_eq!([2.into(), 1.5.into(), 2.0.into()].map(number), ["2.0.0", "1.5.0", "2.0.0"]);
        assert_eq!(version("mail@work", Some("1.2")), "1.2.0");
        assert_eq!(version("mail", None), "0.0.0");
    }
}
