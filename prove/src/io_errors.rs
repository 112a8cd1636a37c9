//! Every call fails: with an error, a full disk or a short read, once or from there on. What was accepted stays, what
//! was refused was refused whole, nobody panics, and when the trouble is over the outbox goes on: in the same process,
//! after a restart, and after a power cut on top.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use power_loss_vfs::{Call, Dice, Disk, Fault, Image, Trouble};

use crate::promise::{Promises, Wrong};
use crate::repair::repair;
use crate::scenario::Scenario;
use crate::script::{Act, Actor, empty};

/// One call of one scenario fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The scenario.
    pub scenario: String,
    /// Which call, and how.
    pub at: u64,
    /// How.
    pub trouble: Trouble,
    /// And all after it.
    pub sticky: bool,
}

/// What became of many cases.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The calls that the scenarios make.
    pub calls: u64,
    /// Of those, how many were made to fail.
    pub calls_failed: u64,
    /// Cases run: a call × what can befall it × once or from there on.
    pub cases: u64,
    /// Acts that reported an error.
    pub refused: u64,
    /// Cases in which nothing was refused: the trouble was got over.
    pub unnoticed: u64,
    /// Short reads that left a file which says that it is damaged.
    pub damaged: u64,
    /// Cases that broke a promise.
    pub broken: u64,
    /// The first of them.
    pub examples: Vec<(Case, String)>,
}

const EXAMPLES: usize = 5;

const TAP: Act = Act::Append { records: 1, bytes: 90 };

/// Power cuts after each case.
const CUTS: u64 = 3;

/// Lets every `stride`-th call of a scenario fail in every way that it can. `progress` hears of each call.
pub fn prove(scenario: &Scenario, stride: usize, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let stage = Stage::new(scenario);
    let calls: Vec<(u64, Call)> = (0u64..).zip(stage.calls.iter().copied()).step_by(stride).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            let disk = Arc::new(Disk::boot(&empty()));
            while let Some((at, call)) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                for trouble in Trouble::ALL.into_iter().filter(|trouble| trouble.befalls(*call)) {
                    for sticky in [false, true] {
                        let case = Case { scenario: scenario.name.to_owned(), at: *at, trouble, sticky };
                        tally.note(case.clone(), stage.run(&disk, &case, seed));
                    }
                }
                tally.calls_failed += 1;
                progress(1);
            }
            tally
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("panics are caught")).collect::<Vec<_>>()
    });
    let mut total = Tally { calls: stage.calls.len() as u64, ..Tally::default() };
    tallies.into_iter().for_each(|tally| total.add(tally));
    total
}

/// How many calls a scenario makes.
pub fn calls_of(scenario: &Scenario) -> u64 {
    Stage::new(scenario).calls.len() as u64
}

/// One case again, exactly; what broke, if anything.
pub fn replay(scenario: &Scenario, case: &Case, seed: u64) -> Result<u64, Wrong> {
    Stage::new(scenario).run(&Arc::new(Disk::boot(&empty())), case, seed)
}

/// A scenario, ready to be run again and again.
struct Stage {
    start: Image,
    promises: Promises,
    acts: Vec<Act>,
    calls: Vec<Call>,
}

impl Stage {
    fn new(scenario: &Scenario) -> Stage {
        let disk = Arc::new(Disk::boot(&empty()));
        let (start, promises) = scenario.prepare(&disk);
        disk.reboot(&start);
        disk.start_trace();
        let mut actor = Actor::new(disk.clone(), promises.clone());
        let acts = scenario.acts();
        actor.act_all(&acts);
        actor.close();
        Stage { start, promises, acts, calls: disk.trace() }
    }

    /// The number of acts that reported an error, or what broke.
    fn run(&self, disk: &Arc<Disk>, case: &Case, seed: u64) -> Result<u64, Wrong> {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let refused = self.go_on(disk, case, seed)?;
            self.restart(disk, case, seed)?;
            Ok(refused)
        }));
        caught.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Err(Wrong::Silently(format!("it panics: {}", text.unwrap_or("without a word"))))
        })
    }

    /// The trouble passes while the process runs.
    fn go_on(&self, disk: &Arc<Disk>, case: &Case, seed: u64) -> Result<u64, Wrong> {
        let (mut actor, refused) = self.perform(disk, case);
        disk.set_fault(None);
        if actor.shelf().is_none() {
            must(&mut actor, &Act::Open, "it does not open when the trouble is over")?;
        }
        check_open(&mut actor, "when the trouble is over")?;
        must(&mut actor, &TAP, "it takes no record when the trouble is over")?;
        check_open(&mut actor, "after going on")?;
        check_salvage(disk, &mut actor, "after going on")?;
        check_cuts(disk, &actor, seed).map_err(|wrong| wrong.when("after a power cut"))?;
        Ok(refused)
    }

    /// The process is restarted while the trouble lasts, and finds it over.
    fn restart(&self, disk: &Arc<Disk>, case: &Case, seed: u64) -> Result<(), Wrong> {
        let (mut actor, _) = self.perform(disk, case);
        actor.act(&Act::Kill).expect("a kill always succeeds");
        disk.set_fault(None);
        must(&mut actor, &Act::Open, "it does not open after a restart")?;
        check_open(&mut actor, "after a restart")?;
        must(&mut actor, &TAP, "it takes no record after a restart")?;
        check_open(&mut actor, "after a restart and going on")?;
        check_salvage(disk, &mut actor, "after a restart")?;
        check_cuts(disk, &actor, seed).map_err(|wrong| wrong.when("after a restart and a power cut"))
    }

    fn perform(&self, disk: &Arc<Disk>, case: &Case) -> (Actor, u64) {
        disk.reboot(&self.start);
        disk.set_fault(Some(Fault { at: case.at, trouble: case.trouble, sticky: case.sticky }));
        let mut actor = Actor::new(disk.clone(), self.promises.clone());
        let mut refused = 0;
        for act in &self.acts {
            if actor.act(act).is_err() {
                refused += 1;
                // The supervisor starts it again.
                if *act == Act::Open && actor.act(act).is_err() {
                    refused += 1;
                }
            }
        }
        (actor, refused)
    }
}

fn must(actor: &mut Actor, act: &Act, otherwise: &str) -> Result<(), Wrong> {
    actor.act(act).map_err(|error| Wrong::damaged(&error).when(otherwise))
}

/// As long as it is open, what was refused is not there.
fn check_open(actor: &mut Actor, when: &str) -> Result<(), Wrong> {
    let promises = actor.promises.while_open();
    let shelf = actor.shelf().expect("it was opened");
    promises.check(shelf).map(drop).map_err(|wrong| wrong.when(when))
}

/// What was damaged before is salvaged, as if nothing had failed.
fn check_salvage(disk: &Arc<Disk>, actor: &mut Actor, when: &str) -> Result<(), Wrong> {
    let promises = actor.promises.clone();
    if promises.is_any_harmed() {
        repair(actor.shelf().expect("it was opened"), &promises, disk).map_err(|wrong| wrong.when(when))?;
    }
    Ok(())
}

/// What was accepted in spite of the trouble is on the medium as well.
fn check_cuts(disk: &Arc<Disk>, actor: &Actor, seed: u64) -> Result<(), Wrong> {
    let medium = disk.medium();
    for n in 0..CUTS {
        disk.reboot(&medium.cut(&mut Dice::at(seed, n)));
        let mut after = Actor::new(disk.clone(), actor.promises.clone());
        must(&mut after, &Act::Open, "it does not open")?;
        let promises = after.promises.clone();
        promises.check(after.shelf().expect("it was opened"))?;
    }
    Ok(())
}

impl Tally {
    fn note(&mut self, case: Case, outcome: Result<u64, Wrong>) {
        self.cases += 1;
        match outcome {
            Ok(0) => self.unnoticed += 1,
            Ok(refused) => self.refused += refused,
            // SQLite takes a page that ends early for zeros and may write it back: then the file says that it is damaged.
            // A file on a local disk does not end early, unless someone cuts it.
            Err(Wrong::Damaged(_)) if case.trouble == Trouble::ShortRead => self.damaged += 1,
            Err(wrong) => {
                self.broken += 1;
                self.examples.push((case, wrong.to_string()));
                self.examples.truncate(EXAMPLES);
            }
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.calls += other.calls;
        self.calls_failed += other.calls_failed;
        self.cases += other.cases;
        self.refused += other.refused;
        self.unnoticed += other.unnoticed;
        self.damaged += other.damaged;
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trouble = match self.trouble {
            Trouble::Error => "error",
            Trouble::Full => "full",
            Trouble::ShortRead => "short",
        };
        write!(f, "{}:{}:{trouble}:{}", self.scenario, self.at, if self.sticky { "sticky" } else { "once" })
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let wrong = || format!("not a case: {text:?}; one looks like append:17:full:sticky");
        let parts: Vec<&str> = text.split(':').collect();
        let [scenario, at, trouble, sticky] = parts[..] else { return Err(wrong()) };
        let trouble = match trouble {
            "error" => Trouble::Error,
            "full" => Trouble::Full,
            "short" => Trouble::ShortRead,
            _ => return Err(wrong()),
        };
        let sticky = match sticky {
            "sticky" => true,
            "once" => false,
            _ => return Err(wrong()),
        };
        Ok(Case { scenario: scenario.to_owned(), at: at.parse().map_err(|_| wrong())?, trouble, sticky })
    }
}
