//! Instances: the places that offer a service.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Not;
use std::sync::Arc;
use std::time::Duration;

use rmpv::ValueRef;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{MAX_SERVICE_BYTES, Metadata, NodePath, Revision, Service};

/// The most endpoints of an instance.
pub const MAX_ENDPOINTS: usize = 32;

/// The most bytes of a group, a version, a zone, and of the name, the protocol and the host of an endpoint.
pub const MAX_LABEL_BYTES: usize = 256;

/// The weight of an instance that has none of its own.
pub const DEFAULT_WEIGHT: u32 = 100;

/// One place that offers a service: a master, which is called through its connection; or endpoints, which clients call
/// themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Without a version; an invalid version is part of the name (`mail@work`).
    pub service: Arc<str>,
    pub version: Version,
    /// Empty if not given.
    pub group: Box<str>,
    /// Empty if not given.
    pub zone: Box<str>,
    pub weight: u32,
    pub metadata: Metadata,
    pub state: InstanceState,
    pub withheld: Withheld,
    /// Empty for a master.
    pub endpoints: Arc<[Endpoint]>,
    /// At least one.
    pub provenance: Arc<[Provenance]>,
    /// Set if no node registers it any more, but the guard has it served.
    pub held: Option<Box<Held>>,
}

/// Why an instance is not to be chosen, though it is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Its callers reported failures.
    pub ejected: Option<Arc<Withholding>>,
    /// An administrator keeps calls away from it.
    pub drained: Option<Arc<Withholding>>,
}

/// For how long an instance is withheld, in ms since 1970, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Withholding {
    pub since: u64,
    pub ends_at: u64,
    pub reason: String,
    /// How long the machine had been up when that was decided; known only to the deciding sidecar. The times above follow a
    /// wall clock that is set.
    #[serde(skip)]
    pub decided: Duration,
}

/// Where clients reach an instance directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its purpose; empty: the service itself.
    #[serde(default)]
    pub name: String,
    /// From its registration (`http`, `dubbo`); empty if not given.
    #[serde(default)]
    pub protocol: String,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

/// Whether an instance can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InstanceState {
    Up,
    /// It was there before a restart, and is expected back.
    Returning,
    /// It is registered, but its registration says that it takes no calls: disabled, starting, out of service.
    Down,
    /// A state that only a newer sidecar knows: it cannot be called.
    #[serde(other)]
    Unknown,
}

/// Since when, for how long and how an instance is served that no node registers any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// When it vanished, and when it is considered gone at the latest; ms since 1970.
    pub since: u64,
    pub ends_at: u64,
    pub probe: Probe,
    /// Whether it should not be chosen: nothing answers at its address, and most of the service are well.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub passed_over: bool,
    /// What distinguished it from others at its address, so that it is recognized after a restart.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub variant: Box<str>,
    /// The root that decided about an application as an interface: its own, or one that maps it. None: it is none,
    /// or an earlier build held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Box<str>>,
    /// How many the service had before the loss; None: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<usize>,
    /// Its end by a clock that nobody sets; None: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_boot: Option<AfterBoot>,
}

/// An end as the time since a boot of the machine, in ms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AfterBoot {
    pub boot: Box<str>,
    pub ends_at: u64,
}

/// What is known of the address of a held instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Probe {
    /// Nothing: it was not probed yet, or cannot be.
    #[default]
    Untried,
    /// It takes connections.
    Answering,
    /// It neither takes nor refuses them.
    Silent,
    /// A state that only a newer sidecar knows.
    #[serde(other)]
    Unknown,
}

/// Where an instance is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The name of the source.
    pub source: Arc<str>,
    pub record: Record,
    pub decoder: Decoder,
    /// Since which revision the source reports it unchanged.
    pub since: Revision,
}

/// What an instance was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Node(NodePath),
    /// The id of a master.
    Master(Arc<str>),
}

/// What decoded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// The protocol of masters, possibly through a register elsewhere.
    Tunnel,
    Format(Format),
}

/// How services are registered as nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Dubbo's interfaces.
    Dubbo,
    /// Dubbo's applications, which are Curator's services.
    DubboApplication,
    Curator,
    SpringCloud,
    Serverset,
    Nerve,
    Motan,
    Qconf,
    Codis,
    Patroni,
    Kafka,
    #[serde(rename = "hiveserver2")]
    HiveServer2,
    SofaRpc,
    /// `host:port` as a name or as data, or JSON.
    #[default]
    Raw,
}

/// Why a registration is not a valid instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    #[error("an instance has at most {MAX_ENDPOINTS} endpoints, and not {0}")]
    Endpoints(usize),
    #[error("the {0} of an instance has at most {MAX_LABEL_BYTES} bytes")]
    Label(&'static str),
    #[error("the {0} of an instance has no control characters")]
    Control(&'static str),
    #[error("the name and the metadata of an instance have at most {MAX_SERVICE_BYTES} bytes, and not {0}")]
    Metadata(usize),
}

impl Instance {
    /// A service of a master, which is within its limits. Group, zone and weight come from the metadata.
    pub fn of_master(
        service: &Service,
        state: InstanceState,
        provenance: impl IntoIterator<Item = Provenance>,
    ) -> Self {
        let label = |key| service.metadata.text(key).filter(|text| text.len() <= MAX_LABEL_BYTES);
        let weight = service.metadata.scalar("weight").and_then(weight);
        Self {
            service: service.base_name().into(),
            version: service.version(),
            group: label("group").unwrap_or_default().into(),
            zone: label("zone").unwrap_or_default().into(),
            weight: weight.unwrap_or(DEFAULT_WEIGHT),
            metadata: service.metadata.clone(),
            state,
            withheld: Withheld::default(),
            endpoints: Arc::default(),
            provenance: provenance.into_iter().collect(),
            held: None,
        }
    }

    /// The id of the master through whose connection it is called; none: clients call one of its endpoints.
    pub fn master(&self) -> Option<&Arc<str>> {
        self.provenance.iter().find_map(|it| match &it.record {
            Record::Master(id) => Some(id),
            Record::Node(_) => None,
        })
    }

    /// The endpoint of the service itself: the one without a name, or else the first.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.iter().find(|it| it.name.is_empty()).or(self.endpoints.first())
    }

    /// Identifies it when choosing by key: the id of a master, or the address of its endpoint.
    pub fn address(&self) -> String {
        match (self.master(), self.endpoint()) {
            (Some(id), _) => id.to_string(),
            (None, Some(Endpoint { host, port, .. })) => address(host, *port),
            (None, None) => String::new(),
        }
    }

    /// Whether it takes calls, by its registration and, if held, by what is known since.
    pub fn takes_calls(&self) -> bool {
        self.state == InstanceState::Up && self.held.as_ref().is_none_or(|held| !held.passed_over)
    }

    /// The bytes of its name, and of its metadata as MessagePack.
    pub fn packed_bytes(&self) -> usize {
        self.service.len() + self.metadata.packed_bytes()
    }

    /// Checks that it is within the limits of an instance. Keys and ids consist of its texts, separated by control
    /// characters.
    pub fn check(&self) -> Result<(), InstanceError> {
        if self.endpoints.len() > MAX_ENDPOINTS {
            return Err(InstanceError::Endpoints(self.endpoints.len()));
        }
        let own = [("group", &*self.group), ("zone", &*self.zone)];
        let of_endpoints = self.endpoints.iter().flat_map(|it| {
            [("endpoint's name", &*it.name), ("endpoint's protocol", &*it.protocol), ("endpoint's host", &*it.host)]
        });
        let labels = || own.into_iter().chain(of_endpoints.clone());
        if let Some((what, _)) = labels().find(|(_, label)| label.len() > MAX_LABEL_BYTES) {
            return Err(InstanceError::Label(what));
        }
        let mut texts = [("name", &*self.service)].into_iter().chain(labels());
        if let Some((what, _)) = texts.find(|(_, text)| text.contains(char::is_control)) {
            return Err(InstanceError::Control(what));
        }
        let bytes = self.packed_bytes();
        if bytes > MAX_SERVICE_BYTES { Err(InstanceError::Metadata(bytes)) } else { Ok(()) }
    }
}

impl Withheld {
    pub fn is_withheld(&self) -> bool {
        self.both().next().is_some()
    }

    /// The time span in which at least one of them withholds it; None: neither does.
    pub fn span(&self) -> Option<(u64, u64)> {
        Some((self.both().map(|it| it.since).min()?, self.both().map(|it| it.ends_at).max()?))
    }

    fn both(&self) -> impl Iterator<Item = &Withholding> {
        self.ejected.iter().chain(&self.drained).map(AsRef::as_ref)
    }
}

impl Endpoint {
    /// As people write it, and unique within the instance: `dubbo://10.0.0.5:20880`; without a protocol
    /// `10.0.0.5:20880`.
    pub fn address(&self) -> String {
        let Self { protocol, host, port, .. } = self;
        let scheme = if protocol.is_empty() { "" } else { "://" };
        match host.parse::<Ipv6Addr>() {
            // The same address may be written in several ways.
            Ok(host) => format!("{protocol}{scheme}[{host}]:{port}"),
            Err(_) => [protocol, scheme, host, ":", &port.to_string()].concat(),
        }
    }
}

#[cfg(test)]
impl Instance {
    /// One that is reached at `host:port`.
    pub(crate) fn at(service: &str, address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = port.parse().expect("a port");
        let record = Record::Node(NodePath::parse(&format!("/{service}/{address}")).expect("a path"));
        Self {
            service: service.into(),
            version: Version::new(1, 0, 0),
            group: "".into(),
            zone: "".into(),
            weight: DEFAULT_WEIGHT,
            metadata: Metadata::default(),
            state: InstanceState::Up,
            withheld: Withheld::default(),
            endpoints: [Endpoint { name: String::new(), protocol: "http".into(), host, port }].into(),
            provenance: [Provenance { source: "zk".into(), record, decoder: Decoder::Tunnel, since: 1 }].into(),
            held: None,
        }
    }
}

impl Record {
    /// The length of the path or the id.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Record::Node(path) => path.as_str().len(),
            Record::Master(id) => id.len(),
        }
    }
}

impl Display for Probe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answering => "its address takes connections",
            Self::Silent => "its address neither takes nor refuses connections",
            Self::Untried | Self::Unknown => "its address was not tried",
        })
    }
}

impl Decoder {
    pub fn name(self) -> &'static str {
        match self {
            Decoder::Tunnel => "tunnel",
            Decoder::Format(format) => format.name(),
        }
    }
}

impl Format {
    pub const ALL: [Format; 14] = [
        Format::Dubbo,
        Format::DubboApplication,
        Format::Curator,
        Format::SpringCloud,
        Format::Serverset,
        Format::Nerve,
        Format::Motan,
        Format::Qconf,
        Format::Codis,
        Format::Patroni,
        Format::Kafka,
        Format::HiveServer2,
        Format::SofaRpc,
        Format::Raw,
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Format::Dubbo => "dubbo",
            Format::DubboApplication => "dubbo-application",
            Format::Curator => "curator",
            Format::SpringCloud => "spring-cloud",
            Format::Serverset => "serverset",
            Format::Nerve => "nerve",
            Format::Motan => "motan",
            Format::Qconf => "qconf",
            Format::Codis => "codis",
            Format::Patroni => "patroni",
            Format::Kafka => "kafka",
            Format::HiveServer2 => "hiveserver2",
            Format::SofaRpc => "sofa-rpc",
            Format::Raw => "raw",
        }
    }
}

/// Whether it can be the address of a single host.
pub fn is_of_one_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !(ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
}

/// `host:port`; IPv6 addresses in brackets.
pub fn address(host: &str, port: impl Display) -> String {
    let [open, close] = if host.contains(':') { ["[", "]"] } else { ["", ""] };
    [open, host, close, ":", &port.to_string()].concat()
}

/// A weight, as a number or a string.
pub fn weight(value: ValueRef<'_>) -> Option<u32> {
    match value {
        ValueRef::Integer(number) => weight_of(number.as_f64()?),
        ValueRef::F32(number) => weight_of(number.into()),
        ValueRef::F64(number) => weight_of(number),
        ValueRef::String(text) => weight_of(text.as_str()?.parse().ok()?),
        _ => None,
    }
}

/// Many write a number with a fraction, even a whole one. What is not 0 is at least 1.
pub(crate) fn weight_of(number: f64) -> Option<u32> {
    let whole = if number > 0.0 { number.round().max(1.0) } else { number };
    (0.0..=f64::from(i32::MAX)).contains(&whole).then_some(whole as u32)
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;

    fn of(metadata: Vec<(&str, Value)>) -> Instance {
        let metadata = metadata.into_iter().map(|(key, value)| (key.into(), value)).collect();
        let service = Service { name: "mail@1.2".into(), metadata: Value::Map(metadata).into() };
        let record = Record::Master("m1".into());
        let provenance = Provenance { source: "register".into(), record, decoder: Decoder::Tunnel, since: 7 };
        Instance::of_master(&service, InstanceState::Up, [provenance])
    }

    #[test]
    fn a_master_is_an_instance_without_endpoints_and_its_metadata_place_and_weigh_it() {
        let instance = of(vec![("group", "blue".into()), ("zone", "a".into()), ("weight", 7.into())]);
        assert_eq!((&*instance.service, instance.version.to_string()), ("mail", "1.2.0".into()));
        assert_eq!((&*instance.group, &*instance.zone, instance.weight), ("blue", "a", 7));
        assert!(instance.endpoints.is_empty());
        assert_eq!(instance.master().map(AsRef::as_ref), Some("m1"));
    }

    #[test]
    fn what_is_no_group_zone_or_weight_leaves_the_default() {
        for weight in
            [(-1).into(), (-0.1).into(), f64::NAN.into(), "heavy".into(), "inf".into(), u64::MAX.into(), Value::Nil]
        {
            assert_eq!(of(vec![("weight", weight)]).weight, DEFAULT_WEIGHT);
        }
        for (weight, is) in [("0".into(), 0), (0.0.into(), 0), (0.2.into(), 1), (100.0.into(), 100), ("1.5".into(), 2)]
        {
            assert_eq!(of(vec![("weight", weight)]).weight, is);
        }
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        let instance = of(vec![("group", 1.into()), ("zone", long.into())]);
        assert_eq!((&*instance.group, &*instance.zone), ("", ""));
        instance.check().expect("it is within its bounds");
    }

    #[test]
    fn a_format_is_written_as_it_is_called() {
        for format in Format::ALL {
            assert_eq!(serde_json::to_string(&format).expect("JSON"), format!("{:?}", format.name()));
        }
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        let address = |protocol: &str, host: &str| {
            Endpoint { name: "x".into(), protocol: protocol.into(), host: host.into(), port: 80 }.address()
        };
        assert_eq!(address("http", "web-1"), "http://web-1:80");
        assert_eq!(address("", "10.0.0.5"), "10.0.0.5:80");
        assert_eq!([address("", "::1"), address("", "0:0::0:1")], ["[::1]:80", "[::1]:80"]);
    }

    #[test]
    fn what_a_registration_may_hold_is_bounded() {
        let endpoint = || Endpoint { name: "admin".into(), protocol: "http".into(), host: "10.0.0.5".into(), port: 80 };
        let with = |endpoints: Vec<Endpoint>| Instance { endpoints: endpoints.into(), ..of(vec![]) }.check();
        assert_eq!(with(vec![endpoint(); MAX_ENDPOINTS]), Ok(()));
        assert_eq!(with(vec![endpoint(); MAX_ENDPOINTS + 1]), Err(InstanceError::Endpoints(MAX_ENDPOINTS + 1)));
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        assert_eq!(
            with(vec![Endpoint { host: long.clone(), ..endpoint() }]),
            Err(InstanceError::Label("endpoint's host"))
        );
        let zoned = Instance { zone: long.into(), ..of(vec![]) };
        assert_eq!(zoned.check(), Err(InstanceError::Label("zone")));
        let marked = Instance { service: "foo\u{0}1.0.0\u{0}0".into(), ..of(vec![]) };
        assert_eq!(marked.check(), Err(InstanceError::Control("name")));
        let marked = Instance { group: "a\n".into(), ..of(vec![]) };
        assert_eq!(marked.check(), Err(InstanceError::Control("group")));
        let fat = of(vec![("fat", "x".repeat(MAX_SERVICE_BYTES).into())]);
        assert!(matches!(fat.check(), Err(InstanceError::Metadata(_))));
    }
}
