//! `roster services`: which services are offered, where, and statistics of their calls.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use roster::model::{DEFAULT_WEIGHT, address, view};
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{
    Endpoint, EntityKind, ExplainRequest, Freshness, Held, Instance, InstanceState, NotFound, Probe, ServiceQuery,
    ServiceSummary, ServicesReply, SourceStatus, Supply,
};
use serde_json::{Value, json};

use super::known::{self, Known, Source};
use super::{Output, json, stats, text};

/// List the services; with a name, the instances of that service
#[derive(Debug, Args)]
pub(crate) struct Services {
    /// The name of a service, without a version
    name: Option<String>,
    /// Only where the service has this metadata; if repeated, all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = known::metadatum, conflicts_with_all = ["shared", "stats"])]
    metadata: Vec<(String, String)>,
    /// Of the service only the versions that meet this requirement in Composer's syntax, such as `^1.2`, or the one that is
    /// registered so and is none by semver, such as `1.0.0.daily`
    #[arg(long, value_name = "REQ", requires = "name", conflicts_with_all = ["shared", "stats"])]
    version: Option<String>,
    /// Only of this group; if empty, of none
    #[arg(long, value_name = "NAME", requires = "name", conflicts_with_all = ["shared", "stats"])]
    group: Option<String>,
    /// Only in this zone
    #[arg(long, value_name = "NAME", requires = "name", conflicts_with_all = ["shared", "stats"])]
    zone: Option<String>,
    /// Only those that `roster resolve` chooses from
    #[arg(long, requires = "name", conflicts_with_all = ["shared", "stats"])]
    callable: bool,
    /// Show statistics of the calls made through the sidecar, by method
    #[arg(long, conflicts_with = "shared")]
    stats: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    source: Source,
}

impl Services {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut known = self.source.open()?;
        let metadata = self.metadata;
        let (table, document) = match (self.name, &mut known) {
            (name, Known::Sidecar { client, .. }) if self.stats => {
                let mut methods = client.stats()?.methods;
                methods.retain(|method| name.as_ref().is_none_or(|name| method.service_name == *name));
                if let (Some(name), true) = (&name, methods.is_empty()) {
                    // An unknown service is an error.
                    client.instances(ServiceQuery { service_name: Some(name.clone()), ..ServiceQuery::default() })?;
                    eprintln!("roster: no method of the service `{}` was called", text::preview(name.as_bytes()));
                }
                (
                    stats::method_table(&methods),
                    json!({ "methods": methods.iter().map(stats::method).collect::<Vec<_>>() }),
                )
            }
            (None, known) => {
                let is_any = metadata.is_empty();
                let reply = known.services(metadata)?;
                if is_any && reply.services.is_empty() {
                    tell_why_none(known)?;
                }
                let services: Vec<_> = reply.services.iter().map(summary).collect();
                let document = json!({ "services": services, "freshness": json::freshness(&reply.freshness) });
                (summary_table(&reply.services), document)
            }
            (Some(name), known) => {
                let filter = ServiceQuery {
                    metadata: (!metadata.is_empty()).then(|| metadata.into_iter().collect()),
                    version: self.version,
                    group: self.group,
                    zone: self.zone,
                    callable: self.callable.then_some(true),
                    ..ServiceQuery::default()
                };
                let is_any = filter == ServiceQuery::default();
                let reply = known.instances(&name, filter)?;
                let instances: Vec<_> = reply.instances.iter().map(instance).collect();
                let (is_protected, freshness) = (reply.is_protected == Some(true), json::freshness(&reply.freshness));
                let document = json!({ "instances": instances, "protected": is_protected, "freshness": freshness });
                if reply.instances.is_empty() {
                    if is_any {
                        return Err(absence(known, name, reply.freshness).into());
                    }
                    eprintln!("roster: no instance of `{}` is as asked for", text::preview(name.as_bytes()));
                }
                (instance_table(&reply.instances), document)
            }
        };
        match self.output {
            Output::Table => io::stdout().write_all(table.as_bytes())?,
            Output::Json => json::print(&document)?,
        }
        Ok(())
    }
}

/// Says on stderr what sources of instances suffer from where there is no service at all.
fn tell_why_none(known: &mut Known) -> anyhow::Result<()> {
    let Known::Sidecar { client, .. } = known else { return Ok(()) };
    let supplies = |it: &&SourceStatus| it.supplies.as_ref().is_some_and(|all| all.contains(&Supply::INSTANCES));
    for SourceStatus { name, detail, .. } in client.status()?.sources.iter().filter(supplies) {
        if !detail.is_empty() {
            eprintln!("roster: {}: {}", text::line(name), text::line(detail));
        }
    }
    Ok(())
}

/// The error that a service has no instances.
fn absence(known: &mut Known, name: String, freshness: Freshness) -> Error {
    let message = left_out(known, &name).map_or_else(
        || format!("the service {name} has no instances any more; `roster history {name}` tells what became of them"),
        |why| format!("no instance of {name} is listed: {why}"),
    );
    Error::NotFound(NotFound { kind: EntityKind::SERVICE, name, message, freshness })
}

/// Why no instance of a service is listed though nodes should register some; None: no node should.
fn left_out(known: &mut Known, name: &str) -> Option<String> {
    let Known::Sidecar { client, .. } = known else { return None };
    let reply = client.explain(ExplainRequest::new(name.to_owned(), None, None, None, None)).ok()?;
    let why = reply.undecodable.first()?.error.as_deref()?;
    let count = reply.undecodable.len() + reply.more_undecodable as usize;
    let name = text::preview(name.as_bytes());
    Some(format!("its nodes ({count}) are left out, the first because {why}; see `roster explain {name}`"))
}

/// How often followers read them again: no watch reports services that nodes register.
pub(crate) const REREAD: Duration = Duration::from_secs(2);

/// All pages of the services, as one reply with the freshness of the first.
pub(crate) fn read(client: &mut Client, query: ServiceQuery) -> Result<ServicesReply, Error> {
    let mut whole = client.services(query.clone())?;
    while let Some(cursor) = whole.cursor.take() {
        let page = client.services(ServiceQuery { cursor: Some(cursor), ..query.clone() })?;
        whole.services.extend(page.services);
        whole.cursor = page.cursor;
    }
    Ok(whole)
}

fn summary(service: &ServiceSummary) -> Value {
    json!({ "name": service.name, "masters": service.masters, "held": service.held.unwrap_or(0) })
}

/// A row per version; one for a service that nobody offers any more.
fn summary_table(services: &[ServiceSummary]) -> String {
    let mut rows = Vec::new();
    for service in services {
        let name = text::preview(service.name.as_bytes());
        let versions = service.masters.iter().rev();
        rows.extend(versions.map(|(version, count)| [name.clone(), version.clone(), count.to_string()]));
        if service.masters.is_empty() {
            rows.push([name, "-".into(), "0".into()]);
        }
    }
    text::table(["SERVICE", "VERSION", "INSTANCES"], &["INSTANCES"], &rows)
}

fn instance(instance: &Instance) -> Value {
    json!(view::Instance::from(instance.clone()))
}

fn instance_table(instances: &[Instance]) -> String {
    let or_none = |text: &str| if text.is_empty() { "-".into() } else { text::preview(text.as_bytes()) };
    // A pipe has room for all of it.
    let is_cut = io::stdout().is_terminal();
    let metadata = |it: &str| if is_cut { text::preview(it.as_bytes()) } else { it.to_owned() };
    let row = |instance: &Instance| {
        let endpoints: Vec<_> = instance.endpoints.iter().map(endpoint).collect();
        let is_weighted = instance.weight.unsigned_abs() != DEFAULT_WEIGHT;
        [
            or_none(instance.master_id.as_deref().unwrap_or_default()),
            or_none(&endpoints.join(" ")),
            instance.version.clone(),
            or_none(&instance.group),
            or_none(&instance.zone),
            if is_weighted { instance.weight.to_string() } else { "-".into() },
            state(instance),
            instance.master_id.as_ref().map_or_else(|| "-".into(), |_| instance.outstanding.to_string()),
            metadata(&instance.metadata),
        ]
    };
    let rows: Vec<_> = instances.iter().map(row).collect();
    let heading = ["MASTER", "ENDPOINTS", "VERSION", "GROUP", "ZONE", "WEIGHT", "STATE", "UNDER WAY", "METADATA"];
    text::table_of_filled(heading, &["WEIGHT", "UNDER WAY"], &rows)
}

/// What keeps calls from it, if anything. A state from a newer sidecar has only a number. A held instance may be
/// skipped as well.
fn state(instance: &Instance) -> String {
    let state = match instance.state {
        _ if instance.drained.is_some() => "drained".into(),
        InstanceState::UP if instance.ejected.is_some() => "ejected".into(),
        InstanceState::UP => "up".into(),
        InstanceState::RETURNING => "returning".into(),
        InstanceState::DOWN => "down".into(),
        InstanceState(newer) => newer.to_string(),
    };
    match &instance.held {
        None => state,
        Some(held) => format!("{state}, held: {}", probe(held)),
    }
}

/// What is known of a held instance.
pub(crate) fn probe(held: &Held) -> String {
    let probe = match held.probe {
        Probe::UNTRIED => "untried".into(),
        Probe::ANSWERING => "answering".into(),
        Probe::SILENT => "silent".into(),
        Probe(newer) => newer.to_string(),
    };
    if held.passed_over { format!("{probe}, passed over") } else { probe }
}

/// An endpoint as people write it: `admin=http://10.0.0.5:9990`.
fn endpoint(Endpoint { name, protocol, host, port }: &Endpoint) -> String {
    let name = if name.is_empty() { String::new() } else { format!("{name}=") };
    let protocol = if protocol.is_empty() { String::new() } else { format!("{protocol}://") };
    format!("{name}{protocol}{}", address(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::thrift::idl::Withholding;
    use std::collections::BTreeMap;

    #[test]
    fn a_master_has_no_endpoint_and_an_endpoint_is_shown_as_one_calls_it() {
        let endpoints = vec![
            Endpoint::new(String::new(), "dubbo".into(), "10.0.0.5".into(), 20_880),
            Endpoint::new("admin".into(), String::new(), "::1".into(), 9_990),
        ];
        let instance = |master: Option<&str>, endpoints, state| {
            let (version, metadata) = ("1.0.0".into(), r#"{"a":1}"#.into());
            let (name, none) = ("mail".into(), String::new());
            let master = master.map(str::to_owned);
            Instance::new(
                master,
                3,
                name,
                version,
                none.clone(),
                none,
                100,
                metadata,
                state,
                endpoints,
                vec![],
                None,
                None,
                None,
            )
        };
        let held = |passed_over| Held::new(0, 0, Probe::SILENT, passed_over);
        let up = instance(None, endpoints, InstanceState::UP);
        let silent = |passed_over| Instance { held: Some(held(passed_over)), endpoints: vec![], ..up.clone() };
        let why = || Some(Withholding::new(1, 2, String::new()));
        let ejected = Instance { ejected: why(), ..silent(true) };
        let drained = Instance { drained: why(), state: InstanceState::DOWN, ..ejected.clone() };
        let instances = [
            instance(Some("m1"), vec![], InstanceState::RETURNING),
            Instance { zone: "eu-1".into(), weight: 0, ..up.clone() },
            silent(false),
            silent(true),
            ejected,
            drained,
        ];
        assert_eq!(
            instance_table(&instances),
            "\
MASTER  ENDPOINTS                                VERSION  ZONE  WEIGHT  STATE                               UNDER WAY  METADATA
m1      -                                        1.0.0    -          -  returning                                   3  {\"a\":1}
-       dubbo://10.0.0.5:20880 admin=[::1]:9990  1.0.0    eu-1       0  up                                          -  {\"a\":1}
-       -                                        1.0.0    -          -  up, held: silent                            -  {\"a\":1}
-       -                                        1.0.0    -          -  up, held: silent, passed over               -  {\"a\":1}
-       -                                        1.0.0    -          -  ejected, held: silent, passed over          -  {\"a\":1}
-       -                                        1.0.0    -          -  drained, held: silent, passed over          -  {\"a\":1}
"
        );
    }

    #[test]
    fn a_service_has_a_row_a_version_and_one_when_nobody_is_left() {
        let mail = BTreeMap::from([("1.0.0".to_owned(), 2), ("2.0.0".to_owned(), 1)]);
        let services =
            [ServiceSummary::new("log".into(), BTreeMap::new(), None), ServiceSummary::new("mail".into(), mail, None)];
        assert_eq!(
            summary_table(&services),
            "\
SERVICE  VERSION  INSTANCES
log      -                0
mail     2.0.0            1
mail     1.0.0            2
"
        );
    }
}
