//! Step 11 of 12, the seam to the store: destinations as objects, and a dispatcher's turn. Pure: knows no SQL, no HTTP and
//! no destination's language; what is due, allowed and next is for [`crate::delivery`] to say.

use std::fmt;

use serde::Serialize;
use tap_protocol::ids::EventId;

use super::{AttemptEnd, Claim, Claimed, DeliverableTap, DestinationName, Lease, Next, StoreError, UtcMs};
use crate::delivery::breaker::{self, Breaker, Sign};
use crate::delivery::retry::Hold;
use crate::delivery::rules::Rules;
use crate::delivery::ticks::{Passed, Vouch};
use crate::event_store::Deed;

/// So many deliveries of old events are made in one transaction.
pub const MAX_MADE_AT_ONCE: usize = 500;

/// Destinations, and what is sent to them.
pub trait Deliveries {
    /// Makes a destination known: taps stored from now on are delivered to it, and those that `from` names. `false` if
    /// there is one of that name; nothing is changed then.
    fn add_destination(&mut self, new: &NewDestination, deed: &Deed) -> Result<bool, StoreError>;

    /// Changes a destination, from the next turn of every dispatcher on.
    fn change_destination(&mut self, name: &str, change: &Change, deed: &Deed) -> Result<(), StoreError>;

    /// All destinations, in the order in which they became known.
    fn destinations(&mut self) -> Result<Vec<DestinationState>, StoreError>;

    /// One turn of a dispatcher, in one transaction: what has ended is written down, leases are extended or run out, and
    /// what is due, allowed and next is claimed, its body fixed and the start of its attempt written down. Only after this
    /// returns may a claim's request be sent.
    fn turn(&mut self, turn: &Turn<'_>) -> Result<Turned, StoreError>;
}

/// A destination to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDestination {
    /// What it is called, for ever.
    pub name: DestinationName,
    /// What it is, as JSON.
    pub settings: String,
    /// Where its credentials are, if it wants any: the store never has them.
    pub credentials_file: Option<String>,
    /// From which taps on.
    pub from: Since,
}

impl NewDestination {
    /// One that is told of taps that are stored from now on, and wants no credentials.
    pub fn from_now(name: &str, settings: &str) -> NewDestination {
        let [name, settings] = [name, settings].map(str::to_owned);
        NewDestination { name, settings, credentials_file: None, from: Since::Now }
    }
}

/// From which taps on a destination is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Those that are stored after it was added.
    Now,
    /// All that are stored.
    Beginning,
    /// Those that happened at this time or later, or whose time is not known.
    Time(UtcMs),
}

/// What may change about a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What it is, as JSON.
    Settings(String),
    /// Where its credentials are. The same place again says that they are others now.
    Credentials(Option<String>),
    /// Nothing is sent; everything waits.
    Pause,
    /// It goes on, whatever kept it: a pause, a hold or its breaker.
    Resume,
}

/// One destination, and what holds it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DestinationState {
    /// Which.
    pub destination: DestinationName,
    /// What it is, as JSON.
    pub settings: String,
    /// Grows with every change that a person makes.
    pub version: u64,
    /// Where its credentials are.
    pub credentials_file: Option<String>,
    /// If a person stopped it.
    pub paused: Option<Paused>,
    /// Until about when it asked for patience, if it ever did: a hold is over when this is in the past.
    pub held_until: Option<UtcMs>,
    /// Why, for people.
    pub held_why: Option<String>,
    /// Whether calls flow, and why not.
    #[serde(skip)]
    pub breaker: Breaker,
    /// Positions of old events that are still to be looked at.
    pub to_make: u64,
    /// Its lanes are in the order in which taps happened, over all controllers.
    pub in_order_of_time: bool,
    /// Positions at which what is open is still to be brought into that order, or out of it.
    pub to_order: u64,
    /// When the oldest tap whose delivery is still open was received.
    pub oldest_open_received: Option<UtcMs>,
}

/// Why nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hindrance {
    /// In a word or two.
    pub what: &'static str,
    /// Why, for people.
    pub why: String,
    /// Until about when, if that is known.
    pub until: Option<UtcMs>,
    /// It goes on only when a person has done something, or may have to.
    pub needs_person: bool,
}

impl DestinationState {
    /// Why nothing is sent to it now, if so.
    pub fn hindrance(&self, now: UtcMs) -> Option<Hindrance> {
        if let Some(Paused { by, why, .. }) = &self.paused {
            let why = format!("{by} has paused it: {why}");
            return Some(Hindrance { what: "paused", why, until: None, needs_person: true });
        }
        if let breaker::State::Open { .. } | breaker::State::HalfOpen { .. } = self.breaker.state() {
            let why = format!("it does not answer as it should ({})", self.breaker.why());
            return Some(Hindrance { what: "stopped", why, until: None, needs_person: true });
        }
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            let why = self.held_why.clone().unwrap_or_default();
            return Some(Hindrance { what: "held", why, until: Some(until), needs_person: false });
        }
        if self.to_make > 0 {
            let why = "deliveries of older taps are being made, which go first".to_owned();
            return Some(Hindrance { what: "getting ready", why, until: None, needs_person: false });
        }
        if self.to_order > 0 {
            let why = "what waits for it is being brought into another order".to_owned();
            return Some(Hindrance { what: "getting ready", why, until: None, needs_person: false });
        }
        None
    }
}

/// A person stopped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// When.
    pub at: UtcMs,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// What a dispatcher says and asks in its turn.
pub struct Turn<'a> {
    /// Which destination.
    pub destination: &'a str,
    /// Of which version `rules` and `render` are: for another one nothing is claimed.
    pub version: u64,
    /// What is gone by.
    pub rules: &'a Rules,
    /// What this process's clock on the wall shows. On a server it says only how far apart the two are
    /// ([`EventStore::clock`](super::EventStore::clock)).
    pub now: UtcMs,
    /// Says how much time has passed for sure; asked when no other writer can come in between any more.
    pub vouch: &'a dyn Fn() -> Vouch,
    /// Attempts that have ended.
    pub ended: &'a [Ended],
    /// Claims whose requests are still under way: to be extended.
    pub under_way: &'a [Claim],
    /// So many more requests may be under way here.
    pub room: usize,
    /// What is sent for a tap.
    pub render: &'a Render<'a>,
}

/// Makes a request of a tap: the same of the same.
pub type Render<'a> = dyn Fn(EventId, &DeliverableTap) -> Rendered + 'a;

/// What became of rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// To be sent.
    Body(String),
    /// This destination is not told of such taps: discarded, for this reason.
    NotWanted(String),
    /// No request can be made of it: dead, for this reason.
    Impossible(String),
}

/// An attempt that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub claim: Claim,
    /// How, for the record.
    pub end: AttemptEnd,
    /// What follows for the delivery.
    pub next: Next,
    /// What follows for its destination.
    pub hold: Option<Hold>,
    /// What its breaker learns; `None` if nothing was sent.
    pub sign: Option<Sign>,
}

/// What came of a turn.
#[derive(Debug)]
pub struct Turned {
    /// The time, if this turn has written it down.
    pub passed: Option<Passed>,
    /// Whether each of [`Turn::ended`] still held its claim.
    pub ended: Vec<Lease>,
    /// Those of [`Turn::under_way`] that are not ours any more: they must end.
    pub lost: Vec<Claim>,
    /// What is to be sent now.
    pub claimed: Vec<Claimed>,
    /// What no request could be made of, and why.
    pub impossible: Vec<(EventId, String)>,
    /// Leases that ran out: of processes that died, or stalled.
    pub expired: usize,
    /// Deliveries that were set aside because their time did not become known.
    pub given_up: usize,
    /// Of these, so many are sent for the first time, and before all other controllers were known to be complete past them.
    pub early: usize,
    /// There is more to do at once, here or for somebody else: ask again.
    pub more: bool,
    /// If not: so long nothing can become due by itself, as far as is known.
    pub again_in_ms: Option<u64>,
    /// Whether calls flow.
    pub breaker: Breaker,
    /// The version of the destination's settings.
    pub version: u64,
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("destination", &self.destination)
            .field("ended", &self.ended)
            .field("under_way", &self.under_way)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}
