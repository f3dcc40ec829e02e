//! Weighted rendezvous hashing: each key goes to the instance with the best score for it, in integers, so that Rust and
//! PHP agree.
//!
//! An instance that comes or goes moves only its own keys. `tests/vectors/resolve.json` has the expected choices of
//! both.

use std::cmp::Ordering;

/// The greatest draw: 31 bits, so that no product below overflows PHP's integers.
const MAX_DRAW: u64 = (1 << 31) - 1;

/// The number of its bits after the first eight.
const REST: u32 = 23;

/// The number of fractional bits of a logarithm.
const FRACTION: u32 = 26;

/// The table of Pearson's hash in RFC 3074.
#[rustfmt::skip]
const PEARSON: [u8; 256] = [
    251, 175, 119, 215, 81, 14, 79, 191, 103, 49, 181, 143, 186, 157, 0, 232, 31, 32, 55,
    60, 152, 58, 17, 237, 174, 70, 160, 144, 220, 90, 57, 223, 59, 3, 18, 140, 111, 166,
    203, 196, 134, 243, 124, 95, 222, 179, 197, 65, 180, 48, 36, 15, 107, 46, 233, 130, 165,
    30, 123, 161, 209, 23, 97, 16, 40, 91, 219, 61, 100, 10, 210, 109, 250, 127, 22, 138,
    29, 108, 244, 67, 207, 9, 178, 204, 74, 98, 126, 249, 167, 116, 34, 77, 193, 200, 121,
    5, 20, 113, 71, 35, 128, 13, 182, 94, 25, 226, 227, 199, 75, 27, 41, 245, 230, 224,
    43, 225, 177, 26, 155, 150, 212, 142, 218, 115, 241, 73, 88, 105, 39, 114, 62, 255, 192,
    201, 145, 214, 168, 158, 221, 148, 154, 122, 12, 84, 82, 163, 44, 139, 228, 236, 205, 242,
    217, 11, 187, 146, 159, 64, 86, 239, 195, 42, 106, 198, 118, 112, 184, 172, 87, 2, 173,
    117, 176, 229, 247, 253, 137, 185, 99, 164, 102, 147, 45, 66, 231, 52, 141, 211, 194, 206,
    246, 238, 56, 110, 78, 248, 63, 240, 189, 93, 92, 51, 53, 183, 19, 171, 72, 50, 33,
    104, 101, 69, 8, 252, 83, 120, 76, 135, 85, 54, 202, 125, 188, 213, 96, 235, 136, 208,
    162, 129, 190, 132, 156, 38, 47, 1, 7, 254, 24, 4, 216, 131, 89, 21, 28, 133, 37,
    153, 149, 80, 170, 68, 6, 169, 234, 151,
];

/// The score of an instance for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Score {
    pub(super) draw: u32,
    pub(super) weight: u32,
}

/// The draw of an address for a key, both given by hash ([`key_hash`](crate::store::key_hash)): uniform below 2^31. Its first
/// eight bits are a hash by bytes, which PHP computes of all addresses at once.
pub(super) fn draw(key: u64, address: u64) -> u32 {
    let mixed = key ^ address;
    let [_, _, _, _, last @ ..] = mixed.to_be_bytes();
    let first = last.into_iter().fold(0, |hash, byte| PEARSON[usize::from(hash ^ byte)]);
    let product = (mixed >> 31) * (mixed & MAX_DRAW);
    let rest = (product ^ (product >> 31)) & ((1 << REST) - 1);
    u32::from(first) << REST | rest as u32
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
