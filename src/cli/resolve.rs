//! `roster resolve`: chooses one instance of a service as a client would, or shows how often each is chosen.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use roster::model::{self, view};
use roster::thrift::client::{Client, age};
use roster::thrift::idl::{self, Instance, ResolveRequest, ServiceQuery};
use serde_json::{Value, json};

use super::connection::{Connection, duration};
use super::{Output, json, known, text};

/// Choose one instance of a service that can be called, as a client would
///
/// Prints `host:port`, or the id of a master. With -n, prints how often each is chosen.
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The name of a service, or `name@1.2.0`
    service: String,
    /// Choose this many times and show how often each was chosen; with --key, by this many keys that begin with it
    #[arg(short = 'n', value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    times: Option<u32>,
    /// How it is chosen [default: random, or by --key]
    #[arg(long, value_enum)]
    balance: Option<Balance>,
    /// The same instance for the same key, as long as it exists
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// A version requirement in Composer's syntax, such as `^1.2`, or a registered version that is none by semver, such as
    /// `1.0.0.daily` [default: the newest]
    #[arg(long, value_name = "REQ")]
    version: Option<String>,
    /// Only of this group; if empty, of none [default: any]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only in this zone
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Prefer this zone, as long as enough of it can be called
    #[arg(long, value_name = "NAME", conflicts_with = "zone")]
    prefer_zone: Option<String>,
    /// Only with this metadata; if repeated, with all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = known::metadatum)]
    metadata: Vec<(String, String)>,
    /// From a subset of this size, the same for the same --subset-key
    #[arg(long, value_name = "SIZE", requires = "subset_key")]
    subset: Option<i32>,
    /// The owner of the subset
    #[arg(long, value_name = "TEXT", requires = "subset")]
    subset_key: Option<String>,
    /// Not the one at this address, as `roster resolve` prints it, since a call of it failed; if repeated, none of them
    #[arg(long, value_name = "ADDRESS")]
    exclude: Vec<String>,
    /// Refuse data that has not been confirmed in sync for longer than this; a bare number is in seconds
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// How to choose.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Balance {
    /// Of two random ones, the one with fewer calls under way
    LeastOutstanding,
    /// One after the other
    RoundRobin,
    /// Each in proportion to its weight
    Random,
    /// By --key
    ConsistentHash,
    /// Of two random ones, the one that reports less load
    LeastLoad,
}

/// How often an instance was chosen.
struct Chosen {
    instance: Instance,
    times: u32,
}

impl Resolve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let request = ResolveRequest {
            version: self.version,
            group: self.group,
            zone: self.zone,
            metadata: (!self.metadata.is_empty()).then(|| self.metadata.into_iter().collect()),
            balance: self.balance.map(Into::into),
            key: self.key.map(Into::into),
            prefer_zone: self.prefer_zone,
            subset: self.subset,
            subset_key: self.subset_key.map(Into::into),
            max_age_ms: self.max_age.map(age),
            exclude: (!self.exclude.is_empty()).then_some(self.exclude),
            ..ResolveRequest::of(self.service)
        };
        let mut client = self.connection.client();
        for unknown in not_of(&mut client, &request) {
            let (service, unknown) = (text::line(&request.service_name), text::preview(unknown.as_bytes()));
            eprintln!(
                "roster: no instance of `{service}` is {unknown}: --exclude takes host:port, or the id of a master"
            );
        }
        let Some(times) = self.times else {
            let reply = client.resolve(request)?;
            match self.output {
                Output::Table => writeln!(io::stdout(), "{}", shown(&reply.instance))?,
                Output::Json => {
                    let freshness = json::freshness(&reply.freshness);
                    let (instance, is_protected) = (document(&reply.instance), reply.is_protected == Some(true));
                    json::print(&json!({ "instance": instance, "protected": is_protected, "freshness": freshness }))?;
                }
            }
            return Ok(());
        };
        let mut chosen: BTreeMap<String, Chosen> = BTreeMap::new();
        for number in 0..times {
            let key = request.key.as_ref().map(|key| [key, number.to_string().as_bytes()].concat());
            let instance = client.resolve(ResolveRequest { key, ..request.clone() })?.instance;
            chosen.entry(address(&instance)).or_insert(Chosen { instance, times: 0 }).times += 1;
        }
        match self.output {
            Output::Table => io::stdout().write_all(table(chosen.values(), times).as_bytes())?,
            Output::Json => {
                let one = |it: &Chosen| json!({ "instance": document(&it.instance), "times": it.times });
                json::print(&json!({ "chosen": chosen.values().map(one).collect::<Vec<_>>() }))?;
            }
        }
        Ok(())
    }
}

impl From<Balance> for idl::Balance {
    fn from(balance: Balance) -> Self {
        match balance {
            Balance::LeastOutstanding => Self::LEAST_OUTSTANDING,
            Balance::RoundRobin => Self::ROUND_ROBIN,
            Balance::Random => Self::RANDOM,
            Balance::ConsistentHash => Self::CONSISTENT_HASH,
            Balance::LeastLoad => Self::LEAST_LOAD,
        }
    }
}

/// Which of those that are to be excluded are no instances of the service. Where that is not known, none is told.
fn not_of(client: &mut Client, request: &ResolveRequest) -> Vec<String> {
    let mut unknown = request.exclude.clone().unwrap_or_default();
    let mut query = ServiceQuery { service_name: Some(request.service_name.clone()), ..ServiceQuery::default() };
    while !unknown.is_empty() {
        let Ok(page) = client.instances(query.clone()) else { return Vec::new() };
        let known: Vec<String> = page.instances.iter().map(address).collect();
        unknown.retain(|it| !known.contains(it));
        if page.cursor.is_none() {
            break;
        }
        query.cursor = page.cursor;
    }
    unknown
}

fn document(instance: &Instance) -> Value {
    json!(view::Instance::from(instance.clone()))
}

/// The id of a master, or the address of the service's own endpoint.
pub(crate) fn address(instance: &Instance) -> String {
    let endpoint = instance.endpoints.iter().find(|it| it.name.is_empty()).or(instance.endpoints.first());
    match (&instance.master_id, endpoint) {
        (Some(id), _) => id.clone(),
        (None, Some(endpoint)) => model::address(&endpoint.host, endpoint.port),
        (None, None) => String::new(),
    }
}

pub(crate) fn shown(instance: &Instance) -> String {
    text::preview(address(instance).as_bytes())
}

fn table<'c>(chosen: impl Iterator<Item = &'c Chosen>, of: u32) -> String {
    let row = |Chosen { instance, times }: &Chosen| {
        let share = f64::from(*times) * 100.0 / f64::from(of);
        [
            shown(instance),
            instance.version.clone(),
            text::preview(instance.zone.as_bytes()),
            instance.weight.to_string(),
            times.to_string(),
            format!("{share:.1} %"),
        ]
    };
    let rows: Vec<_> = chosen.map(row).collect();
    let heading = ["INSTANCE", "VERSION", "ZONE", "WEIGHT", "TIMES", "SHARE"];
    text::table(heading, &["WEIGHT", "TIMES", "SHARE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::thrift::idl::{Endpoint, InstanceState};

    fn instance(master: Option<&str>, host: &str) -> Instance {
        let endpoint = |name: &str, port| Endpoint::new(name.into(), "http".into(), host.into(), port);
        let endpoints = if master.is_some() { vec![] } else { vec![endpoint("admin", 9_990), endpoint("", 80)] };
        let (name, version, none) = ("db".into(), "1.0.0".into(), String::new());
        let master = master.map(str::to_owned);
        let (zone, metadata) = ("a".into(), "{}".into());
        let (weight, state, provenance) = (100, InstanceState::UP, vec![]);
        Instance::new(
            master, 0, name, version, none, zone, weight, metadata, state, endpoints, provenance, None, None, None,
        )
    }

    #[test]
    fn the_distribution_names_each_by_its_address() {
        let chosen = [(None, "10.0.0.5", 700), (None, "::1", 299), (Some("m\u{1b}"), "", 1)];
        let chosen = chosen.map(|(master, host, times)| Chosen { instance: instance(master, host), times });
        assert_eq!(
            table(chosen.iter(), 1_000),
            "\
INSTANCE     VERSION  ZONE  WEIGHT  TIMES   SHARE
10.0.0.5:80  1.0.0    a        100    700  70.0 %
[::1]:80     1.0.0    a        100    299  29.9 %
m\\u{1b}      1.0.0    a        100      1   0.1 %
"
        );
    }
}
