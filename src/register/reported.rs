//! Masters as they are reported: each is packed once for all who follow, and kept while anybody does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OnceCell;

use crate::model::Master;
use crate::share::{Pool, Share};
use crate::tunnel::SharedValue;

/// Each reporter to a follower has a clone of its `Arc`.
#[derive(Debug)]
pub(super) struct Reported {
    kept: Mutex<HashMap<Key, Kept>>,
    /// A share of nothing but turns, in which large ones are packed: in those of a follower's user, others would wait for
    /// all that it does.
    packing: Arc<Share>,
}

/// The address of a master, which no other has while this is kept; and whether it is expected.
type Key = (usize, bool);

#[derive(Debug)]
struct Kept {
    master: Weak<Master>,
    /// None: it cannot be sent.
    packed: Arc<OnceCell<Option<SharedValue>>>,
}

impl Default for Reported {
    fn default() -> Self {
        Self { kept: Mutex::default(), packing: Pool::new(0, 1).share(None) }
    }
}

impl Reported {
    /// The report of a master, which is packed unless it has been: a large one takes tens of milliseconds, on another
    /// thread.
    pub(super) async fn get(
        &self,
        master: &Arc<Master>,
        is_expected: bool,
        pack: impl FnOnce() -> Option<SharedValue> + Send + 'static,
    ) -> Option<SharedValue> {
        let packed = self.packed(master, is_expected);
        packed.get_or_init(|| self.packing.work(master.memory_size(), pack)).await.clone()
    }

    fn packed(&self, master: &Arc<Master>, is_expected: bool) -> Arc<OnceCell<Option<SharedValue>>> {
        let kept = || Kept { master: Arc::downgrade(master), packed: Arc::default() };
        self.lock().entry((Arc::as_ptr(master).addr(), is_expected)).or_insert_with(kept).packed.clone()
    }

    /// Forgets masters that are gone or have changed, and all of them if nobody follows.
    pub(super) fn tidy(self: &Arc<Self>) {
        let is_followed = Arc::strong_count(self) > 1;
        self.lock().retain(|_, kept| is_followed && kept.master.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;
    use rmpv::Value;
    use tokio::time::timeout;

    use super::*;
    use crate::model::Service;

    fn master(bytes: usize) -> Arc<Master> {
        let services = vec![Service { name: "s".into(), metadata: Value::from("x".repeat(bytes)).into() }];
        Arc::new(Master { id: "m".into(), peer_address: String::new(), connected_at: 0, services })
    }

    async fn get(reported: &Reported, master: &Arc<Master>, is_expected: bool, count: &Arc<AtomicUsize>) {
        let count = count.clone();
        let pack = move || {
            count.fetch_add(1, Ordering::SeqCst);
            None
        };
        assert!(reported.get(master, is_expected, pack).await.is_none());
    }

    #[tokio::test]
    async fn a_master_is_packed_once_however_many_follow_and_anew_when_it_has_changed() {
        for bytes in [10, 10_000] {
            let (reported, count) = (Reported::default(), Arc::<AtomicUsize>::default());
            let (before, changed) = (master(bytes), master(bytes));
            for (master, is_expected, packed) in
                [(&before, true, 1), (&before, false, 2), (&changed, false, 3), (&before, false, 3)]
            {
                join_all((0..30).map(|_| get(&reported, master, is_expected, &count))).await;
                assert_eq!(count.load(Ordering::SeqCst), packed);
            }
        }
    }

    #[tokio::test]
    async fn a_follower_that_leaves_while_a_master_is_packed_leaves_it_to_the_next_one() {
        let (reported, count, large) = (Reported::default(), Arc::default(), master(10_000));
        let [mut first, mut next] = [(); 2].map(|()| Box::pin(get(&reported, &large, false, &count)));
        assert!(first.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(first);
        timeout(Duration::from_secs(60), next).await.expect("it does not wait for ever");
    }

    #[tokio::test]
    async fn what_is_gone_is_not_kept_and_nothing_is_while_nobody_follows() {
        let (reported, count) = (Arc::new(Reported::default()), Arc::default());
        let (stays, goes) = (master(1), master(1));
        let follower = reported.clone();
        for master in [&stays, &goes] {
            get(&follower, master, false, &count).await;
        }
        reported.tidy();
        assert_eq!(reported.lock().len(), 2);
        drop(goes);
        reported.tidy();
        assert_eq!(reported.lock().len(), 1);
        drop(follower);
        reported.tidy();
        assert_eq!(reported.lock().len(), 0);
    }
}
