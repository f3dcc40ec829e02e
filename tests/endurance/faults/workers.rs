//! Faults of workers: processes that are killed, stopped or do not boot, and those that are replaced meanwhile.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Fault, Kind, pause};
use crate::dice::Dice;
use crate::harness::{Roster, SOON, ensure, eventually};
use crate::idl::{Worker, WorkerState};
use crate::scene::Scene;
use crate::workers::{roll, told};

impl Fault {
    /// Sends a signal to one that runs. What it serves may be lost.
    pub(super) fn strike_worker(&mut self, scene: &Scene, signal: Signal, dice: &Dice) {
        scene.workers.excuse();
        let pids = pids(&scene.sidecars[0].roster);
        let Some(pid) = (!pids.is_empty()).then(|| *dice.one_of(&pids)) else { return };
        self.worker = pid;
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Kills one that has jobs by then.
    pub(super) fn kill_worker(&mut self, scene: &Scene, dice: &Dice) {
        self.strike_worker(scene, Signal::SIGSTOP, dice);
        pause(500);
        if self.worker != 0 {
            let _ = kill(Pid::from_raw(self.worker), Signal::SIGKILL);
        }
    }

    pub(super) fn thaw_worker(&self) {
        if self.worker != 0 {
            // It may be gone, together with its sidecar.
            let _ = kill(Pid::from_raw(self.worker), Signal::SIGCONT);
        }
    }

    /// One ends, and none that starts in its place boots. The others go on.
    pub(super) fn worker_exits(&mut self, scene: &Scene, dice: &Dice) {
        scene.workers.is_broken(true);
        self.strike_worker(scene, Signal::SIGKILL, dice);
        let roster = &scene.sidecars[0].roster;
        eventually("one fails again and again, and the others go on", SOON, || {
            let workers = told(roster)?;
            let (run, failed): (Vec<_>, Vec<_>) = workers.iter().partition(|it| it.state == WorkerState::RUNNING);
            let is_told = |it: &&Worker| it.why.contains("ended with code 1 before it was ready");
            ensure(run.len() == 2 && failed.iter().all(is_told), format!("{workers:?}"))
        });
    }

    /// All are replaced, some times, and no visitor is lost.
    pub(super) fn roll_workers(&self, scene: &Scene, dice: &Dice) {
        for _ in 0..1 + dice.below(3) {
            if let Err(why) = roll(&scene.sidecars[0].roster) {
                self.goes_wrong(scene, &format!("they are replaced: {why}"));
            }
        }
    }

    /// They are to be replaced by code that does not boot: those that run go on.
    pub(super) fn roll_broken_workers(&self, scene: &Scene) {
        let before = pids(&scene.sidecars[0].roster);
        scene.workers.is_broken(true);
        match roll(&scene.sidecars[0].roster) {
            Err(why) if why.contains("ended with code 1") => {}
            other => self.goes_wrong(scene, &format!("it is told why they are not replaced: {other:?}")),
        }
        if pids(&scene.sidecars[0].roster) != before {
            self.goes_wrong(scene, "what ran goes on");
        }
    }

    /// Ends their sidecar without a chance to end them, one of which does not hear the next sidecar's request either.
    pub(super) fn abandon_workers(&mut self, scene: &mut Scene, dice: &Dice) {
        self.disturb(scene);
        self.strike_worker(scene, Signal::SIGSTOP, dice);
        scene.sidecars[0].roster.kill();
        pause(dice.below(1_000) as u64);
    }

    /// Unless another fault is to blame.
    fn goes_wrong(&self, scene: &Scene, what: &str) {
        if !scene.workers.is_excused() {
            scene.checker.violation(&format!("{:?}: {what}", self.kind));
        }
    }
}

impl Kind {
    /// Whether it strikes the workers, whose sidecar is the first.
    pub(super) fn is_of_workers(self) -> bool {
        use Kind::{AbandonWorkers, RollBrokenWorkers, RollWorkers, WorkerExit, WorkerHang, WorkerKill, WorkerStop};
        matches!(
            self,
            WorkerKill | WorkerStop | WorkerHang | WorkerExit | RollWorkers | RollBrokenWorkers | AbandonWorkers
        )
    }
}

/// The numbers of the processes that run; none, where their sidecar is away.
pub(crate) fn pids(roster: &Roster) -> Vec<i32> {
    let workers = told(roster).unwrap_or_default();
    workers.iter().filter(|worker| worker.state == WorkerState::RUNNING).filter_map(|worker| worker.pid).collect()
}
