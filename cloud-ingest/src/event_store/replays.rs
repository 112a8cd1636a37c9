//! Beside the line, the seam to the store: deliveries that wait for a person, and what persons decide about many deliveries
//! at once. Pure: knows no SQL and no command line.
//!
//! A *letter* is a delivery that only a person can end: dead, or unknown where the destination cannot tell. A *replay* is a
//! decision about a set of deliveries: its members are written down when it is made, and each of them comes to an end that
//! can be read. Dispatchers carry it out, a little at a time (ADR 0030).

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use tap_protocol::ids::{ControllerId, EventId, ReaderName};

use super::{Deed, DeliverableTap, DeliveryState, DestinationName, PersonId, Position, StoreError, UtcMs};

/// So many positions are gone through for members in one transaction.
pub const MAX_GATHERED_AT_ONCE: usize = 1_000;

/// So many members are open at a destination at most, whatever its concurrency.
pub const MAX_OPEN_ROWS: usize = 64;

/// Twice so many members are looked at in one turn for whether they can begin.
pub const MAX_LOOKED_AT: usize = 32;

/// So many members are ended without a request in one turn.
pub const MAX_DECIDED_AT_ONCE: usize = 100;

/// The reason of a letter that may have been processed or not.
pub const UNKNOWN: &str = "unknown";

/// All reasons: the outcomes that end a delivery for good, and [`UNKNOWN`].
pub const REASONS: [&str; 4] = ["refused", "unrenderable", "impossible", UNKNOWN];

/// Letters and replays.
pub trait Replays {
    /// How many letters there are, by destination and reason: maintained counters, with the newest of each.
    fn letters(&mut self) -> Result<Vec<Letters>, StoreError>;

    /// Goes through all deliveries that a filter takes, in the order of their positions, as of one moment.
    fn matching(
        &mut self,
        destination: &str,
        filter: &Filter,
        each: &mut dyn FnMut(&Sifted) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// What would be told of these taps by what is known now, and what was told.
    fn retold(&mut self, destination: &str, positions: &[Position]) -> Result<Vec<Retold>, StoreError>;

    /// Makes a replay; its members are still to be gathered. Returns its number.
    fn make_replay(&mut self, new: &NewReplay, deed: &Deed) -> Result<u64, StoreError>;

    /// Goes through some more positions for members. Whether there are more: nothing is touched before all are gone through.
    fn gather(&mut self, replay: u64) -> Result<bool, StoreError>;

    /// The newest first.
    fn replays(&mut self, limit: usize) -> Result<Vec<ReplayState>, StoreError>;

    /// One of them.
    fn replay(&mut self, replay: u64) -> Result<Option<ReplayState>, StoreError>;

    /// Its members after the `after`th, in order.
    fn replay_rows(&mut self, replay: u64, after: u64, limit: usize) -> Result<Vec<ReplayRow>, StoreError>;

    /// Pauses, resumes or cancels it. `false` if it is not in a state for that; nothing is changed then.
    fn change_replay(&mut self, replay: u64, change: ReplayChange, deed: &Deed) -> Result<bool, StoreError>;
}

/// Letters of one destination that died of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letters {
    /// Whom they were for.
    pub destination: DestinationName,
    /// An outcome's word, or [`UNKNOWN`].
    pub reason: String,
    /// How many.
    pub count: u64,
    /// The newest of them.
    pub newest: Option<Example>,
}

/// One letter, to see what the destination said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Which tap.
    pub event_id: EventId,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What was said.
    pub answer: Option<String>,
}

/// Which deliveries: those that fit every list; an empty list fits all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only letters.
    pub letters: bool,
    /// By state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<DeliveryState>,
    /// Letters by reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// By site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// By `controller`, or `controller/reader`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
    /// By the person in whose line they stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub persons: Vec<String>,
    /// By id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Taps that happened at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<UtcMs>,
    /// Taps that happened before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<UtcMs>,
}

impl Filter {
    /// Whether that delivery is one of them. What is in line anyway is nobody's to replay.
    pub fn takes(&self, one: &Sifted) -> bool {
        let reader = |name: &String| match name.split_once('/') {
            Some((controller, reader)) => {
                controller == one.controller.as_str() && (reader == "*" || reader == one.reader.as_str())
            }
            None => name == one.controller.as_str(),
        };
        let within =
            |at: UtcMs| self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until);
        (one.reason.is_some() || !one.state.is_open())
            && (one.reason.is_some() || !self.letters)
            && fits(&self.states, |state| *state == one.state)
            && fits(&self.reasons, |reason| one.reason.as_ref() == Some(reason))
            && fits(&self.sites, |site| *site == one.site)
            && fits(&self.readers, reader)
            && fits(&self.persons, |person| one.person.as_ref().is_some_and(|who| who.0 == *person))
            && fits(&self.events, |event| *event == one.event_id.to_string())
            && match one.occurred {
                Some(at) => within(at),
                None => self.from.is_none() && self.until.is_none(),
            }
    }
}

fn fits<T>(list: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(is_it)
}

/// A delivery that a filter looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sifted {
    /// Where its tap stands.
    pub position: Position,
    /// Its tap.
    pub event_id: EventId,
    /// Where it is.
    pub state: DeliveryState,
    /// If it is a letter: why.
    pub reason: Option<String>,
    /// In whose line it stands.
    pub person: Option<PersonId>,
    /// At which controller.
    pub controller: ControllerId,
    /// At which site.
    pub site: String,
    /// At which reader.
    pub reader: ReaderName,
    /// When, true time, if that is known.
    pub occurred: Option<UtcMs>,
}

/// What was told of a tap, and what would be told of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retold {
    /// Which.
    pub position: Position,
    /// Its idempotency key.
    pub event_id: EventId,
    /// The body that was sent, if there was one.
    pub body: Option<String>,
    /// By what is known now; or why nothing can be told.
    pub tap: Result<DeliverableTap, &'static str>,
}

/// What is to be done with all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Send them again, under the same key, by what is known then.
    Replay,
    /// Never send them: only letters.
    Discard,
    /// A person has found out that they were processed: only letters.
    SaidDelivered,
}

impl Doing {
    /// The name in the store, in JSON and on screens.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Replay => "replay",
            Doing::Discard => "discard",
            Doing::SaidDelivered => "said_delivered",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Doing> {
        [Doing::Replay, Doing::Discard, Doing::SaidDelivered].into_iter().find(|doing| doing.name() == name)
    }
}

/// A replay to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReplay {
    /// Where.
    pub destination: DestinationName,
    /// What.
    pub doing: Doing,
    /// Which.
    pub filter: Filter,
}

/// Where a replay is: the closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStanding {
    /// It goes on.
    Running,
    /// A person stopped it: what is under way ends, and nothing more begins.
    Paused,
    /// A person ended it: what was not begun stays as it was.
    Cancelled,
    /// All members have come to an end.
    Done,
}

impl ReplayStanding {
    /// The name in the store, in JSON and on screens.
    pub fn name(self) -> &'static str {
        match self {
            ReplayStanding::Running => "running",
            ReplayStanding::Paused => "paused",
            ReplayStanding::Cancelled => "cancelled",
            ReplayStanding::Done => "done",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<ReplayStanding> {
        use ReplayStanding::{Cancelled, Done, Paused, Running};
        [Running, Paused, Cancelled, Done].into_iter().find(|standing| standing.name() == name)
    }
}

/// What a person does to a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayChange {
    /// Nothing more begins.
    Pause,
    /// It goes on where it was.
    Resume,
    /// What was not begun stays as it is, for ever.
    Cancel,
}

/// One replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayState {
    /// Its number.
    pub no: u64,
    /// Where.
    pub destination: DestinationName,
    /// What.
    pub doing: Doing,
    /// Which.
    pub filter: Filter,
    /// Who wanted it.
    pub who: String,
    /// Why.
    pub why: String,
    /// When.
    #[serde(skip)]
    pub made: UtcMs,
    /// When it was done or cancelled.
    #[serde(skip)]
    pub ended: Option<UtcMs>,
    /// Where it is.
    pub standing: ReplayStanding,
    /// Positions that are still to be gone through for members.
    pub to_gather: u64,
    /// How many members came to what.
    pub counts: RowCounts,
}

/// How many members of a replay came to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RowCounts {
    /// All.
    pub members: u64,
    /// Not begun.
    pub waiting: u64,
    /// In line or under way.
    pub sending: u64,
    /// Taken by the destination, or said to be.
    pub delivered: u64,
    /// Waiting for a person again.
    pub dead: u64,
    /// Set aside by a person or by a rule.
    pub discarded: u64,
    /// Left as they were.
    pub skipped: u64,
}

impl RowCounts {
    /// How many came to that.
    pub fn of(&mut self, outcome: RowOutcome) -> &mut u64 {
        match outcome {
            RowOutcome::Waiting => &mut self.waiting,
            RowOutcome::Sending => &mut self.sending,
            RowOutcome::Delivered => &mut self.delivered,
            RowOutcome::Dead => &mut self.dead,
            RowOutcome::Discarded => &mut self.discarded,
            RowOutcome::Skipped => &mut self.skipped,
        }
    }

    /// How many have come to an end.
    pub fn ended(&self) -> u64 {
        self.delivered + self.dead + self.discarded + self.skipped
    }
}

/// What became of a member: the closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowOutcome {
    /// Its turn has not come. In a cancelled replay it never will.
    Waiting,
    /// In line or under way.
    Sending,
    /// Taken by the destination, or said to be.
    Delivered,
    /// It waits for a person again.
    Dead,
    /// Set aside by a person or by a rule.
    Discarded,
    /// Left as it was.
    Skipped,
}

impl RowOutcome {
    /// The closed list, in order.
    pub const ALL: [RowOutcome; 6] = [
        RowOutcome::Waiting,
        RowOutcome::Sending,
        RowOutcome::Delivered,
        RowOutcome::Dead,
        RowOutcome::Discarded,
        RowOutcome::Skipped,
    ];

    /// The name in the store, in JSON and on screens.
    pub fn name(self) -> &'static str {
        match self {
            RowOutcome::Waiting => "waiting",
            RowOutcome::Sending => "sending",
            RowOutcome::Delivered => "delivered",
            RowOutcome::Dead => "dead",
            RowOutcome::Discarded => "discarded",
            RowOutcome::Skipped => "skipped",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<RowOutcome> {
        RowOutcome::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// One member of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRow {
    /// 1, 2, 3 … in the order of positions.
    pub n: u64,
    /// Where its tap stands.
    pub position: Position,
    /// Its tap.
    pub event_id: EventId,
    /// What became of it.
    pub outcome: RowOutcome,
    /// Why, in a word or a sentence.
    pub detail: Option<String>,
    /// When it ended.
    pub ended: Option<UtcMs>,
    /// Where its delivery was when its turn came.
    pub state_before: Option<DeliveryState>,
    /// What was sent before.
    pub body_before: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Sifted {
        let controller: ControllerId = "door-1".parse().unwrap();
        Sifted {
            position: Position(3),
            event_id: EventId::new(
                &controller,
                tap_protocol::ids::OutboxId([1; 16]),
                tap_protocol::ids::Seq(3),
            ),
            state: DeliveryState::Dead,
            reason: Some("refused".into()),
            person: Some(PersonId("anna".into())),
            controller,
            site: "hq".into(),
            reader: "in".parse().unwrap(),
            occurred: Some(UtcMs(1_000)),
        }
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_filter_takes_what_fits_every_list() {
        let one = letter();
        let id = one.event_id.to_string();
        for (takes, filter) in [
            (true, Filter::default()),
            (true, Filter { letters: true, ..Filter::default() }),
            (true, Filter { reasons: list(&["impossible", "refused"]), ..Filter::default() }),
            (false, Filter { reasons: list(&["impossible"]), ..Filter::default() }),
            (true, Filter { sites: list(&["hq"]), persons: list(&["anna"]), ..Filter::default() }),
            (false, Filter { sites: list(&["hq"]), persons: list(&["ben"]), ..Filter::default() }),
            (true, Filter { readers: list(&["door-1"]), ..Filter::default() }),
            (true, Filter { readers: list(&["door-1/in"]), ..Filter::default() }),
            (true, Filter { readers: list(&["door-1/*"]), ..Filter::default() }),
            (false, Filter { readers: list(&["door-1/out", "door-2"]), ..Filter::default() }),
            (true, Filter { events: vec![id], ..Filter::default() }),
            (false, Filter { events: list(&["x"]), ..Filter::default() }),
            (true, Filter { from: Some(UtcMs(1_000)), until: Some(UtcMs(1_001)), ..Filter::default() }),
            (false, Filter { until: Some(UtcMs(1_000)), ..Filter::default() }),
            (false, Filter { states: vec![DeliveryState::Delivered], ..Filter::default() }),
        ] {
            assert_eq!(filter.takes(&one), takes, "{filter:?}");
            let again: Filter = serde_json::from_str(&serde_json::to_string(&filter).unwrap()).unwrap();
            assert_eq!(again, filter);
        }
    }

    #[test]
    fn what_is_in_line_anyway_is_nobodys_to_replay() {
        let pending = Sifted { state: DeliveryState::Pending, reason: None, ..letter() };
        assert!(!Filter::default().takes(&pending));
        let asks = Sifted { state: DeliveryState::Unknown, reason: Some(UNKNOWN.into()), ..letter() };
        assert!(Filter { letters: true, ..Filter::default() }.takes(&asks));
        let told = Sifted { state: DeliveryState::Delivered, reason: None, ..letter() };
        assert!(
            Filter::default().takes(&told) && !Filter { letters: true, ..Filter::default() }.takes(&told)
        );
    }

    #[test]
    fn a_tap_without_time_is_in_no_stretch_of_time() {
        let timeless = Sifted { occurred: None, ..letter() };
        assert!(Filter::default().takes(&timeless));
        assert!(!Filter { from: Some(UtcMs(0)), ..Filter::default() }.takes(&timeless));
    }
}
