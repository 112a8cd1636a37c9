//! Planted bugs: a simulator that does not catch them proves nothing.

use sim::{Bait, Run, run};

const SEEDS: u64 = 500;

/// The first seed that catches the bait, and the promise that it breaks.
#[track_caller]
fn caught(bait: Bait, promises: &[&str]) {
    let found = (1..=SEEDS).find_map(|seed| {
        let outcome = run(Run { seed, bait: Some(bait), print: false });
        outcome.violation.map(|violation| (seed, violation.broken))
    });
    let Some((seed, broken)) = found else { panic!("{bait} was not caught in {SEEDS} seeds") };
    println!("{bait}: seed {seed}, {}: {}", broken.promise, broken.what);
    assert!(promises.contains(&broken.promise), "{bait} broke {}, which is not what it is", broken.promise);
}

#[test]
fn a_puback_taken_for_a_receipt_is_caught() {
    caught(Bait::MarkOnPuback, &["a_mark_says_only_what_is_stored"]);
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    caught(Bait::AckBeforeCommit, &["what_is_acknowledged_is_decided"]);
}

#[test]
fn a_receipt_before_the_commit_is_caught() {
    caught(Bait::ReceiptBeforeCommit, &["a_receipt_says_only_what_is_stored"]);
}

#[test]
fn a_receipt_for_the_highest_record_seen_is_caught() {
    caught(Bait::ReceiptIsMax, &["a_receipt_says_only_what_is_stored"]);
}

#[test]
fn a_new_idempotency_key_per_attempt_is_caught() {
    caught(Bait::NewKeyPerAttempt, &["one_key_and_one_body_per_delivery"]);
}

#[test]
fn a_new_body_per_attempt_is_caught() {
    caught(Bait::NewBodyPerAttempt, &["one_key_and_one_body_per_delivery"]);
}

#[test]
fn overtaking_within_an_order_key_is_caught() {
    caught(Bait::Overtaking, &["only_the_first_in_line_is_sent"]);
}

#[test]
fn sending_without_a_lease_is_caught() {
    caught(Bait::LostLeaseSends, &["a_request_is_a_started_attempt", "only_the_first_in_line_is_sent"]);
}

#[test]
fn green_before_the_commit_is_caught() {
    caught(Bait::GreenBeforeCommit, &["green_is_only_what_is_committed"]);
}

#[test]
fn a_lost_session_without_going_back_is_caught() {
    caught(Bait::NoGoBack, &["a_new_session_begins_at_the_mark"]);
}

#[test]
fn pruning_without_a_receipt_is_caught() {
    caught(Bait::PruneWithoutReceipt, &["what_is_pruned_is_stored", "nothing_accepted_is_lost"]);
}

#[test]
fn forgetting_the_order_of_time_is_caught() {
    caught(
        Bait::ForgetsTheOrder,
        &["what_goes_in_time_has_nobody_before_it", "only_the_first_in_line_is_sent"],
    );
}

#[test]
fn waiting_for_no_door_that_is_away_is_caught() {
    caught(Bait::HasNoPatience, &["only_what_waited_for_long_enough_goes_early"]);
}

#[test]
fn waiting_for_longer_than_was_agreed_is_caught() {
    caught(Bait::WaitsTooLong, &["nobody_waits_longer_than_was_agreed"]);
}

#[test]
fn saying_again_what_the_store_has_is_caught() {
    caught(Bait::SaysAgainFromTheMark, &["a_tap_is_stored_once"]);
}
