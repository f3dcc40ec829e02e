//! Faults of single nodes: names that no client may ask for, and ACLs that come and go. All other nodes stay right.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use zookeeper_client::Acls;

use super::pause;
use crate::dice::Dice;
use crate::harness::{Link, ODD_NAME, Zk, ensure, eventually};
use crate::scene::{HEALING, Scene};

/// What the fourth byte of the name may be.
const ODD_BYTES: [u8; 4] = [0x01, 0x1b, 0x7f, 0xff];

/// Some audits.
const AUDITS: Duration = Duration::from_secs(5);

impl Scene {
    /// A node with a name that cannot be asked for comes, is there at a start, and goes.
    pub(super) fn odd_names(&self, dice: &Dice) {
        let small = self.small();
        small.write_first();
        let all = small.all();
        small.keep(&all, 0);
        let byte = *dice.one_of(&ODD_BYTES);
        small.read_all_again(|line| line.distort(byte));
        small.keep(&all, 0);
        let odd = small.path(ODD_NAME);
        small.write(&odd, b"odd");
        small.keep(&all, 1);
        small.write(&format!("{odd}/below"), b"");
        small.paths().iter().for_each(|path| drop(small.put(path, 1)));
        small.keep(&all, 1);
        small.read_all_again(|line| line.distort(byte));
        small.keep(&all, 1);
        small.remove(&[format!("{odd}/below"), odd]);
        small.keep(&all, 0);
    }

    /// A node may not be read for a while. What lies below it is gone for as long, whatever happens to it.
    pub(super) fn acls(&self) {
        let small = self.small();
        small.write_first();
        let (closed, open) = (small.path("closed"), small.path("closed/open"));
        small.write(&closed, b"");
        small.write(&open, b"before");
        let all = small.all();
        small.keep(&all, 0);
        let owner = small.zk.identified("owner:secret");
        permit(&owner, &closed, Acls::creator_all());
        let readable: BTreeSet<String> = all.iter().filter(|path| !path.starts_with(&closed)).cloned().collect();
        small.keep(&readable, 1);
        small.write(&open, b"after");
        small.paths().iter().for_each(|path| drop(small.put(path, 1)));
        let began = Instant::now();
        while began.elapsed() < AUDITS {
            for sidecar in &self.sidecars {
                if sidecar.roster.get(&open).is_ok() {
                    self.checker.violation("what lies below a node that may not be read stays away: it is told");
                }
            }
            pause(50);
        }
        small.read_all_again(Link::mend);
        small.keep(&readable, 1);
        permit(&owner, &closed, Acls::anyone_all());
        small.keep(&all, 0);
        for sidecar in &self.sidecars {
            let told = || ensure(sidecar.roster.data(&open) == b"after", "it is as it was before");
            eventually("what lay below is as it is", HEALING, told);
        }
    }
}

/// On a busy machine a session may break.
fn permit(owner: &Zk, path: &str, acls: Acls<'_>) {
    eventually("it is done", HEALING, || {
        owner.attempt(async |client| client.set_acl(path, &acls, None).await.map(drop))
    });
}
