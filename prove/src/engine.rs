//! Random days of the delivery engine on paused time: the real supervisors and dispatchers of three replicas on one real
//! store, an API that fails in every way, machines that die, freeze and take their clocks for others; and a referee that
//! knows neither limiter nor breaker nor lease, and judges by what the API sees alone.
//!
//! Read in this order: `engine/day.rs` says what may happen, `world.rs` lets it happen, `api.rs` is whom taps are told,
//! and `referee.rs` is the model: what must be, and what must never be.

pub mod api;
pub mod bait;
pub mod day;
pub mod referee;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use power_loss_vfs::Dice;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use day::{Day, backlog, day, heard_late, patience, taken_over};
use world::{Facts, play};

const EXAMPLES: usize = 3;

/// How often a day that went wrong is cut down, at most.
const MAX_SHRINKS: usize = 150;

/// What became of many days.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Days.
    pub days: u64,
    /// What happened in them, by name.
    pub facts: BTreeMap<&'static str, u64>,
    /// Days on which something was not as it must be.
    pub broken: u64,
    /// The first of them: the day's number, its steps cut down to what is needed, and what was wrong.
    pub examples: Vec<(u64, String)>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.days += other.days;
        other.facts.into_iter().for_each(|(what, count)| *self.facts.entry(what).or_default() += count);
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.sort();
        self.examples.truncate(EXAMPLES);
    }
}

/// Plays so many days. `progress` hears of each.
pub fn prove(days: u64, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= days {
                    break tally;
                }
                tally.days += 1;
                match try_one(&day_of(seed, n).current()) {
                    Ok(facts) => {
                        facts.into_iter().for_each(|(what, n)| *tally.facts.entry(what).or_default() += n);
                    }
                    Err(first) => {
                        tally.broken += 1;
                        if tally.examples.len() < EXAMPLES {
                            let unlike = |_| format!("{first}\n  and was another day when played again");
                            tally.examples.push((n, again(seed, n).map_or_else(|what| what, unlike)));
                        }
                    }
                }
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

/// Plays days until one goes wrong, at most so many: how many were played, and how many of them went wrong. For planted
/// bugs.
pub fn until_wrong(days: u64, seed: u64) -> (u64, u64) {
    let all = [patience(), backlog(), taken_over(), heard_late()]
        .into_iter()
        .chain((0..days).map(|n| day_of(seed, n).current()));
    let mut played = 0;
    for day in all {
        played += 1;
        if try_one(&day).is_err() {
            return (played, 1);
        }
    }
    (played, 0)
}

/// One day; if it goes wrong, what of it is needed for that, and what is wrong.
pub fn again(seed: u64, n: u64) -> Result<Facts, String> {
    let mut tree = day_of(seed, n);
    let mut needed = tree.current();
    let mut what = match try_one(&needed) {
        Ok(facts) => return Ok(facts),
        Err(what) => what,
    };
    for _ in 0..MAX_SHRINKS {
        let day = tree.current();
        let goes_on = match try_one(&day) {
            Err(still) => {
                (needed, what) = (day, still);
                tree.simplify()
            }
            Ok(_) => tree.complicate(),
        };
        if !goes_on {
            break;
        }
    }
    Err(format!("{what}\n  after {needed:?}"))
}

fn day_of(seed: u64, n: u64) -> impl ValueTree<Value = Day> {
    let mut dice = Dice::at(seed, n);
    let bytes: Vec<u8> = (0..4).flat_map(|_| dice.bits().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    day().new_tree(&mut runner).expect("nothing is filtered out")
}

fn try_one(day: &Day) -> Result<Facts, String> {
    catch_unwind(AssertUnwindSafe(|| play(day))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned())
    })
}
