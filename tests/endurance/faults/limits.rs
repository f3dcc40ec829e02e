//! Faults at the limits of a quiet source: more nodes than it takes in, and nodes that are too large.

use super::quiet::MOST;
use crate::harness::Link;
use crate::model::LIMIT;
use crate::scene::Scene;

/// How many more there are than are taken in.
const TOO_MANY: usize = 50;

/// Of a name, in bytes.
const LONG: usize = 1_000;

impl Scene {
    /// Who came first stays, and the answers say that they are not complete.
    pub(super) fn too_many(&self) {
        let small = self.small();
        small.write_first();
        small.fill("early", MOST - small.all().len(), LONG);
        let all = small.all();
        small.keep(&all, 0);
        small.fill("a-late", TOO_MANY, LONG);
        small.keep(&all, TOO_MANY);
        small.paths().iter().for_each(|path| drop(small.put(path, 1)));
        small.keep(&all, TOO_MANY);
        small.read_all_again(Link::mend);
        small.keep(&all, TOO_MANY);
    }

    /// What is too large stays as it was before, or is left out, and the answers say so.
    pub(super) fn too_large(&self) {
        let small = self.small();
        small.write_first();
        let (was, never) = (&small.paths()[0], small.path("large"));
        let held = small.put(was, 3);
        let all = small.all();
        small.keep(&all, 0);
        assert_eq!(held.len(), LIMIT, "it is as large as it may be");
        [was, &never].iter().for_each(|path| small.write(path, &[b'x'; LIMIT + 1]));
        for read_again in [false, true] {
            if read_again {
                small.read_all_again(Link::mend);
            }
            small.keep(&all, 2);
            self.sidecars.iter().for_each(|sidecar| assert_eq!(sidecar.roster.data(was), held, "it stands"));
        }
        small.put(was, 0);
        small.remove(&[never]);
        small.keep(&all, 0);
    }
}
