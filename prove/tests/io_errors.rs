//! Every call fails, in every way that it can.

use prove::io_errors::{Case, Tally, prove, replay};
use prove::scenario::{self, Scenario};

const SEED: u64 = 1;

#[test]
fn whatever_call_fails_nothing_accepted_is_lost_and_the_outbox_goes_on() {
    let mut total = Tally::default();
    for scenario in scenario::ALL {
        // Of the longer scenarios every so many-th call; `./dev prove` takes all.
        let stride = match scenario.name {
            "append-groups" => 29,
            "checkpoint" => 211,
            "salvage" => 7,
            "say-again" | "prune" | "runs" | "migrate" => 3,
            _ => 1,
        };
        total.add(prove(&scenario, stride, SEED, &|_| {}));
    }
    println!("{total:?}");
    let told = |(case, what): &(Case, String)| format!("{what}\n  ./dev prove --case {case}");
    let examples: Vec<String> = total.examples.iter().map(told).collect();
    assert_eq!(total.broken, 0, "of {} cases:\n{}", total.cases, examples.join("\n"));
    assert!(total.calls_failed > 500 && total.refused > total.cases / 2, "most troubles are noticed");
    assert!(total.damaged < total.cases / 50, "a short read seldom does harm");
}

#[test]
fn a_case_can_be_run_again() {
    let case: Case = "append:30:full:sticky".parse().unwrap();
    assert_eq!(case.to_string(), "append:30:full:sticky");
    let refused = replay(&Scenario::named("append").unwrap(), &case, SEED).unwrap();
    assert!(refused > 0, "a full disk refuses");
}
