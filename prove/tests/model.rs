//! Random lives of an outbox are what the model says.

use prove::life::prove;

const SEED: u64 = 1;

#[test]
fn any_life_of_a_shelf_is_as_the_model_says() {
    let tally = prove(200, SEED, &|_| {});
    println!("{} steps: {:?}", tally.steps, tally.kinds);
    let told = |(n, what): &(u64, String)| format!("{what}\n  ./dev prove --life {n} --seed {SEED}");
    let examples: Vec<String> = tally.examples.iter().map(told).collect();
    assert_eq!(tally.broken, 0, "of {} lives:\n{}", tally.lives, examples.join("\n"));
    assert_eq!(tally.kinds.len(), 12, "every kind of step is made: {:?}", tally.kinds);
}
