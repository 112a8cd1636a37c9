//! Beside the line: the only place that asks what time it is. Everything else is given a [`Clock`] or a moment.

use std::sync::Arc;

use crate::event_store::UtcMs;

/// Tells the time: the system's wall clock in production, whatever a test wants elsewhere.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UtcMs + Send + Sync>);

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Clock {
        Clock(Arc::new(system_now))
    }

    /// A clock that shows what `now` gives.
    pub fn from_fn(now: impl Fn() -> UtcMs + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> UtcMs {
        (self.0)()
    }
}

/// Counts milliseconds that pass, from anywhere on; never set by anybody.
#[derive(Clone)]
pub struct Monotonic(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Monotonic {
    /// The system's.
    pub fn system() -> Monotonic {
        let since = Stopwatch::start();
        Monotonic::from_fn(move || (since.seconds() * 1_000.0) as u64)
    }

    /// One that shows what `ms` gives.
    pub fn from_fn(ms: impl Fn() -> u64 + Send + Sync + 'static) -> Monotonic {
        Monotonic(Arc::new(ms))
    }

    /// So many by now.
    pub fn ms(&self) -> u64 {
        (self.0)()
    }
}

#[expect(clippy::disallowed_methods, reason = "this module owns the wall clock")]
fn system_now() -> UtcMs {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UtcMs(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}

/// Measures how long something takes, whatever the wall clock does meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts.
    #[expect(clippy::disallowed_methods, reason = "this module owns the monotonic clock")]
    pub fn start() -> Stopwatch {
        Stopwatch(std::time::Instant::now())
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
