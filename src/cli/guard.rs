//! `roster guard`: shows which services are protected, and releases held instances.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use roster::model::counted;
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{EntityKind, GuardAction, GuardControl, GuardQuery, GuardedService, NotFound, ServiceQuery};
use serde_json::{Value, json};

use super::connection::{Connection, with_unit};
use super::{Output, json, resolve, text};

/// For how long a loss can be accepted in advance.
const MAX_ACCEPTED: Duration = Duration::from_secs(24 * 60 * 60);

/// How many addresses a message names.
const MAX_NAMED: usize = 10;

/// Show what the guard holds, or release it
///
/// When more than half of a service vanishes at once, its instances are still served until they are known to be gone.
#[derive(Debug, Args)]
pub(crate) struct Guard {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = super::exit::HELP)]
    List(List),
    #[command(after_help = super::exit::HELP)]
    Release(Release),
    #[command(after_help = super::exit::HELP)]
    Accept(Accept),
}

/// List services with held instances, and those whose removals are accepted
///
/// `roster services SERVICE` shows which instances are held.
#[derive(Debug, Args)]
struct List {
    /// Only this service
    service: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Release held instances: they are gone at once. For administrators
///
/// Instances that vanish later are held as before.
#[derive(Debug, Args)]
struct Release {
    /// The name of the service, without a version
    service: String,
    /// Only the instances at these addresses [default: all of the service]
    #[arg(value_name = "HOST:PORT")]
    addresses: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Accept what ZooKeeper says about a service: held instances, and those that vanish for a while, are gone at once. For
/// administrators
///
/// For example before a service is taken down on purpose. This does not outlast a restart of the sidecar.
#[derive(Debug, Args)]
struct Accept {
    /// The name of the service, without a version
    service: String,
    /// For how long, at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = accepted_time)]
    time: Duration,
    #[command(flatten)]
    connection: Connection,
}

fn accepted_time(text: &str) -> Result<Duration, String> {
    match with_unit(text, "write how long, such as \"10m\"")? {
        Duration::ZERO => Err("it must be longer than nothing; `roster guard release` lets go what is held".to_owned()),
        time if time > MAX_ACCEPTED => Err("it is at most a day".to_owned()),
        time => Ok(time),
    }
}

impl Guard {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(List { service, output, connection }) => {
                let services = read(&mut connection.client(), service)?;
                match output {
                    Output::Table => io::stdout().write_all(table(&services).as_bytes())?,
                    Output::Json => {
                        json::print(&json!({ "services": services.iter().map(document).collect::<Vec<_>>() }))?
                    }
                }
            }
            Command::Release(Release { service, mut addresses, connection }) => {
                let mut client = connection.client();
                let (mut released, mut wrong) = (0, Vec::new());
                if addresses.is_empty() {
                    released = release(&mut client, &service, None)?;
                }
                addresses.sort_unstable();
                addresses.dedup();
                // One by one, for a reply does not say at which of them something was held.
                for address in addresses {
                    match release(&mut client, &service, Some(vec![address.clone()]))? {
                        0 => wrong.push(address),
                        count => released += count,
                    }
                }
                if released > 0 || wrong.is_empty() {
                    writeln!(io::stdout(), "let go {}", instances(released))?;
                }
                if !wrong.is_empty() {
                    return Err(not_held(&mut client, service, &wrong)?.into());
                }
            }
            Command::Accept(Accept { service, time, connection }) => {
                let for_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                let request = GuardControl::new(service, GuardAction::ACCEPT, None, for_ms);
                let released = connection.client().control_guard(request)?.released;
                let time = text::duration(for_ms);
                writeln!(
                    io::stdout(),
                    "let go {}; whatever vanishes within {time} is gone at once",
                    instances(released)
                )?;
            }
        }
        Ok(())
    }
}

/// Releases held instances, all or those at some addresses; returns how many.
fn release(client: &mut Client, service: &str, addresses: Option<Vec<String>>) -> Result<i32, Error> {
    let request = GuardControl::new(service.to_owned(), GuardAction::RELEASE, addresses, None);
    Ok(client.control_guard(request)?.released)
}

/// The error that nothing is held at these addresses, with those at which something is.
fn not_held(client: &mut Client, service: String, wrong: &[String]) -> anyhow::Result<Error> {
    let query = ServiceQuery { service_name: Some(service.clone()), ..ServiceQuery::default() };
    let page = client.instances(query)?;
    let held: Vec<_> = page.instances.iter().filter(|it| it.held.is_some()).map(resolve::shown).collect();
    let held = match (held.len(), page.cursor) {
        (0, None) => "nothing of the service is held".to_owned(),
        (count, None) if count <= MAX_NAMED => format!("held are {}", held.join(", ")),
        _ => format!("`roster services {service}` tells which are held"),
    };
    let wrong: Vec<_> = wrong.iter().map(|address| text::preview(address.as_bytes())).collect();
    let message = format!("of `{service}` nothing is held at {}; {held}", wrong.join(", "));
    Ok(Error::NotFound(NotFound::new(EntityKind::SERVICE, service, message, page.freshness)))
}

fn instances(count: i32) -> String {
    counted(count.unsigned_abs().into(), "instance")
}

/// All pages.
fn read(client: &mut Client, service: Option<String>) -> anyhow::Result<Vec<GuardedService>> {
    let (mut services, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.guarded(GuardQuery { service_name: service.clone(), limit: None, cursor })?;
        services.extend(page.services);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(services);
        }
    }
}

fn document(it: &GuardedService) -> Value {
    json!({
        "name": it.name, "registered": it.registered, "held": it.held, "answering": it.answering, "silent": it.silent,
        "since": it.since, "endsAt": it.ends_at, "acceptedMs": it.accepted_ms,
    })
}

fn table(services: &[GuardedService]) -> String {
    let row = |it: &GuardedService| {
        let time = |time: Option<i64>| text::time(time.unwrap_or(0));
        [
            text::preview(it.name.as_bytes()),
            it.registered.to_string(),
            it.held.to_string(),
            it.answering.to_string(),
            it.silent.to_string(),
            time(it.since),
            time(it.ends_at),
            it.accepted_ms.map_or_else(|| "-".into(), text::duration),
        ]
    };
    let rows: Vec<_> = services.iter().map(row).collect();
    let heading = ["SERVICE", "REGISTERED", "HELD", "ANSWERING", "SILENT", "SINCE", "UNTIL", "ACCEPTED FOR"];
    text::table(heading, &["REGISTERED", "HELD", "ANSWERING", "SILENT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_shows_what_is_held_and_for_how_long_all_is_let_go() {
        let held = GuardedService::new("web".into(), 4, 6, 2, 1, 1_700_000_000_000, 1_700_000_600_000, None);
        let accepted = GuardedService::new("x\u{1b}".into(), 9, 0, 0, 0, None, None, 61_000);
        assert_eq!(
            table(&[held, accepted]),
            "\
SERVICE  REGISTERED  HELD  ANSWERING  SILENT  SINCE                 UNTIL                 ACCEPTED FOR
web               4     6          2       1  2023-11-14T22:13:20Z  2023-11-14T22:23:20Z  -
x\\u{1b}           9     0          0       0  -                     -                     1m 1s
"
        );
    }
}
