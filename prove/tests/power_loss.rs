//! The power goes at every call: nothing that was accepted is lost.

use prove::bait::{Bait, tape_of_sql};
use prove::power_loss::{State, Tally, prove, replay};
use prove::scenario;

const SEED: u64 = 1;

/// 20,000 states, more of the quick ones.
#[test]
fn nothing_accepted_is_lost_whenever_the_power_goes() {
    let mut total = Tally::default();
    for scenario in scenario::ALL {
        total.add(prove(scenario.name, &scenario.tape(), scenario.states_of(20_000), SEED, &|_| {}));
    }
    let told = |(state, what): &(State, String)| format!("{what}\n  ./dev prove --state {state}");
    let examples: Vec<String> = total.examples.iter().map(told).collect();
    assert_eq!(total.broken, 0, "of {} states:\n{}", total.states, examples.join("\n"));
    assert!(total.states >= 20_000, "only {} states", total.states);
}

#[test]
fn every_planted_bug_is_caught() {
    for bait in Bait::ALL {
        let tally = prove("bait", &bait.tape(), 1_000, SEED, &|_| {});
        println!("{bait}: {} of {} states broken", tally.broken, tally.states);
        assert!(tally.broken > 0, "{bait} was not caught in {} states", tally.states);
    }
}

#[test]
fn the_same_writes_with_full_lose_nothing() {
    let tally = prove("control", &tape_of_sql("full"), 1_000, SEED, &|_| {});
    assert_eq!(tally.broken, 0, "{:?}", tally.examples);
}

#[test]
fn a_state_that_failed_can_be_run_again() {
    let tape = Bait::GreenBeforeCommit.tape();
    let tally = prove("append", &tape, 500, SEED, &|_| {});
    for (state, what) in &tally.examples {
        let read: State = state.to_string().parse().unwrap();
        assert_eq!((&read, replay(&tape, &read)), (state, Err(what.clone())));
    }
    assert!(!tally.examples.is_empty());
}
