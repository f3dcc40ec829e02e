//! Heavy work: what would hold a thread that answers for longer than a turn is done on another, one after the other for
//! each user.

use std::panic::resume_unwind;

use super::accounts::Account;

/// To read or write values of so many bytes takes no longer than a turn.
pub(super) const LIGHT: usize = 8 * 1024;

impl Account {
    /// Does work with so many bytes of values.
    pub(super) async fn work<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        if bytes <= LIGHT {
            return work();
        }
        let _working = self.working.lock().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and with it who waits here.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use futures::future::join_all;

    use super::super::Config;
    use super::super::accounts::Accounts;
    use super::*;

    #[tokio::test]
    async fn what_is_light_is_done_here_and_what_is_heavy_elsewhere_one_by_one() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let account = Accounts::new(&Config::default()).account(Some(1), false);
        let here = thread::current().id();
        assert_eq!(account.work(LIGHT, || thread::current().id()).await, here);
        let heavy = (0..4).map(|_| {
            account.work(LIGHT + 1, move || {
                assert_eq!(AT_ONCE.fetch_add(1, Ordering::SeqCst), 0);
                thread::sleep(Duration::from_millis(5));
                AT_ONCE.fetch_sub(1, Ordering::SeqCst);
                assert_ne!(thread::current().id(), here);
            })
        });
        join_all(heavy).await;
    }
}
