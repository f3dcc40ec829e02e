//! Calls and commands of workers over their channel, beside calls of a master of the same package over TCP.

use std::process::Command;
use std::time::{Duration, Instant};

use roster::register::EXAMPLE_TOKEN as TOKEN;

use super::{GROUP, all_run, source};
use crate::harness::{Client, Process, Roster, SOON, eventually, free_port};
use crate::idl::{Call, TRosterSyncClient, WorkerCommand};
use crate::let_wait;
use crate::measure::{median, micros, percentile};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// How many times as long as a call a command may take: what is more is chance.
const MOST: f64 = 1.05;

/// One who asks, in one way.
type Ask = fn(&mut Client);

pub(super) fn run(report: &mut Report) {
    let (rounds, asks) = if form() == Form::Quick { (3, 50) } else { (15, 500) };
    let (program, port) = (source("benches/workers/echo.php"), free_port());
    let mut roster = Roster::prepare(&format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = [\"php\", {program:?}]\nready = \"message\"\n"
    ));
    roster.write("tokens", TOKEN);
    let tokens = roster.folder().join("tokens");
    roster.configure("listen = \"\"", &format!("listen = \"127.0.0.1:{port}\"\ntokens = {tokens:?}"));
    let_wait(&roster);
    roster.run();
    all_run(&roster, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut php = Command::new("php");
    php.args([&program, "master"]).env("REGISTER", format!("tcp://127.0.0.1:{port}")).env("REGISTER_TOKEN", TOKEN);
    let _master = Process::start(&mut php, folder.path());
    let ways: [(&str, Ask); 3] = [
        ("a call of a master, over TCP", |client| call(client, "master")),
        ("a call of a worker, over its channel", |client| call(client, "worker")),
        ("a command of a worker (≤ 1.05)", command),
    ];
    let mut client = roster.client();
    eventually("the master is there", SOON, || {
        client.call(Call::of("master", "echo", b"[\"x\"]".to_vec())).map_err(|error| format!("{error:?}"))
    });
    let mut figures = ways.map(|(name, ask)| (name, ask, Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for (_, ask, p50, p99) in &mut figures {
            let latencies: Vec<Duration> = (0..asks)
                .map(|_| {
                    let began = Instant::now();
                    ask(&mut client);
                    began.elapsed()
                })
                .collect();
            p50.push(percentile(&latencies, 50));
            p99.push(percentile(&latencies, 99));
        }
    }
    let first = micros(median(&figures[0].2));
    let mut rows = figures.each_ref().map(|(name, _, p50, p99)| {
        let p50 = micros(median(p50));
        vec![(*name).to_owned(), format!("{p50:.0} / {:.0}", micros(median(p99))), format!("{:.2}", p50 / first)]
    });
    let [_, (.., call, _), (.., command, _)] = &figures;
    let times = micros(median(command)) / micros(median(call));
    rows[2].push(format!("{times:.2} {}", verdict(times <= MOST)));
    let header = ["", "", "p50 ÷ the first", "÷ the call over the channel"];
    report.table("A worker in PHP that is asked, p50 / p99, µs", &header, &rows);
}

fn call(client: &mut Client, service: &str) {
    let result = client.call(Call { timeout_ms: Some(20_000), ..Call::of(service, "echo", b"[\"x\"]".to_vec()) });
    assert_eq!(result.expect("an answer").values, [b"\"x\"".to_vec()]);
}

fn command(client: &mut Client) {
    let request = WorkerCommand::new(GROUP.to_owned(), 1, "echo".into(), b"\"x\"".to_vec(), None, 20_000);
    let reply = client.command_workers(request).expect("an answer");
    assert_eq!(reply.answers[0].value.as_deref(), Some(b"\"x\"".as_slice()), "{reply:?}");
}
