//! Faults of one sidecar: that it need not answer, its file damaged, and clients that mean it ill.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use roster::store::shared::Reader;

use super::{Fault, Kind, pause};
use crate::dice::Dice;
use crate::harness::{Clock, DeadAddress, Link, SOON, Sleep, ensure, eventually};
use crate::masters::NAMES;
use crate::scene::Scene;

/// How long a machine is suspended, in seconds.
const SLEEP: u64 = 12;

impl Fault {
    /// The sidecar need not answer. With the first one go its register and its workers.
    pub(super) fn disturb(&self, scene: &Scene) {
        scene.checker.disturb(self.sidecar, matches!(self.kind, Kind::DamageFile | Kind::RemoveFile));
        if self.sidecar == 0 {
            scene.is_unknown(&NAMES);
            scene.workers.excuse();
            if matches!(self.kind, Kind::ClockJumps | Kind::Suspend) {
                scene.jobs.excuse();
            }
        }
    }

    pub(super) fn calm(&self, scene: &Scene) {
        if self.sidecar == 0 {
            // Those that the register takes for dead, or that take it for dead, first part.
            pause(2_000);
            NAMES.iter().for_each(|name| scene.is_there(name));
        }
        if self.kind == Kind::DamageFile {
            // It may know nothing, as long as the ensemble is away too.
            return scene.checker.trust_file(self.sidecar);
        }
        scene.checker.calm(self.sidecar);
    }

    /// Starts it again. What it knew it knows at once, whatever became of the ensemble meanwhile.
    pub(super) fn run_again(&self, scene: &mut Scene, rules: impl FnOnce(&mut Command)) {
        let sidecar = &mut scene.sidecars[self.sidecar];
        sidecar.run_by(rules);
        if let Err(error) = sidecar.roster.tree() {
            scene.checker.violation(&format!("what was known is known after a restart: {error:?}"));
        }
        self.calm(scene);
    }

    pub(super) fn restart(&self, scene: &mut Scene, rules: impl FnOnce(&mut Command)) {
        self.disturb(scene);
        scene.sidecars[self.sidecar].roster.stop();
        self.run_again(scene, rules);
    }

    /// Has it live by a clock that jumps, and restarts it when that is far behind.
    pub(super) fn clock_jumps(&self, scene: &mut Scene, dice: &Dice) {
        let clock = Clock::new(scene.sidecars[self.sidecar].roster.folder());
        self.restart(scene, |serve| clock.rules(serve));
        for hours in [30, -30, 0, -50] {
            clock.jump(hours);
            let file = scene.sidecars[self.sidecar].roster.shared_file();
            eventually("the clock jumps", SOON, || ensure(off_by(&file)? == hours, "it has not"));
            pause(dice.below(1_000) as u64);
        }
        self.restart(scene, |serve| clock.rules(serve));
    }

    /// Has it live on a machine that is suspended for longer than any proof holds.
    pub(super) fn suspend(&self, scene: &mut Scene) {
        let sleep = Sleep::new(scene.sidecars[self.sidecar].roster.folder());
        self.restart(scene, |serve| sleep.rules(serve));
        scene.sidecars[self.sidecar].is_fresh();
        self.disturb(scene);
        sleep.suspends(&scene.sidecars[self.sidecar].roster, SLEEP, || {});
        self.calm(scene);
    }

    /// The first address of the servers' name falls silent. The first sidecar knows them by that name.
    pub(super) fn dead_address(&self, scene: &Scene) {
        let sidecar = &scene.sidecars[self.sidecar];
        let dead = DeadAddress::at(sidecar.ports());
        let (mut rounds, mut was_tried) = (0, false);
        // Which address comes first is chance.
        while rounds < 2 || rounds < 16 && !was_tried {
            sidecar.lines.iter().for_each(Link::cut);
            eventually("the line is cut", SOON, || ensure(sidecar.is_behind()?, "it is fresh"));
            sidecar.lines.iter().for_each(Link::mend);
            sidecar.is_fresh();
            (rounds, was_tried) = (rounds + 1, was_tried || dead.was_tried());
        }
        if !was_tried {
            scene.checker.violation("DeadAddress does nothing: nobody has tried it");
        }
    }

    pub(super) fn damage(&self, scene: &Scene, dice: &Dice) {
        let file = scene.sidecars[self.sidecar].roster.shared_file();
        let mut bytes = std::fs::read(&file).expect("a shared file");
        if dice.once_in(3) {
            bytes.truncate(dice.below(bytes.len()));
        }
        for _ in 0..20 {
            let place = dice.below(bytes.len());
            bytes[place] ^= 1 << dice.below(8);
        }
        // Not in its place: who has it open would be killed by the kernel, whatever we do.
        let damaged = file.with_extension("damaged");
        std::fs::write(&damaged, bytes).and_then(|()| std::fs::rename(damaged, file)).expect("it is damaged");
    }

    pub(super) fn send(&mut self, scene: &Scene, messages: impl IntoIterator<Item = Vec<u8>>) {
        self.clients = scene.sidecars[self.sidecar].clients(messages.into_iter().collect());
    }
}

/// How many hours the clock is wrong by which a shared file is written.
fn off_by(file: &Path) -> Result<i64, String> {
    let report = Reader::open(file).and_then(|reader| reader.status()).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
    Ok(((report.written_at as f64 / 1_000.0 - now) / 3_600.0).round() as i64)
}

pub(super) fn garbage(dice: &Dice) -> Vec<u8> {
    let known: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x80\x01\x00\x01\x7f\xff\xff\xff", b""];
    let mut bytes = dice.one_of(&known).to_vec();
    bytes.extend((0..dice.below(200)).map(|_| dice.below(256) as u8));
    bytes
}
