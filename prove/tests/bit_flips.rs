//! Bits flip in the outbox's files.

use prove::bit_flips::{ALL, Case, prove, replay};
use prove::promise::Wrong;

const SEED: u64 = 1;

#[test]
fn a_flipped_bit_never_makes_a_record_wrong_without_a_word() {
    let tally = prove(2_000, SEED, &|_| {});
    println!("{tally:?}");
    let told = |(case, what): &(Case, String)| format!("{what}\n  ./dev prove --flip {case}");
    let examples: Vec<String> = tally.examples.iter().map(told).collect();
    assert_eq!(tally.broken, 0, "of {} cases:\n{}", tally.cases, examples.join("\n"));
    assert!(tally.damaged > tally.cases / 2, "most flips hit something that counts");
    // What the log's last transaction holds may be gone, as if the power had been cut in the middle of its commit.
    assert!(tally.shortened < tally.cases / 20 && tally.most_missing <= 8, "{tally:?}");
}

#[test]
fn a_flip_can_be_done_again() {
    let is_damage = |seed: &u64| matches!(replay(&ALL[0], *seed).wrong, Some(Wrong::Damaged(_)));
    let damaged = (0..100).find(is_damage).unwrap();
    assert_eq!(replay(&ALL[0], damaged), replay(&ALL[0], damaged));
    let case = Case { subject: ALL[0].name.to_owned(), seed: damaged };
    assert_eq!(case.to_string().parse(), Ok(case));
}
