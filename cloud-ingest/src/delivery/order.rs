//! Step 11 of 12: who is next in line. Pure: knows no store, no clock, no destination's answers.
//!
//! A *lane* is all open deliveries of one order key at one destination, in the order of their places. Its head is the first,
//! and only the head is ever sent; so the taps of one person arrive in the order in which they were stored, or, where a
//! destination wants order across controllers, in which they happened; and a failure blocks nobody but that person. A held head is not sent and blocks those behind it all
//! the same: what it waits for decides where it belongs.
//!
//! Some things put an earlier place into a lane that is under way: a badge that is bound late brings its taps along, and where
//! lanes are in the order of time, so does a door that was offline.
//! Whatever was sent by then (`in_flight`, `unknown`) stays in front until it is done, because nobody can call it back;
//! what was merely `pending` steps back. But nobody waits for another's patience: one that comes late waits for other
//! controllers only while nobody stands behind it who has done with waiting. If somebody does, it goes with him.
//!
//! What was set aside because its time did not become known stands in no lane: it is nobody's turn to wait for it.
//! Neither does a dead one, unless the destination's policy is that those behind it wait for a person, or for some hours:
//! then it stands where it died, in nobody's way but those of its own lane.
//!
//! All stores ask here. [`settle`] is the whole rule; [`stored`], [`next_in_line`] and [`back_in_line`] are the same rule
//! for the frequent cases, which need not read the lane.

use crate::event_store::{DeliveryState, HeldFor, Position, UtcMs};

/// One open delivery as it stands in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its place, if lanes are in the order of time: [`rank`]. Zero for all others, whose place is their position.
    pub rank: i64,
    /// Its place among those of one rank, and its name.
    pub position: Position,
    /// Where it is.
    pub state: DeliveryState,
    /// What it waits for, if held.
    pub held_for: Option<HeldFor>,
    /// It waited for other controllers for as long as was agreed, and not all of them were complete past it.
    pub is_early: bool,
}

/// A delivery that changes because of where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub position: Position,
    /// From this state.
    pub from: DeliveryState,
    /// To this one.
    pub to: DeliveryState,
    /// It waited for other controllers and does not any more.
    pub let_go: Option<LetGo>,
}

/// What is known of one that waits for other controllers no more, because it stands before somebody who does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LetGo {
    /// Somebody has waited for as long as was agreed: earlier ones may come after it.
    Early,
    /// All were complete past one behind it, and so past it too.
    Complete,
}

impl Standing {
    /// Its place in its lane.
    pub fn place(&self) -> (i64, Position) {
        (self.rank, self.position)
    }

    /// It waits for other controllers to be complete past it.
    fn waits_for_others(&self) -> bool {
        self.held_for == Some(HeldFor::Completeness)
    }

    /// It waits for nothing but its turn: also if it is `held` still, and was let go a moment ago.
    fn waits_for_its_turn(&self) -> bool {
        self.held_for.is_none() && !stays(self.state)
    }
}

impl Change {
    /// Another state, and nothing besides.
    pub fn of_state(position: Position, from: DeliveryState, to: DeliveryState) -> Change {
        Change { position, from, to, let_go: None }
    }
}

/// The rank of a tap that happened then at the earliest, where lanes are in the order of time.
pub fn rank(happened: UtcMs) -> i64 {
    happened.0
}

/// Where a delivery rests that nobody is sending.
pub fn resting(held_for: Option<HeldFor>, is_head: bool) -> DeliveryState {
    match (held_for, is_head) {
        (Some(HeldFor::Time | HeldFor::Binding | HeldFor::Completeness), _) => DeliveryState::Held,
        (Some(HeldFor::Person), _) => DeliveryState::Unknown,
        (Some(HeldFor::TimeUnresolved), _) => DeliveryState::Parked,
        (None, true) => DeliveryState::Pending,
        (None, false) => DeliveryState::Parked,
    }
}

/// The first state of a delivery that is stored at the end of its lane.
pub fn stored(held_for: Option<HeldFor>, lane_was_empty: bool) -> DeliveryState {
    resting(held_for, lane_was_empty)
}

/// What the end of a sent delivery (delivered, dead, discarded) means for the one that is first in its lane now.
/// Nobody else is concerned: only one of a lane is ever sent at a time.
pub fn next_in_line(first: Standing) -> Option<Change> {
    settle(&[first]).pop()
}

/// What it means that a delivery that was taken to be sent was not processed and stands in line again. `first` is the
/// first of its lane: mostly itself, unless a late binding has brought in a lower position meanwhile. Where lanes are in the
/// order of time, somebody before it may wait for other controllers: then the whole lane is to be settled instead.
pub fn back_in_line(first: Standing, back: Standing) -> Vec<Change> {
    let is_head = first.position == back.position;
    let steps = Change::of_state(back.position, back.state, resting(None, is_head));
    let next = if is_head { None } else { next_in_line(first) };
    [Some(steps), next].into_iter().flatten().collect()
}

/// What must change so that a whole lane, given in the order of places, is as it should be: after a release from
/// hold, and after two lanes became one.
pub fn settle(lane: &[Standing]) -> Vec<Change> {
    debug_assert!(lane.is_sorted_by(|one, next| one.place() < next.place()), "a lane is in order");
    debug_assert!(
        lane.iter().all(|d| {
            (d.state.is_open() || d.state == DeliveryState::Dead)
                && d.held_for != Some(HeldFor::TimeUnresolved)
        }),
        "a lane has only what is open or dead and in the way, and none that was set aside"
    );
    let somebody_is_sent = lane.iter().any(|delivery| stays(delivery.state));
    let changes = lane.iter().zip(let_go(lane)).enumerate().map(|(place, (delivery, let_go))| {
        let held_for = delivery.held_for.filter(|_| let_go.is_none());
        let rests = resting(held_for, place == 0 && !somebody_is_sent);
        let to = if stays(delivery.state) { delivery.state } else { rests };
        Change { position: delivery.position, from: delivery.state, to, let_go }
    });
    changes.filter(|change| change.from != change.to || change.let_go.is_some()).collect()
}

/// Of each in a lane whether it waits for other controllers no more, because somebody behind it does not. What was sent does
/// not count: it waits for nobody.
fn let_go(lane: &[Standing]) -> Vec<Option<LetGo>> {
    let mut behind: Option<LetGo> = None;
    let mut let_go: Vec<Option<LetGo>> = lane
        .iter()
        .rev()
        .map(|delivery| {
            if delivery.waits_for_its_turn() {
                behind = behind.max(Some(if delivery.is_early { LetGo::Early } else { LetGo::Complete }));
            }
            behind.filter(|_| delivery.waits_for_others())
        })
        .collect();
    let_go.reverse();
    let_go
}

/// Sent, or about to be: nobody can call it back. Or dead and in the way: that is for its policy to end.
fn stays(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::InFlight | DeliveryState::Unknown | DeliveryState::Dead)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use DeliveryState::{Dead, Held, InFlight, Parked, Pending, Unknown};

    fn at(position: u64, state: DeliveryState) -> Standing {
        let held_for = (state == Held).then_some(HeldFor::Time);
        Standing { rank: 0, position: Position(position), state, held_for, is_early: false }
    }

    /// One that waits for other controllers.
    fn waits(position: u64) -> Standing {
        Standing { held_for: Some(HeldFor::Completeness), ..at(position, Held) }
    }

    fn early(position: u64, state: DeliveryState) -> Standing {
        Standing { is_early: true, ..at(position, state) }
    }

    /// Who of a lane waits for other controllers no more.
    #[track_caller]
    fn lets_go(lane: &[Standing], expected: &[(u64, LetGo)]) {
        let changes = settle(lane).into_iter();
        let let_go: Vec<_> = changes.filter_map(|change| Some((change.position.0, change.let_go?))).collect();
        assert_eq!(let_go, expected, "{lane:?}");
    }

    /// Settles `before` (positions 1, 2, 3 …) and checks what comes of it.
    #[track_caller]
    fn settles(before: &[DeliveryState], after: &[DeliveryState]) {
        let mut lane: Vec<Standing> = (1..).zip(before).map(|(n, state)| at(n, *state)).collect();
        let changes = settle(&lane);
        apply(&mut lane, &changes);
        assert_eq!(lane.iter().map(|delivery| delivery.state).collect::<Vec<_>>(), after);
    }

    fn apply(lane: &mut [Standing], changes: &[Change]) {
        for change in changes {
            let delivery = lane.iter_mut().find(|delivery| delivery.position == change.position).unwrap();
            assert_eq!(delivery.state, change.from);
            delivery.state = change.to;
            if let Some(let_go) = change.let_go {
                assert_eq!(delivery.held_for.take(), Some(HeldFor::Completeness));
                delivery.is_early = let_go == LetGo::Early;
            }
        }
    }

    #[test]
    fn an_empty_lane_has_nothing_to_settle() {
        settles(&[], &[]);
    }

    #[test]
    fn the_lowest_position_is_the_head_and_the_rest_is_parked() {
        settles(&[Parked, Parked, Parked], &[Pending, Parked, Parked]);
    }

    #[test]
    fn a_held_head_blocks_those_behind_it() {
        settles(&[Held, Parked, Held, Parked], &[Held, Parked, Held, Parked]);
    }

    #[test]
    fn a_held_one_behind_the_head_changes_nothing() {
        settles(&[Pending, Held, Parked], &[Pending, Held, Parked]);
    }

    #[test]
    fn what_is_sent_stays_in_front_of_lower_positions() {
        settles(&[Parked, InFlight, Parked], &[Parked, InFlight, Parked]);
        settles(&[Held, Parked, Unknown], &[Held, Parked, Unknown]);
    }

    #[test]
    fn a_dead_one_that_stays_keeps_all_of_its_lane_back_and_nothing_else_changes() {
        settles(&[Dead, Parked, Held], &[Dead, Parked, Held]);
        settles(&[Dead, Pending], &[Dead, Parked]);
        settles(&[Parked, Dead, Parked], &[Parked, Dead, Parked]);
    }

    #[test]
    fn a_pending_one_steps_back_behind_a_lower_position() {
        settles(&[Parked, Pending, Parked], &[Pending, Parked, Parked]);
        settles(&[Held, Pending], &[Held, Parked]);
    }

    #[test]
    fn a_lane_that_is_settled_stays_as_it_is() {
        for head in [Held, Pending, InFlight, Unknown] {
            settles(&[head, Parked, Held], &[head, Parked, Held]);
        }
    }

    #[test]
    fn the_first_in_an_empty_lane_is_pending_and_the_next_is_parked() {
        assert_eq!(stored(None, true), Pending);
        assert_eq!(stored(None, false), Parked);
        assert_eq!(stored(Some(HeldFor::Binding), true), Held);
        assert_eq!(stored(Some(HeldFor::Time), false), Held);
    }

    #[test]
    fn the_end_of_one_makes_the_next_pending_unless_it_is_held() {
        let pending = Change::of_state(Position(2), Parked, Pending);
        assert_eq!(next_in_line(at(2, Parked)), Some(pending));
        assert_eq!(next_in_line(at(2, Held)), None);
    }

    #[test]
    fn one_that_must_be_sent_again_stays_head() {
        let pending = Change::of_state(Position(2), InFlight, Pending);
        assert_eq!(back_in_line(at(2, InFlight), at(2, InFlight)), [pending]);
    }

    #[test]
    fn one_that_must_be_sent_again_steps_back_behind_a_lower_position() {
        let parked = Change::of_state(Position(2), InFlight, Parked);
        let pending = Change::of_state(Position(1), Parked, Pending);
        assert_eq!(back_in_line(at(1, Parked), at(2, InFlight)), [parked, pending]);
        assert_eq!(back_in_line(at(1, Held), at(2, InFlight)), [parked]);
    }

    #[test]
    fn one_that_comes_late_waits_for_others_while_nobody_behind_it_has_done_with_waiting() {
        lets_go(&[waits(1), waits(2)], &[]);
        lets_go(&[at(1, Pending), waits(2)], &[]);
        lets_go(&[waits(1), at(2, Held)], &[]);
    }

    #[test]
    fn one_that_comes_late_goes_with_whoever_waits_behind_it_for_nothing_but_his_turn() {
        lets_go(&[waits(1), early(2, Pending)], &[(1, LetGo::Early)]);
        lets_go(&[waits(1), at(2, Pending)], &[(1, LetGo::Complete)]);
        lets_go(
            &[at(1, Held), waits(2), waits(3), early(4, Parked), waits(5)],
            &[(2, LetGo::Early), (3, LetGo::Early)],
        );
        lets_go(
            &[waits(1), early(2, Parked), waits(3), at(4, Parked)],
            &[(1, LetGo::Complete), (3, LetGo::Complete)],
        );
        lets_go(
            &[waits(1), at(2, Parked), waits(3), early(4, Parked)],
            &[(1, LetGo::Complete), (3, LetGo::Early)],
        );
    }

    #[test]
    fn one_that_comes_from_another_lane_goes_with_whoever_is_behind_it_though_its_state_is_the_same() {
        let moved = Standing { state: Parked, ..waits(2) };
        lets_go(&[at(1, Pending), moved, early(3, Parked)], &[(2, LetGo::Early)]);
        lets_go(&[moved, at(3, Pending)], &[(2, LetGo::Complete)]);
    }

    #[test]
    fn one_that_goes_with_another_takes_its_place_in_line() {
        let mut lane = [waits(1), early(2, Pending)];
        let changes = settle(&lane);
        apply(&mut lane, &changes);
        assert_eq!(lane, [early(1, Pending), early(2, Parked)]);
    }

    #[test]
    fn one_that_comes_late_keeps_nobody_waiting_who_is_sent_or_dead() {
        for sent in [InFlight, Unknown, Dead] {
            lets_go(&[waits(1), early(2, sent)], &[]);
            lets_go(&[waits(1), early(2, sent), early(3, Parked)], &[(1, LetGo::Early)]);
        }
    }

    /// What can happen to a lane.
    #[derive(Debug, Clone)]
    enum Step {
        Store {
            held_for: Option<HeldFor>,
        },
        Send,
        LeaveOpen,
        Retry,
        Finish,
        Release {
            which: prop::sample::Index,
            is_early: bool,
        },
        /// What comes from another lane has the state that it had there.
        BringLower {
            below: prop::sample::Index,
            held_for: Option<HeldFor>,
            was_parked: bool,
        },
    }

    fn held_for() -> impl Strategy<Value = Option<HeldFor>> {
        prop_oneof![
            3 => Just(None),
            1 => Just(Some(HeldFor::Time)),
            2 => Just(Some(HeldFor::Completeness)),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => held_for().prop_map(|held_for| Step::Store { held_for }),
            4 => Just(Step::Send),
            1 => Just(Step::LeaveOpen),
            1 => Just(Step::Retry),
            4 => Just(Step::Finish),
            2 => (any::<prop::sample::Index>(), any::<bool>())
                .prop_map(|(which, is_early)| Step::Release { which, is_early }),
            1 => (any::<prop::sample::Index>(), held_for(), any::<bool>())
                .prop_map(|(below, held_for, was_parked)| Step::BringLower { below, held_for, was_parked }),
        ]
    }

    /// A lane as a store keeps it, and what it sent.
    #[derive(Default)]
    struct Lane {
        open: Vec<Standing>,
        last: u64,
        finished: Vec<u64>,
    }

    impl Lane {
        fn sent(&self) -> Option<Standing> {
            self.open.iter().copied().find(|delivery| stays(delivery.state))
        }

        fn settle(&mut self) {
            let changes = settle(&self.open);
            apply(&mut self.open, &changes);
        }

        /// Positions grow by ten, so that a late badge finds room below.
        fn take(&mut self, step: &Step) {
            match step {
                Step::Store { held_for } => {
                    self.last += 10;
                    let state = stored(*held_for, self.open.is_empty());
                    self.open.push(Standing { held_for: *held_for, ..at(self.last, state) });
                    if held_for.is_none() {
                        self.settle();
                    }
                }
                Step::Send => {
                    if let Some(head) = self.open.iter_mut().find(|delivery| delivery.state == Pending) {
                        head.state = InFlight;
                    }
                }
                Step::LeaveOpen => {
                    if let Some(sent) = self.open.iter_mut().find(|delivery| stays(delivery.state)) {
                        sent.state = Unknown;
                    }
                }
                Step::Retry => {
                    let Some(sent) = self.sent() else { return };
                    if self.open.iter().any(Standing::waits_for_others) {
                        let back = self.open.iter_mut().find(|delivery| delivery.position == sent.position);
                        back.unwrap().state = Pending;
                        self.settle();
                    } else {
                        let changes = back_in_line(self.open[0], sent);
                        apply(&mut self.open, &changes);
                    }
                }
                Step::Finish => {
                    if let Some(place) = self.open.iter().position(|delivery| stays(delivery.state)) {
                        self.finished.push(self.open.remove(place).position.0);
                        if let Some(change) = self.open.first().and_then(|first| next_in_line(*first)) {
                            apply(&mut self.open, &[change]);
                        }
                    }
                }
                Step::Release { which, is_early } => {
                    let held: Vec<usize> =
                        (0..self.open.len()).filter(|place| self.open[*place].state == Held).collect();
                    if !held.is_empty() {
                        let released = &mut self.open[held[which.index(held.len())]];
                        released.is_early = *is_early && released.waits_for_others();
                        (released.state, released.held_for) = (Parked, None);
                        self.settle();
                    }
                }
                Step::BringLower { below, held_for, was_parked } => {
                    if !self.open.is_empty() {
                        let place = below.index(self.open.len());
                        let position = Position(self.open[place].position.0 - 1);
                        let free = self.open.iter().all(|delivery| delivery.position != position);
                        if free {
                            let state = if *was_parked { Parked } else { resting(*held_for, false) };
                            let late = at(position.0, state);
                            self.open.insert(place, Standing { held_for: *held_for, ..late });
                            self.settle();
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn at_most_one_of_a_lane_is_ever_due_or_sent(steps in prop::collection::vec(step(), 1..80)) {
            let mut lane = Lane::default();
            for step in &steps {
                lane.take(step);
                let placed = lane.open.iter().filter(|d| !matches!(d.state, Held | Parked)).count();
                prop_assert!(placed <= 1, "{:?} after {step:?}", lane.open);
                prop_assert_eq!(settle(&lane.open), vec![], "{:?} after {:?}", lane.open, step);
                let stuck = placed == 0 && lane.open.first().is_some_and(|head| head.state != Held);
                prop_assert!(!stuck, "{:?} after {step:?}", lane.open);
            }
        }

        #[test]
        fn nobody_who_has_done_with_waiting_stands_behind_one_that_waits_for_others(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut lane = Lane::default();
            for step in &steps {
                lane.take(step);
                let first = lane.open.iter().position(Standing::waits_for_others);
                let behind = first.map_or(&[][..], |first| &lane.open[first..]);
                prop_assert!(!behind.iter().any(Standing::waits_for_its_turn), "{:?} after {step:?}", lane.open);
            }
        }

        #[test]
        fn without_late_bindings_everything_ends_in_the_order_of_positions(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut lane = Lane::default();
            steps.iter().filter(|step| !matches!(step, Step::BringLower { .. })).for_each(|step| lane.take(step));
            prop_assert!(lane.finished.is_sorted(), "{:?}", lane.finished);
        }
    }
}
