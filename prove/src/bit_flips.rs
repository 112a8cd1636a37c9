//! Bits flip in an outbox's files, and now and then a whole sector becomes garbage: whatever the outbox then says is
//! true, or it says that it is damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_agent::agent::with_causes;
use edge_agent::outbox::shelf::Shelf;
use power_loss_vfs::{Dice, Disk, Image, SECTOR_BYTES};

use crate::promise::{Promises, Wrong};
use crate::repair::{Repaired, repair};
use crate::script::Act::{self, Append, Boot, Flush, Open, Prune, Receipt, SayAgain, Stop};
use crate::script::{Actor, empty, prepare};

/// An outbox whose bits flip.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Names it, also on the command line.
    pub name: &'static str,
    acts: fn() -> Vec<Act>,
}

const TAP: Act = Append { records: 1, bytes: 90 };

/// All subjects.
pub const ALL: [Subject; 4] = [
    Subject {
        name: "at-rest",
        acts: || {
            let history = vec![Open, Boot(1), Append { records: 250, bytes: 110 }, Receipt { but: 40 }];
            [history, vec![Prune { keep: 150, limit: 256 }, Stop, Open, Boot(2), TAP, TAP, Stop]].concat()
        },
    },
    Subject {
        name: "killed",
        acts: || {
            let before = vec![Open, Boot(1), Append { records: 60, bytes: 110 }, Stop, Open, Boot(2)];
            [before, vec![TAP; 30], vec![Append { records: 7, bytes: 110 }, TAP]].concat()
        },
    },
    Subject {
        name: "said-again",
        acts: || {
            let before = vec![Open, Boot(1), Append { records: 40, bytes: 110 }, Receipt { but: 25 }, Flush];
            [before, vec![SayAgain, TAP, TAP, Stop, Open, Boot(2), TAP]].concat()
        },
    },
    Subject {
        name: "large",
        acts: || {
            let before = vec![Open, Boot(1), Append { records: 1_000, bytes: 110 }, Receipt { but: 300 }];
            [before, vec![Stop, Open, Boot(2), TAP, TAP, TAP]].concat()
        },
    },
];

/// One damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// To which outbox.
    pub subject: String,
    /// Where and how.
    pub seed: u64,
}

/// What became of many.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Damages done.
    pub cases: u64,
    /// All was as it had been: the damage was in unused bytes, or in a log, which SQLite's checksums cut off.
    pub harmless: u64,
    /// The outbox said that it is damaged, when it was opened or read.
    pub damaged: u64,
    /// Records that were salvaged from damaged files.
    pub salvaged: u64,
    /// Records without a receipt that could not be salvaged; their loss was told.
    pub lost_and_told: u64,
    /// The most of them in one case.
    pub most_lost: u64,
    /// The last transactions of the log are gone, as after a power cut in the middle of a commit: with one frame that does
    /// not check out, nobody can tell the two apart.
    pub shortened: u64,
    /// The most records that were gone in one of these.
    pub most_missing: u64,
    /// The outbox said something that is not true.
    pub broken: u64,
    /// The first of them.
    pub examples: Vec<(Case, String)>,
    /// What it said was wrong, and how often.
    pub told: BTreeMap<String, u64>,
}

const EXAMPLES: usize = 12;

/// Does so many damages. `progress` hears of each.
pub fn prove(cases: u64, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let stages: Vec<Stage> = ALL.iter().map(Stage::new).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            let disk = Arc::new(Disk::boot(&empty()));
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= cases {
                    break tally;
                }
                let stage = &stages[(n % stages.len() as u64) as usize];
                let seed = Dice::at(seed, n).bits() % 1_000_000_000;
                let case = Case { subject: stage.name.to_owned(), seed };
                tally.note(case, stage.run(&disk, seed));
                progress(1);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("panics are caught")).collect::<Vec<_>>()
    });
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total.add(tally));
    total
}

/// One case again, exactly.
pub fn replay(subject: &Subject, seed: u64) -> Outcome {
    Stage::new(subject).run(&Arc::new(Disk::boot(&empty())), seed)
}

/// What one damage led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong with what the outbox said, or what it said of itself.
    pub wrong: Option<Wrong>,
    /// What was salvaged, if it was damaged.
    pub repaired: Option<Repaired>,
}

struct Stage {
    name: &'static str,
    image: Image,
    promises: Promises,
    files: Vec<PathBuf>,
    bytes: usize,
}

impl Stage {
    fn new(subject: &Subject) -> Stage {
        let disk = Arc::new(Disk::boot(&empty()));
        let (image, promises) = prepare(&disk, &(subject.acts)());
        let files = image.files().filter(|(_, bytes)| !bytes.is_empty());
        let files: Vec<PathBuf> = files.map(|(path, _)| path.to_owned()).collect();
        let bytes = files.iter().filter_map(|path| image.file(path)).map(|bytes| bytes.len()).sum();
        Stage { name: subject.name, image, promises, files, bytes }
    }

    fn run(&self, disk: &Arc<Disk>, seed: u64) -> Outcome {
        let mut image = self.image.clone();
        self.damage(&mut image, &mut Dice::new(seed));
        let caught = catch_unwind(AssertUnwindSafe(|| {
            disk.reboot(&image);
            let mut actor = Actor::new(disk.clone(), self.promises.clone());
            if let Err(error) = actor.act(&Act::Open) {
                return Outcome { wrong: Some(Wrong::damaged(&error)), repaired: None };
            }
            let promises = actor.promises.clone();
            let shelf = actor.shelf().expect("it was opened");
            match promises.check(shelf) {
                Ok(_) => Outcome::default(),
                Err(damaged @ Wrong::Damaged(_)) => match repair_and_go_on(shelf, &promises, disk) {
                    Ok(repaired) => Outcome { wrong: Some(damaged), repaired: Some(repaired) },
                    Err(wrong) => Outcome { wrong: Some(wrong), repaired: None },
                },
                Err(wrong) => Outcome { wrong: Some(wrong), repaired: None },
            }
        }));
        caught.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            let what = format!("it panics: {}", text.unwrap_or("without a word"));
            Outcome { wrong: Some(Wrong::Silently(what)), repaired: None }
        })
    }

    /// One bit anywhere, or sometimes a sector of garbage.
    fn damage(&self, image: &mut Image, dice: &mut Dice) {
        let mut at = dice.below(self.bytes as u64) as usize;
        for path in &self.files {
            let content = image.file_mut(path).expect("listed from it");
            if at >= content.len() {
                at -= content.len();
                continue;
            }
            if dice.percent(90) {
                content[at] ^= 1 << dice.below(8);
            } else {
                let from = at / SECTOR_BYTES * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(content.len());
                content[from..to].iter_mut().for_each(|byte| *byte = dice.bits() as u8);
            }
            return;
        }
    }
}

fn repair_and_go_on(shelf: &mut Shelf, promises: &Promises, disk: &Arc<Disk>) -> Result<Repaired, Wrong> {
    let repaired = repair(shelf, promises, disk)?;
    let appended = shelf.writable().and_then(|newest| newest.append(&[b"taps go on".to_vec()]));
    appended
        .map(|_| repaired)
        .map_err(|error| Wrong::Silently(format!("it takes no more records: {}", with_causes(&error))))
}

impl Tally {
    fn note(&mut self, case: Case, outcome: Outcome) {
        self.cases += 1;
        match (outcome.wrong, outcome.repaired) {
            (None, _) => self.harmless += 1,
            (Some(Wrong::Damaged(what)), Some(repaired)) => {
                self.damaged += 1;
                self.salvaged += repaired.records;
                self.lost_and_told += repaired.lost;
                self.most_lost = self.most_lost.max(repaired.lost);
                *self.told.entry(general(&what)).or_default() += 1;
            }
            (Some(Wrong::Shorter { missing, .. }), _) => {
                self.shortened += 1;
                self.most_missing = self.most_missing.max(missing);
            }
            (Some(wrong), _) => {
                self.broken += 1;
                *self.told.entry(format!("BROKEN {}", general(&wrong.to_string()))).or_default() += 1;
                self.examples.push((case, wrong.to_string()));
                self.examples.truncate(EXAMPLES);
            }
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.cases += other.cases;
        self.harmless += other.harmless;
        self.damaged += other.damaged;
        self.salvaged += other.salvaged;
        self.lost_and_told += other.lost_and_told;
        self.most_lost = self.most_lost.max(other.most_lost);
        self.shortened += other.shortened;
        self.most_missing = self.most_missing.max(other.most_missing);
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        other.told.into_iter().for_each(|(what, n)| *self.told.entry(what).or_default() += n);
    }
}

/// Without what differs from case to case.
fn general(what: &str) -> String {
    let words = what.split(' ').map(|word| if word.chars().any(|c| c.is_ascii_digit()) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.subject, self.seed)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let wrong = || format!("not a damage: {text:?}; one looks like killed:1234");
        let (subject, seed) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Case { subject: subject.to_owned(), seed: seed.parse().map_err(|_| wrong())? })
    }
}
