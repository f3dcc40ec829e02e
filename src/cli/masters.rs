//! `roster masters`: which masters are connected, and what they offer.

use std::io::{self, Write};

use clap::Args;
use roster::model::view;
use roster::thrift::idl::{Master, Service, ServiceQuery};
use serde_json::{Value, json};

use super::known::{self, Known, Source};
use super::{Output, json, text};

/// List the masters, and what they offer
#[derive(Debug, Args)]
pub(crate) struct Masters {
    /// Only those that offer this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those that offer a service with this metadata; if repeated, with all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = known::metadatum, conflicts_with = "shared")]
    metadata: Vec<(String, String)>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    source: Source,
}

impl Masters {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut known = self.source.open()?;
        let (masters, freshness) = known.masters(self.service.clone(), self.metadata.clone())?;
        if masters.is_empty() {
            tell_none(&mut known, self.service.as_deref(), &self.metadata)?;
        }
        match self.output {
            Output::Table => io::stdout().write_all(table(&masters).as_bytes())?,
            Output::Json => {
                let masters: Vec<_> = masters.iter().map(document).collect();
                json::print(&json!({ "masters": masters, "freshness": json::freshness(&freshness) }))?;
            }
        }
        Ok(())
    }
}

/// Says on stderr that nobody offers a service, or one with this metadata, which an empty table would not show. An
/// unknown service is an error.
fn tell_none(known: &mut Known, service: Option<&str>, metadata: &[(String, String)]) -> anyhow::Result<()> {
    let offered = service.map(|service| known.instances(service, ServiceQuery::default())).transpose()?;
    let is_offered = offered.is_none_or(|reply| !reply.instances.is_empty());
    let metadata = metadata.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    let [service, metadata] = [service.unwrap_or_default(), &metadata].map(|text| text::preview(text.as_bytes()));
    match (service.is_empty(), metadata.is_empty()) {
        (true, true) => {}
        (true, false) => eprintln!("roster: no master offers a service with {metadata}"),
        (false, false) if is_offered => eprintln!("roster: none of the masters that offer `{service}` has {metadata}"),
        (false, _) => eprintln!("roster: no master offers the service `{service}`"),
    }
    Ok(())
}

pub(crate) fn document(master: &Master) -> Value {
    json!(view::Master::from(master.clone()))
}

/// What a master offers, on one line.
pub(crate) fn offers(master: &Master) -> String {
    let named = |service: &Service| match service.version.as_str() {
        "0.0.0" => service.name.clone(),
        version => format!("{}@{version}", service.name),
    };
    let offers: Vec<_> = master.services.iter().map(named).collect();
    text::preview(offers.join(", ").as_bytes())
}

fn table(masters: &[Master]) -> String {
    let heading = ["ID", "PEER ADDRESS", "CONNECTED", "WAYS", "UNDER WAY", "SERVICES"];
    let rows: Vec<_> = masters.iter().map(row).collect();
    text::table(heading, &["WAYS", "UNDER WAY"], &rows)
}

fn row(master: &Master) -> [String; 6] {
    [
        text::preview(master.id.as_bytes()),
        text::preview(master.peer_address.as_bytes()),
        text::time(master.connected_at),
        master.routes.to_string(),
        master.outstanding.to_string(),
        offers(master),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_shown_with_what_it_offers() {
        let service = |name: &str, version: &str| Service::new(name.into(), version.into(), r#"{"a":1}"#.into());
        let services = vec![service("mail", "2.0.0"), service("log", "0.0.0"), service("x\u{1b}", "0.0.0")];
        let master = Master::new("m1".into(), "10.0.0.1:7".into(), 1_700_000_000_000, services, 2, 3);
        assert_eq!(
            table(std::slice::from_ref(&master)),
            "\
ID  PEER ADDRESS  CONNECTED             WAYS  UNDER WAY  SERVICES
m1  10.0.0.1:7    2023-11-14T22:13:20Z     2          3  mail@2.0.0, log, x\\u{1b}
"
        );
        assert_eq!(document(&master)["services"][0]["metadata"]["a"], 1);
    }
}
