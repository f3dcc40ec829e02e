//! `roster drain` and `roster undrain`: keep calls away from instances for a while.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use roster::clock::millis_since_1970;
use roster::model::{address, view};
use roster::thrift::client::Client;
use roster::thrift::idl::{
    DrainReply, DrainRequest, Instance, InstanceState, ServiceQuery, WithheldReply, WithheldTarget, Withholding,
};
use serde_json::{Value, json};

use super::connection::{Connection, duration, with_unit};
use super::{Output, json, text};

/// How often to check whether calls are still under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a drain may last.
const DRAIN_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);

/// Keep calls away from instances of a service for a while; without a service, list what is drained and ejected
///
/// This host's clients no longer choose them, neither through the sidecar nor from the shared file. The drain lasts
/// until its time is over, even if the sidecar or the instance restarts. For administrators.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The name of the service, without a version
    #[arg(requires = "target")]
    service: Option<String>,
    /// An instance as `roster services SERVICE` shows it: HOST:PORT or the id of a master; or a HOST, for all its
    /// instances
    #[arg(value_name = "INSTANCE|HOST", requires = "time")]
    target: Option<String>,
    /// For how long: from 1s to 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = drain_time, requires = "target")]
    time: Option<Duration>,
    /// The reason, shown to others
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Wait until no call from here to a drained master is under way, at most this long [default: 30s]. (Not for
    /// HOST:PORT: calls to that bypass the sidecar, so that nobody knows when they are done)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30s", value_parser = duration,
        requires = "target")]
    wait: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Let drained instances of a service get calls again
#[derive(Debug, Args)]
pub(crate) struct Undrain {
    /// The name of the service, without a version
    service: String,
    /// The target as it was drained
    #[arg(value_name = "INSTANCE|HOST")]
    target: String,
    #[command(flatten)]
    connection: Connection,
}

/// Calls still under way.
#[derive(Debug, thiserror::Error)]
#[error("it is drained, but after {0:?} {1} of its calls are still under way")]
pub(crate) struct StillCalled(Duration, i32);

/// Nobody knows of calls that they are done.
#[derive(Debug, thiserror::Error)]
#[error(
    "--wait is for masters alone: calls to {0} bypass the sidecar, so that nobody knows when they are done; drain it \
     without --wait, and wait for as long as yours take"
)]
pub(crate) struct Uncounted(String);

fn drain_time(text: &str) -> Result<Duration, String> {
    let time = with_unit(text, "write how long, such as \"30m\"")?;
    if !DRAIN_TIMES.contains(&time) {
        return Err("a drain lasts at least a second and at most 30 days".to_owned());
    }
    Ok(time)
}

impl Drain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self { service, target, time, reason, wait, output, connection } = self;
        let mut client = connection.client();
        let (Some(service_name), Some(target), Some(time)) = (service, target, time) else {
            let reply = client.withheld(None)?;
            match output {
                Output::Json => json::print(&document(&reply))?,
                Output::Table => io::stdout().write_all(table(&reply, now()).as_bytes())?,
            }
            return Ok(());
        };
        if wait.is_some() && of_service(&mut client, &service_name, &target)?.0.iter().any(|it| it.master_id.is_none())
        {
            return Err(Uncounted(target).into());
        }
        let duration_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let request = DrainRequest { service_name: service_name.clone(), target: target.clone(), duration_ms, reason };
        let reply = client.drain(request)?;
        warn(&reply);
        let (mut drained, others) = of_service(&mut client, &service_name, &target)?;
        if !others.iter().any(can_be_called) {
            let name = text::line(&service_name);
            let (service, target) = (text::argument(&service_name), text::argument(&target));
            eprintln!(
                "roster: no instance of {name} is left that can be called; `roster undrain {service} {target}` undoes it"
            );
        }
        match output {
            Output::Table => {
                let target = text::preview(target.as_bytes());
                let count = roster::model::counted(drained.len() as u64, "instance");
                writeln!(io::stdout(), "{target} is drained for {}: {count}", text::duration(duration_ms))?;
            }
            Output::Json => {
                let instances: Vec<_> = drained.iter().map(|it| json!(view::Instance::from(it.clone()))).collect();
                json::print(&json!({ "drained": withholding(&reply.drained), "instances": instances }))?;
            }
        }
        let (Some(wait), began) = (wait, Instant::now()) else { return Ok(()) };
        loop {
            let under_way: i32 = drained.iter().map(|it| it.outstanding).sum();
            if under_way == 0 {
                return Ok(());
            }
            if began.elapsed() > wait {
                return Err(StillCalled(wait, under_way).into());
            }
            sleep(LOOK_INTERVAL);
            (drained, _) = of_service(&mut client, &service_name, &target)?;
        }
    }
}

impl Undrain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self { service, target, connection } = self;
        let reply = connection.client().undrain(service, target.clone())?;
        warn(&reply);
        Ok(writeln!(io::stdout(), "{} is drained no longer", text::preview(target.as_bytes()))?)
    }
}

fn warn(reply: &DrainReply) {
    if let Some(why) = &reply.unkept {
        eprintln!("roster: a restart of the sidecar will not know of it: {}", text::line(why));
    }
}

/// The instances of a service that this target drains, and the others.
fn of_service(client: &mut Client, service: &str, target: &str) -> anyhow::Result<(Vec<Instance>, Vec<Instance>)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = ServiceQuery { service_name: Some(service.to_owned()), cursor, ..ServiceQuery::default() };
        let page = client.instances(query)?;
        all.extend(page.instances);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(all.into_iter().partition(|it| is_meant(it, target)));
        }
    }
}

/// Whether it may be chosen. One that is ejected is, where there is no other.
fn can_be_called(it: &Instance) -> bool {
    let is_passed_over = it.held.as_ref().is_some_and(|held| held.passed_over);
    it.state == InstanceState::UP && it.weight > 0 && it.drained.is_none() && !is_passed_over
}

fn is_meant(instance: &Instance, target: &str) -> bool {
    let endpoint = instance.endpoints.iter().find(|it| it.name.is_empty()).or(instance.endpoints.first());
    match (&instance.master_id, endpoint) {
        (Some(id), _) => id == target,
        (None, Some(it)) => it.host == target || address(&it.host, it.port) == target,
        (None, None) => false,
    }
}

fn document(reply: &WithheldReply) -> Value {
    let target = |it: &WithheldTarget| {
        let mut json = json!({ "serviceName": it.service_name, "target": it.target });
        for (name, why) in [("ejected", &it.ejected), ("drained", &it.drained)] {
            if let Some(why) = why {
                json[name] = withholding(why);
            }
        }
        json
    };
    json!({ "withheld": reply.withheld.iter().map(target).collect::<Vec<_>>(), "more": reply.more })
}

fn withholding(Withholding { since, ends_at, reason }: &Withholding) -> Value {
    json!({ "since": since, "endsAt": ends_at, "reason": reason })
}

fn table(reply: &WithheldReply, now: i64) -> String {
    let row = |it: &WithheldTarget| {
        let (state, why) = match (&it.drained, &it.ejected) {
            (Some(why), _) => ("drained", Some(why)),
            (None, why) => ("ejected", why.as_ref()),
        };
        [
            text::preview(it.service_name.as_bytes()),
            text::preview(it.target.as_bytes()),
            state.to_owned(),
            text::duration(why.map_or(0, |why| why.ends_at - now).max(0)),
            text::preview(why.map_or("", |why| &why.reason).as_bytes()),
        ]
    };
    let rows: Vec<_> = reply.withheld.iter().map(row).collect();
    let table = text::table(["SERVICE", "INSTANCE", "STATE", "ENDS IN", "REASON"], &["ENDS IN"], &rows);
    match reply.more {
        0 => table,
        more => format!("{table}and {more} more\n"),
    }
}

fn now() -> i64 {
    millis_since_1970(SystemTime::now()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_listed_with_its_end() {
        let why = |ends_at, reason: &str| Some(Withholding::new(1_000, ends_at, reason.to_owned()));
        let target = |service: &str, target: &str, ejected, drained| {
            WithheldTarget::new(service.to_owned(), target.to_owned(), ejected, drained)
        };
        let withheld = vec![
            target("db", "10.0.0.5", None, why(1_860_000, "new kernel")),
            target("mail", "10.0.0.6:80", why(9_000, "5 failures\n"), None),
            target("log", "m1", why(0, ""), None),
        ];
        let reply = WithheldReply::new(withheld, 7);
        assert_eq!(
            table(&reply, 60_000),
            "\
SERVICE  INSTANCE     STATE    ENDS IN  REASON
db       10.0.0.5     drained      30m  new kernel
mail     10.0.0.6:80  ejected       0s  5 failures\\n
log      m1           ejected       0s
and 7 more
"
        );
        assert_eq!(document(&reply)["withheld"][0]["drained"]["endsAt"], 1_860_000);
        assert!(document(&reply)["withheld"][0].get("ejected").is_none());
    }

    #[test]
    fn what_is_drained_disabled_or_has_no_weight_cannot_be_called_and_what_is_ejected_can() {
        let (name, version, none) = ("db".to_owned(), "1.0.0".to_owned(), String::new());
        let (group, zone, metadata) = (none.clone(), none, "{}".to_owned());
        let (weight, up, master) = (100, InstanceState::UP, "m".to_owned());
        let (endpoints, provenance) = (vec![], vec![]);
        let it = Instance::new(
            master, 0, name, version, group, zone, weight, metadata, up, endpoints, provenance, None, None, None,
        );
        let why = || Some(Withholding::new(1_000, 2_000, "new kernel".to_owned()));
        assert!(can_be_called(&it) && can_be_called(&Instance { ejected: why(), ..it.clone() }));
        assert!(!can_be_called(&Instance { drained: why(), ..it.clone() }));
        assert!(!can_be_called(&Instance { weight: 0, ..it.clone() }));
        assert!(!can_be_called(&Instance { state: InstanceState::DOWN, ..it }));
    }

    #[test]
    fn a_target_is_an_address_a_host_or_a_master() {
        use roster::thrift::idl::Endpoint;
        let instance = |master: Option<&str>, host: &str| {
            let endpoints = match master {
                Some(_) => vec![],
                None => vec![Endpoint::new(String::new(), String::new(), host.into(), 80)],
            };
            let (name, version, none) = ("db".into(), "1.0.0".into(), String::new());
            let master = master.map(str::to_owned);
            let (zone, metadata) = (String::new(), "{}".into());
            let up = InstanceState::UP;
            Instance::new(master, 0, name, version, none, zone, 100, metadata, up, endpoints, vec![], None, None, None)
        };
        assert!(is_meant(&instance(None, "::1"), "[::1]:80") && is_meant(&instance(None, "::1"), "::1"));
        assert!(is_meant(&instance(Some("m"), ""), "m") && !is_meant(&instance(Some("m"), ""), "m:80"));
        assert!(!is_meant(&instance(None, "web-1"), "web"));
    }
}
