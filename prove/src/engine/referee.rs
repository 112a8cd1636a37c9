//! The model: what must be and what must never be, said in terms of what an API sees, of what its operator does, and of
//! when a replica's word reached the store. Pure; knows no limiter, no breaker, no lease and no state of a delivery.
//!
//! Where a replica stood still, nobody can say what it would have done at which moment, and its calls excuse others.
//! Wherever order within one moment is not known, the referee takes the one that is not a foul.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tap_protocol::ids::EventId;

use super::api::Books;
use super::day::Terms;

/// What time may be wrong by, by which limits and pauses go.
const SLACK_MS: u64 = 1_000;

const MINUTE_MS: u64 = 60_000;

/// What happened last is told with a foul.
const MOST_TOLD: usize = 30;

/// Who lets nobody in is asked again after so long.
const DENIED_MS: u64 = 5 * MINUTE_MS;

/// What an answer says of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is there.
    Answered,
    /// It is not, or not well.
    Failed,
    /// It wants patience.
    Busy,
    /// It lets nobody in.
    Denied,
}

/// Which run of which replica.
pub type Run = (usize, u32);

/// One call, a look-up too.
#[derive(Debug)]
struct Call {
    event: EventId,
    run: Run,
    claimed_ms: u64,
    is_look_up: bool,
    /// Somebody waits for its answer.
    is_live: bool,
    /// Its replica stood still meanwhile.
    is_excused: bool,
    heard: Option<Heard>,
}

/// The end of a call, as whoever made it heard of it.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at_ms: u64,
    /// Its place among all that is heard and asked.
    no: u64,
    sign: Sign,
    hold_ms: Option<u64>,
}

/// What became of a tap.
#[derive(Debug)]
struct Owed {
    person: u8,
    position: u64,
    since_ms: u64,
    first_claimed_ms: Option<u64>,
    body: Option<String>,
}

/// No calls, or one at a time.
#[derive(Debug)]
struct Tripped {
    /// When that was written down.
    at_ms: u64,
    /// Until then it is left alone.
    until_ms: u64,
    failed_probes: u32,
}

/// Sees everything, and blows the whistle.
#[derive(Debug)]
pub struct Referee {
    terms: Terms,
    /// From when on a rate and a burst were in force.
    limits: Vec<(u64, f64, u32)>,
    owed: BTreeMap<EventId, Owed>,
    lanes: BTreeMap<u8, BTreeSet<(u64, EventId)>>,
    calls: Vec<Call>,
    /// Calls that may still change something.
    open: BTreeSet<usize>,
    arrivals: Vec<u64>,
    paused_since: Option<u64>,
    /// When an operator last did something: what was claimed before says nothing about after.
    reset_ms: u64,
    /// When a person last let it go on.
    resumed_ms: u64,
    holds: Vec<(u64, u64)>,
    failures: u32,
    is_unclear: bool,
    tripped: Option<Tripped>,
    /// Whether a clock was ever wrong: pauses of single taps go by clocks.
    clocks_were_wrong: bool,
    last: VecDeque<String>,
    foul: Option<String>,
}

impl Referee {
    /// Before anything.
    pub fn new(terms: Terms) -> Referee {
        Referee {
            terms,
            limits: vec![(0, terms.per_second, terms.burst)],
            owed: BTreeMap::new(),
            lanes: BTreeMap::new(),
            calls: Vec::new(),
            open: BTreeSet::new(),
            arrivals: Vec::new(),
            paused_since: None,
            reset_ms: 0,
            resumed_ms: 0,
            holds: Vec::new(),
            failures: 0,
            is_unclear: false,
            tripped: None,
            clocks_were_wrong: false,
            last: VecDeque::new(),
            foul: None,
        }
    }

    /// The first thing that must not have been.
    pub fn foul(&self) -> Result<(), String> {
        self.foul.clone().map_or(Ok(()), Err)
    }

    /// A tap is stored, or becomes somebody's.
    pub fn owes(&mut self, event: EventId, position: u64, person: u8, now_ms: u64) {
        let owed = Owed { person, position, since_ms: now_ms, first_claimed_ms: None, body: None };
        self.owed.insert(event, owed);
        self.lanes.entry(person).or_default().insert((position, event));
    }

    /// All that must be told.
    pub fn owed(&self) -> impl Iterator<Item = EventId> + '_ {
        self.owed.keys().copied()
    }

    /// How many requests have arrived.
    pub fn arrivals(&self) -> usize {
        self.arrivals.len()
    }

    /// A person stops the destination, or lets it go on.
    pub fn pauses(&mut self, is_paused: bool, now_ms: u64) {
        self.paused_since = is_paused.then(|| self.paused_since.unwrap_or(now_ms));
        if !is_paused {
            self.holds.clear();
            self.starts_over(now_ms);
            self.resumed_ms = now_ms;
        }
    }

    /// A person sets limits.
    pub fn limits(&mut self, per_second: f64, burst: u32, now_ms: u64) {
        self.limits.push((now_ms, per_second, burst));
    }

    /// Somebody's clock shows another year.
    pub fn clock_is_wrong(&mut self) {
        self.clocks_were_wrong = true;
    }

    /// A replica stands still, or dies.
    pub fn stands_still(&mut self, replica: usize) {
        for no in &self.open {
            let call = &mut self.calls[*no];
            call.is_excused |= call.run.0 == replica;
        }
        self.last.push_back(format!("replica {replica} stands still or dies"));
    }

    /// A call begins; it was claimed when the store was last heard of.
    pub fn sent(
        &mut self,
        event: EventId,
        body: &str,
        run: Run,
        claimed_ms: u64,
        now_ms: u64,
        is_look_up: bool,
    ) -> usize {
        self.check_claim(event, claimed_ms, now_ms);
        if let Some(owed) = self.owed.get_mut(&event) {
            owed.first_claimed_ms.get_or_insert(claimed_ms);
            if owed.body.get_or_insert_with(|| body.to_owned()) != body {
                self.whistle(now_ms, format!("{event} is told in other words than before"));
            }
        } else {
            self.whistle(now_ms, format!("{event} is told, and is nobody's"));
        }
        let number = self.calls.len();
        self.say(now_ms, format!("call {number} for {event} by {run:?}, claimed at {claimed_ms}"));
        let call = Call { event, run, claimed_ms, is_look_up, is_live: true, is_excused: false, heard: None };
        self.calls.push(call);
        self.open.insert(number);
        number
    }

    /// A claim was made of it of which nobody may have heard: it may have been sent.
    pub fn may_have_been_sent(&mut self, event: EventId, now_ms: u64) {
        if let Some(owed) = self.owed.get_mut(&event) {
            owed.first_claimed_ms.get_or_insert(now_ms);
        }
    }

    /// What is owed to a person and was never sent, as far as is known.
    pub fn unsent_of(&self, person: u8) -> Vec<EventId> {
        let lane = self.lanes.get(&person).into_iter().flatten().map(|(_, event)| *event);
        lane.filter(|event| self.owed[event].first_claimed_ms.is_none()).collect()
    }

    fn check_claim(&mut self, event: EventId, claimed_ms: u64, now_ms: u64) {
        if self.paused_since.is_some_and(|since| claimed_ms > since) {
            self.whistle(now_ms, format!("{event} is sent although a person has stopped everything"));
        }
        if let Some((from, until)) =
            self.holds.iter().copied().find(|(from, until)| claimed_ms > *from && claimed_ms < *until)
        {
            self.whistle(
                now_ms,
                format!("{event} is claimed at {claimed_ms}, and the API had asked for patience from {from} to {until}"),
            );
        }
        let live = |call: &Call| call.is_live && !call.is_excused;
        if self.open.iter().any(|no| live(&self.calls[*no]) && self.calls[*no].event == event) {
            self.whistle(now_ms, format!("{event} is sent twice at the same time"));
        }
        if let Some(tripped) = self.tripped.as_ref().filter(|tripped| claimed_ms > tripped.at_ms) {
            let (at_ms, until) = (tripped.at_ms, tripped.until_ms.saturating_sub(SLACK_MS));
            if claimed_ms < until {
                self.whistle(
                    now_ms,
                    format!("{event} is claimed at {claimed_ms}: it has failed at {at_ms}, and is to be left alone until {until}"),
                );
            } else if self.open.iter().any(|no| live(&self.calls[*no]) && self.calls[*no].claimed_ms > at_ms)
            {
                self.whistle(
                    now_ms,
                    format!("{event} is a second probe: nothing was answered since {at_ms}"),
                );
            }
        }
    }

    /// A request arrives.
    pub fn arrived(&mut self, no: usize, books: &Books, now_ms: u64) {
        self.check_rate(now_ms);
        let call = &self.calls[no];
        if call.is_look_up {
            return;
        }
        let Some(owed) = self.owed.get(&call.event) else { return };
        let first_claimed_ms = owed.first_claimed_ms.unwrap_or(call.claimed_ms);
        let earlier = self.lanes[&owed.person]
            .range(..(owed.position, call.event))
            .find(|(_, earlier)| !books.is_final(*earlier) && self.owed[earlier].since_ms < first_claimed_ms);
        if let Some((_, earlier)) = earlier {
            let (event, person) = (call.event, owed.person);
            self.whistle(now_ms, format!("{event} arrives before {earlier}, both are person {person}'s"));
        }
    }

    fn check_rate(&mut self, now_ms: u64) {
        self.arrivals.push(now_ms);
        let since = (now_ms + 1).saturating_sub(MINUTE_MS);
        let within = self.arrivals.len() - self.arrivals.partition_point(|at| *at < since);
        // What was in force a while ago was still under way.
        let from = since.saturating_sub(MINUTE_MS);
        let later = self.limits.iter().skip(1).map(|(until, ..)| *until).chain([u64::MAX]);
        let most = self.limits.iter().zip(later).filter(|(_, until)| *until >= from);
        let most = most.map(|((_, rate, burst), _)| (60.0 * rate) as usize + *burst as usize).max();
        if within > most.unwrap_or(0) {
            self.whistle(now_ms, format!("{within} requests within a minute, and {most:?} are allowed"));
        }
    }

    /// Whoever made the call hears of its end; `heard_no` is the place of that among all that is heard and asked.
    pub fn heard(&mut self, no: usize, sign: Sign, hold_ms: Option<u64>, heard_no: u64, now_ms: u64) {
        let call = &mut self.calls[no];
        call.is_live = false;
        call.heard = Some(Heard { at_ms: now_ms, no: heard_no, sign, hold_ms });
        self.say(now_ms, format!("call {no} hears {sign:?}, to wait {hold_ms:?}"));
        if sign == Sign::Answered {
            self.starts_over(now_ms);
        }
    }

    fn starts_over(&mut self, now_ms: u64) {
        (self.failures, self.is_unclear, self.tripped) = (0, false, None);
        self.reset_ms = self.reset_ms.max(now_ms);
    }

    /// Nobody waits for it any more.
    pub fn given_up(&mut self, no: usize) {
        let call = &mut self.calls[no];
        call.is_live = false;
        if call.heard.is_none() {
            self.open.remove(&no);
        }
    }

    /// The store has done what that run asked at that place: what it had heard before is written down.
    pub fn written(&mut self, run: Run, asked_no: u64, now_ms: u64) {
        let is_told = |call: &Call| call.run == run && call.heard.is_some_and(|heard| heard.no < asked_no);
        let told: Vec<usize> = self.open.iter().copied().filter(|no| is_told(&self.calls[*no])).collect();
        for no in told {
            self.open.remove(&no);
            let Call { claimed_ms, is_excused, heard: Some(heard), .. } = self.calls[no] else { continue };
            self.say(
                now_ms,
                format!("call {no} is written down{}", if is_excused { ", excused" } else { "" }),
            );
            if heard.sign == Sign::Answered {
                self.starts_over(now_ms);
            }
            if is_excused {
                continue;
            }
            if let Some(hold_ms) = heard.hold_ms.filter(|_| heard.at_ms > self.resumed_ms) {
                self.holds.push((now_ms, (heard.at_ms + hold_ms).saturating_sub(SLACK_MS)));
            }
            match heard.sign {
                Sign::Failed => self.failed(claimed_ms, heard.at_ms, now_ms),
                Sign::Denied => self.denied(claimed_ms, heard.at_ms, now_ms),
                Sign::Answered | Sign::Busy => {}
            }
        }
    }

    fn failed(&mut self, claimed_ms: u64, heard_ms: u64, now_ms: u64) {
        if claimed_ms <= self.reset_ms {
            // It may count or not: from here on nobody can say when it is enough.
            self.is_unclear = self.tripped.is_none();
            return;
        }
        let [first_ms, most_ms] = [self.terms.open_s, self.terms.max_open_s].map(|s| u64::from(s) * 1_000);
        match &mut self.tripped {
            Some(tripped) if claimed_ms <= tripped.at_ms => {}
            Some(tripped) => {
                tripped.failed_probes += 1;
                let pause_ms = (first_ms << tripped.failed_probes.min(16)).min(most_ms);
                (tripped.at_ms, tripped.until_ms) = (now_ms, heard_ms + pause_ms);
            }
            None if self.is_unclear => {}
            None => {
                self.failures += 1;
                if self.failures >= self.terms.trip_after {
                    let until_ms = heard_ms + first_ms.min(most_ms);
                    self.tripped = Some(Tripped { at_ms: now_ms, until_ms, failed_probes: 0 });
                }
            }
        }
    }

    fn denied(&mut self, claimed_ms: u64, heard_ms: u64, now_ms: u64) {
        let is_old = self.tripped.as_ref().is_some_and(|tripped| claimed_ms <= tripped.at_ms);
        if claimed_ms > self.reset_ms && !is_old {
            let until_ms = heard_ms + DENIED_MS;
            self.tripped = Some(Tripped { at_ms: now_ms, until_ms, failed_probes: 0 });
        }
    }

    /// It took one that it had taken, without knowing.
    pub fn took_again(&mut self, event: EventId, now_ms: u64) {
        if self.terms.looks_up && !self.clocks_were_wrong {
            self.whistle(now_ms, format!("{event} is taken twice, although it could have been looked up"));
        }
    }

    /// All is well again for long enough: nothing is lost.
    pub fn checks_the_end(&mut self, books: &Books, now_ms: u64) {
        let lost: Vec<EventId> = self.owed().filter(|event| !books.is_final(*event)).collect();
        if !lost.is_empty() {
            self.whistle(now_ms, format!("{} of {} are not told: {lost:?}", lost.len(), self.owed.len()));
        }
    }

    fn whistle(&mut self, now_ms: u64, what: String) {
        let before = self.last.make_contiguous().join("\n    ");
        self.foul.get_or_insert_with(|| format!("at {now_ms} ms: {what}\n    {before}"));
    }

    fn say(&mut self, now_ms: u64, what: String) {
        self.last.push_back(format!("{now_ms} ms: {what}"));
        if self.last.len() > MOST_TOLD {
            self.last.pop_front();
        }
    }
}
