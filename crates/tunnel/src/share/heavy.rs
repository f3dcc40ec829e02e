//! Heavy work: what would block a thread that serves many for long is done on another, one at a time for each user.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::Share;

/// Reading or writing values of this size takes no longer than a turn of the endpoint's threads.
const LIGHT_BYTES: usize = 8 * 1024;

/// Whether values of this size are heavy work.
pub fn is_heavy(bytes: usize) -> bool {
    bytes > LIGHT_BYTES
}

impl Share {
    /// Does work with values of this size. If nobody waits for it any more, it is not begun.
    pub async fn work<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        if !is_heavy(bytes) {
            return work();
        }
        // A separate task: the waiting caller may not be polled while it has the lock, and work that has begun keeps
        // it.
        let working = self.working.clone();
        let turn = AbortOnDropHandle::new(tokio::spawn(async move {
            let working = working.lock_owned().await;
            spawn_blocking(move || {
                let _working = working;
                work()
            })
            .await
        }));
        match turn.await.and_then(|done| done) {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is ending, and the caller with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::share::Pool;

    #[tokio::test]
    async fn what_is_light_is_done_here_and_what_is_heavy_elsewhere_one_by_one() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let user = Pool::new(1, 1).share(None);
        let here = thread::current().id();
        assert_eq!(user.work(LIGHT_BYTES, || thread::current().id()).await, here);
        let heavy = (0..4).map(|_| {
            user.work(LIGHT_BYTES + 1, move || {
                assert_eq!(AT_ONCE.fetch_add(1, Ordering::SeqCst), 0);
                thread::sleep(Duration::from_millis(5));
                AT_ONCE.fetch_sub(1, Ordering::SeqCst);
                assert_ne!(thread::current().id(), here);
            })
        });
        join_all(heavy).await;
    }

    #[tokio::test]
    async fn who_is_not_polled_or_leaves_keeps_nobody_from_working() {
        let user = Pool::new(1, 1).share(None);
        let begun = Arc::new(AtomicUsize::new(0));
        let heavy = || {
            let begun = begun.clone();
            user.work(LIGHT_BYTES + 1, move || {
                begun.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(20));
            })
        };
        let (mut first, mut second) = (Box::pin(heavy()), Box::pin(heavy()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(second);
        heavy().await;
        assert_eq!(begun.load(Ordering::SeqCst), 2, "what nobody waits for is not begun");
        first.await;
    }
}
