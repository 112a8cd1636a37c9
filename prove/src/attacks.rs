//! Attacks on what controllers and cloud say to each other: forged, changed, replayed and contradicting messages, by the
//! hundred thousand, each well framed and signed with whatever keys such an attacker has. Each must be refused for its own
//! reason, must store nothing and move no mark; and the honest message beside it must be taken.
//!
//! Read in this order: `cast.rs` says who takes part and what is honest, `plot.rs` what one attack is made of,
//! `on_messages.rs` and its neighbours plan them, `reason.rs` says why each fails, `production.rs` is the product, and
//! `stage.rs` plays them and judges. `./dev test` plays some hundreds of each class, `./dev prove` the million.

pub mod bait;
pub mod cast;
mod on_histories;
mod on_messages;
mod on_rosters;
pub mod plot;
pub mod production;
pub mod reason;
mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use power_loss_vfs::Dice;

use cast::Cast;
use stage::Stage;

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Signed by another real key, or as another kind of message.
    WrongKey,
    /// For another controller, or by none that is known.
    WrongController,
    /// One bit is another one.
    FlippedBit,
    /// The end is missing.
    Truncated,
    /// Something follows the end.
    TrailingBytes,
    /// The right records in the wrong order.
    Reordered,
    /// What is stored already.
    ReplayedBatch,
    /// What the cloud said once.
    ReplayedReceipt,
    /// Another record under a number that is taken.
    Fork,
    /// A controller speaks of another's outbox.
    ForeignOutbox,
    /// More than is allowed.
    Oversized,
    /// A version that does not exist yet.
    FutureVersion,
    /// A roster that was announced once, or chunks that belong to another.
    ReplayedRoster,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 13] = [
        Class::WrongKey,
        Class::WrongController,
        Class::FlippedBit,
        Class::Truncated,
        Class::TrailingBytes,
        Class::Reordered,
        Class::ReplayedBatch,
        Class::ReplayedReceipt,
        Class::Fork,
        Class::ForeignOutbox,
        Class::Oversized,
        Class::FutureVersion,
        Class::ReplayedRoster,
    ];

    /// What it is called, also on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Class::WrongKey => "wrong-key",
            Class::WrongController => "wrong-controller",
            Class::FlippedBit => "flipped-bit",
            Class::Truncated => "truncated",
            Class::TrailingBytes => "trailing-bytes",
            Class::Reordered => "reordered",
            Class::ReplayedBatch => "replayed-batch",
            Class::ReplayedReceipt => "replayed-receipt",
            Class::Fork => "fork",
            Class::ForeignOutbox => "foreign-outbox",
            Class::Oversized => "oversized",
            Class::FutureVersion => "future-version",
            Class::ReplayedRoster => "replayed-roster",
        }
    }
}

/// One attack, to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What is tried.
    pub class: Class,
    /// Where all chance comes from.
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.class.name(), self.seed)
    }
}

impl FromStr for Case {
    type Err = String;
    fn from_str(text: &str) -> Result<Case, String> {
        let (name, seed) = text.split_once(':').ok_or("write CLASS:SEED, such as fork:17")?;
        let class = Class::ALL.into_iter().find(|class| class.name() == name);
        let class = class.ok_or_else(|| format!("there is no class {name:?}"))?;
        Ok(Case { class, seed: seed.parse().map_err(|_| format!("{seed:?} is no number"))? })
    }
}

/// What became of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attacks.
    pub cases: u64,
    /// By the reason that they were refused for.
    pub refused: BTreeMap<&'static str, u64>,
    /// Honest messages that were taken: those before the attacks, and the controls.
    pub honest: u64,
    /// Attacks that did anything else than they must, and honest messages that were refused.
    pub broken: u64,
    /// The first of them.
    pub examples: Vec<(Case, String)>,
}

const EXAMPLES: usize = 12;

/// Attacks that share a transaction, as messages do in life.
const GROUP: u64 = 64;

/// After so many groups there is a new store: a million attacks don't fill the disk.
const GROUPS_IN_A_STORE: u64 = 30;

/// Tries so many. `progress` hears of each.
pub fn prove(class: Class, cases: u64, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = threads.min(cases.div_ceil(GROUP * GROUPS_IN_A_STORE)).max(1);
    let next = AtomicU64::new(0);
    let groups = cases.div_ceil(GROUP);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let (cast, mut tally) = (Cast::new(), Tally::default());
            let mut stage = Stage::new(&cast);
            let mut played = 0;
            loop {
                let group = next.fetch_add(1, Ordering::Relaxed);
                if group >= groups {
                    break tally;
                }
                let group = group * GROUP..cases.min((group + 1) * GROUP);
                let count = group.end - group.start;
                let seeds = group.map(|n| Dice::at(seed, n).bits() % 1_000_000_000);
                let cases: Vec<Case> = seeds.map(|seed| Case { class, seed }).collect();
                let was_fine = stage.play(&cases, &mut tally);
                played += 1;
                if !was_fine || played % GROUPS_IN_A_STORE == 0 {
                    stage = Stage::new(&cast);
                }
                progress(count);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("panics are caught")).collect::<Vec<_>>()
    });
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total.add(tally));
    total
}

/// One attack again, alone: what it was refused for, or what went wrong.
pub fn replay(case: Case) -> Result<String, String> {
    let cast = Cast::new();
    let mut tally = Tally::default();
    Stage::new(&cast).play(&[case], &mut tally);
    match tally.examples.into_iter().next() {
        Some((_, what)) => Err(what),
        None => Ok(format!("refused: {}", tally.refused.into_keys().collect::<String>())),
    }
}

impl Tally {
    /// Together with another.
    pub fn add(&mut self, other: Tally) {
        self.cases += other.cases;
        self.honest += other.honest;
        self.broken += other.broken;
        other.refused.into_iter().for_each(|(name, count)| *self.refused.entry(name).or_default() += count);
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }

    fn broke(&mut self, case: Case, what: String) {
        self.broken += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((case, what));
        }
    }
}
