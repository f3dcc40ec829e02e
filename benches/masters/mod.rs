//! Part `masters`: what masters cost, what their changes cost, and what a call through the sidecar adds.

mod calls;
mod direct;

use std::time::{Duration, Instant};

use rmpv::Value;
use roster::register::EXAMPLE_TOKEN as TOKEN;

use crate::harness::master::{Scripted, map};
use crate::harness::{Client, Crowd, Roster, ensure, eventually, free_port};
use crate::idl::{ServiceQuery, TRosterSyncClient, WatchMastersRequest};
use crate::load;
use crate::measure::{file_in_step, file_size, median, memory, micros, millis, percentile, processor_time};
use crate::report::{Report, verdict};
use crate::{Form, descriptors, form, let_wait};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(120);
const SERVICES: usize = 5;

/// What a master may cost, in bytes.
const MOST: usize = 10 * 1024;

pub(crate) fn run(report: &mut Report) {
    report.part(
        "Masters",
        &format!("Each offers {SERVICES} services, the same as all others. Their ends of the connections are no part of the figures."),
    );
    let (sizes, changes) = if form() == Form::Quick { ([100, 1_000], 20) } else { ([1_000, 10_000], 200) };
    // Of one user, and there is one more that changes.
    let sizes = sizes.map(|size| size.min(max_masters() * 7 / 8 - 1));
    let crowds = sizes.map(|size| crowd(size, changes));
    tell(report, &crowds);
    calls::run(report);
}

/// How many masters there may be, seven eighths of them of one user: each takes a descriptor here, and one in the
/// sidecar.
fn max_masters() -> usize {
    11_600.min(descriptors().saturating_sub(2_000))
}

/// A sidecar with a register, and the port of that.
fn sidecar() -> (Roster, u16) {
    let port = free_port();
    let mut roster = Roster::prepare("[[file]]\npath = \"{folder}/nodes.toml\"\n");
    roster.write("nodes.toml", "[nodes]\n");
    roster.write("tokens", TOKEN);
    let tokens = roster.folder().join("tokens");
    // Heartbeats would be counted with what is measured. And a busy machine is no reason to refuse a master: so those
    // that connect have the descriptors which few clients and the masters leave.
    let max_masters = max_masters();
    let places = descriptors().saturating_sub(1_000 + max_masters);
    let register = format!(
        "listen = \"127.0.0.1:{port}\"\nping_interval = \"10m\"\nauth_timeout = \"2m\"\nmax_masters = {max_masters}\n\
         max_unauthenticated = {places}\ntokens = {tokens:?}"
    );
    roster.configure("listen = \"\"", &register);
    roster.configure("[thrift]\n", "[thrift]\nmax_connections = 128\nmax_watches = 128\n");
    let_wait(&roster);
    roster.run();
    roster.becomes("live");
    (roster, port)
}

/// The figures of so many masters.
struct Figures {
    masters: usize,
    joining: Duration,
    memory: usize,
    /// What one takes of the shared file.
    file: usize,
    /// Of a change of one of them.
    processor: Duration,
    seen: Vec<Duration>,
    calls_per_second: f64,
}

fn crowd(masters: usize, changes: usize) -> Figures {
    let (roster, port) = sidecar();
    are_there(&roster, 0);
    file_in_step(&roster);
    let server = [roster.process().id()];
    let (empty, file, began) = (memory(server[0]), file_size(&roster), Instant::now());
    let _crowd = Crowd::start(port, TOKEN, masters, SERVICES, Duration::from_secs(1));
    are_there(&roster, masters);
    let joining = began.elapsed();
    file_in_step(&roster);
    let memory = memory(server[0]).saturating_sub(empty) / masters;
    let file = file_size(&roster).saturating_sub(file) / masters;
    let (processor, seen) = change_one(&roster, port, changes);
    let time = if form() == Form::Quick { Duration::from_millis(200) } else { Duration::from_secs(2) };
    let calls = load::measure("a crowd of masters", &server, 16, time, || {
        let mut client = roster.client();
        move || calls::call(&mut client, "greeter", "hello", "\"hello\"")
    });
    Figures { masters, joining, memory, file, processor, seen, calls_per_second: calls.requests_per_second() }
}

fn are_there(roster: &Roster, masters: usize) {
    let all = || ServiceQuery { service_name: Some("greeter".to_owned()), ..ServiceQuery::default() };
    eventually("all masters are there", PATIENCE, || {
        // Counting them is work too.
        std::thread::sleep(Duration::from_millis(100));
        let told = roster.client().services(all()).map_err(|error| format!("{error:?}"))?;
        let found = told.services.iter().flat_map(|service| service.masters.values()).sum::<i32>() as usize;
        ensure(found == masters, format!("{found} are"))
    });
}

/// One master more adds and drops a service again and again: the processor time that each change takes, and the time
/// until it is seen.
fn change_one(roster: &Roster, port: u16, changes: usize) -> (Duration, Vec<Duration>) {
    let services: Vec<_> = (0..SERVICES).map(|number| (format!("service-{number}"), version())).collect();
    let mut services: Vec<_> = services.iter().map(|(name, metadata)| (name.as_str(), metadata.clone())).collect();
    let mut client = roster.client();
    let mut since = revision(&mut client);
    let mut master = Scripted::join(port, TOKEN, &services);
    since = sees(&mut client, since, services.len());
    // The shared file is to have its lists as well.
    file_in_step(roster);
    let (before, mut seen) = (processor_time(&[roster.process().id()]), Vec::new());
    for change in 0..changes {
        if change % 2 == 0 {
            services.push(("one-more", version()))
        } else {
            drop(services.pop())
        }
        let began = Instant::now();
        master.say(map([("cmd", "register".into())]));
        master.tells(&services);
        since = sees(&mut client, since, services.len());
        seen.push(began.elapsed());
    }
    ((processor_time(&[roster.process().id()]) - before) / changes as u32, seen)
}

fn version() -> Value {
    map([("version", "1.0.0".into())])
}

fn revision(client: &mut Client) -> i64 {
    client
        .services(ServiceQuery { service_name: Some("none".to_owned()), ..ServiceQuery::default() })
        .expect("a reply")
        .freshness
        .revision
}

/// Waits until a watcher is told of a master with so many services; the revision of that.
fn sees(client: &mut Client, since: i64, services: usize) -> i64 {
    let reply = client.watch_masters(WatchMastersRequest::new(since, None, 20_000, 0)).expect("a reply");
    let told: Vec<_> = reply.changes.iter().filter_map(|change| change.master.as_ref()).collect();
    assert!(told.len() == 1 && told[0].services.len() == services, "{told:?}");
    reply.freshness.revision
}

fn tell(report: &mut Report, crowds: &[Figures; 2]) {
    let row = |what: &str, value: &dyn Fn(&Figures) -> String| {
        [vec![what.to_owned()], crowds.iter().map(value).collect()].concat()
    };
    let rows = [
        row("from nothing until all are there", &|it| format!("{:.1} s", it.joining.as_secs_f64())),
        row("memory of a master (≤ 10 KB)", &|it| {
            format!("{:.1} KB {}", it.memory as f64 / 1024.0, verdict(it.memory <= MOST))
        }),
        row("what it takes of the shared file", &|it| format!("{:.1} KB", it.file as f64 / 1024.0)),
        row("a service added or dropped by one: processor time", &|it| format!("{:.0} µs", micros(it.processor))),
        row("the same: until a watcher is told, p50", &|it| format!("{:.2} ms", millis(median(&it.seen)))),
        row("the same: p99", &|it| format!("{:.2} ms", millis(percentile(&it.seen, 99)))),
        row("calls a second over all of them, 16 clients", &|it| format!("{:.0}", it.calls_per_second)),
    ];
    let header = [String::new(), format!("{} masters", crowds[0].masters), format!("{} masters", crowds[1].masters)];
    report.table("Many masters", &header.each_ref().map(String::as_str), &rows);
}
