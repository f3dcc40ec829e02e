//! Faults of a line or a server that can carry little: it must not break under what a sidecar asks of it.

use std::time::{Duration, Instant};

use zookeeper_client::{Acls, CreateMode};

use crate::harness::{Link, NEARLY_FULL, ensure, eventually};
use crate::scene::{HEALING, Scene};

/// What the sidecars ask for as the time-out of a session.
const SESSION: Duration = Duration::from_secs(4);

/// The most that a server may be sent in one request: by default, and where that is little.
const DEFAULT_BUFFER: usize = 0xf_ffff;
const SHORT_BUFFER: usize = 64 << 10;

/// Of a name, in bytes; and how many of them come to more than a short request.
const LONG: usize = 300;
const NAMES: usize = 1_500;

/// Nodes that nearly fill a heap.
const LARGE_NODES: usize = 40;
const LARGE: usize = 1_000_000;

impl Scene {
    /// A reply takes longer than a session lasts.
    pub(super) fn slow_line(&self) {
        let small = self.small();
        small.write_first();
        let all = small.all();
        small.keep(&all, 0);
        let lines = || self.sidecars.iter().flat_map(|sidecar| &sidecar.lines);
        lines().for_each(Link::cut);
        small.is_lost();
        let path = &small.paths()[0];
        let data = small.put(path, 3);
        lines().for_each(Link::slow_down);
        let began = Instant::now();
        for sidecar in &self.sidecars {
            eventually("the reply has come", HEALING, || ensure(sidecar.roster.data(path) == data, "it has not"));
        }
        if began.elapsed() < SESSION {
            self.checker.violation("SlowLine does nothing: the reply came within a session");
        }
        small.keep(&all, 0);
    }

    /// A server closes the connection of whoever sends more than a little at once. There are more names than that.
    pub(super) fn short_requests(&mut self) {
        self.cut_frail();
        self.frail.set_property(&buffer(SHORT_BUFFER));
        self.frail.restart_empty();
        let frail = self.frail();
        frail.write_first();
        frail.fill("name", NAMES, LONG);
        let all = frail.all();
        frail.read_all_again(Link::mend);
        frail.keep(&all, 0);
        frail.read_all_again(Link::mend);
        frail.paths().iter().for_each(|path| drop(frail.put(path, 1)));
        frail.keep(&all, 0);
        let (path, options) = (frail.path("too-much"), CreateMode::Persistent.with_acls(Acls::anyone_all()));
        let too_much = vec![b'x'; SHORT_BUFFER];
        if frail.zk.attempt(async |client| client.create(&path, &too_much, &options).await.map(drop)).is_ok() {
            self.checker.violation("ShortRequests does nothing: the server takes a long one");
        }
    }

    /// The heap of a server is nearly full of large nodes, and both sidecars read them for the first time.
    pub(super) fn full_heap(&mut self) {
        self.cut_frail();
        self.frail.set_property(&buffer(DEFAULT_BUFFER));
        self.frail.restart_roomy();
        let frail = self.frail();
        frail.write_first();
        (0..LARGE_NODES).for_each(|number| frail.write(&frail.path(&format!("large-{number}")), &vec![b'x'; LARGE]));
        let all = frail.all();
        self.frail.restart_narrow(NEARLY_FULL);
        let frail = self.frail();
        frail.read_all_again(Link::mend);
        let are_right = || self.frail.is_out_of_memory() || frail.hold(&all, 0).is_ok();
        eventually("all is read", HEALING, || ensure(are_right(), "it is not"));
    }

    /// The nearly full server has outlived the first sync, and the audits since.
    pub(super) fn outlives_full_heap(&mut self) {
        if self.frail.is_out_of_memory() {
            self.checker.violation("a server whose heap is nearly full outlives being read: it ended");
            self.frail.restart_roomy();
        }
    }

    fn cut_frail(&self) {
        self.sidecars.iter().for_each(|sidecar| sidecar.frail.cut());
    }
}

fn buffer(most: usize) -> String {
    format!("-Djute.maxbuffer={most}")
}
