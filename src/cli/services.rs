//! `roster services`: what is offered, by whom, and how its calls went.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{Filter, Instance, MethodStats, ServiceSummary, ServicesReply};
use serde_json::{Value, json};

use super::known::{Known, Source};
use super::{Output, json, masters, text};

/// List the services; with a name, who offers it
#[derive(Debug, Args)]
pub(crate) struct Services {
    /// The name of a service, without a version
    name: Option<String>,
    /// Tell how the calls went that were made through the sidecar, by method
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
        let (table, document) = match (self.name, &mut known) {
            (name, Known::Sidecar { client, .. }) if self.stats => {
                let mut methods = client.stats()?.methods;
                methods.retain(|method| name.as_ref().is_none_or(|name| method.service_name == *name));
                (stats_table(&methods), json!({ "methods": methods.iter().map(stats).collect::<Vec<_>>() }))
            }
            (None, known) => {
                let reply = known.services()?;
                let services: Vec<_> = reply.services.iter().map(summary).collect();
                let document = json!({ "services": services, "freshness": json::freshness(&reply.freshness) });
                (summary_table(&reply.services), document)
            }
            (Some(name), known) => {
                let reply = known.instances(&name)?;
                let instances: Vec<_> = reply.instances.iter().map(instance).collect();
                let document = json!({ "instances": instances, "freshness": json::freshness(&reply.freshness) });
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

/// All pages of the services, as one that is as fresh as the first.
pub(crate) fn read(client: &mut Client) -> Result<ServicesReply, Error> {
    let mut whole = client.services(masters::any())?;
    while let Some(cursor) = whole.cursor.take() {
        let page = client.services(Filter { cursor: Some(cursor), ..masters::any() })?;
        whole.services.extend(page.services);
        whole.cursor = page.cursor;
    }
    Ok(whole)
}

fn summary(service: &ServiceSummary) -> Value {
    json!({ "name": service.name, "masters": service.masters })
}

/// A row a version; one for a service that nobody offers any more.
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
    text::table(["SERVICE", "VERSION", "MASTERS"], &["MASTERS"], &rows)
}

fn instance(instance: &Instance) -> Value {
    json!({
        "master": instance.master,
        "address": instance.address,
        "offer": masters::service(&instance.offer),
        "outstanding": instance.outstanding,
    })
}

fn instance_table(instances: &[Instance]) -> String {
    let row = |instance: &Instance| {
        [
            text::preview(instance.master.as_bytes()),
            text::preview(instance.address.as_bytes()),
            instance.offer.version.clone(),
            instance.outstanding.to_string(),
            text::preview(instance.offer.metadata.as_bytes()),
        ]
    };
    let rows: Vec<_> = instances.iter().map(row).collect();
    text::table(["MASTER", "ADDRESS", "VERSION", "CALLS", "METADATA"], &["CALLS"], &rows)
}

fn stats(method: &MethodStats) -> Value {
    json!({
        "serviceName": method.service_name,
        "method": method.method,
        "calls": method.calls,
        "failed": method.failed,
        "timedOut": method.timed_out,
        "lost": method.lost,
        "refused": method.refused,
        "retries": method.retries,
        "outstanding": method.outstanding,
        "minUs": method.min_us,
        "meanUs": method.mean_us,
        "maxUs": method.max_us,
        "histogram": method.histogram,
    })
}

fn stats_table(methods: &[MethodStats]) -> String {
    let heading =
        ["METHOD", "CALLS", "FAILED", "TIMED OUT", "LOST", "REFUSED", "RETRIES", "UNDER WAY", "MIN", "MEAN", "MAX"];
    let rows: Vec<_> = methods.iter().map(stats_row).collect();
    text::table(heading, &heading[1..], &rows)
}

fn stats_row(method: &MethodStats) -> [String; 11] {
    let is_timed = method.histogram.iter().any(|count| *count > 0);
    let time = |micros: i64| match Duration::from_micros(micros.unsigned_abs()) {
        time if is_timed => format!("{time:.1?}"),
        _ => "-".into(),
    };
    [
        text::preview(format!("{}.{}", method.service_name, method.method).as_bytes()),
        method.calls.to_string(),
        method.failed.to_string(),
        method.timed_out.to_string(),
        method.lost.to_string(),
        method.refused.to_string(),
        method.retries.to_string(),
        method.outstanding.to_string(),
        time(method.min_us),
        time(method.mean_us),
        time(method.max_us),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_service_has_a_row_a_version_and_one_when_nobody_is_left() {
        let mail = BTreeMap::from([("1.0.0".to_owned(), 2), ("2.0.0".to_owned(), 1)]);
        let services = [ServiceSummary::new("log".into(), BTreeMap::new()), ServiceSummary::new("mail".into(), mail)];
        assert_eq!(
            summary_table(&services),
            "\
SERVICE  VERSION  MASTERS
log      -              0
mail     2.0.0          1
mail     1.0.0          2
"
        );
    }

    #[test]
    fn statistics_have_a_row_a_method() {
        let answered =
            MethodStats::new("mail".into(), "send".into(), 9, 1, 2, 3, 4, 5, 6, 900, 1_250, 2_000_000, vec![0, 9]);
        let refused = MethodStats::new("mail".into(), "x".into(), 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, vec![0, 0]);
        assert_eq!(
            stats_table(&[answered, refused]),
            "\
METHOD     CALLS  FAILED  TIMED OUT  LOST  REFUSED  RETRIES  UNDER WAY      MIN   MEAN   MAX
mail.send      9       1          2     3        4        5          6  900.0µs  1.2ms  2.0s
mail.x         1       0          0     0        1        0          0        -      -     -
"
        );
    }
}
