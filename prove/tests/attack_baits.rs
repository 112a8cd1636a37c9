//! Takes each check away and expects the attacks to get through: a check that nobody misses is none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use prove::attacks::reason::Reason;
use prove::attacks::{Class, bait, prove};
use prove::planting::{plant, play, root};

/// All checks in one build of a copy of the sources, which is the whole cost.
#[test]
fn every_check_that_is_taken_away_is_missed() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let caught = play(target, 256).unwrap_or_else(|error| panic!("{error}"));
    let baits = bait::all();
    assert_eq!(caught.len(), baits.iter().map(|bait| bait.classes.len()).sum::<usize>());
    let told = |caught: &prove::planting::Caught| format!("{}: {}", baits[caught.bait].name, caught.class);
    let unnoticed: Vec<String> = caught.iter().filter(|caught| caught.missed == 0).map(told).collect();
    assert!(unnoticed.is_empty(), "nobody misses these checks in 256 attacks:\n{}", unnoticed.join("\n"));
}

#[test]
fn every_check_of_the_list_is_found_in_its_file() {
    let baits = bait::all();
    for file in baits.iter().map(|bait| bait.file).collect::<BTreeSet<_>>() {
        let text = fs::read_to_string(root().join(file)).unwrap();
        plant(file, &text, &baits).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
