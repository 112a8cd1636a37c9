//! Random days of the delivery engine are as the referee says.

use prove::engine::world::play;
use prove::engine::{again, day, prove};

const SEED: u64 = 1;

#[test]
fn on_any_day_nothing_is_lost_nobody_overtakes_and_no_limit_is_passed() {
    let days = 200;
    let tally = prove(days, SEED, &|_| {});
    println!("{} days: {:?}", tally.days, tally.facts);
    let told = |(n, what): &(u64, String)| format!("{what}\n  ./dev prove --day {n} --seed {SEED}");
    let examples: Vec<String> = tally.examples.iter().map(told).collect();
    assert_eq!(tally.broken, 0, "of {} days:\n{}", tally.days, examples.join("\n"));
}

#[test]
fn minutes_of_being_asked_for_patience_slow_nothing_down_afterwards() {
    play(&day::patience()).unwrap();
}

#[test]
fn of_what_the_api_allows_19_of_20_are_used_while_there_is_backlog() {
    let facts = play(&day::backlog()).unwrap();
    assert_eq!(facts["requests"], 1_800);
}

#[test]
fn whoever_was_taken_for_dead_ends_nothing_that_another_has_begun() {
    let facts = play(&day::taken_over()).unwrap();
    assert_eq!((facts["requests"], facts["taps told"]), (2, 1), "both have sent it");
}

#[test]
fn a_claim_of_which_its_replica_hears_too_late_is_not_sent() {
    let facts = play(&day::heard_late()).unwrap();
    assert_eq!((facts["requests"], facts["taps told"]), (1, 1), "the other has sent it");
}

/// Else a day that went wrong could not be looked at again.
#[test]
fn the_same_seed_gives_the_same_day_to_the_millisecond() {
    for n in 0..20 {
        assert_eq!(again(SEED, n), again(SEED, n), "day {n}");
    }
}
