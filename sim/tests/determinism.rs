//! Same seed, same trace.

use sim::{Run, run};

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=25 {
        let [first, second] = [(); 2].map(|()| run(Run { seed, ..Run::default() }));
        assert_eq!(
            (first.trace_hash, first.steps, first.tally),
            (second.trace_hash, second.steps, second.tally),
            "seed {seed}"
        );
    }
}

#[test]
fn another_seed_gives_another_trace() {
    let [first, second] = [1, 2].map(|seed| run(Run { seed, ..Run::default() }));
    assert_ne!(first.trace_hash, second.trace_hash);
}
