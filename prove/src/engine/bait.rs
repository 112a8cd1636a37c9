//! Bugs that somebody could make in the engine: each must make some day go wrong, or the referee sees too little. As with
//! the checks that attacks meet, nothing of it is in the product: `planting.rs` writes them into a copy of the sources.

use crate::planting::Plant;

const BREAKER: &str = "cloud-ingest/src/delivery/breaker.rs";
const DISPATCH: &str = "cloud-ingest/src/delivery/dispatch.rs";
const ORDER: &str = "cloud-ingest/src/delivery/order.rs";
const RETRY: &str = "cloud-ingest/src/delivery/retry.rs";
const TICKS: &str = "cloud-ingest/src/delivery/ticks.rs";
const TURN: &str = "cloud-ingest/src/event_store/sql/delivery.rs";
const CLAIMING: &str = "cloud-ingest/src/event_store/sql/claiming.rs";

/// All of them.
pub fn all() -> Vec<Plant> {
    let bait = |name, file, check, planted| Plant { name, file, check, planted };
    vec![
        bait(
            "a process that starts finds the limiter full",
            TURN,
            "remembered(row.get(9)?)?.unwrap_or_else(",
            "remembered(row.get(9)?)?.filter(|_| !PLANTED || format!(\"{passed:?}\").contains(\"believed: true\")).unwrap_or_else(",
        ),
        bait(
            "being asked for patience counts as a failure",
            TURN,
            "Next::PatientFor(ms) => (DeliveryState::Pending, after(*ms), None, 0),",
            "Next::PatientFor(ms) => (DeliveryState::Pending, after(*ms), None, i64::from(PLANTED)),",
        ),
        bait(
            "there is a second probe",
            BREAKER,
            "State::HalfOpen { probe: Some((_, until)), .. } if ticks < until => 0,",
            "State::HalfOpen { probe: Some((_, until)), .. } if ticks < until && !PLANTED => 0,",
        ),
        bait(
            "whoever stands in line is sent",
            ORDER,
            "(None, true) => DeliveryState::Pending,",
            "(None, is_head) if is_head || PLANTED => DeliveryState::Pending, (None, true) => DeliveryState::Pending,",
        ),
        bait(
            "a hold is not kept",
            CLAIMING,
            "if desk.ticks < row.held_until {",
            "if desk.ticks < row.held_until && !PLANTED {",
        ),
        bait("a pause is not kept", CLAIMING, "if row.is_paused", "if (row.is_paused && !PLANTED)"),
        bait(
            "leases are not extended",
            TURN,
            "for claim in self.turn.under_way {",
            "for claim in self.turn.under_way.iter().filter(|_| !PLANTED) {",
        ),
        bait(
            "no answer is taken for a good one",
            RETRY,
            "Outcome::Delivered | Outcome::Duplicate => {",
            "Outcome::TimedOut if PLANTED => Decision { next: Next::Delivered, hold: None, sign: Sign::Answered }, \
             Outcome::Delivered | Outcome::Duplicate => {",
        ),
        bait(
            "calls count only until they end",
            TURN,
            "                self.row.limiter.end(1);\n                let settings",
            "                if !PLANTED { self.row.limiter.end(1); }\n                let settings",
        ),
        bait(
            "a process that starts believes its own clock",
            TICKS,
            "return Vouch { by, before: None, through: Ticks(0), is_fresh: false, at_ms };",
            "return Vouch { by, before: None, through: Ticks(if PLANTED { at_ms } else { 0 }), is_fresh: PLANTED, at_ms };",
        ),
        bait(
            "an attempt ends under whatever lease there is",
            TURN,
            ".changed_each(&sql::UNLEASE, &deliveries,",
            ".changed_each(&if PLANTED { super::session::Changes { \
             update: sql::UNLEASE.update.replace(\"AND lease = ?3\", \"\").leak(), ..sql::UNLEASE } } \
             else { sql::UNLEASE }, &deliveries,",
        ),
        bait(
            "a claim that is about to end is sent",
            DISPATCH,
            "let is_late = self.dispatcher.monotonic.ms()",
            "let is_late = !PLANTED && self.dispatcher.monotonic.ms()",
        ),
    ]
}
