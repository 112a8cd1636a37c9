//! Random days of the delivery engine are as the referee says.

use prove::engine::prove;

const SEED: u64 = 1;

#[test]
fn on_any_day_nothing_is_lost_nobody_overtakes_and_no_limit_is_passed() {
    let days = 300;
    let tally = prove(days, SEED, &|_| {});
    println!("{} days: {:?}", tally.days, tally.facts);
    let told = |(n, what): &(u64, String)| format!("{what}\n  ./dev prove --day {n} --seed {SEED}");
    let examples: Vec<String> = tally.examples.iter().map(told).collect();
    assert_eq!(tally.broken, 0, "of {} days:\n{}", tally.days, examples.join("\n"));
}
