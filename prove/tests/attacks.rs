//! Forged, changed, replayed and contradicting messages: each is refused for its own reason.

use prove::attacks::{Case, Class, Tally, prove, replay};

const SEED: u64 = 1;

#[test]
fn every_attack_is_refused_for_its_own_reason_and_the_honest_message_beside_it_is_taken() {
    let mut total = Tally::default();
    for class in Class::ALL {
        let tally = prove(class, 400, SEED, &|_| {});
        assert_eq!(tally.cases, 400, "{}", class.name());
        total.add(tally);
    }
    println!("{total:#?}");
    let told = |(case, what): &(Case, String)| format!("{what}\n  ./dev prove --attack {case}");
    let examples: Vec<String> = total.examples.iter().map(told).collect();
    assert_eq!(total.broken, 0, "of {} attacks:\n{}", total.cases, examples.join("\n"));
    assert!(total.honest >= total.cases, "each attack has its control");
}

#[test]
fn an_attack_can_be_tried_again() {
    let case: Case = "fork:17".parse().unwrap();
    assert_eq!(case.to_string(), "fork:17");
    assert_eq!(replay(case), replay(case));
    assert!(replay(case).unwrap().starts_with("refused: "), "{:?}", replay(case));
}
