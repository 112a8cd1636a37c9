//! Everything the legacy API was asked and what it made of it; it doesn't know HTTP. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::script::Mode;

/// One request to `/checkins`, in order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// From 1, without gaps.
    pub arrival: u64,
    /// Milliseconds since the simulator started.
    pub at_ms: u64,
    /// The idempotency key; `None` when the header was missing or empty.
    pub key: Option<String>,
    /// The body as text; bytes that aren't UTF-8 are replaced.
    pub body: String,
    /// The mode that was played; `None` for a request that was refused as malformed.
    pub mode: Option<Mode>,
    /// What was made of it.
    pub effect: Effect,
    /// What went back, or would go back if the client still listens.
    pub answer: Answer,
}

/// The most requests that arrived within any stretch of so long: what an API counts that allows so many.
pub fn most_within(requests: &[Request], window_ms: u64) -> usize {
    let mut at_ms: Vec<u64> = requests.iter().map(|request| request.at_ms).collect();
    at_ms.sort_unstable();
    let until = |first: usize| at_ms.partition_point(|at| *at < at_ms[first] + window_ms);
    (0..at_ms.len()).map(|first| until(first) - first).max().unwrap_or(0)
}

/// What a request changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It became a check-in.
    Processed,
    /// Its key had become one before, with the same body.
    Duplicate,
    /// Its key had come before with another body. A correct client never does this.
    Conflict,
    /// Nothing.
    Ignored,
}

/// What the client gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A complete HTTP answer with this status.
    Status(u16),
    /// Raw bytes, or a broken connection.
    Broken,
    /// Silence.
    Nothing,
}

/// A check-in as the legacy system has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// From 1, in order of first processing.
    pub number: u64,
    /// The key it came under.
    pub key: String,
    /// Its body.
    pub body: String,
    /// The request that caused it.
    pub arrival: u64,
    /// Milliseconds since the simulator started.
    pub at_ms: u64,
}

/// The same key again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The key.
    pub key: String,
    /// The request that repeated it.
    pub arrival: u64,
    /// Whether a check-in existed under the key by then, so that only the key kept it from counting twice.
    pub already_processed: bool,
}

/// One key with two bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The key.
    pub key: String,
    /// The body that came first.
    pub first_body: String,
    /// The body that came under the same key later.
    pub other_body: String,
    /// The request that brought it.
    pub arrival: u64,
}

/// What a test or a benchmark wants to know at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// All requests to `/checkins`.
    pub requests: u64,
    /// The check-ins, in order of first processing.
    pub processed: Vec<CheckIn>,
    /// Requests whose key had come before.
    pub repeats: Vec<Repeat>,
    /// Keys that came with two bodies: must stay empty.
    pub conflicts: Vec<Conflict>,
    /// Requests without a key or without a JSON body: must stay 0.
    pub malformed: u64,
    /// How often each key came.
    pub requests_per_key: BTreeMap<String, u64>,
    /// The most requests that were being answered at one time.
    pub most_in_flight: u64,
}

/// What a client asked for, as far as the ledger cares.
pub(super) struct Asked {
    pub(super) at_ms: u64,
    pub(super) key: Option<String>,
    pub(super) body: String,
}

/// The memory of the simulator.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    requests: Vec<Request>,
    processed: Vec<CheckIn>,
    keys: HashMap<String, Key>,
    repeats: Vec<Repeat>,
    conflicts: Vec<Conflict>,
    malformed: u64,
    in_flight: u64,
    most_in_flight: u64,
}

/// What is known of one key.
#[derive(Debug)]
struct Key {
    first_body: Option<String>,
    requests: u64,
    check_in: Option<u64>,
}

impl Ledger {
    /// Writes down a request that no mode applies to.
    pub(super) fn malformed(&mut self, asked: Asked, answer: Answer) {
        self.malformed += 1;
        self.write_down(asked, None, Effect::Ignored, answer);
    }

    /// Writes down a request and, if `process` says so and the key is new, the check-in.
    ///
    /// `reply` is asked once the effect is known, with the number of the check-in under this key, if any;
    /// what it says beside the answer is handed back.
    pub(super) fn admit<R>(
        &mut self,
        asked: Asked,
        mode: Mode,
        process: bool,
        reply: impl FnOnce(Effect, Option<u64>) -> (Answer, R),
    ) -> R {
        let key = asked.key.clone().expect("a request without a key is malformed");
        let arrival = self.next_arrival();
        let known = self.keys.entry(key.clone()).or_insert_with(|| Key {
            first_body: None,
            requests: 0,
            check_in: None,
        });
        known.requests += 1;
        if known.requests > 1 {
            let already_processed = known.check_in.is_some();
            self.repeats.push(Repeat { key: key.clone(), arrival, already_processed });
        }

        let first_body = known.first_body.get_or_insert_with(|| asked.body.clone()).clone();
        // What is refused for good leaves no trace of its key: it may be said otherwise another time.
        if mode == Mode::Refused && known.check_in.is_none() {
            known.first_body = None;
        }
        let effect = if first_body != asked.body {
            self.conflicts.push(Conflict { key, first_body, other_body: asked.body.clone(), arrival });
            Effect::Conflict
        } else if !process {
            Effect::Ignored
        } else if known.check_in.is_some() {
            Effect::Duplicate
        } else {
            let number = self.processed.len() as u64 + 1;
            known.check_in = Some(number);
            let body = asked.body.clone();
            self.processed.push(CheckIn { number, key, body, arrival, at_ms: asked.at_ms });
            Effect::Processed
        };
        let (answer, reply) = reply(effect, known.check_in);
        self.write_down(asked, Some(mode), effect, answer);
        reply
    }

    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    pub(super) fn end(&mut self) {
        // A reset may have come between begin and end.
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// All requests whose arrival number is at least `from`.
    pub(super) fn requests_from(&self, from: u64) -> Vec<Request> {
        let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
        self.requests.iter().skip(skip).cloned().collect()
    }

    pub(super) fn report(&self) -> Report {
        Report {
            requests: self.requests.len() as u64,
            processed: self.processed.clone(),
            repeats: self.repeats.clone(),
            conflicts: self.conflicts.clone(),
            malformed: self.malformed,
            requests_per_key: self.keys.iter().map(|(key, known)| (key.clone(), known.requests)).collect(),
            most_in_flight: self.most_in_flight,
        }
    }

    fn write_down(&mut self, asked: Asked, mode: Option<Mode>, effect: Effect, answer: Answer) {
        let arrival = self.next_arrival();
        let Asked { at_ms, key, body } = asked;
        self.requests.push(Request { arrival, at_ms, key, body, mode, effect, answer });
    }

    fn next_arrival(&self) -> u64 {
        self.requests.len() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(ledger: &mut Ledger, key: &str, body: &str, process: bool) -> Effect {
        let asked = Asked { at_ms: 0, key: Some(key.into()), body: body.into() };
        ledger.admit(asked, Mode::Ok, process, |effect, _number| (Answer::Nothing, effect))
    }

    #[test]
    fn a_key_counts_once_however_often_it_comes() {
        let mut ledger = Ledger::default();
        assert_eq!(admit(&mut ledger, "a", "1", false), Effect::Ignored);
        assert_eq!(admit(&mut ledger, "a", "1", true), Effect::Processed);
        assert_eq!(admit(&mut ledger, "a", "1", true), Effect::Duplicate);
        let report = ledger.report();
        assert_eq!((report.requests, report.processed.len()), (3, 1));
        assert_eq!(report.requests_per_key["a"], 3);
        let repeats: Vec<_> = report.repeats.iter().map(|r| (r.arrival, r.already_processed)).collect();
        assert_eq!(repeats, [(2, false), (3, true)]);
    }

    #[test]
    fn one_key_with_two_bodies_is_a_conflict_and_changes_nothing() {
        let mut ledger = Ledger::default();
        admit(&mut ledger, "a", "1", true);
        assert_eq!(admit(&mut ledger, "a", "2", true), Effect::Conflict);
        let report = ledger.report();
        assert_eq!(report.processed.len(), 1);
        assert_eq!(report.conflicts[0].other_body, "2");
    }

    #[test]
    fn check_ins_are_numbered_in_order_of_first_processing() {
        let mut ledger = Ledger::default();
        admit(&mut ledger, "late", "1", false);
        admit(&mut ledger, "early", "2", true);
        admit(&mut ledger, "late", "1", true);
        let order: Vec<_> = ledger.report().processed.into_iter().map(|c| (c.number, c.key)).collect();
        assert_eq!(order, [(1, "early".into()), (2, "late".into())]);
    }
}
