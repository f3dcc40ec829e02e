//! Faults of masters: one that is killed, and a crowd that comes back all at once.

use std::time::Duration;

use super::Fault;
use crate::harness::{Crowd, ensure, eventually};
use crate::masters::{NAMES, key};
use crate::model::Value;
use crate::scene::{HEALING, Scene, TOKEN};

impl Fault {
    pub(super) fn kill_master(&self, scene: &mut Scene) {
        let key = key(NAMES[self.master]);
        let gone = scene.checker.model(|model| model.begin(&key, Value::Absent));
        scene.masters.kill(self.master);
        scene.checker.model(|model| model.confirm(&key, gone));
    }

    /// Has a crowd come, and come again when all have been cut off at once. Everybody else is told as before.
    pub(super) fn crowd(&mut self, scene: &Scene) {
        let crowd = Crowd::start(scene.sidecars[0].register, TOKEN, scene.crowd, 1, Duration::from_millis(500));
        scene.has_come(scene.crowd);
        let knocks = crowd.knocks();
        crowd.cut();
        let all_knock = || ensure(crowd.knocks() >= knocks + scene.crowd, crowd.knocks() - knocks);
        eventually("all of the crowd knock again", HEALING, all_knock);
        scene.has_come(scene.crowd);
        self.crowd = Some(crowd);
    }
}

impl Scene {
    /// Waits until so many of a crowd are there.
    pub(super) fn has_come(&self, many: usize) {
        let is_there = || {
            let masters = self.sidecars[0].masters()?;
            let come = masters.iter().filter(|name| *name == "greeter").count();
            ensure(come == many, format!("{come} are"))
        };
        eventually("the crowd is there", HEALING, is_there);
    }
}
