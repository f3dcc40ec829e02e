//! Chaos: random writes and random faults at the same time, and then the truth.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::harness::{SOON, Scene, Zk, ensure, eventually};

const FAULTS_FOR: Duration = Duration::from_secs(20);

/// Paths are few, so that they are often written again.
const NODES: u64 = 30;

#[test]
fn random_writes_under_random_faults_end_in_agreement() {
    let mut scene = Scene::own("hold = \"0s\"");
    let (zk, writes) = (scene.zk.clone(), Writes::default());
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&writes);
        threads.spawn(|| writes.run(&zk));
        writes.go_on();
        let start = Instant::now();
        while start.elapsed() < FAULTS_FOR {
            fault(&mut scene);
            pause(1_000);
        }
        // A mirror that lost its watch is not saved by one more resync.
        writes.go_on();
    });
    scene.agrees_within(Duration::from_secs(40), |_| true);
    assert_eq!(scene.resets(), 2, "each watcher read everything once, at first");
}

fn fault(scene: &mut Scene) {
    match random(7) {
        0 => scene.server().restart(),
        1 => scene.server().restart_empty(),
        2 => {
            scene.server().kill();
            pause(2_000);
            scene.server().restart();
        }
        3 => {
            scene.server().freeze();
            pause(3_000);
            scene.server().thaw();
        }
        4 => {
            scene.roster.process().freeze();
            pause(3_000);
            scene.roster.process().thaw();
        }
        5 => {
            scene.link.fall_silent();
            pause(6_000);
            scene.link.mend();
        }
        _ => {
            scene.link.cut();
            pause(1_000);
            scene.link.mend();
        }
    }
}

/// A random time, up to so many milliseconds.
fn pause(most: u64) {
    std::thread::sleep(Duration::from_millis(random(most)));
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(()) % below
}

/// Somebody who writes all the time, whenever ZooKeeper lets him.
#[derive(Default)]
struct Writes {
    stop: AtomicBool,
    done: AtomicUsize,
}

struct StopOnDrop<'a>(&'a Writes);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Writes {
    fn run(&self, zk: &Zk) {
        while !self.stop.load(Ordering::Relaxed) {
            // ZooKeeper may be away.
            let _ = zk.attempt(async |client| self.write(client).await);
        }
    }

    async fn write(&self, client: &Client) -> Result<(), Error> {
        while !self.stop.load(Ordering::Relaxed) {
            let written = tokio::time::timeout(Duration::from_secs(1), write(client)).await;
            match written.unwrap_or(Err(Error::Timeout)) {
                Ok(()) | Err(Error::NoNode | Error::NodeExists | Error::NotEmpty) => {}
                Err(error) => return Err(error),
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Waits until some more was written.
    fn go_on(&self) {
        let goal = self.done.load(Ordering::Relaxed) + 200;
        eventually("writes go on", SOON, || ensure(self.done.load(Ordering::Relaxed) > goal, "they do not"));
    }
}

async fn write(client: &Client) -> Result<(), Error> {
    let (parent, data) = (format!("/node-{}", random(NODES)), random(u64::MAX).to_string());
    let path = if random(2) == 0 { parent } else { format!("{parent}/child-{}", random(3)) };
    match random(3) {
        0 => client.set_data(&path, data.as_bytes(), None).await.map(drop),
        1 => client.delete(&path, None).await,
        _ => {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.create(&path, data.as_bytes(), &options).await.map(drop)
        }
    }
}
