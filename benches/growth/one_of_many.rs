//! One of very many instances comes and goes, in real ZooKeeper: the traffic, and the processor time of the sidecar.

use std::time::Duration;

use zookeeper_client::{Acls, Client, CreateMode};

use crate::harness::{Link, Roster, Zk, ensure, eventually, fresh_chroot, runtime, source};
use crate::measure::{exponent, file_in_step, micros, processor_time};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// Of how many instances the service has.
const SIZES: [usize; 3] = [50, 500, 5_000];

/// Between two changes: longer than the mirror and the shared file wait for more.
const PAUSE: Duration = Duration::from_millis(25);

const LONG: Duration = Duration::from_secs(120);

/// The greatest exponent that passes for O(log n).
const LOGARITHMIC: f64 = 0.4;

/// What one change costs.
struct Cost {
    bytes: f64,
    processor: Duration,
}

pub(super) fn run(report: &mut Report) {
    let changes = if form() == Form::Quick { 40 } else { 400 };
    let costs = SIZES.map(|n| (n, cost(n, changes)));
    let mut rows: Vec<_> = costs
        .iter()
        .map(|(n, cost)| {
            vec![format!("{n}"), format!("{:.0} bytes", cost.bytes), format!("{:.0} µs", micros(cost.processor))]
        })
        .collect();
    let power = |of: &dyn Fn(&Cost) -> f64| {
        let power = exponent(&costs.each_ref().map(|(n, cost)| (*n, of(cost))));
        format!("{power:.2} {}", verdict(power <= LOGARITHMIC))
    };
    let grows = [power(&|cost| cost.bytes), power(&|cost| micros(cost.processor))];
    rows.push([vec!["n to the power of (≤ 0.4)".to_owned()], grows.to_vec()].concat());
    let header =
        ["instances of the service", "traffic with ZooKeeper, a change", "processor time of the sidecar, a change"];
    report.table("One of many instances comes and goes", &header, &rows);
    report.say("With the shared file and the history on the disk, above what the sidecar does where nothing changes.");
}

fn cost(n: usize, changes: usize) -> Cost {
    let zk = fresh_chroot();
    fill(&zk, n);
    let (address, chroot) = zk.connect_string().split_once('/').expect("a chroot");
    let link = Link::to(address.to_owned());
    let services = "\n[[services]]\nroot = \"/aurora\"\nformat = \"serverset\"\n";
    let sidecar = Roster::start(&source(&format!("{}/{chroot}", link.address()), services));
    eventually("all are known", LONG, || {
        let known = sidecar.cli(["services", "-o", "json"]);
        let count =
            if known.code == Some(0) { known.json()["services"][0]["masters"]["0.0.0"].clone() } else { 0.into() };
        ensure(count == n, count)
    });
    file_in_step(&sidecar);
    let used = || (link.carried(), processor_time(&[sidecar.process().id()]));
    let idle = PAUSE * changes as u32;
    let before = used();
    std::thread::sleep(idle);
    let between = used();
    runtime().block_on(async {
        let writer = Client::connect(zk.connect_string()).await.expect("ZooKeeper answers");
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        for number in 0..changes {
            tokio::time::sleep(PAUSE).await;
            let path = member_path(n + number / 2 + 1);
            if number % 2 == 0 {
                writer.create(&path, member(n + number).as_bytes(), &options).await.map(drop)
            } else {
                writer.delete(&path, None).await
            }
            .expect("ZooKeeper answers");
        }
    });
    file_in_step(&sidecar);
    let after = used();
    let each = |busy: f64, idle: f64| (busy - idle).max(0.0) / changes as f64;
    let processor = each((after.1 - between.1).as_secs_f64(), (between.1 - before.1).as_secs_f64());
    Cost {
        bytes: each((after.0 - between.0) as f64, (between.0 - before.0) as f64),
        processor: Duration::from_secs_f64(processor),
    }
}

fn fill(zk: &Zk, n: usize) {
    zk.create("/aurora/web", "");
    zk.run(async |client| {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        for some in (0..n).collect::<Vec<_>>().chunks(500) {
            let mut writer = client.new_multi_writer();
            for number in some {
                writer.add_create(&member_path(*number), member(*number).as_bytes(), &options)?;
            }
            writer.commit().await.expect("nothing is in the way");
        }
        Ok(())
    });
}

fn member_path(number: usize) -> String {
    format!("/aurora/web/member_{number:010}")
}

fn member(number: usize) -> String {
    let host = format!("10.0.{}.{}", number >> 8 & 255, number & 255);
    format!(
        r#"{{"serviceEndpoint":{{"host":"{host}","port":8080}},"additionalEndpoints":{{}},"status":"ALIVE","shard":{number}}}"#
    )
}
