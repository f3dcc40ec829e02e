//! Faults of the whole ensemble: its data changed behind its back, and its root deleted.

use std::time::Instant;

use super::pause;
use crate::driver::{ROOT, modelled, paths, told};
use crate::ensemble::Ensemble;
use crate::model::Value;
use crate::scene::Scene;

impl Scene {
    /// Kills the whole ensemble, and starts it again on data that somebody has changed. What that came to is then
    /// written down; until the writers go on, nobody may say that anything is gone.
    pub(super) fn come_back(&mut self, loses_all: bool, change: impl FnOnce(&mut Ensemble)) {
        self.driver.pause();
        self.ensemble.kill_all();
        change(&mut self.ensemble);
        let since = Instant::now();
        if !loses_all {
            // As soon as it runs, old values are seen again.
            self.checker.model(|model| paths().iter().for_each(|path| model.become_now(path, Value::Anything, since)));
        }
        self.ensemble.run_all();
        let held = self.zk().attempt(async |client| client.sync("/").await).map(|()| self.zk().read_all(ROOT));
        let held = held.expect("the ensemble serves");
        if loses_all {
            pause(6_000);
        }
        let since = if loses_all { Instant::now() } else { since };
        self.checker.model(|model| {
            for path in paths() {
                let value = told(held.get(&path).map(|node| node.data.as_slice())).map_or(Value::Anything, modelled);
                if model.last(&path) != value {
                    model.become_now(&path, value, since);
                }
            }
        });
        self.driver.forget();
        self.driver.resume();
    }

    /// Deletes all there is, children first, and lets the writers begin again.
    pub(super) fn delete_root(&mut self) {
        self.driver.pause();
        let mut paths: Vec<String> = self.zk().read_all(ROOT).into_keys().collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
        for path in paths {
            let state = self.checker.model(|model| model.begin(&path, Value::Absent));
            if self.zk().attempt(async |client| client.delete(&path, None).await).is_err() {
                break;
            }
            self.checker.model(|model| model.confirm(&path, state));
        }
        self.driver.forget();
        self.driver.resume();
    }
}
