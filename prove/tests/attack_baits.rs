//! Takes each check away and expects the attacks to get through: a check that nobody misses is none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use edge_agent::relay;
use prove::attacks::production::REJECT_KINDS;
use prove::attacks::reason::Reason;
use prove::attacks::{Class, Tally, bait, prove};
use prove::planting::{self, Caught, DAY, plant, play, root};
use tap_protocol::codec::{DecodeError, OpenError};
use tap_protocol::ids::Seq;

/// All of them in one build of a copy of the sources, which is the whole cost.
fn caught() -> &'static [Caught] {
    static CAUGHT: OnceLock<Vec<Caught>> = OnceLock::new();
    CAUGHT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        play(target, 256).unwrap_or_else(|error| panic!("{error}"))
    })
}

#[test]
fn every_check_that_is_taken_away_is_missed() {
    let baits = bait::all();
    let caught: Vec<&Caught> = caught().iter().filter(|caught| caught.class != DAY).collect();
    assert_eq!(caught.len(), baits.iter().map(|bait| bait.classes.len()).sum::<usize>());
    let told = |caught: &&Caught| format!("{}: {}", baits[caught.bait].name, caught.class);
    let unnoticed: Vec<String> = caught.iter().filter(|caught| caught.missed == 0).map(told).collect();
    assert!(unnoticed.is_empty(), "nobody misses these checks in 256 attacks:\n{}", unnoticed.join("\n"));
}

#[test]
fn every_bug_that_is_planted_in_the_engine_spoils_a_day() {
    let baits = planting::all();
    let caught: Vec<&Caught> = caught().iter().filter(|caught| caught.class == DAY).collect();
    assert_eq!(caught.len(), prove::engine::bait::all().len());
    for Caught { bait, cases, missed, .. } in &caught {
        println!("{}: {missed} of {cases} days", baits[*bait].name);
    }
    let unnoticed: Vec<&str> =
        caught.iter().filter(|caught| caught.missed == 0).map(|caught| baits[caught.bait].name).collect();
    assert!(unnoticed.is_empty(), "no day shows these bugs:\n{}", unnoticed.join("\n"));
}

#[test]
fn everything_that_is_planted_is_found_in_its_file() {
    let baits = planting::all();
    for file in baits.iter().map(|bait| bait.file).collect::<BTreeSet<_>>() {
        let text = fs::read_to_string(root().join(file)).unwrap();
        plant(file, &text, &baits).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// Reasons by name, as the attacks meet them.
fn met() -> BTreeSet<&'static str> {
    let mut total = Tally::default();
    Class::ALL.into_iter().for_each(|class| total.add(prove(class, 400, 1, &|_| {})));
    total.refused.into_keys().collect()
}

#[test]
fn every_reason_that_attacks_meet_has_a_check_in_the_list_and_the_other_way_round() {
    let listed: BTreeSet<&str> = bait::all().iter().map(|bait| bait.reason).collect();
    assert_eq!(met(), listed);
}

/// A new kind of refusal is a new line here: the compiler asks for it.
#[test]
fn every_refusal_that_there_is_is_met() {
    let met = met();
    let of_decoding = |error: &DecodeError| match error {
        DecodeError::Truncated(n) => Reason::Truncated(*n),
        DecodeError::TooLong { got, .. } => Reason::TooLong(*got),
        DecodeError::UnknownVersion(version) => Reason::UnknownVersion(*version),
        DecodeError::Malformed(_) => Reason::Malformed,
        DecodeError::TrailingBytes(n) => Reason::TrailingBytes(*n),
        DecodeError::Rule(rule) => Reason::Rule(rule),
    };
    let of_opening = |error: &OpenError| match error {
        OpenError::Decode(error) => of_decoding(error),
        OpenError::Signature(_) => Reason::Signature,
        OpenError::WrongController { said, expected } => {
            Reason::WrongController { said: said.parse().unwrap(), expected: expected.parse().unwrap() }
        }
    };
    let decoding = [
        DecodeError::Truncated(0),
        DecodeError::TooLong { got: 1, max: 0 },
        DecodeError::UnknownVersion(2),
        of_malformed(),
        DecodeError::TrailingBytes(1),
    ];
    let others = [
        OpenError::Signature(tap_protocol::keys::BadSignature),
        OpenError::WrongController { said: "a".into(), expected: "b".into() },
    ];
    for error in decoding.into_iter().map(OpenError::from).chain(others) {
        let reason = of_opening(&error);
        assert!(met.contains(reason.name()), "no attack meets {}", reason.name());
    }

    let of_receipts = |verdict: relay::Verdict| match verdict {
        relay::Verdict::Nothing => Some(Reason::OldReceipt),
        relay::Verdict::Rewound => Some(Reason::Rewound),
        relay::Verdict::Forked => Some(Reason::Forked),
        relay::Verdict::HistoryGone => Some(Reason::HistoryGone),
        relay::Verdict::Foreign => Some(Reason::ForeignReceipt),
        relay::Verdict::Advanced(_) | relay::Verdict::Restored(_) => None,
    };
    let verdicts = [
        relay::Verdict::Nothing,
        relay::Verdict::Rewound,
        relay::Verdict::Forked,
        relay::Verdict::HistoryGone,
        relay::Verdict::Foreign,
    ];
    for reason in verdicts.into_iter().filter_map(of_receipts) {
        assert!(met.contains(reason.name()), "no attack meets {}", reason.name());
    }
    for reason in [Reason::Duplicate, Reason::Beyond, Reason::Fork(Seq(1))] {
        assert!(met.contains(reason.name()), "no attack meets {}", reason.name());
    }
}

fn of_malformed() -> DecodeError {
    tap_protocol::codec::decode::<bool>(&[1, 2], 16).unwrap_err()
}

#[test]
fn every_kind_that_the_cloud_counts_is_met_or_is_tested_elsewhere() {
    // Nothing that a message says makes a store refuse it for good, and who is revoked is no matter of messages: those
    // are for the tests of the store and of `intake/revoked.rs`.
    let elsewhere = ["refused_by_store", "revoked"];
    let of_attacks =
        ["oversized", "unknown_topic", "unknown_controller", "undecodable", "unauthentic", "fork"];
    let known: BTreeSet<&str> = elsewhere.into_iter().chain(of_attacks).collect();
    assert_eq!(BTreeSet::from(REJECT_KINDS), known);
}

/// Rules are sentences in the sources.
#[test]
fn every_rule_of_the_protocol_is_broken_by_some_attack() {
    let met = met();
    let mut rules = 0;
    for entry in fs::read_dir(root().join("tap-protocol/src")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for rest in code.split("DecodeError::Rule(\"").skip(1) {
            let rule = rest.split('"').next().unwrap();
            assert!(met.contains(rule), "no attack breaks the rule that {rule}");
            rules += 1;
        }
    }
    assert!(rules >= 10, "only {rules} rules were found");
}
