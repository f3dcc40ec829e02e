//! Retries: the delay before the next.

use std::time::Duration;

/// Delays between retries: each has an upper limit twice that of the previous one, and is a random part of it, but not
/// less than half of the first, so that many sidecars do not retry together ("full jitter").
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// The delay before the next attempt.
    pub fn delay(&mut self) -> Duration {
        let shortest = self.least / 2;
        let delay = shortest + random_part(self.next.saturating_sub(shortest));
        self.next = (self.next * 2).min(self.most);
        delay
    }
}

/// A random part of a duration.
pub fn random_part(of: Duration) -> Duration {
    of.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_grows_to_its_bound_and_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for most in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.delay();
            assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(most), "{delay:?} of {most}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }
}
