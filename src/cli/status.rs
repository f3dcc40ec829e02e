//! `roster status`: what the sidecar is doing, at a glance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use clap::Args;
use roster::model::counted;
use roster::thrift::client::Error;
use roster::thrift::idl::{Origin, QueueSummary, SourceStatus, StatusReply, Supply, WorkerState};
use serde_json::Value;

use super::connection::Connection;
use super::stats::{self, ServiceStats};
use super::{Output, json, queue, text};

/// How many services are shown one by one.
const MOST_SERVICES: usize = 10;

const HEADING: [&str; 10] =
    ["SOURCE", "KIND", "STATE", "AGE", "NODES", "SIZE", "RECONNECTS", "LEFT OUT", "DRIFT", "DETAIL"];
/// The right-aligned columns.
const NUMBERS: [&str; 6] = ["AGE", "NODES", "SIZE", "RECONNECTS", "LEFT OUT", "DRIFT"];

/// Show what the sidecar is doing, the state of its sources, and how calls went
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Also show the roots of each source, the counters and the limits in force
    #[arg(short, long)]
    all: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.client();
        let reply = client.status()?;
        let services = stats::by_service(&client.stats()?.methods);
        match self.output {
            Output::Json => json::print(&document(&reply, &services))?,
            Output::Table => {
                io::stdout().write_all(table(&reply, &services, self.all).as_bytes())?;
                if reply.counters.contains_key("jobsDead") {
                    io::stdout().write_all(of_queues(queue::read(&mut client)).as_bytes())?;
                }
            }
        }
        Ok(())
    }
}

fn document(status: &StatusReply, services: &[ServiceStats]) -> Value {
    let mut document = json::status(status);
    document["services"] = services.iter().map(ServiceStats::json).collect();
    document
}

fn table(status: &StatusReply, services: &[ServiceStats], all: bool) -> String {
    let mut text = format!(
        "roster {}   up {}   revision {}   {}\n\n",
        text::line(&status.version),
        text::duration(status.uptime_ms),
        status.freshness.revision,
        trust(status)
    );
    if let Some(access) = &status.access {
        let _ = writeln!(text, "you are {}\n", text::printable(access.as_bytes()));
    }
    if let Some(trouble) = &status.shared_file_error {
        let _ = writeln!(text, "shared file NOT IN ORDER: {}\n", text::printable(trouble.as_bytes()));
    }
    if let Some(trouble) = &status.state_error {
        let _ = writeln!(text, "state NOT KEPT: {}\n", text::printable(trouble.as_bytes()));
    }
    for taken in status.ports_taken.iter().flatten() {
        let _ = writeln!(text, "NOT LISTENING: {}\n", text::printable(taken.as_bytes()));
    }
    text += &status.workers.as_ref().map_or_else(String::new, workers);
    let rows: Vec<_> = status.sources.iter().map(row).collect();
    text += &if all { with_roots(&rows, &status.sources) } else { text::table(HEADING, &NUMBERS, &rows) };
    if status.sources.iter().any(|source| supplies(source, Supply::INSTANCES)) {
        if status.counters.contains_key("masters") {
            text += &hub(&status.counters);
        }
        text += &calls(services);
    }
    text += &withheld(&status.counters);
    text += &registered(&status.counters);
    if all {
        text += &named("COUNTER", &status.counters);
        text += &named("LIMIT", &status.limits);
    }
    text
}

/// What is wrong with the queues that this client sees, and what waits for a limit, a line each.
fn of_queues(read: anyhow::Result<(Vec<QueueSummary>, Option<String>)>) -> String {
    let (queues, trouble) = match read {
        Ok(read) => read,
        Err(why) if matches!(why.downcast_ref(), Some(Error::Denied(_))) => return String::new(),
        Err(why) => (Vec::new(), Some(format!("{why:#}"))),
    };
    // Of a buffer, each queue has a line.
    let lines = |why: &str| text::printable(why.as_bytes()).replace('\n', "\n    ");
    let mut text = trouble.map_or_else(String::new, |why| format!("\nqueues NOT IN ORDER: {}\n", lines(&why)));
    if let Some((dead, most, places)) = queue::of_each(&queues, "in", |it| it.dead) {
        let dead = counted(dead, "dead job");
        let _ = writeln!(text, "\n{dead}{places}; `roster queue peek {most} dead` tells why");
    }
    if let Some(failing) = queue::failing(&queues) {
        let _ = writeln!(text, "\n{failing}");
    }
    if let Some(paused) = queue::paused(&queues) {
        let _ = writeln!(text, "\n{paused}");
    }
    if let Some((left, _, places)) = queue::of_each(&queues, "in", queue::unperformed) {
        let left = queue::waiting(left);
        let others = if queues.iter().all(queue::is_counted) { "" } else { " (other hosts may)" };
        let told = match places.starts_with(':') {
            true => format!("{left} that nobody here performs{others}{places}"),
            false => format!("{left}{places}, which nobody here performs{others}"),
        };
        let _ = writeln!(text, "\n{told}; `roster queue list` tells of which");
    }
    if let Some((limited, _, places)) = queue::of_each(&queues, "of", |it| it.limited.unwrap_or(0)) {
        let limited = queue::waiting(limited);
        let _ = writeln!(text, "\n{limited} for a `[[queue.limit]]`{places}; `roster queue list` counts them");
    }
    text
}

/// One line about workers that fail or are not ready. Stopped and finished ones are as they should be.
fn workers(states: &BTreeMap<WorkerState, i32>) -> String {
    let of_state = |(state, count): (&WorkerState, &i32)| format!("{count} {}", json::worker_state(*state));
    let are_well = [WorkerState::RUNNING, WorkerState::STOPPING, WorkerState::STOPPED, WorkerState::EXITED];
    if states.keys().all(|state| are_well.contains(state)) {
        return String::new();
    }
    let states: Vec<_> = states.iter().map(of_state).collect();
    format!("workers NOT ALL RUNNING: {}; `roster worker list` tells why\n\n", states.join(", "))
}

fn supplies(source: &SourceStatus, what: Supply) -> bool {
    source.supplies.iter().flatten().any(|it| *it == what)
}

/// Whether answers wait for a source that was never in sync. A register reported by another one does not delay them.
fn is_awaited(source: &SourceStatus) -> bool {
    source.age_ms.is_none() && source.kind != "learned"
}

/// What is drained and ejected, on one line.
fn withheld(counters: &BTreeMap<String, i64>) -> String {
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    match (count("drained"), count("ejected")) {
        (0, 0) => String::new(),
        (drained, ejected) => format!("\n{drained} drained, {ejected} ejected; `roster drain` lists them\n"),
    }
}

/// What the guard holds, and what cannot be read of what nodes register, a line each.
fn registered(counters: &BTreeMap<String, i64>) -> String {
    let count = |name: &str| counters.get(name).map_or(0, |count| count.unsigned_abs());
    let mut text = String::new();
    if let held @ 1.. = count("heldInstances") {
        let _ = writeln!(
            text,
            "\n{} held by the guard; `roster guard list` tells of which services",
            counted(held, "instance")
        );
    }
    if let undecodable @ 1.. = count("undecodableNodes") {
        let nodes = counted(undecodable, "node");
        let _ = writeln!(text, "\n{nodes} that cannot be read; `roster explain` lists them, with the reasons");
    }
    text
}

/// The masters and the calls, on one line.
fn hub(counters: &BTreeMap<String, i64>) -> String {
    let count = |name: &str| counters.get(name).map_or(0, |count| count.unsigned_abs());
    // Without masters, nodes alone register what there is.
    let masters = match count("masters") {
        0 => String::new(),
        1 => "1 master   ".to_owned(),
        masters => format!("{masters} masters   "),
    };
    format!(
        "\n{masters}{}   {}, {} under way\n",
        counted(count("services"), "service"),
        counted(count("calls"), "call"),
        count("callsOutstanding")
    )
}

/// How the calls of each service went; if there are many services, of the busiest.
fn calls(services: &[ServiceStats]) -> String {
    let shown = &services[..services.len().min(MOST_SERVICES)];
    match services.len() - shown.len() {
        _ if shown.is_empty() => String::new(),
        0 => format!("\n{}", stats::service_table(shown)),
        more => format!("\n{}and {more} more: roster services --stats\n", stats::service_table(shown)),
    }
}

/// How far answers can be trusted, in words.
fn trust(status: &StatusReply) -> String {
    let freshness = &status.freshness;
    let mut words = match freshness.age_ms {
        _ if status.sources.iter().any(is_awaited) => "NOT YET IN SYNC".to_owned(),
        0 => "in sync".to_owned(),
        age => format!("NOT IN SYNC for {}", text::duration(age)),
    };
    if !freshness.complete {
        words += ", INCOMPLETE";
    }
    if freshness.origin == Origin::RESTORED {
        words += ", restored from an earlier run";
    }
    words
}

/// Healthy states are in lower case, so that a bad one stands out.
fn row(source: &SourceStatus) -> [String; 10] {
    let of_nodes = |text: String| if supplies(source, Supply::NODES) { text } else { "-".to_owned() };
    let state = if source.state == "down" { "DOWN".to_owned() } else { source.state.clone() };
    [
        source.name.clone(),
        source.kind.clone(),
        state,
        source.age_ms.map_or_else(|| "never".into(), text::duration),
        of_nodes(source.nodes.to_string()),
        of_nodes(text::size(source.bytes)),
        source.reconnects.to_string(),
        source.skipped_nodes.to_string(),
        source.drift.to_string(),
        source.detail.clone(),
    ]
}

/// The same table, with the roots of each source before its detail.
fn with_roots(rows: &[[String; 10]], sources: &[SourceStatus]) -> String {
    let wide =
        |[a, b, c, d, e, f, g, h, i, detail]: [String; 10], roots: String| [a, b, c, d, e, f, g, h, i, roots, detail];
    let heading = wide(HEADING.map(str::to_owned), "ROOTS".into());
    let roots = |source: &SourceStatus| match supplies(source, Supply::NODES) {
        true => text::preview(source.roots.join(", ").as_bytes()),
        false => "-".to_owned(),
    };
    let rows: Vec<_> = rows.iter().zip(sources).map(|(row, source)| wide(row.clone(), roots(source))).collect();
    text::table(heading.each_ref().map(String::as_str), &NUMBERS, &rows)
}

fn named(title: &str, values: &BTreeMap<String, i64>) -> String {
    let mut text = format!("\n{title}\n");
    let width = values.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, value) in values {
        writeln!(text, "  {:<width$}  {value}", text::line(name)).expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::thrift::idl::{Freshness, MethodStats};

    fn source(name: &str, state: &str, detail: &str, age: Option<i64>) -> SourceStatus {
        let [kind, name, state, detail] = ["zookeeper", name, state, detail].map(str::to_owned);
        let (roots, supplies) = (vec!["/".into()], vec![Supply::NODES]);
        SourceStatus::new(name, kind, state, detail, roots, None, None, age, 1200, 5 << 20, 2, 0, 0, supplies)
    }

    fn reply(age: i64, other: SourceStatus) -> StatusReply {
        StatusReply::new(
            "0.1.0".into(),
            93_784_000,
            Freshness::new(1_700_000_000_123, age, Origin::LIVE, age == 0),
            vec![source("main", "live", "", Some(0)), other],
            BTreeMap::from([("requests".into(), 12), ("connectionsOpen".into(), 3)]),
            BTreeMap::from([("maxRequest".into(), 65_536)]),
            None,
            Some("user 33: may watch".to_owned()),
            None,
            None,
            None,
            None,
            None,
        )
    }

    #[test]
    fn a_source_that_is_down_stands_out_with_its_reason() {
        assert_eq!(
            table(&reply(61_000, source("other", "down", "connection refused", Some(61_000))), &[], false),
            "\
roster 0.1.0   up 1day 2h   revision 1700000000123   NOT IN SYNC for 1m 1s, INCOMPLETE

you are user 33: may watch

SOURCE  KIND       STATE    AGE  NODES     SIZE  RECONNECTS  LEFT OUT  DRIFT  DETAIL
main    zookeeper  live      0s   1200  5.0 MiB           2         0      0
other   zookeeper  DOWN   1m 1s   1200  5.0 MiB           2         0      0  connection refused
"
        );
    }

    #[test]
    fn what_is_drained_and_ejected_is_counted() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        assert!(!table(&reply, &[], false).contains("drained"));
        reply.counters.extend([("drained".to_owned(), 2), ("ejected".to_owned(), 0)]);
        assert!(table(&reply, &[], false).ends_with("\n\n2 drained, 0 ejected; `roster drain` lists them\n"));
    }

    #[test]
    fn what_is_held_and_what_cannot_be_read_is_counted() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        reply.counters.extend([("heldInstances".to_owned(), 0), ("undecodableNodes".to_owned(), 0)]);
        let text = table(&reply, &[], false);
        assert!(!text.contains("held") && !text.contains("cannot be read"), "{text}");
        reply.counters.extend([("heldInstances".to_owned(), 3), ("undecodableNodes".to_owned(), 1)]);
        let told = "\n\n3 instances held by the guard; `roster guard list` tells of which services\n\
                    \n1 node that cannot be read; `roster explain` lists them, with the reasons\n";
        let text = table(&reply, &[], false);
        assert!(text.ends_with(told), "{text}");
    }

    #[test]
    fn a_shared_file_that_is_not_written_stands_out() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        assert!(!table(&reply, &[], false).contains("shared file"));
        reply.shared_file_error = Some("it is full; raise shared.max_size".into());
        let text = table(&reply, &[], false);
        assert!(text.contains("\n\nshared file NOT IN ORDER: it is full; raise shared.max_size\n\nSOURCE"), "{text}");
    }

    #[test]
    fn a_state_that_is_not_kept_stands_out() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        assert!(!table(&reply, &[], false).contains("state NOT"));
        reply.state_error = Some("there is no such folder".into());
        let text = table(&reply, &[], false);
        assert!(text.contains("\n\nstate NOT KEPT: there is no such folder\n\nSOURCE"), "{text}");
        assert_eq!(document(&reply, &[])["stateError"], "there is no such folder");
    }

    #[test]
    fn a_port_that_another_process_has_stands_out() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        assert!(!table(&reply, &[], false).contains("NOT LISTENING"));
        reply.ports_taken = Some(vec!["thrift.tcp: cannot listen".into()]);
        let text = table(&reply, &[], false);
        assert!(text.contains("\n\nNOT LISTENING: thrift.tcp: cannot listen\n\nSOURCE"), "{text}");
    }

    #[test]
    fn jobs_that_are_dead_or_wait_for_a_limit_have_a_line_with_how_many_are_in_which_queue() {
        let queue = |name: &str, dead, limited: Option<i64>| {
            let name = name.to_owned();
            QueueSummary::new(name, false, 9, 0, 0, dead, 0, None, None, None, None, None, 0, limited, 1, 0, None)
        };
        let queues = vec![queue("img", 0, None), queue("mail", 1, Some(2)), queue("post", 0, Some(1))];
        assert_eq!(
            of_queues(Ok((queues, None))),
            "\n1 dead job in mail; `roster queue peek mail dead` tells why\n\
             \n3 jobs wait for a `[[queue.limit]]`: 2 of mail, 1 of post; `roster queue list` counts them\n"
        );
        let mut queues =
            [("img", 2), ("mail", 5), ("post", 0), ("video", 1)].map(|(name, dead)| queue(name, dead, None)).to_vec();
        assert_eq!(
            of_queues(Ok((queues.clone(), None))),
            "\n8 dead jobs: 5 in mail, 2 in img, 1 in video; `roster queue peek mail dead` tells why\n"
        );
        queues.extend(["a", "b", "c"].map(|name| queue(name, 1, None)));
        let text = of_queues(Ok((queues, None)));
        assert!(
            text.contains("\n11 dead jobs: 5 in mail, 2 in img, 1 in video, 1 in a, 2 in 2 more queues; "),
            "{text}"
        );
        assert_eq!(of_queues(Ok((vec![queue("img", 0, None)], None))), "");
        for (enqueued_in_last_minute, others) in [(Some(0), ""), (None, " (other hosts may)")] {
            let mistyped = QueueSummary { workers: Some(0), enqueued_in_last_minute, ..queue("mial", 0, None) };
            let told = of_queues(Ok((vec![mistyped], None)));
            let waits = format!("9 jobs wait in mial, which nobody here performs{others}");
            assert_eq!(told, format!("\n{waits}; `roster queue list` tells of which\n"));
        }
    }

    #[test]
    fn jobs_that_fail_and_are_tried_again_have_a_line_with_how_many_failures_of_which_queue() {
        let queue = |name: &str, failed: Option<i64>| {
            let name = name.to_owned();
            QueueSummary::new(name, false, 0, 9, 0, 0, 0, None, 0, 0, None, None, 0, None, 1, 0, failed)
        };
        let queues = vec![queue("img", Some(1)), queue("mail", Some(2)), queue("post", None)];
        assert_eq!(
            of_queues(Ok((queues, None))),
            "\n3 failures in the last 10 minutes of jobs that are tried again: 2 in mail, 1 in img; \
             `roster queue peek mail delayed` tells why\n"
        );
        assert_eq!(
            of_queues(Ok((vec![queue("img", Some(1))], None))),
            "\n1 failure in the last 10 minutes of jobs that are tried again in img; \
             `roster queue peek img delayed` tells why\n"
        );
    }

    #[test]
    fn jobs_that_wait_in_paused_queues_have_a_line_with_the_cure() {
        let queue = |name: &str, is_paused, waiting| {
            let name = name.to_owned();
            QueueSummary::new(name, is_paused, waiting, 0, 0, 0, 0, None, 0, 0, None, None, 0, None, 0, 0, None)
        };
        assert_eq!(of_queues(Ok((vec![queue("img", true, 0), queue("old", true, 0)], None))), "");
        assert_eq!(
            of_queues(Ok((vec![queue("img", true, 0), queue("mail", true, 10)], None))),
            "\n10 jobs wait in mail, which is paused: `roster queue resume mail`\n"
        );
        assert_eq!(
            of_queues(Ok((vec![queue("img", true, 2), queue("mail", true, 10)], None))),
            "\n12 jobs wait: 10 in mail, 2 in img, which are paused: `roster queue resume mail`\n"
        );
    }

    #[test]
    fn workers_that_do_not_run_stand_out() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        let well = [WorkerState::RUNNING, WorkerState::STOPPED, WorkerState::EXITED];
        reply.workers = Some(well.map(|state| (state, 4)).into());
        assert!(!table(&reply, &[], false).contains("workers"));
        reply.workers = Some(BTreeMap::from([(WorkerState::FATAL, 1), (WorkerState::RUNNING, 3)]));
        let text = table(&reply, &[], false);
        assert!(
            text.contains("\n\nworkers NOT ALL RUNNING: 3 RUNNING, 1 FATAL; `roster worker list` tells why\n\n"),
            "{text}"
        );
        assert_eq!(document(&reply, &[])["workers"], serde_json::json!({ "RUNNING": 3, "FATAL": 1 }));
    }

    #[test]
    fn masters_and_calls_have_a_line_where_there_is_a_register() {
        let mut reply = reply(0, source("other", "live", "", Some(0)));
        assert!(!table(&reply, &[], false).contains("masters"));
        let supplies = Some(vec![Supply::INSTANCES]);
        let register =
            SourceStatus { kind: "register".into(), roots: vec![], supplies, ..source("hub", "live", "", Some(0)) };
        reply.sources.push(register);
        reply.counters.extend([("masters".into(), 2), ("services".into(), 5), ("calls".into(), 9)]);
        let text = table(&reply, &[], false);
        assert!(text.contains("\n2 masters   5 services   9 calls, 0 under way\n"), "{text}");
        reply.counters.insert("masters".into(), 0);
        let text = table(&reply, &[], false);
        assert!(text.contains("\n5 services   9 calls, 0 under way\n"), "nodes register them: {text}");
        assert!(text.contains("hub     register   live    0s      -        -"), "{text}");
    }

    #[test]
    fn a_mirror_whose_roots_the_client_may_not_see_is_no_register() {
        let reply = reply(0, SourceStatus { roots: vec![], ..source("other", "live", "", Some(0)) });
        assert!(table(&reply, &[], false).contains("0s   1200  5.0 MiB"), "{}", table(&reply, &[], false));
        assert_eq!(document(&reply, &[])["sources"][0]["supplies"], serde_json::json!(["nodes"]));
    }

    #[test]
    fn of_many_services_the_busiest_are_told() {
        let service = |number: i64| {
            let histogram = vec![number];
            MethodStats::new(format!("s{number}"), "m".into(), number, 0, 0, 0, 0, 0, 0, 5, 5, 5, histogram)
        };
        let services = |count| stats::by_service(&(1..=count).map(service).collect::<Vec<_>>());
        assert_eq!(calls(&[]), "");
        assert!(calls(&services(10)).ends_with("0  5.0µs  5.0µs\n"));
        let many = calls(&services(13));
        assert!(many.ends_with("\nand 3 more: roster services --stats\n"), "{many}");
        let shown: Vec<_> = many.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!((shown.len(), shown[1], shown[10]), (12, "s13", "s4"), "{many}");
        let reply = reply(0, source("other", "live", "", Some(0)));
        assert_eq!(document(&reply, &services(13))["services"].as_array().map(Vec::len), Some(13));
    }

    #[test]
    fn a_source_that_never_was_in_sync_is_not_called_so() {
        let text = table(&reply(0, source("other", "syncing", "", None)), &[], false);
        assert!(text.contains("NOT YET IN SYNC\n") && text.contains("never"), "{text}");
    }

    #[test]
    fn counters_and_limits_are_shown_when_asked_for() {
        let reply = reply(0, source("other", "live", "", Some(0)));
        let brief = table(&reply, &[], false);
        assert!(!brief.contains("requests") && !brief.contains("ROOTS"));
        let all = table(&reply, &[], true);
        assert!(all.contains("LEFT OUT  DRIFT  ROOTS  DETAIL\n") && all.contains("  /\n"), "{all}");
        assert!(
            all.contains("in sync\n") && all.contains("  requests         12\n") && all.contains("maxRequest  65536")
        );
    }
}
