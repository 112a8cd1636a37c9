//! Step 11 of 12: what the engine goes by at one destination. Pure values, taken from the destination's settings; knows
//! nothing of what the destination speaks.

use super::breaker;
use super::limiter::Limits;
use super::retry::Unknown;
use crate::destination::settings::{AfterUnknown, DestinationSettings, Kind, Mode, OnDead};

/// How long a claim is its process's, by the store's ticks: extended while its request is under way, and short enough
/// that what a dead process had claimed goes on soon.
pub const LEASE_MS: u64 = 10_000;

/// A lease is extended when this much of it is gone.
pub const BEAT_MS: u64 = 2_500;

/// A request whose lease could not be extended is given up so long before its end: an answer may still be on its way.
pub const LEASE_MARGIN_MS: u64 = 2_000;

const _: () = assert!(2 * BEAT_MS + LEASE_MARGIN_MS < LEASE_MS, "one beat may fail");

/// What the engine goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How many calls.
    pub limits: Limits,
    /// When it is left alone.
    pub breaker: breaker::Settings,
    /// What follows where nobody knows whether it was processed.
    pub unknown: Unknown,
    /// What a dead one means for those behind it.
    pub on_dead: OnDead,
    /// Requests are made and written down, and not sent.
    pub shadow: bool,
    /// Lanes are in the order in which taps happened over all controllers of a site, and a tap waits so long for those that
    /// are behind.
    pub across_ms: Option<u64>,
    /// It is known of each delivery where and when its tap happened: how far the destination was told is asked.
    pub is_followed: bool,
}

impl Rules {
    /// Those of a destination; `settles_ms` is how long a request without an answer may be at work over there.
    pub fn of(settings: &DestinationSettings, settles_ms: u64) -> Rules {
        let (limits, breaker) = (&settings.limits, &settings.breaker);
        Rules {
            limits: Limits {
                per_second: limits.per_second,
                burst: limits.burst,
                per_day: limits.per_day.map(u64::from),
                concurrency: limits.concurrency,
            },
            breaker: breaker::Settings {
                failures: breaker.trip_after,
                open_ms: u64::from(breaker.open_s) * 1_000,
                most_open_ms: u64::from(breaker.max_open_s) * 1_000,
                ramp_ms: u64::from(breaker.ramp_s) * 1_000,
            },
            unknown: Unknown { then: settings.after_unknown, settles_ms },
            on_dead: settings.on_dead,
            shadow: settings.mode == Mode::Shadow,
            across_ms: settings.order_across_controllers.map(|across| u64::from(across.max_wait_s) * 1_000),
            is_followed: match &settings.kind {
                Kind::FrappeHr(frappe) => !frappe.watermarks.is_empty(),
                Kind::HttpJson(_) => false,
            },
        }
    }
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            limits: Limits { per_second: 100.0, burst: 100, per_day: None, concurrency: 8 },
            breaker: breaker::Settings {
                failures: 10,
                open_ms: 5_000,
                most_open_ms: 60_000,
                ramp_ms: 10_000,
            },
            unknown: Unknown { then: AfterUnknown::Repeat, settles_ms: 0 },
            on_dead: OnDead::Skip,
            shadow: false,
            across_ms: None,
            is_followed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::settings::AcrossControllers;

    #[test]
    fn rules_are_those_of_the_settings() {
        let settings = DestinationSettings {
            mode: Mode::Shadow,
            order_across_controllers: Some(AcrossControllers { max_wait_s: 120 }),
            ..DestinationSettings::http_json("http://192.0.2.1/").unwrap()
        };
        let rules = Rules::of(&settings, 120_000);
        assert_eq!((rules.limits.per_second, rules.limits.concurrency), (10.0, 8));
        assert_eq!((rules.breaker.open_ms, rules.breaker.most_open_ms), (10_000, 300_000));
        assert_eq!((rules.unknown.settles_ms, rules.shadow), (120_000, true));
        assert_eq!((rules.across_ms, rules.is_followed), (Some(120_000), false));
    }
}
