//! The faults: each strikes a part of the scene, and is healed again.

mod burden;
mod ensemble;
mod kind;
mod limits;
mod masters;
mod nodes;
pub(crate) mod quiet;
mod sidecar;
mod workers;

use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

pub(crate) use self::kind::Kind;
use self::kind::Part;
use self::sidecar::garbage;
pub(crate) use self::workers::pids;
use crate::descriptors;
use crate::dice::Dice;
use crate::harness::attack::Adversary;
use crate::harness::{Crowd, Link, SOON, eventually};
use crate::masters::NAMES;
use crate::scene::Scene;

/// For how long another user asks while a sidecar is attacked.
const SUFFERS: Duration = Duration::from_secs(1);

/// A fault that has struck.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    sidecar: usize,
    master: usize,
    /// The number of its process.
    worker: i32,
    servers: Vec<usize>,
    clients: Vec<TcpStream>,
    crowd: Option<Crowd>,
    adversary: Option<Adversary>,
}

impl Fault {
    pub(crate) fn strike(kind: Kind, scene: &mut Scene, dice: &Dice) -> Self {
        let sidecar = match kind {
            // The one that may have a network of its own.
            Kind::BlackHole | Kind::Refuse => 1,
            // The one that knows the servers by that name.
            Kind::DeadAddress => 0,
            _ if kind.is_of_workers() => 0,
            _ => dice.below(scene.sidecars.len()),
        };
        let servers = Self::servers(kind, scene, dice);
        // One that is to be frozen is a process of its own.
        let master = dice.below(if kind == Kind::FreezeMaster { 2 } else { NAMES.len() });
        let mut fault =
            Self { kind, sidecar, master, worker: 0, servers, clients: Vec::new(), crowd: None, adversary: None };
        scene.checker.note(fault.told());
        fault.begin(scene, dice);
        fault
    }

    fn servers(kind: Kind, scene: &Scene, dice: &Dice) -> Vec<usize> {
        let count = scene.ensemble.len();
        match kind {
            Kind::KillServer | Kind::FreezeServer => vec![dice.below(count)],
            Kind::KillLeader | Kind::FreezeLeader => vec![scene.ensemble.leader()],
            Kind::KillMajority => (0..count / 2 + 1).collect(),
            Kind::KillAll => (0..count).collect(),
            _ => Vec::new(),
        }
    }

    fn told(&self) -> String {
        let kind = self.kind;
        match kind {
            Kind::KillMaster | Kind::FreezeMaster | Kind::FlapMaster => {
                format!("{kind:?} strikes {}", NAMES[self.master])
            }
            _ if kind.part() == Part::Ensemble => format!("{kind:?} strikes servers {:?}", self.servers),
            Kind::Crowd => format!("{kind:?} comes"),
            _ if matches!(kind.part(), Part::Upstream | Part::Quiet | Part::Workers) => format!("{kind:?} strikes"),
            _ => format!("{kind:?} strikes sidecar {}", self.sidecar),
        }
    }

    fn begin(&mut self, scene: &mut Scene, dice: &Dice) {
        match self.kind {
            Kind::Cut => self.lines(scene).iter().for_each(Link::cut),
            Kind::Silence => self.lines(scene).iter().for_each(Link::fall_silent),
            Kind::Falter => self.lines(scene).iter().for_each(Link::falter),
            Kind::Flicker => self.flicker(scene, dice),
            Kind::BlackHole => scene.sidecars[self.sidecar].swallow(),
            Kind::Refuse => scene.sidecars[self.sidecar].refuse(),
            Kind::KillServer | Kind::KillLeader | Kind::KillMajority | Kind::KillAll => {
                self.servers.iter().for_each(|number| scene.ensemble.kill(*number));
            }
            Kind::FreezeServer | Kind::FreezeLeader => {
                self.servers.iter().for_each(|number| scene.ensemble.freeze(*number));
            }
            Kind::Wipe => scene.come_back(true, |ensemble| ensemble.wipe()),
            Kind::OldData => {
                scene.come_back(false, |ensemble| ensemble.keep_data());
                scene.driver.goes_on(200);
                scene.come_back(false, |ensemble| ensemble.restore_data());
            }
            Kind::DeleteRoot => scene.delete_root(),
            Kind::Storm => scene.driver.storm(true),
            Kind::TooManyNodes => scene.too_many(),
            Kind::TooLargeNodes => scene.too_large(),
            Kind::OddNames => scene.odd_names(dice),
            Kind::Acls => scene.acls(),
            Kind::SlowLine => scene.slow_line(),
            Kind::ShortRequests => scene.short_requests(),
            Kind::FullHeap => scene.full_heap(),
            Kind::FreezeSidecar | Kind::ExpireSession => {
                self.disturb(scene);
                scene.sidecars[self.sidecar].roster.process().freeze();
            }
            Kind::KillSidecar | Kind::DamageFile => {
                self.disturb(scene);
                scene.sidecars[self.sidecar].roster.kill();
                if self.kind == Kind::DamageFile {
                    scene.checker.distrust_file(self.sidecar);
                    self.damage(scene, dice);
                }
            }
            Kind::RestartSidecar | Kind::UpgradeSidecar => {
                self.disturb(scene);
                scene.sidecars[self.sidecar].roster.stop();
            }
            Kind::ClockJumps => self.clock_jumps(scene, dice),
            Kind::Suspend => self.suspend(scene),
            Kind::DeadAddress => self.dead_address(scene),
            Kind::RemoveFile => {
                self.disturb(scene);
                let _ = std::fs::remove_file(scene.sidecars[self.sidecar].roster.shared_file());
            }
            Kind::FullDisk => scene.sidecars[self.sidecar].limit("fsize", "8192"),
            Kind::Garbage => self.send(scene, (0..40).map(|_| garbage(dice))),
            Kind::SlowClients => self.send(scene, vec![b"\x80\x01\x00\x01\x00\x00".to_vec(); 40]),
            Kind::Flood => {
                scene.checker.disturb(self.sidecar, false);
                self.send(scene, vec![Vec::new(); 3_000]);
            }
            Kind::Descriptors => {
                scene.checker.disturb(self.sidecar, false);
                scene.sidecars[self.sidecar].limit("nofile", "40");
                self.send(scene, vec![Vec::new(); 100]);
            }
            Kind::Pipelining | Kind::Unread | Kind::Watches | Kind::Calls | Kind::HalfSent => {
                self.adversary = self.kind.attack().map(|attack| scene.sidecars[self.sidecar].roster.attack(attack));
            }
            Kind::CutUpstream => scene.upstream.cut(),
            Kind::SilenceUpstream => scene.upstream.fall_silent(),
            Kind::KillMaster => self.kill_master(scene),
            Kind::FreezeMaster => {
                scene.is_unknown(&[NAMES[self.master]]);
                scene.masters.process(self.master).freeze();
            }
            Kind::Crowd => self.crowd(scene),
            Kind::FlapMaster => {
                for _ in 0..8 {
                    self.kill_master(scene);
                    scene.is_unknown(&[NAMES[self.master]]);
                    scene.masters.run(self.master);
                    pause(dice.below(600) as u64);
                }
            }
            Kind::WorkerKill => self.kill_worker(scene, dice),
            Kind::WorkerStop => self.strike_worker(scene, Signal::SIGSTOP, dice),
            Kind::WorkerHang => scene.jobs.hang(),
            Kind::WorkerExit => self.worker_exits(scene, dice),
            Kind::RollWorkers => self.roll_workers(scene, dice),
            Kind::RollBrokenWorkers => self.roll_broken_workers(scene),
            Kind::AbandonWorkers => self.abandon_workers(scene, dice),
        }
    }

    pub(crate) fn heal(self, scene: &mut Scene) {
        let name = format!("{:?} is healed", self.kind);
        match self.kind {
            Kind::Cut | Kind::Silence | Kind::Falter | Kind::Flicker => self.lines(scene).iter().for_each(Link::mend),
            Kind::BlackHole | Kind::Refuse => scene.sidecars[self.sidecar].pass(),
            Kind::KillServer | Kind::KillLeader | Kind::KillMajority | Kind::KillAll => {
                self.servers.iter().for_each(|number| scene.ensemble.run(*number));
                scene.ensemble.serves();
            }
            Kind::FreezeServer | Kind::FreezeLeader => {
                self.servers.iter().for_each(|number| scene.ensemble.thaw(*number));
                scene.ensemble.serves();
            }
            Kind::Wipe | Kind::OldData | Kind::DeleteRoot | Kind::DeadAddress | Kind::Garbage | Kind::SlowClients => {}
            Kind::WorkerKill | Kind::WorkerHang | Kind::RollWorkers => {}
            Kind::WorkerStop => self.thaw_worker(),
            Kind::WorkerExit | Kind::RollBrokenWorkers => scene.workers.is_broken(false),
            Kind::Storm => scene.driver.storm(false),
            Kind::TooManyNodes | Kind::TooLargeNodes | Kind::Acls => scene.small().empty(),
            Kind::OddNames | Kind::SlowLine => {
                scene.sidecars.iter().flat_map(|sidecar| &sidecar.lines).for_each(Link::mend);
                scene.small().empty();
            }
            Kind::ShortRequests => scene.frail().empty(),
            Kind::FullHeap => {
                scene.outlives_full_heap();
                scene.frail().empty();
            }
            Kind::FullDisk => scene.sidecars[self.sidecar].limit("fsize", "unlimited"),
            Kind::FreezeSidecar | Kind::ExpireSession => {
                scene.sidecars[self.sidecar].roster.process().thaw();
                self.calm(scene);
            }
            Kind::KillSidecar | Kind::RestartSidecar | Kind::AbandonWorkers => self.run_again(scene, |_| {}),
            Kind::UpgradeSidecar => {
                scene.sidecars[self.sidecar].upgrade();
                self.run_again(scene, |_| {});
            }
            Kind::ClockJumps | Kind::Suspend => self.restart(scene, |_| {}),
            Kind::DamageFile | Kind::RemoveFile => {
                if self.kind == Kind::RemoveFile {
                    scene.sidecars[self.sidecar].roster.stop();
                }
                scene.sidecars[self.sidecar].run();
                self.calm(scene);
            }
            Kind::CutUpstream | Kind::SilenceUpstream => scene.upstream.mend(),
            Kind::Pipelining | Kind::Unread | Kind::Watches | Kind::Calls | Kind::HalfSent => {
                let suffered = scene.sidecars[self.sidecar].roster.suffers(SUFFERS);
                drop(self.adversary);
                if suffered.failed > 0 || suffered.answered == 0 {
                    scene.checker.violation(&format!("{:?}: another user suffered: {suffered:?}", self.kind));
                }
            }
            Kind::Crowd => {
                drop(self.crowd);
                scene.has_come(0);
            }
            Kind::KillMaster => {
                scene.is_unknown(&[NAMES[self.master]]);
                scene.masters.run(self.master);
                scene.is_there(NAMES[self.master]);
            }
            Kind::FreezeMaster => {
                scene.masters.process(self.master).thaw();
                // It may be about to be dropped.
                pause(2_000);
                scene.is_there(NAMES[self.master]);
            }
            Kind::FlapMaster => {
                pause(1_000);
                scene.is_there(NAMES[self.master]);
            }
            Kind::Flood | Kind::Descriptors => {
                if self.kind == Kind::Descriptors {
                    scene.sidecars[self.sidecar].limit("nofile", &descriptors().to_string());
                }
                drop(self.clients);
                let sidecar = &scene.sidecars[self.sidecar];
                eventually("the sidecar answers after the flood", SOON, || sidecar.answers());
                scene.checker.calm(self.sidecar);
            }
        }
        scene.checker.note(name);
    }

    fn lines<'a>(&self, scene: &'a Scene) -> &'a [Link] {
        &scene.sidecars[self.sidecar].lines
    }

    /// Breaks again and again, so that syncs are broken off.
    fn flicker(&self, scene: &Scene, dice: &Dice) {
        for _ in 0..12 {
            self.lines(scene).iter().for_each(Link::cut);
            pause(20 + dice.below(100) as u64);
            self.lines(scene).iter().for_each(Link::mend);
            pause(200 + dice.below(900) as u64);
        }
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
