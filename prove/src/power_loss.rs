//! The power goes: after every change that a scenario made to its medium, under many seeds, and again while the outbox
//! is being opened after that. What was accepted must be there, the rest whole or not at all, and no human needed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use edge_agent::agent::with_causes;
use power_loss_vfs::{Dice, Disk, Image, Medium};

use crate::promise::Promises;
use crate::repair::repair;
use crate::script::{Act, Actor, Tape, empty};

/// Names one state exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The scenario.
    pub scenario: String,
    /// After how many changes of the medium the power went.
    pub cut: usize,
    /// What arrived.
    pub seed: u64,
    /// The power went again, after so many changes of the recovery, with this seed.
    pub again: Option<(usize, u64)>,
}

/// What became of many states.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// States that were opened and read.
    pub states: u64,
    /// Of those, states in which the power went a second time.
    pub cut_twice: u64,
    /// Accepted records that had to be there, over all states.
    pub accepted: u64,
    /// States that broke a promise, the first few with what broke.
    pub broken: u64,
    /// The first of them.
    pub examples: Vec<(State, String)>,
}

/// Records on the sectors that `prepare_damaged` destroys.
const MOST_LOST: u64 = 8;

/// How many broken states are told.
const EXAMPLES: usize = 5;

/// Every so many-th state loses power a second time.
const TWICE_EVERY: u64 = 4;

/// Tries about `states` states of a tape: every cut at least once, and each of those that leave something undecided
/// under as many seeds as there is room for. `progress` hears of each.
pub fn prove(name: &str, tape: &Tape, states: u64, seed: u64, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let undecided = undecided_cuts(tape);
    let cuts = tape.ops.len() as u64 + 1;
    let rounds = states.saturating_sub(cuts).div_ceil(undecided.max(1)).max(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            let mut player = Player::new(tape);
            loop {
                let cut = next.fetch_add(1, Ordering::Relaxed);
                if cut > tape.ops.len() {
                    break tally;
                }
                player.play_to(cut);
                let rounds = if player.medium.is_settled() { 1 } else { rounds };
                for round in 0..rounds {
                    let mut dice = Dice::at(seed, ((cut as u64) << 32) | round);
                    let state_seed = dice.bits() % 1_000_000;
                    let again =
                        (done.fetch_add(1, Ordering::Relaxed) % TWICE_EVERY == 0).then(|| dice.bits());
                    let state = State { scenario: name.to_owned(), cut, seed: state_seed, again: None };
                    player.try_state(state, again, &mut tally);
                }
                progress(rounds);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a prover does not panic")).collect::<Vec<_>>()
    });
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total.add(tally));
    total
}

/// How many cuts leave something undecided, after which more than one seed makes sense.
fn undecided_cuts(tape: &Tape) -> u64 {
    let mut medium = Medium::at_rest(&tape.start);
    let mut undecided = 0;
    for op in &tape.ops {
        medium.apply(op);
        undecided += u64::from(!medium.is_settled());
    }
    undecided
}

/// One state again, exactly; what broke, if anything.
pub fn replay(tape: &Tape, state: &State) -> Result<(), String> {
    let mut player = Player::new(tape);
    player.play_to(state.cut.min(tape.ops.len()));
    let first = player.medium.cut(&mut Dice::new(state.seed));
    let recovery = player.recover(&first, &player.promises.clone())?;
    match state.again {
        None => Ok(()),
        Some((cut, seed)) => player.cut_again(&recovery, cut, seed),
    }
}

/// Goes along a tape and tries what a power cut leaves at each place.
struct Player<'a> {
    tape: &'a Tape,
    disk: Arc<Disk>,
    medium: Medium,
    promises: Promises,
    ops_played: usize,
    events_heard: usize,
}

impl<'a> Player<'a> {
    fn new(tape: &'a Tape) -> Player<'a> {
        Player {
            tape,
            disk: Arc::new(Disk::boot(&empty())),
            medium: Medium::at_rest(&tape.start),
            promises: tape.promises.clone(),
            ops_played: 0,
            events_heard: 0,
        }
    }

    fn play_to(&mut self, cut: usize) {
        for op in &self.tape.ops[self.ops_played..cut] {
            self.medium.apply(op);
        }
        self.ops_played = cut;
        let heard = self.tape.events.partition_point(|(at, _)| *at <= cut);
        for (_, event) in &self.tape.events[self.events_heard..heard] {
            self.promises.hear(event);
        }
        self.events_heard = heard;
    }

    fn try_state(&self, mut state: State, again: Option<u64>, tally: &mut Tally) {
        tally.states += 1;
        tally.accepted += self.promises.accepted() as u64;
        let image = self.medium.cut(&mut Dice::new(state.seed));
        let outcome = self.recover(&image, &self.promises).and_then(|recovery| {
            let Some(bits) = again else { return Ok(()) };
            let cut = (bits % (recovery.ops.len() as u64 + 1)) as usize;
            let seed = (bits >> 32) % 1_000_000;
            state.again = Some((cut, seed));
            tally.cut_twice += 1;
            self.cut_again(&recovery, cut, seed)
        });
        if let Err(what) = outcome {
            tally.broken += 1;
            if tally.examples.len() < EXAMPLES {
                tally.examples.push((state, what));
            }
        }
    }

    /// Opens what is left, checks it, and goes on. Gives the tape of that.
    fn recover(&self, image: &Image, promises: &Promises) -> Result<Tape, String> {
        self.disk.reboot(image);
        let mut actor = Actor::new(self.disk.clone(), promises.clone());
        actor.act(&Act::Open).map_err(|error| format!("it does not open: {}", with_causes(&error)))?;
        let newest = actor.shelf().expect("it was opened").newest().id();
        let is_new = promises.newest().is_none_or(|known| newest > known);
        if is_new && promises.is_any_made() {
            let news = actor.shelf().map(|shelf| shelf.take_news()).unwrap_or_default();
            let news: Vec<String> = news.iter().map(ToString::to_string).collect();
            return Err(format!("a new outbox was started though there was one: {}", news.join("; ")));
        }
        let opened = actor.promises.clone();
        let mut found =
            opened.check(actor.shelf().expect("it was opened")).map_err(|wrong| wrong.to_string())?;
        if is_new {
            found.forget(newest);
        }
        if promises.is_any_harmed() {
            // A damaged file is salvaged whatever was under way, and no record more is lost by that.
            let shelf = actor.shelf().expect("it was opened");
            let repaired = repair(shelf, promises, &self.disk).map_err(|wrong| wrong.to_string())?;
            if repaired.lost > MOST_LOST {
                return Err(format!("{} records were not salvaged", repaired.lost));
            }
        }
        // What was found was at rest, so from the first moment on it is as good as accepted.
        let mut before = promises.clone();
        before.adopt(&found);
        actor.promises = before.clone();
        actor.events.iter().for_each(|(_, event)| actor.promises.hear(event));

        let appended = actor.act(&Act::Append { records: 1, bytes: 90 });
        appended.map_err(|error| format!("it takes no more records: {}", with_causes(&error)))?;
        let (promises, shelf) = (actor.promises.clone(), actor.shelf().expect("it was opened"));
        promises.check(shelf).map_err(|what| format!("after going on: {what}"))?;
        let (start, ops) = self.disk.recording();
        Ok(Tape { start, promises: before, ops, events: actor.events })
    }

    fn cut_again(&self, recovery: &Tape, cut: usize, seed: u64) -> Result<(), String> {
        let mut player = Player::new(recovery);
        player.play_to(cut.min(recovery.ops.len()));
        let image = player.medium.cut(&mut Dice::new(seed));
        let promises = player.promises.clone();
        self.recover(&image, &promises).map(drop).map_err(|what| format!("after the second cut: {what}"))
    }
}

impl Tally {
    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.states += other.states;
        self.cut_twice += other.cut_twice;
        self.accepted += other.accepted;
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.scenario, self.cut, self.seed)?;
        match self.again {
            Some((cut, seed)) => write!(f, "+{cut}:{seed}"),
            None => Ok(()),
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<State, String> {
        let wrong = || format!("not a state: {text:?}; one looks like append:17:3 or append:17:3+5:9");
        let (first, again) = text.split_once('+').map_or((text, None), |(first, again)| (first, Some(again)));
        let mut parts = first.split(':');
        let (Some(scenario), Some(cut), Some(seed), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let again = match again {
            None => None,
            Some(again) => {
                let (cut, seed) = again.split_once(':').ok_or_else(wrong)?;
                Some((number(cut)? as usize, number(seed)?))
            }
        };
        Ok(State { scenario: scenario.to_owned(), cut: number(cut)? as usize, seed: number(seed)?, again })
    }
}
