//! Plays attacks against the product and judges: first what is honest, then the forged messages, then the honest ones
//! beside them. After each act the store must be what a plain list says.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::Seq;

use super::cast::Cast;
use super::plot::{Letter, Plot, plan};
use super::production::{Answer, Cloud, LaneId};
use super::{Case, Tally};

/// A cloud, and what it should have.
pub struct Stage<'c> {
    cast: &'c Cast,
    cloud: Cloud,
    /// Every outbox with something stored.
    lanes: BTreeMap<LaneId, Lane>,
    /// Those of the group that is being played.
    played: BTreeSet<LaneId>,
    records: u64,
}

/// What should be stored of an outbox.
struct Lane {
    through: Seq,
    hash: ChainHash,
    last: Vec<u8>,
}

impl<'c> Stage<'c> {
    /// Nothing stored.
    pub fn new(cast: &'c Cast) -> Stage<'c> {
        let cloud = Cloud::new(cast.enrolled());
        Stage { cast, cloud, lanes: BTreeMap::new(), played: BTreeSet::new(), records: 0 }
    }

    /// Plays them as one group. Whether everything was as it must be: otherwise the stage is of no more use.
    pub fn play(&mut self, cases: &[Case], tally: &mut Tally) -> bool {
        let broken_before = tally.broken;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let plots = cases.iter().map(|case| (*case, plan(self.cast, case.class, case.seed)));
            let (at_doors, at_cloud): (Vec<_>, Vec<_>) = plots.partition(|(_, plot)| plot.door.is_some());
            for (case, mut plot) in at_doors {
                tally.cases += 1;
                match play_at_door(&mut plot) {
                    Ok(honest) => tally.went_well(&plot, honest),
                    Err(what) => tally.broke(case, what),
                }
            }
            self.play_at_cloud(&at_cloud, tally);
        }));
        if caught.is_err() {
            tally.broke(cases[0], "the product panicked (in this case or one of those behind it)".into());
        }
        tally.broken == broken_before
    }

    fn play_at_cloud(&mut self, plots: &[(Case, Plot)], tally: &mut Tally) {
        let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
        self.played.clear();
        let acts: [fn(&Plot) -> &[Letter]; 3] = [
            |plot| &plot.before,
            |plot| std::slice::from_ref(&plot.forged),
            |plot| std::slice::from_ref(&plot.control),
        ];
        for act in acts {
            let letters = plots
                .iter()
                .enumerate()
                .flat_map(|(n, (_, plot))| act(plot).iter().map(move |letter| (n, letter)));
            let letters: Vec<_> = letters.collect();
            let said = letters.iter().map(|(_, letter)| (letter.topic.as_str(), letter.bytes.as_slice()));
            let answers = self.cloud.deliver(said);
            for ((n, letter), answer) in letters.iter().zip(answers) {
                self.expect(letter);
                if answer != letter.expect {
                    wrong.entry(*n).or_insert_with(|| differs(&answer, &letter.expect));
                }
            }
            for (lane, what) in self.differences() {
                let of = |plot: &Plot| {
                    std::iter::once(&plot.control)
                        .chain(&plot.before)
                        .any(|letter| letter.adds.as_ref().is_some_and(|(other, ..)| *other == lane))
                };
                let n = plots.iter().position(|(_, plot)| of(plot)).unwrap_or(0);
                wrong.entry(n).or_insert(what);
            }
        }
        for (n, (case, plot)) in plots.iter().enumerate() {
            tally.cases += 1;
            match wrong.remove(&n) {
                Some(what) => tally.broke(*case, what),
                None => tally.went_well(plot, plot.before.len() as u64 + 1),
            }
        }
    }

    fn expect(&mut self, letter: &Letter) {
        let Some((id, from, records)) = &letter.adds else { return };
        let start = || Lane { through: Seq::ZERO, hash: ChainHash::start(id.1), last: Vec::new() };
        let lane = self.lanes.entry(id.clone()).or_insert_with(start);
        assert_eq!(lane.through.next(), Seq(*from as u64), "the plot is wrong");
        for record in records {
            *lane = Lane { through: lane.through.next(), hash: lane.hash.next(record), last: record.clone() };
        }
        self.played.insert(id.clone());
        self.records += records.len() as u64;
    }

    /// Where the store is not what it should be.
    fn differences(&mut self) -> Vec<(LaneId, String)> {
        let mut found = Vec::new();
        let mut marks = self.cloud.marks();
        for (id, lane) in &self.lanes {
            let mark = marks.remove(id);
            if mark != Some((lane.through, lane.hash)) {
                found.push((id.clone(), format!("the store's mark is {mark:?}, not {}", lane.through)));
            }
        }
        // An outbox of which somebody spoke, and nothing is stored.
        marks.retain(|id, mark| *mark != (Seq::ZERO, ChainHash::start(id.1)));
        found.extend(
            marks.into_iter().map(|(id, mark)| (id, format!("{mark:?} is stored, and nobody sent it"))),
        );
        for id in &self.played {
            let lane = &self.lanes[id];
            if self.cloud.record(id, lane.through).as_ref() != Some(&lane.last) {
                found.push((id.clone(), format!("record {} is stored with other bytes", lane.through)));
            }
        }
        if found.is_empty() && self.cloud.records() != self.records {
            let what = format!("{} records are stored, not {}", self.cloud.records(), self.records);
            found.extend(self.lanes.keys().next().map(|id| (id.clone(), what)));
        }
        found
    }
}

/// Plays one attack on a door. How many honest messages it took.
fn play_at_door(plot: &mut Plot) -> Result<u64, String> {
    let door = plot.door.as_mut().expect("an attack on a door");
    for letter in &plot.before {
        answers(door.deliver(letter.channel, &letter.bytes), letter)?;
    }
    let before = (door.pending(), door.roster_progress());
    answers(door.deliver(plot.forged.channel, &plot.forged.bytes), &plot.forged)?;
    // A roster that turns out to break a rule is given up: that is no progress.
    let roster = door.roster_progress();
    if door.pending() != before.0 || (roster.is_some() && roster != before.1) {
        return Err("the door's mark or its roster moved".into());
    }
    answers(door.deliver(plot.control.channel, &plot.control.bytes), &plot.control)?;
    let honest = plot.before.iter().filter(|letter| !matches!(letter.expect, Answer::Refused { .. }));
    Ok(honest.count() as u64 + 1)
}

fn answers(answer: Answer, letter: &Letter) -> Result<(), String> {
    if answer == letter.expect { Ok(()) } else { Err(differs(&answer, &letter.expect)) }
}

fn differs(answer: &Answer, expected: &Answer) -> String {
    format!("answered {answer:?}, not {expected:?}")
}

impl Tally {
    fn went_well(&mut self, plot: &Plot, honest: u64) {
        *self.refused.entry(plot.reason.name()).or_default() += 1;
        self.honest += honest;
    }
}
