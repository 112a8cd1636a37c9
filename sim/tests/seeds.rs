//! Five hundred seeds, and what they must have exercised between them.

use std::sync::LazyLock;

use sim::fault::Fault;
use sim::{Run, Tally, kept_seeds, run};

const SEEDS: u64 = 500;

/// Days beyond those on which something happens that happens once in some five hundred: taps that were set aside for want of
/// a time find theirs.
const RARE: [u64; 1] = [820];

/// Run once for all tests here.
static TOTAL: LazyLock<Tally> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let seeds = (1..=SEEDS).chain(RARE).filter(|seed| seed % threads == part);
                    seeds.map(holds).collect::<Vec<_>>()
                })
            })
            .collect();
        for part in parts {
            let tallies = part.join().unwrap_or_else(|broken| std::panic::resume_unwind(broken));
            tallies.iter().for_each(|tally| total.take_in(tally));
        }
    });
    total
});

#[track_caller]
fn holds(seed: u64) -> Tally {
    let outcome = run(Run { seed, ..Run::default() });
    if let Some(violation) = outcome.violation {
        let (broken, tail) = (violation.broken, violation.tail.join("\n"));
        panic!("{tail}\n\nseed {seed} breaks {}: {}\n\n./dev sim --seed {seed}", broken.promise, broken.what);
    }
    outcome.tally
}

#[track_caller]
fn was_exercised(what: &str) {
    assert!(TOTAL.of(what) > 0, "{what:?} never happened in {SEEDS} seeds");
}

#[test]
fn five_hundred_seeds_keep_every_promise() {
    assert!(TOTAL.of("taps stored") > 100 * SEEDS / 2);
}

#[test]
fn seeds_that_ever_failed_hold_for_ever() {
    kept_seeds().into_iter().for_each(|seed| {
        holds(seed);
    });
}

#[test]
fn every_kind_of_fault_happens() {
    Fault::ALL.iter().for_each(|fault| was_exercised(&format!("fault: {fault}")));
}

#[test]
fn every_admission_is_reached() {
    ["store", "duplicate", "beyond", "fork"]
        .iter()
        .for_each(|what| was_exercised(&format!("admission: {what}")));
}

#[test]
fn every_verdict_of_the_relay_is_reached() {
    // Not `history gone`: a store is never put back to before what a door has pruned.
    for what in ["advanced", "nothing", "restored", "rewound", "forked", "foreign"] {
        was_exercised(&format!("verdict: {what}"));
    }
}

#[test]
fn every_delivery_state_is_reached() {
    for state in ["held", "pending", "in_flight", "unknown", "parked", "dead", "discarded", "delivered"] {
        was_exercised(&format!("state reached: {state}"));
    }
}

#[test]
fn every_way_a_request_can_end_is_reached() {
    // Not these two: they come from settings that are wrong, and here those are always the default.
    let of_settings = ["misconfigured", "unrenderable"];
    for word in cloud_ingest::destination::Outcome::WORDS.iter().filter(|word| !of_settings.contains(word)) {
        was_exercised(&format!("outcome: {word}"));
    }
}

#[test]
fn the_intake_dies_between_any_two_steps() {
    for at in ["BeforeCommit", "AfterCommit", "AfterAck"] {
        was_exercised(&format!("intake crashes: {at}"));
    }
}

#[test]
fn what_is_rare_and_hurts_is_exercised() {
    for what in [
        "anchors from receipts",
        "anchors from the kernel",
        "anchors from a step",
        "commits that nobody was told of",
        "days in the order of time",
        "decisions: discard",
        "decisions: replay",
        "deliveries released by a binding",
        "deliveries that went before what was stored earlier",
        "deliveries that went early",
        "dispatcher crashes before finish",
        "leases that ran out",
        "lost leases",
        "members: dead",
        "members: delivered",
        "members: discarded",
        "members: skipped",
        "members: waiting",
        "messages doubled by the broker",
        "messages dropped by a full queue",
        "messages lost with a session",
        "outboxes put back",
        "quarantined: fork",
        "quarantined: unauthentic",
        "questions where an outbox and the store go apart",
        "receipts at a take-over",
        "receipts that ask to send again",
        "records pruned",
        "records said again in a new outbox",
        "redeliveries out of order",
        "store calls that failed",
        "replays told to stop: Cancel",
        "replays told to stop: Pause",
        "settled: exactly",
        "stores put back",
        "taps refused",
        "taps set aside without time",
        "taps that found their time after a day",
        "taps with an estimated time",
        "taps said again in a new outbox",
        "taps that a crash interrupted",
        "turns between a card and its copy",
    ] {
        was_exercised(what);
    }
}
