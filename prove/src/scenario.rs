//! The scripts that are proved: together they make every kind of call that an outbox makes.

use std::sync::Arc;

use power_loss_vfs::{Disk, Image};

use crate::bait::Bait;
use crate::promise::Promises;
use crate::script::Act::{self, Append, Boot, Flush, Kill, Open, Prune, Receipt, SayAgain, Stop};
use crate::script::{Tape, prepare, prepare_damaged, prepare_version_1, tape};

/// One script, and what comes before it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Names it, also on the command line.
    pub name: &'static str,
    before: Before,
    acts: fn() -> Vec<Act>,
}

/// What a scenario finds.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// What these acts left, as after a kill.
    Acts(fn() -> Vec<Act>),
    /// A file of the first release.
    Version1,
    /// A file in which sectors became garbage.
    Damaged,
}

const TAP: Act = Append { records: 1, bytes: 90 };

/// All scenarios.
pub const ALL: [Scenario; 10] = [
    Scenario { name: "first-open", before: Before::Acts(Vec::new), acts: || vec![Open, Boot(1), TAP, TAP] },
    Scenario {
        name: "append",
        before: Before::Acts(|| vec![Open, Boot(1), TAP, TAP]),
        acts: || [vec![Open, Boot(2)], vec![TAP; 12]].concat(),
    },
    Scenario {
        name: "append-groups",
        before: Before::Acts(|| vec![Open, Boot(1), TAP, Stop]),
        acts: || {
            let group = |records, bytes| Append { records, bytes };
            // The last is larger than SQLite's page cache: it goes to the log before its commit.
            vec![Open, Boot(2), group(2, 90), group(40, 90), group(7, 700), TAP, group(256, 1100), TAP]
        },
    },
    Scenario {
        name: "say-again",
        before: Before::Acts(|| {
            vec![Open, Boot(1), Append { records: 20, bytes: 90 }, Receipt { but: 12 }, Flush]
        }),
        acts: || vec![Open, Boot(2), TAP, SayAgain, TAP, Stop, Open, TAP],
    },
    Scenario {
        name: "prune",
        before: Before::Acts(|| vec![Open, Boot(1), Append { records: 200, bytes: 90 }]),
        acts: || {
            let some = Prune { keep: 100, limit: 30 };
            let all = Prune { keep: 0, limit: 256 };
            let receipt = Receipt { but: 20 };
            vec![Open, receipt, some.clone(), TAP, some, TAP, all.clone(), Receipt { but: 0 }, all, TAP]
        },
    },
    Scenario {
        name: "checkpoint",
        before: Before::Acts(|| vec![Open, Boot(1), TAP, Stop]),
        acts: || {
            // 1,000 pages of log are checkpointed; the log begins again from its start behind that.
            let much = || vec![Append { records: 120, bytes: 1800 }, TAP];
            [vec![Open], much(), much(), much(), vec![TAP, TAP, TAP, Stop, Open, TAP]].concat()
        },
    },
    Scenario {
        name: "marks",
        before: Before::Acts(|| vec![Open, Boot(1), Append { records: 30, bytes: 90 }]),
        acts: || {
            let receipt = |but| Receipt { but };
            vec![
                Open,
                receipt(20),
                Flush,
                TAP,
                receipt(10),
                Kill,
                Open,
                TAP,
                receipt(5),
                Flush,
                receipt(0),
                Stop,
            ]
        },
    },
    Scenario {
        name: "runs",
        before: Before::Acts(Vec::new),
        acts: || vec![Open, Boot(1), TAP, Stop, Open, Boot(2), TAP, Kill, Open, Boot(2), TAP, Boot(3), Stop],
    },
    Scenario {
        name: "migrate",
        before: Before::Version1,
        acts: || vec![Open, Boot(3), TAP, Prune { keep: 30, limit: 256 }, TAP, Stop, Open, TAP],
    },
    Scenario {
        name: "salvage",
        before: Before::Damaged,
        acts: || vec![Open, Boot(2), TAP, Act::Salvage { pages: 8 }, TAP, Stop, Open, TAP],
    },
];

impl Scenario {
    /// By its name.
    pub fn named(name: &str) -> Option<Scenario> {
        ALL.into_iter().find(|scenario| scenario.name == name)
    }

    /// Its part of so many states: a state of a large file takes much longer, and its cuts are many anyway.
    pub fn states_of(&self, all: u64) -> u64 {
        let percent = match self.name {
            "append-groups" | "checkpoint" => 8,
            _ => 11,
        };
        all * percent / 100
    }

    /// Run once, on a sound disk.
    pub fn tape(&self) -> Tape {
        tape(|disk| self.prepare(disk), &self.acts(), None)
    }

    /// The same with a planted bug.
    pub fn tape_with(&self, bait: Bait) -> Tape {
        tape(|disk| self.prepare(disk), &self.acts(), Some(bait))
    }

    /// What it finds, and what was promised by then.
    pub fn prepare(&self, disk: &Arc<Disk>) -> (Image, Promises) {
        match self.before {
            Before::Acts(acts) => prepare(disk, &acts()),
            Before::Version1 => prepare_version_1(disk),
            Before::Damaged => prepare_damaged(disk),
        }
    }

    /// What is done.
    pub fn acts(&self) -> Vec<Act> {
        (self.acts)()
    }
}
