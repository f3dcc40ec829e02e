//! Weighted rendezvous hashing: each key goes to the instance with the best score for it, in integers, so that Rust and
//! PHP agree.
//!
//! An instance that comes or goes moves only its own keys. `tests/vectors/resolve.json` has the expected choices of
//! both.

use std::cmp::Ordering;

/// The greatest draw: 31 bits, so that no product below overflows PHP's integers.
const MAX_DRAW: u64 = (1 << 31) - 1;

/// The number of fractional bits of a logarithm.
const FRACTION: u32 = 26;

/// The score of an instance for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Score {
    pub(super) draw: u32,
    pub(super) weight: u32,
}

/// The draw of an address for a key, both given by hash ([`key_hash`](crate::store::key_hash)): uniform below 2^31.
pub(super) fn draw(key: u64, address: u64) -> u32 {
    let mixed = key ^ address;
    let product = (mixed >> 31) * (mixed & MAX_DRAW);
    ((product ^ (product >> 31)) & MAX_DRAW) as u32
}

impl Score {
    /// The better one is greater: it has more weight per bit of −log2 of its draw as a fraction; if equal, the greater
    /// draw wins.
    pub(super) fn compare(self, other: Self) -> Ordering {
        if self.weight == other.weight {
            return self.draw.cmp(&other.draw);
        }
        let mine = u64::from(self.weight) * distance(other.draw);
        let others = u64::from(other.weight) * distance(self.draw);
        mine.cmp(&others).then(self.draw.cmp(&other.draw))
    }
}

/// The best of those seen so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best {
    score: Score,
    distance: u64,
}

impl Best {
    pub(super) fn new(score: Score) -> Self {
        Self { score, distance: distance(score.draw) }
    }

    pub(super) fn draw(self) -> u32 {
        self.score.draw
    }

    /// Whether this one may be better: a cheap test without a logarithm, using a lower bound of it.
    pub(super) fn may_be_beaten_by(&self, score: Score) -> bool {
        let least = (MAX_DRAW - u64::from(score.draw)) >> (31 - FRACTION);
        u64::from(score.weight) * self.distance >= u64::from(self.score.weight) * least
    }
}

/// −log2 of a draw as a fraction, plus one last bit, so that it is never 0. Bit by bit, by squaring.
pub(super) fn distance(draw: u32) -> u64 {
    let number = u64::from(draw) + 1;
    let whole = number.ilog2();
    // From 1 up to 2, with 30 fractional bits; but the greatest number is 2^31.
    let mut rest = (number << 30) >> whole;
    let mut log = u64::from(whole);
    for _ in 0..FRACTION {
        rest = (rest * rest) >> 30;
        log <<= 1;
        if rest >> 31 == 1 {
            rest >>= 1;
            log |= 1;
        }
    }
    (31 << FRACTION) - log + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_the_logarithm() {
        for draw in [0, 1, 2, 1_000, 123_456_789, (1 << 30) - 1, MAX_DRAW as u32 - 1, MAX_DRAW as u32] {
            let exact = -((f64::from(draw) + 1.0) / (1_u64 << 31) as f64).log2();
            let found = (distance(draw) - 1) as f64 / f64::from(1 << FRACTION);
            assert!((found - exact).abs() < 1e-7, "{draw}: {found} for {exact}");
        }
        assert_eq!(distance(MAX_DRAW as u32), 1);
    }

    #[test]
    fn more_weight_or_a_greater_draw_is_never_worse() {
        fastrand::seed(7);
        let score = || Score { draw: fastrand::u32(..1 << 31), weight: fastrand::u32(1..1 << 31) };
        for _ in 0..10_000 {
            let one = score();
            let heavier =
                Score { weight: one.weight.saturating_add(fastrand::u32(1..1_000)).min(i32::MAX as u32), ..one };
            let luckier = Score { draw: (one.draw + fastrand::u32(1..1_000)).min(MAX_DRAW as u32), ..one };
            assert!(heavier.compare(one).is_ge() && luckier.compare(one).is_ge(), "{one:?}");
            let other = score();
            assert!(one.compare(other).is_le() || Best::new(other).may_be_beaten_by(one), "{one:?} and {other:?}");
            assert_eq!(one.compare(other), other.compare(one).reverse());
        }
    }
}
