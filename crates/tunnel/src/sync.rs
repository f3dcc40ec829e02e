//! Locks: the standard ones; or, for `make explore`, those that try every order in which they can be taken.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Mutex, MutexGuard};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Mutex, MutexGuard};

/// Tries thousands of orders: some at random, some in which one task is delayed for as long as the others can run.
#[cfg(feature = "shuttle")]
pub fn explore(what: impl Fn() + Copy + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};
    const ORDERS: usize = 5_000;
    const HELD_BACK: usize = 3;
    let mut config = Config::new();
    config.stack_size = 1024 * 1024;
    Runner::new(RandomScheduler::new(ORDERS), config.clone()).run(what);
    Runner::new(PctScheduler::new(HELD_BACK, ORDERS), config).run(what);
}
