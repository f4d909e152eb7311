//! Everything random of a workload, from one seed.

/// Text that every generated value holds, and that must never appear in `Debug` or in errors.
pub const CANARY: &str = "canary";

/// A stream of numbers that its seed decides (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        usize::try_from(self.roll().checked_rem(n).unwrap_or(0)).unwrap_or(0)
    }

    /// True in about `percent` of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A value of a row, short most of the time, now and then many kilobytes: it holds [`CANARY`].
    pub fn text(&mut self) -> String {
        let long = match self.below(40) {
            0 => 20_000,
            1..4 => 3000,
            _ => 0,
        };
        let more = self.below(12) + if long > 0 { self.below(long) } else { 0 };
        let number = self.roll();
        let mut text = format!("{CANARY}-{number:x}");
        text.extend(std::iter::repeat_n('x', more));
        text
    }

    /// As [`text`](Self::text), with any bytes behind it.
    pub fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.text().into_bytes();
        bytes.extend_from_slice(&self.roll().to_le_bytes());
        bytes
    }
}
