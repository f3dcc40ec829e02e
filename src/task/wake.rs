//! Wake-ups of threads: each once, where many tasks of it are woken one after the other.

use std::cell::RefCell;
use std::task::Waker;

thread_local! {
    /// Those that are woken once the work under way is done. None: each at once.
    static LATER: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Does work that wakes many. The threads that [`thread`] is to wake are woken after it: a thread that the first one woke would
/// sleep again before the next.
pub(crate) fn together(work: impl FnOnce()) {
    let before = LATER.replace(Some(Vec::new()));
    debug_assert!(before.is_none(), "what an outer one gathered is not woken");
    let _later = Later;
    work();
}

/// Wakes them when it is dropped, also by a panic.
struct Later;

impl Drop for Later {
    fn drop(&mut self) {
        LATER.take().into_iter().flatten().for_each(Waker::wake);
    }
}

/// Wakes a thread, or has it woken with others.
pub(crate) fn thread(waker: Waker) {
    let mut waker = Some(waker);
    // A thread that is ending has nothing under way.
    let _ = LATER.try_with(|later| later.borrow_mut().as_mut().map(|later| later.extend(waker.take())));
    waker.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// A waker that counts.
    pub(crate) struct Count(pub(crate) AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_thread_is_woken_at_once_or_when_the_work_is_done_that_wakes_many() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let woken = || count.0.load(Ordering::Relaxed);
        thread(count.clone().into());
        assert_eq!(woken(), 1);
        together(|| {
            thread(count.clone().into());
            assert_eq!(woken(), 1);
        });
        assert_eq!(woken(), 2);
        thread(count.clone().into());
        assert_eq!(woken(), 3);
    }
}
