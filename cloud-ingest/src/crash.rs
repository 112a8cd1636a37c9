//! Beside the line: named places where a test may kill this process, to see that nothing is lost or doubled there.
//!
//! With the feature `crash-points` and `CRASH_AT=after-puback` (or `after-puback:3` for the third time) the process
//! aborts there: no destructor, no flush, like `kill -9`. Without the feature, [`point`] compiles to nothing.

/// The places, in the order in which a tap of a door meets them.
pub const POINTS: [&str; 8] = [
    "before-append-commit",
    "after-append-commit",
    "before-puback",
    "after-puback",
    "after-start-attempt",
    "after-answer-before-finish",
    "before-finish-commit",
    "after-finish",
];

/// Those that a tap meets which came over HTTP while the store was away.
pub const SPOOL_POINTS: [&str; 4] =
    ["before-spool-write", "after-spool-write", "after-drain-commit", "after-spool-done"];

/// Those that a store meets which is brought up to date.
pub const MIGRATION_POINTS: [&str; 2] = ["before-migration-commit", "after-migration-commit"];

/// Those of `events archive`, in their order.
pub const ARCHIVE_POINTS: [&str; 5] = [
    "after-segment-draft",
    "after-segment-verified",
    "after-segment-named",
    "after-archive-commit",
    "while-removing-archived",
];

/// Dies here if a test asked for it.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[expect(clippy::disallowed_methods, reason = "a test's switch, not configuration; never in a release")]
    static WANTED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let wanted = std::env::var("CRASH_AT").ok()?;
        let (name, nth) = wanted.split_once(':').unwrap_or((wanted.as_str(), "1"));
        assert!(
            is_known(name),
            "CRASH_AT names no crash point: {name}; there are {POINTS:?}, {SPOOL_POINTS:?}, {MIGRATION_POINTS:?} and \
             {ARCHIVE_POINTS:?}"
        );
        let nth = nth.parse().expect("CRASH_AT=name:n needs a number");
        Some((name.to_owned(), AtomicU32::new(nth)))
    });
    debug_assert!(is_known(name), "{name} is in no list");
    if let Some((wanted, left)) = &*WANTED
        && wanted == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

#[cfg(feature = "crash-points")]
fn is_known(name: &str) -> bool {
    [&POINTS[..], &SPOOL_POINTS, &MIGRATION_POINTS, &ARCHIVE_POINTS]
        .into_iter()
        .any(|points| points.contains(&name))
}

/// Nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}
