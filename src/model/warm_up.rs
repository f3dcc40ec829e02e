//! Warm-up: a new process gets a part of its calls at first, as Dubbo's clients have it.

use super::{Decoder, Format, Instance};

/// How long the warm-up lasts where a registration does not say: 10 minutes, as in Dubbo.
const DEFAULT_MS: u64 = 600_000;

/// The longest that a registration may ask for, and the most digits of a time, so that no product overflows.
const MAX_MS: u64 = i32::MAX as u64;
const MAX_DIGITS: usize = 15;

/// When an instance was started, in ms since 1970, and for how long it warms up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    since: u64,
    ms: u64,
}

impl WarmUp {
    /// The part of a weight that counts at a time, in ms since 1970: by how long it has run, and at least 1. `php/src/Read`
    /// has the same.
    pub fn weight(self, whole: u32, now: u64) -> u32 {
        let uptime = now.saturating_sub(self.since);
        if uptime >= self.ms {
            return whole;
        }
        ((uptime * u64::from(whole) / self.ms) as u32).max(1).min(whole)
    }

    pub fn ends_at(self) -> u64 {
        self.since + self.ms
    }
}

impl Instance {
    /// `None` if it was not registered by Dubbo, or does not say when it was started.
    pub fn warm_up(&self) -> Option<WarmUp> {
        let decoder = self.provenance.first()?.decoder;
        let is_of_dubbo = matches!(decoder, Decoder::Format(Format::Dubbo | Format::DubboApplication));
        let number = |key| self.metadata.text(key).and_then(number);
        let since = is_of_dubbo.then(|| number("timestamp")).flatten().filter(|since| *since > 0)?;
        let ms = number("warmup").filter(|ms| *ms <= MAX_MS).unwrap_or(DEFAULT_MS);
        Some(WarmUp { since, ms })
    }
}

fn number(text: &str) -> Option<u64> {
    let is_number = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
