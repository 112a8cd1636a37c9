//! The only source of chance: SplitMix64 from a seed. Knows nothing of what it decides.
//!
//! Our own twenty lines, so that a state that failed once is the same state in ten years.

/// A stream of chance. The same seed gives the same stream.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A stream from `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A stream of its own for a place (a call, a scenario) under one seed.
    pub fn at(seed: u64, place: u64) -> Dice {
        Dice(Dice(seed).bits() ^ Dice(place ^ 0x5bf0_3635).bits())
    }

    /// 64 bits (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` − 1. The bias of the remainder does not matter at these sizes.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// Yes in `percent` of all cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_published_algorithm() {
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.bits(), 6_457_827_717_110_365_317);
        assert_eq!(dice.bits(), 3_203_168_211_198_807_973);
    }
}
