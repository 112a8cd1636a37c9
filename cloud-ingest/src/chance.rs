//! Beside the line: what nobody can foresee. A model that lives a day again gives its own.

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

/// Gives numbers: the system's in production, whatever a test wants elsewhere.
#[derive(Clone)]
pub struct Chance(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Chance {
    /// The system's. Where it has none, the middle is as good as any for a delay.
    pub fn system() -> Chance {
        Chance::from_fn(|| {
            let mut bytes = [0; 8];
            let drawn = SystemRandom::new().fill(&mut bytes);
            drawn.map_or(u64::MAX / 2, |()| u64::from_le_bytes(bytes))
        })
    }

    /// One that gives what `bits` gives.
    pub fn from_fn(bits: impl Fn() -> u64 + Send + Sync + 'static) -> Chance {
        Chance(Arc::new(bits))
    }

    /// Any 64 bits.
    pub fn bits(&self) -> u64 {
        (self.0)()
    }

    /// In [0, 1).
    pub fn unit(&self) -> f64 {
        // As many as a float holds.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}
