//! Faults of one sidecar: that it need not answer, its file damaged, and clients that mean it ill.

use std::io::Write;
use std::net::TcpStream;

use super::{Fault, Kind, pause};
use crate::dice::Dice;
use crate::masters::NAMES;
use crate::scene::Scene;

impl Fault {
    /// The sidecar need not answer. With the first one goes its register.
    pub(super) fn disturb(&self, scene: &Scene) {
        scene.checker.disturb(self.sidecar);
        if self.sidecar == 0 {
            scene.is_unknown(&NAMES);
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

    pub(super) fn send(&mut self, scene: &Scene, bytes: &[u8]) {
        if let Ok(mut client) = TcpStream::connect(("127.0.0.1", scene.sidecars[self.sidecar].roster.port())) {
            let _ = client.write_all(bytes);
            self.clients.push(client);
        }
    }
}

pub(super) fn garbage(dice: &Dice) -> Vec<u8> {
    let known: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x80\x01\x00\x01\x7f\xff\xff\xff", b""];
    let mut bytes = dice.one_of(&known).to_vec();
    bytes.extend((0..dice.below(200)).map(|_| dice.below(256) as u8));
    bytes
}
