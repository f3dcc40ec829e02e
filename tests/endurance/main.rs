//! `make endurance`: breaks everything around two sidecars, and holds every answer against a model of what was true.
//!
//! `QUICK=1`: a minute. `SEED=…`: the same faults again. `FAULTS=Cut,Silence`: only these. `VERBOSE=1`: tells of each.
//! `ROSTER_UPGRADE_TO=…`: the binary that sidecars are upgraded to. `KILLS=200`: only the queues in Redis, and so many kills.

mod checker;
mod dice;
mod driver;
mod ensemble;
mod faults;
#[allow(dead_code, unused_imports)]
#[path = "../it/harness/mod.rs"]
mod harness;
mod job_model;
mod jobs;
mod kills;
mod load;
mod masters;
mod model;
mod network;
mod readers;
mod scene;
mod sidecar;
mod workers;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dice::Dice;
use faults::{Fault, Kind};
use harness::attack::play_role;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use roster::thrift::idl;
use scene::{HEALING, Scene};
use sidecar::MUTANT;

/// How often something is killed beside queues in Redis; and within a minute.
const KILLS: [usize; 2] = [40, 6];

/// An act: so many servers, for so long.
struct Act {
    servers: usize,
    /// How many masters come at once.
    crowd: usize,
    lasts: Duration,
}

fn main() -> ExitCode {
    if play_role() {
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("ENDURES").is_none() {
        // So that files that may not grow fail a write of a sidecar, as a full disk does, and do not kill it.
        let again = Command::new("env").args(["--ignore-signal=XFSZ", "ENDURES=1"]).args(std::env::args_os()).exec();
        panic!("env does not start: {again}");
    }
    setrlimit(Resource::RLIMIT_NOFILE, descriptors(), descriptors()).expect("as many as are allowed");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fresh_seed);
    println!("SEED={seed}");
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let is_quick = std::env::var_os("QUICK").is_some();
    let kills = std::env::var("KILLS").ok().map(|kills| kills.parse().expect("`KILLS` is a number"));
    let acts = match is_quick {
        _ if kills.is_some() => Vec::new(),
        true => vec![Act { servers: 3, crowd: 300, lasts: Duration::from_secs(45) }],
        false => [(3, 11), (5, 3)].map(|(servers, lasts)| Act { servers, crowd: 2_000, lasts: minutes(lasts) }).into(),
    };
    // Faults that are named are those of the sidecars.
    let kills = kills.unwrap_or(if std::env::var_os("FAULTS").is_some() { 0 } else { KILLS[usize::from(is_quick)] });
    let dice = Dice::new(seed);
    let violations: usize = acts.iter().map(|act| act.play(&dice)).sum();
    let violations = violations + if kills > 0 { kills::play(kills, &dice) } else { 0 };
    if violations == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{violations} violations; SEED={seed} replays the faults");
    ExitCode::FAILURE
}

impl Act {
    /// Breaks everything, and answers how often something was violated.
    fn play(&self, dice: &Dice) -> usize {
        let mut scene = Scene::set(self.servers, self.crowd, dice);
        scene.heals();
        let before: Vec<_> = scene.sidecars.iter().map(|sidecar| sidecar.weighs()).collect();
        let (began, mut struck, mut worst) = (Instant::now(), 0, Duration::ZERO);
        let mut kinds = Vec::new();
        while began.elapsed() < self.lasts && scene.checker.violations() == 0 {
            if kinds.is_empty() {
                kinds = chosen(dice);
            }
            let first = kinds.remove(0);
            let mut together = vec![first];
            if dice.once_in(2)
                && let Some(other) = kinds.iter().position(|kind| kind.goes_with(first))
            {
                together.push(kinds.remove(other));
            }
            struck += together.len();
            let mut faults = Vec::new();
            for kind in together {
                faults.push(Fault::strike(kind, &mut scene, dice));
                std::thread::sleep(Duration::from_millis(dice.below(1_500) as u64));
            }
            let lasts = faults.iter().map(|fault| fault.kind.lasts()).max().unwrap_or_default();
            std::thread::sleep(lasts + Duration::from_millis(dice.below(2_000) as u64));
            dice.shuffle(&mut faults);
            faults.into_iter().for_each(|fault| fault.heal(&mut scene));
            worst = worst.max(scene.heals());
        }
        if let Err(wrong) = scene.load.more(&scene.sidecars[0].roster) {
            scene.checker.violation(&format!("no call leaves anything behind in a master of PHP: {wrong}"));
        }
        if let Err(wrong) = scene.jobs.end(HEALING) {
            scene.checker.violation(&format!("every acknowledged job is performed: {wrong}"));
        }
        self.report(&scene, struck, worst, &before);
        scene.ends_workers();
        scene.checker.violations()
    }

    fn report(&self, scene: &Scene, struck: usize, worst: Duration, before: &[(usize, usize)]) {
        let (answers, failures) = scene.checker.counts();
        println!("{} servers, {struck} faults, {} writes", self.servers, scene.driver.written());
        println!("  answers checked              {answers:>12}");
        println!("  questions not answered       {failures:>12}");
        println!("  calls of masters             {:>12}", scene.callers.count());
        println!("  calls of one master of PHP   {:>12}", scene.load.made());
        if let Ok(more) = scene.load.more(&scene.sidecars[0].roster) {
            println!("  which left behind      {more:>12} bytes");
        }
        println!("  visitors of workers          {:>12}", scene.workers.answered());
        println!("  jobs performed               {:>12}", scene.jobs.performed());
        println!("  violations                   {:>12}", scene.checker.violations());
        if std::env::var_os(MUTANT).is_some() {
            println!(
                "  sidecars wrong on purpose    {:>12}",
                scene.sidecars.iter().filter(|it| it.was_wrong()).count()
            );
        }
        println!("  longest healing              {:>9} ms", worst.as_millis());
        for (number, (sidecar, (descriptors, memory))) in scene.sidecars.iter().zip(before).enumerate() {
            let (descriptors_now, memory_now) = sidecar.weighs();
            println!("  sidecar {number}: descriptors {descriptors} before, {descriptors_now} after");
            println!("  sidecar {number}: memory {} MB before, {} MB after", memory >> 20, memory_now >> 20);
        }
    }
}

/// The kinds of faults, in an order that is drawn.
fn chosen(dice: &Dice) -> Vec<Kind> {
    let mut kinds = match std::env::var("FAULTS") {
        Ok(names) => names.split(',').map(|name| Kind::named(name).expect("a kind of fault")).collect(),
        Err(_) => Kind::ALL.to_vec(),
    };
    dice.shuffle(&mut kinds);
    kinds
}

/// How many descriptors a process may have here.
fn descriptors() -> rlim_t {
    getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit").1
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
