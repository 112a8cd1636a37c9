//! Beside the line: how long a loop of this process waits after a failure: the one helper for all of them, so that no
//! loop turns hot while a broker or a store is away.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// A growing, jittered wait.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
}

impl Backoff {
    /// From `first`, doubling, up to `max`. The jitter adds up to as much again, so the step stops at half of `max`.
    pub fn new(first: Duration, max: Duration) -> Backoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(max / 2)
            .without_max_times()
            .with_jitter();
        Backoff { builder, waits: builder.build() }
    }

    /// The same with a jitter that follows from `seed`.
    pub fn with_seed(self, seed: u64) -> Backoff {
        let builder = self.builder.with_jitter_seed(seed);
        Backoff { builder, waits: builder.build() }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.waits.next().expect("it has no last wait")
    }

    /// It works again: start from the shortest.
    pub fn reset(&mut self) {
        self.waits = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_limit_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let waits: Vec<_> = std::iter::repeat_with(|| backoff.wait()).take(100).collect();
        assert!(waits[0] >= Duration::from_millis(100) && waits[0] <= Duration::from_millis(200));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)), "{waits:?}");
        assert!(waits[99] >= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(200));
    }
}
