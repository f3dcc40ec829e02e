//! Following services: masters are watched, what nodes register is polled, and the resulting services are printed.

use std::collections::BTreeMap;

use roster::thrift::client::Client;
use roster::thrift::idl::ServiceQuery;
use serde_json::json;

use super::{News, Subject, Tell};
use crate::cli::{services, text};

/// How many masters offer a service, by version.
type Offers = BTreeMap<String, i32>;

/// All services on offer.
#[derive(Default)]
pub(super) struct Services {
    told: BTreeMap<String, Offers>,
}

impl Services {
    fn read(client: &mut Client) -> anyhow::Result<(BTreeMap<String, Offers>, i64)> {
        let reply = services::read(client, ServiceQuery::default())?;
        let offered = reply.services.into_iter().filter(|service| !service.masters.is_empty());
        Ok((offered.map(|service| (service.name, service.masters)).collect(), reply.freshness.revision))
    }
}

impl Subject for Services {
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        let (services, revision) = Self::read(client)?;
        for (name, offers) in &services {
            tell(news(revision, "PRESENT", name, offers))?;
        }
        self.told = services;
        Ok(revision)
    }

    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        let reply = client.watch_masters(since, services::REREAD)?;
        if reply.reset {
            tell(News::reset(reply.freshness.revision))?;
            return Ok(None);
        }
        let (services, revision) = Self::read(client)?;
        for (kind, name) in differences(&self.told, &services) {
            tell(news(revision, kind, name, services.get(name).unwrap_or(&Offers::new())))?;
        }
        self.told = services;
        Ok(Some(reply.freshness.revision))
    }
}

fn differences<'a>(
    old: &'a BTreeMap<String, Offers>,
    new: &'a BTreeMap<String, Offers>,
) -> impl Iterator<Item = (&'static str, &'a String)> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| ("DELETED", name));
    let others = new.iter().filter_map(|(name, offers)| match old.get(name) {
        None => Some(("CREATED", name)),
        Some(before) => (before != offers).then_some(("CHANGED", name)),
    });
    gone.chain(others)
}

fn news(revision: i64, kind: &str, name: &str, offers: &Offers) -> News {
    let fields = [("name".to_owned(), name.into()), ("masters".to_owned(), json!(offers))];
    let counts: Vec<_> = offers.iter().rev().map(|(version, count)| format!("{count} of {version}")).collect();
    let preview = text::preview(counts.join(", ").as_bytes());
    News { revision, kind: kind.into(), name: name.to_owned(), preview, fields: fields.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_what_differs() {
        let services = |of: &[(&str, i32)]| -> BTreeMap<String, Offers> {
            of.iter().map(|(name, count)| ((*name).to_owned(), Offers::from([("1.0.0".to_owned(), *count)]))).collect()
        };
        let (old, new) = (services(&[("a", 1), ("b", 1), ("c", 1)]), services(&[("b", 1), ("c", 2), ("d", 1)]));
        let told: Vec<_> = differences(&old, &new).map(|(kind, name)| (kind, name.as_str())).collect();
        assert_eq!(told, [("DELETED", "a"), ("CHANGED", "c"), ("CREATED", "d")]);
        assert_eq!(news(1, "CHANGED", "c", &new["c"]).preview, "2 of 1.0.0");
    }
}
