//! Beside step 7 of 12: which of several replicas takes in from a broker. Pure: knows no broker, no store, no clock.
//!
//! One row of the store says who does, and whoever does changes a number in it every second. Who stands by takes over from a
//! row that did not change for [`PATIENCE_MS`] of its own time. So no clock is compared with another one, and none is set
//! wrongly: each replica only measures how long it has been looking.
//!
//! Whoever takes in stops believing in it [`LEASE_MS`] after it asked for the last change that succeeded. A stand-by saw that
//! change later than it was asked for and waits for longer, so that the two never overlap. A process that was stopped in
//! between (or whose machine was) finds its time over; and before anything is acknowledged the row is read once more, because
//! even a clock can be stopped.

/// How often the row is changed by who takes in, and read by who stands by.
pub const BEAT_MS: u64 = 1_000;

/// How long one change is good for.
pub const LEASE_MS: u64 = 5_000;

/// How long a stand-by looks at a row that does not change.
pub const PATIENCE_MS: u64 = 6_000;

const _: () = assert!(LEASE_MS > 2 * BEAT_MS, "one late change must not end it");
const _: () = assert!(PATIENCE_MS >= LEASE_MS + BEAT_MS, "it is over before another begins");

/// Counts who took in, one after the other, per broker: 1, 2, 3 …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which one this is.
    pub fence: Fence,
    /// Who takes in, for people; nobody after an orderly end.
    pub holder: Option<String>,
    /// Changes as long as the holder lives.
    pub beat: u64,
}

/// What a replica is to do with the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Change it, to go on.
    Beat(Fence),
    /// Read it, and then see whether to [`take`](Candidate::look) it.
    Look,
}

/// One replica's view of who takes in. All times are of one clock of its own that only goes forward.
#[derive(Debug, Default)]
pub struct Candidate {
    seen: Option<(Claim, u64)>,
    held: Option<(Fence, u64)>,
}

impl Candidate {
    /// What is next, once a [`BEAT_MS`].
    pub fn turn(&self, now_ms: u64) -> Turn {
        match self.holds(now_ms) {
            Some(fence) => Turn::Beat(fence),
            None => Turn::Look,
        }
    }

    /// Under which number this replica takes in at that time, if it does.
    pub fn holds(&self, now_ms: u64) -> Option<Fence> {
        self.held.filter(|(_, until)| now_ms < *until).map(|(fence, _)| fence)
    }

    /// The row as it was read between these two times. Whether to take over, provided that it is still the same.
    pub fn look(&mut self, row: Option<&Claim>, asked_ms: u64, answered_ms: u64) -> bool {
        let Some(row) = row else { return true };
        let unchanged_ms = match &self.seen {
            Some((seen, since)) if seen == row => asked_ms.saturating_sub(*since),
            _ => {
                // It may have changed just before the answer.
                self.seen = Some((row.clone(), answered_ms));
                0
            }
        };
        row.holder.is_none() || unchanged_ms >= PATIENCE_MS
    }

    /// Taken, or changed again, by what was asked for at `asked_ms`. Gives the time until which that is good.
    pub fn took(&mut self, fence: Fence, asked_ms: u64) -> u64 {
        let until = asked_ms + LEASE_MS;
        self.held = Some((fence, until));
        until
    }

    /// The row is another's.
    pub fn lost(&mut self) {
        self.held = None;
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(fence: u64, beat: u64) -> Claim {
        Claim { fence: Fence(fence), holder: Some("another".into()), beat }
    }

    #[test]
    fn a_row_that_is_not_there_or_was_left_is_taken_at_once() {
        assert!(Candidate::default().look(None, 0, 0));
        let left = Claim { holder: None, ..claim(3, 9) };
        assert!(Candidate::default().look(Some(&left), 0, 0));
    }

    #[test]
    fn a_stand_by_waits_until_the_row_did_not_change_for_long_enough() {
        let mut candidate = Candidate::default();
        let mut look = |fence, beat, at_ms| candidate.look(Some(&claim(fence, beat)), at_ms - 50, at_ms);
        assert!(!look(3, 1, 100));
        assert!(!look(3, 1, 149 + PATIENCE_MS), "it may have changed just before the first answer");
        assert!(!look(3, 2, 150 + PATIENCE_MS), "it lives");
        assert!(!look(4, 2, 150 + 2 * PATIENCE_MS), "another has taken over");
        assert!(!look(4, 2, 199 + 3 * PATIENCE_MS));
        assert!(look(4, 2, 200 + 3 * PATIENCE_MS));
    }

    #[test]
    fn a_hold_ends_by_itself_unless_the_row_was_changed() {
        let mut candidate = Candidate::default();
        assert_eq!(candidate.turn(0), Turn::Look);
        assert_eq!(candidate.took(Fence(7), 1_000), 1_000 + LEASE_MS);
        assert_eq!(candidate.turn(999 + LEASE_MS), Turn::Beat(Fence(7)));
        assert_eq!(candidate.turn(1_000 + LEASE_MS), Turn::Look);
        candidate.took(Fence(7), 4_000);
        assert_eq!(candidate.holds(3_999 + LEASE_MS), Some(Fence(7)));
        candidate.lost();
        assert_eq!(candidate.holds(4_001), None);
    }

    /// What a replica is in the middle of, and since when. The store hears a request some time after it was made, and
    /// the answer arrives some time after that; others go on in between.
    #[derive(Debug, Clone, Default)]
    enum Under {
        #[default]
        Nothing,
        Asked(Request),
        Answered(Answer),
    }

    #[derive(Debug, Clone)]
    enum Request {
        Beat(Fence),
        Read,
        Take(Option<Claim>),
    }

    #[derive(Debug, Clone)]
    enum Answer {
        Changed(Option<Fence>),
        Row(Option<Claim>),
    }

    #[derive(Default)]
    struct Replica {
        candidate: Candidate,
        under: Under,
        asked_ms: u64,
    }

    #[derive(Default)]
    struct World {
        now_ms: u64,
        row: Option<Claim>,
        replicas: [Replica; 3],
    }

    impl World {
        /// One replica gets one step further.
        fn step(&mut self, who: usize) {
            let replica = &mut self.replicas[who];
            let candidate = &mut replica.candidate;
            let ask = |request| (Under::Asked(request), self.now_ms);
            (replica.under, replica.asked_ms) = match std::mem::take(&mut replica.under) {
                Under::Nothing => ask(match candidate.turn(self.now_ms) {
                    Turn::Beat(fence) => Request::Beat(fence),
                    Turn::Look => Request::Read,
                }),
                Under::Asked(request) => {
                    (Under::Answered(answer(&mut self.row, request, who)), replica.asked_ms)
                }
                Under::Answered(Answer::Changed(fence)) => {
                    match fence {
                        Some(fence) => {
                            candidate.took(fence, replica.asked_ms);
                        }
                        None => candidate.lost(),
                    }
                    (Under::Nothing, 0)
                }
                Under::Answered(Answer::Row(row)) => {
                    match candidate.look(row.as_ref(), replica.asked_ms, self.now_ms) {
                        true => ask(Request::Take(row)),
                        false => (Under::Nothing, 0),
                    }
                }
            };
        }

        fn holding(&self) -> Vec<Fence> {
            self.replicas.iter().filter_map(|replica| replica.candidate.holds(self.now_ms)).collect()
        }
    }

    /// What the store makes of a request, in one transaction.
    fn answer(row: &mut Option<Claim>, request: Request, who: usize) -> Answer {
        match request {
            Request::Read => Answer::Row(row.clone()),
            Request::Beat(fence) => {
                Answer::Changed(row.as_mut().filter(|row| row.fence == fence).map(|row| {
                    row.beat += 1;
                    fence
                }))
            }
            Request::Take(over) => Answer::Changed((*row == over).then(|| {
                let fence = Fence(over.map_or(1, |row| row.fence.0 + 1));
                *row = Some(Claim { fence, holder: Some(who.to_string()), beat: 0 });
                fence
            })),
        }
    }

    /// Who gets further, and how long that takes. Now and then one of them is stopped for a while.
    fn steps() -> impl Strategy<Value = Vec<(usize, u64)>> {
        let late = prop_oneof![8 => 0..500_u64, 2 => 0..3_000_u64, 1 => 0..20_000_u64];
        let steps = prop::collection::vec((0..3_usize, late), 1..60);
        let span = (0..6_usize, steps).prop_map(|(stopped, mut steps)| {
            steps.retain(|(who, _)| *who != stopped);
            steps
        });
        prop::collection::vec(span, 1..12).prop_map(|spans| spans.concat())
    }

    proptest! {
        /// However late anybody is and whatever takes its time: no two believe at the same time that they take in, and
        /// whoever does has the row. And somebody does, once all have their turns.
        #[test]
        fn never_two_at_once(steps in steps()) {
            let mut world = World::default();
            for (who, late_ms) in steps {
                world.now_ms += late_ms;
                world.step(who);
                let holding = world.holding();
                prop_assert!(holding.len() <= 1, "{holding:?} at {} ms", world.now_ms);
                let in_row = world.row.as_ref().map(|row| row.fence);
                prop_assert!(holding.iter().all(|fence| Some(*fence) == in_row), "{holding:?}, {in_row:?}");
            }
            for turn in 0..100 {
                world.now_ms += BEAT_MS / 6;
                world.step(turn % 3);
            }
            prop_assert_eq!(world.holding().len(), 1);
        }
    }
}
