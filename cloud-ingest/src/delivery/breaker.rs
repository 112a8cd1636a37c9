//! Step 11 of 12: whether a destination is worth a call at all. Pure: its whole memory is in the destination's row, so all
//! replicas share it, and time is the store's [`Ticks`].
//!
//! *Closed*: calls flow; so many failures in a row open it. *Open*: nothing is claimed for a while, longer each time.
//! *Half-open*: one claim, the probe, over all replicas; nothing else until it is answered or its lease has run out. When
//! a probe is answered it closes and lets one call at once flow at first, and more as time passes.
//!
//! Each claim carries the *generation* it was made in, and each change of state begins the next one: the answer to a call
//! that began before says nothing about the destination of now, and is ignored here (never for its delivery).

use serde::{Deserialize, Serialize};

use super::ticks::Ticks;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// So many failures without an answer in between.
    pub failures: u32,
    /// Open for so long at first; doubles with each probe that fails.
    pub open_ms: u64,
    /// Never for longer.
    pub most_open_ms: u64,
    /// From an answered probe to as many calls at once as are allowed.
    pub ramp_ms: u64,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is", deny_unknown_fields)]
pub enum State {
    /// Calls flow.
    Closed {
        /// Failures since the last answer.
        failures: u32,
        /// As long as calls are let through slowly again: since when.
        ramp: Option<Ticks>,
    },
    /// No calls.
    Open {
        /// Until then; a person who opened it set no end.
        until: Option<Ticks>,
        /// How often it has opened since it was closed: how long it stays open.
        times: u32,
    },
    /// One call.
    HalfOpen {
        /// The lease of the claim that is it, and when that would run out.
        probe: Option<(u64, Ticks)>,
        /// As above.
        times: u32,
    },
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    state: State,
    generation: u64,
    /// Why it stands as it does, for people.
    why: String,
}

/// What the end of a call says about the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It answered: whatever it said, it is there and does its work.
    Answered,
    /// It did not answer, or not sensibly, or it says itself that it is in trouble.
    Failed,
    /// It asked for patience: neither.
    Busy,
    /// It does not let us in: a person has to do something, and more calls may lock us out.
    Denied,
}

/// Whoever does not let us in is asked again after so long, once.
pub const DENIED_OPEN_MS: u64 = 5 * 60 * 1_000;

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// No calls until it is closed by a person too.
    Open,
    /// Calls flow, whatever failed before.
    Close,
}

impl Default for Breaker {
    fn default() -> Breaker {
        let state = State::Closed { failures: 0, ramp: None };
        Breaker { state, generation: 1, why: String::new() }
    }
}

impl Breaker {
    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why, for people; empty if nothing ever happened.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The generation that claims made now belong to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many claims may be made of `most` at once, `under_way` being under way over all replicas.
    pub fn room(&mut self, settings: &Settings, ticks: Ticks, most: u32, under_way: u64) -> u32 {
        let left = |most: u64| u32::try_from(most.saturating_sub(under_way)).unwrap_or(u32::MAX);
        match self.state {
            State::Closed { ramp: Some(since), failures } => {
                let passed_ms = ticks.since(since);
                if passed_ms >= settings.ramp_ms {
                    self.state = State::Closed { failures, ramp: None };
                    return left(most.into());
                }
                left((u64::from(most) * passed_ms / settings.ramp_ms).max(1))
            }
            State::Closed { ramp: None, .. } => left(most.into()),
            State::Open { until: Some(until), times } if ticks >= until => {
                let why = format!("open for long enough after: {}", self.why);
                self.change(State::HalfOpen { probe: None, times }, &why);
                1
            }
            State::Open { .. } => 0,
            State::HalfOpen { probe: Some((_, until)), .. } if ticks < until => 0,
            State::HalfOpen { .. } => 1,
        }
    }

    /// A claim was made. In half-open it is the probe.
    pub fn claimed(&mut self, lease: u64, until: Ticks) {
        if let State::HalfOpen { times, .. } = self.state {
            self.state = State::HalfOpen { probe: Some((lease, until)), times };
        }
    }

    /// The probe's lease was extended.
    pub fn extended(&mut self, lease: u64, until: Ticks) {
        if let State::HalfOpen { probe: Some((probe, then)), .. } = &mut self.state
            && *probe == lease
        {
            *then = until;
        }
    }

    /// A claim ended without a call, or nobody will ever know how: another may be the probe.
    pub fn released(&mut self, lease: u64) {
        if let State::HalfOpen { probe, .. } = &mut self.state
            && probe.is_some_and(|(probe, _)| probe == lease)
        {
            *probe = None;
        }
    }

    /// A call ended. `generation` is that of its claim; `why` is what a person reads if this opens it.
    pub fn ended(
        &mut self,
        settings: &Settings,
        generation: u64,
        sign: Sign,
        ticks: Ticks,
        lease: u64,
        why: &str,
    ) {
        if generation != self.generation {
            return;
        }
        match (self.state, sign) {
            (State::Closed { ramp, .. }, Sign::Answered) => self.state = State::Closed { failures: 0, ramp },
            (State::Closed { failures, ramp }, Sign::Failed) => {
                let failures = failures.saturating_add(1);
                if failures >= settings.failures {
                    self.open(settings, 0, ticks, why);
                } else {
                    self.state = State::Closed { failures, ramp };
                }
            }
            (State::Closed { .. } | State::HalfOpen { .. }, Sign::Denied) => {
                let until = Some(ticks.plus(DENIED_OPEN_MS));
                self.change(State::Open { until, times: 0 }, why);
            }
            (State::HalfOpen { probe: Some((probe, _)), .. }, _) if probe != lease => {}
            (State::HalfOpen { .. }, Sign::Answered) => {
                self.change(State::Closed { failures: 0, ramp: Some(ticks) }, "a probe was answered");
            }
            (State::HalfOpen { times, .. }, Sign::Failed) => {
                self.open(settings, times.saturating_add(1), ticks, why)
            }
            (State::HalfOpen { times, .. }, Sign::Busy) => {
                self.state = State::HalfOpen { probe: None, times }
            }
            (State::Closed { .. }, Sign::Busy) | (State::Open { .. }, _) => {}
        }
    }

    /// A person decides.
    pub fn force(&mut self, force: Force, why: &str) {
        match force {
            Force::Open => self.change(State::Open { until: None, times: 0 }, why),
            Force::Close => self.change(State::Closed { failures: 0, ramp: None }, why),
        }
    }

    /// Whether it waits for time to pass: as long as it does, time must be kept.
    pub fn waits(&self) -> bool {
        !matches!(self.state, State::Closed { ramp: None, .. } | State::Open { until: None, .. })
    }

    /// How long until there may be room; `None` if that is for a person or for an answer to say.
    pub fn again_in_ms(&self, ticks: Ticks) -> Option<u64> {
        match self.state {
            State::Open { until: Some(until), .. } | State::HalfOpen { probe: Some((_, until)), .. } => {
                Some(until.since(ticks))
            }
            State::Closed { .. } | State::Open { until: None, .. } | State::HalfOpen { probe: None, .. } => {
                None
            }
        }
    }

    fn open(&mut self, settings: &Settings, times: u32, ticks: Ticks, why: &str) {
        let doubled = settings.open_ms.saturating_mul(1 << times.min(32)).min(settings.most_open_ms);
        self.change(State::Open { until: Some(ticks.plus(doubled)), times }, why);
    }

    fn change(&mut self, to: State, why: &str) {
        self.state = to;
        self.generation += 1;
        why.clone_into(&mut self.why);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings { failures: 3, open_ms: 1_000, most_open_ms: 3_000, ramp_ms: 10_000 };

    const MOST: u32 = 100;

    fn room(breaker: &mut Breaker, at_ms: u64, under_way: u64) -> u32 {
        breaker.room(&SETTINGS, Ticks(at_ms), MOST, under_way)
    }

    fn end(breaker: &mut Breaker, sign: Sign, at_ms: u64) {
        let generation = breaker.generation();
        let lease = match breaker.state() {
            State::HalfOpen { probe: Some((lease, _)), .. } => lease,
            _ => 0,
        };
        breaker.ended(&SETTINGS, generation, sign, Ticks(at_ms), lease, "timed out");
    }

    fn opened(at_ms: u64) -> Breaker {
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| end(&mut breaker, Sign::Failed, at_ms));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_starts_the_count_again() {
        let mut breaker = Breaker::default();
        for sign in [Sign::Failed, Sign::Failed, Sign::Answered, Sign::Failed, Sign::Busy, Sign::Failed] {
            end(&mut breaker, sign, 0);
            assert_eq!(room(&mut breaker, 0, 0), MOST);
        }
        end(&mut breaker, Sign::Failed, 500);
        assert_eq!(breaker.state(), State::Open { until: Some(Ticks(1_500)), times: 0 });
        assert_eq!((room(&mut breaker, 1_499, 0), breaker.why()), (0, "timed out"));
    }

    #[test]
    fn after_its_time_there_is_one_probe_and_no_more() {
        let mut breaker = opened(0);
        assert_eq!(room(&mut breaker, 1_000, 0), 1);
        breaker.claimed(7, Ticks(9_000));
        assert_eq!(room(&mut breaker, 1_000, 1), 0);
        assert_eq!(room(&mut breaker, 8_999, 1), 0);
        assert_eq!(room(&mut breaker, 9_000, 0), 1, "its lease has run out");
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_longer_up_to_the_most() {
        let mut breaker = opened(0);
        for (at_ms, open_ms) in [(1_000, 2_000), (3_000, 3_000), (6_000, 3_000)] {
            assert_eq!(room(&mut breaker, at_ms, 0), 1);
            breaker.claimed(at_ms, Ticks(at_ms + 100));
            end(&mut breaker, Sign::Failed, at_ms);
            assert_eq!(breaker.again_in_ms(Ticks(at_ms)), Some(open_ms));
        }
    }

    #[test]
    fn after_an_answered_probe_calls_come_back_by_and_by() {
        let mut breaker = opened(0);
        assert_eq!(room(&mut breaker, 1_000, 0), 1);
        breaker.claimed(7, Ticks(9_000));
        end(&mut breaker, Sign::Answered, 1_100);
        for (after_ms, most) in [(0, 1), (99, 1), (1_000, 10), (9_999, 99), (10_000, 100)] {
            assert_eq!(room(&mut breaker, 1_100 + after_ms, 0), most);
        }
        assert_eq!(room(&mut breaker, 99_999, 30), 70);
    }

    #[test]
    fn calls_of_before_say_nothing() {
        let mut breaker = Breaker::default();
        let before = breaker.generation();
        (0..3).for_each(|_| end(&mut breaker, Sign::Failed, 0));
        breaker.ended(&SETTINGS, before, Sign::Answered, Ticks(10), 1, "");
        assert_eq!(room(&mut breaker, 10, 0), 0, "a late success closes nothing");
        assert_eq!(room(&mut breaker, 1_000, 0), 1);
        breaker.claimed(7, Ticks(9_000));
        breaker.ended(&SETTINGS, before, Sign::Failed, Ticks(1_100), 7, "");
        end(&mut breaker, Sign::Answered, 1_200);
        (0..9).for_each(|_| breaker.ended(&SETTINGS, before, Sign::Failed, Ticks(1_300), 2, ""));
        assert_eq!(room(&mut breaker, 1_300, 0), 1, "a late failure opens nothing");
    }

    #[test]
    fn a_probe_that_was_told_to_be_patient_makes_room_for_another() {
        let mut breaker = opened(0);
        assert_eq!(room(&mut breaker, 1_000, 0), 1);
        breaker.claimed(7, Ticks(9_000));
        end(&mut breaker, Sign::Busy, 1_100);
        assert_eq!(room(&mut breaker, 1_100, 0), 1);
        breaker.claimed(8, Ticks(9_100));
        breaker.released(7);
        assert_eq!(room(&mut breaker, 1_100, 1), 0);
        breaker.released(8);
        assert_eq!(room(&mut breaker, 1_100, 0), 1);
    }

    #[test]
    fn who_does_not_let_us_in_is_asked_again_once_after_minutes() {
        let mut breaker = Breaker::default();
        end(&mut breaker, Sign::Denied, 0);
        assert_eq!(room(&mut breaker, DENIED_OPEN_MS - 1, 0), 0);
        assert_eq!(room(&mut breaker, DENIED_OPEN_MS, 0), 1);
        breaker.claimed(7, Ticks(DENIED_OPEN_MS + 9_000));
        end(&mut breaker, Sign::Denied, DENIED_OPEN_MS);
        assert_eq!(breaker.again_in_ms(Ticks(DENIED_OPEN_MS)), Some(DENIED_OPEN_MS));
    }

    #[test]
    fn a_person_has_the_last_word() {
        let mut breaker = Breaker::default();
        breaker.force(Force::Open, "the vendor asked");
        assert_eq!((room(&mut breaker, u64::MAX, 0), breaker.again_in_ms(Ticks(0))), (0, None));
        breaker.force(Force::Close, "done");
        assert_eq!(room(&mut breaker, 0, 0), MOST);
    }

    /// What replicas do: claim as many as there is room for, answer in any order, die, wait.
    #[derive(Debug, Clone)]
    enum Step {
        Claim,
        End { which: prop::sample::Index, sign: usize },
        Lose { which: prop::sample::Index },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Claim),
            4 => (any::<prop::sample::Index>(), 0..5usize).prop_map(|(which, sign)| Step::End { which, sign }),
            1 => any::<prop::sample::Index>().prop_map(|which| Step::Lose { which }),
            3 => (0..2_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn there_is_never_a_second_probe_and_never_a_dead_end(steps in prop::collection::vec(step(), 1..200)) {
            const LEASE_MS: u64 = 5_000;
            let (mut breaker, mut ticks, mut leases) = (Breaker::default(), Ticks(0), 0);
            // Lease, generation, until.
            let mut live: Vec<(u64, u64, Ticks)> = vec![];
            for step in steps {
                match step {
                    Step::Claim => {
                        live.retain(|(.., until)| ticks < *until);
                        for _ in 0..room(&mut breaker, ticks.0, live.len() as u64).min(4) {
                            leases += 1;
                            let until = ticks.plus(LEASE_MS);
                            breaker.claimed(leases, until);
                            live.push((leases, breaker.generation(), until));
                        }
                        let probes = live.iter().filter(|(_, generation, _)| *generation == breaker.generation());
                        if matches!(breaker.state(), State::HalfOpen { .. }) {
                            prop_assert!(probes.count() <= 1, "{live:?} {breaker:?}");
                        }
                    }
                    Step::End { which, sign } if !live.is_empty() => {
                        let (lease, generation, _) = live.remove(which.index(live.len()));
                        let sign = [Sign::Answered, Sign::Failed, Sign::Failed, Sign::Busy, Sign::Denied][sign];
                        breaker.ended(&SETTINGS, generation, sign, ticks, lease, "");
                    }
                    Step::Lose { which } if !live.is_empty() => {
                        live.remove(which.index(live.len()));
                    }
                    Step::End { .. } | Step::Lose { .. } => {}
                    Step::Wait(ms) => ticks = ticks.plus(ms),
                }
            }
            ticks = ticks.plus(LEASE_MS + SETTINGS.most_open_ms);
            prop_assert!(room(&mut breaker, ticks.plus(DENIED_OPEN_MS).0, 0) > 0, "{breaker:?}");
        }
    }
}
