//! Queues in Redis, with a buffer: Redis, the sidecar and workers are killed, one after the other, under the load of jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checker::Checker;
use crate::dice::Dice;
use crate::faults::pids;
use crate::harness::{Redis, Roster, ensure, eventually};
use crate::jobs::{self, Jobs};
use crate::scene::HEALING;
use crate::workers::{self, Workers};

/// How long at most nothing is killed, and what was killed is away, in ms.
const CALM: usize = 400;
const AWAY: usize = 300;

/// After so many kills each acknowledged job is asked for.
const ROUND: usize = 10;

/// Dropped from above: who asks, goes first.
#[derive(Debug)]
struct Stage {
    jobs: Jobs,
    workers: Workers,
    roster: Roster,
    redis: Redis,
    checker: Arc<Checker>,
}

/// Kills so many times, and answers how often something was violated.
pub(crate) fn play(kills: usize, dice: &Dice) -> usize {
    let mut stage = Stage::set(dice);
    let (began, mut counts, mut worst) = (Instant::now(), [0; 3], Duration::ZERO);
    for number in 1..=kills {
        pause(dice, CALM);
        let victim = dice.below(counts.len());
        counts[victim] += 1;
        match victim {
            0 => stage.kill_redis(dice),
            1 => stage.kill_sidecar(dice),
            _ => stage.kill_worker(dice),
        }
        worst = worst.max(stage.goes_on());
        if number % ROUND == 0 {
            stage.heals();
        }
        if stage.checker.violations() > 0 {
            break;
        }
    }
    stage.ends();
    let [of_redis, of_sidecar, of_workers] = counts;
    println!("queues in Redis: killed {of_redis} times Redis, {of_sidecar} the sidecar, {of_workers} a worker");
    println!("  took                         {:>10} s", began.elapsed().as_secs());
    println!("  jobs performed               {:>12}", stage.jobs.performed());
    println!("  violations                   {:>12}", stage.checker.violations());
    println!("  longest until jobs go on     {:>9} ms", worst.as_millis());
    stage.checker.violations()
}

impl Stage {
    fn set(dice: &Dice) -> Self {
        let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let buffer = format!("backend = \"{}\"\nbuffer = true\n", redis.url());
        let mut roster = Roster::prepare(&(jobs::settings() + &buffer + &workers::settings()));
        // Where the next sidecar finds which workers the one before has left.
        std::fs::create_dir_all(roster.state()).expect("a folder");
        roster.run();
        let (checker, workers) = (Arc::new(Checker::new()), Workers::start(&roster));
        let jobs = Jobs::start(&roster, &checker, dice);
        let stage = Self { jobs, workers, roster, redis, checker };
        stage.heals();
        stage
    }

    fn kill_redis(&mut self, dice: &Dice) {
        self.checker.note("Redis is killed");
        self.redis.kill();
        pause(dice, AWAY);
        self.redis.run();
    }

    fn kill_sidecar(&mut self, dice: &Dice) {
        self.checker.note("the sidecar is killed");
        self.roster.kill();
        pause(dice, AWAY);
        self.roster.run();
    }

    fn kill_worker(&self, dice: &Dice) {
        let pids = pids(&self.roster);
        let Some(pid) = (!pids.is_empty()).then(|| *dice.one_of(&pids)) else { return };
        self.checker.note(format!("worker {pid} is killed"));
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }

    /// Waits until jobs are performed again; how long that took.
    fn goes_on(&self) -> Duration {
        let (began, before) = (Instant::now(), self.jobs.performed());
        eventually("jobs are performed again", HEALING, || ensure(self.jobs.performed() > before, "none is"));
        began.elapsed()
    }

    /// Waits until all is there again, and asks for each acknowledged job.
    fn heals(&self) {
        eventually("the queues can be used", HEALING, || self.jobs.are_open());
        eventually("the workers are well", HEALING, || self.workers.are_well(&self.roster));
        if let Err(wrong) = self.jobs.check() {
            self.checker.violation(&format!("no job is lost, nor handed out twice: {wrong}"));
        }
    }

    /// Has all be performed that are there.
    fn ends(&self) {
        self.heals();
        self.jobs.enqueue_no_more();
        // Those that somebody had taken off who was killed then are put back after a while.
        eventually("none is on its way", HEALING, || {
            let left = self.redis.ask(&["ZCARD", "resque:roster:popped"]);
            ensure(left == "0", left)
        });
        if let Err(wrong) = self.jobs.end(HEALING) {
            self.checker.violation(&format!("every acknowledged job is performed: {wrong}"));
        }
    }
}

fn pause(dice: &Dice, most: usize) {
    std::thread::sleep(Duration::from_millis(dice.below(most) as u64));
}
