//! Part `start`: from the start of the process to its first answer, cold and warm.

use std::time::{Duration, Instant};

use crate::harness::{Roster, eventually};
use crate::idl::Origin;
use crate::measure::{median, millis};
use crate::mirror::{DATA, Load};
use crate::report::{Report, verdict};
use crate::{Form, form};

const WARM: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(report: &mut Report) {
    let (nodes, rounds) = if form() == Form::Quick { (10_000, 3) } else { (100_000, 7) };
    report.part(
        "Start",
        &format!(
            "{nodes} nodes. Cold: nothing is left of an earlier process, and all is read from ZooKeeper. Warm: the shared \
             file is there, and ZooKeeper is not."
        ),
    );
    let mut load = Load::new(nodes);
    let last = load.last();
    let (mut cold, mut kept) = (Vec::new(), None);
    for _ in 0..rounds {
        let mut sidecar = load.prepare();
        cold.push(first_answer(&mut sidecar, &last));
        kept = Some(sidecar);
    }
    let mut sidecar = kept.expect("at least one round");
    load.server.kill();
    let warm: Vec<_> = (0..rounds)
        .map(|_| {
            assert!(sidecar.stop().success(), "{}", sidecar.log());
            let took = first_answer(&mut sidecar, &last);
            assert_eq!(sidecar.get(&last).expect("the node").freshness.origin, Origin::RESTORED);
            took
        })
        .collect();
    let (cold, warm) = (median(&cold), median(&warm));
    report.figures(
        "The first answer",
        &[
            ("cold", format!("{:.0} ms", millis(cold))),
            ("warm (≤ 100 ms)", format!("{:.0} ms {}", millis(warm), verdict(warm <= WARM))),
        ],
    );
}

fn first_answer(sidecar: &mut Roster, path: &str) -> Duration {
    let began = Instant::now();
    sidecar.run();
    let answer = eventually("the first answer", PATIENCE, || sidecar.get(path));
    let took = began.elapsed();
    assert_eq!(answer.node.data, DATA);
    took
}
