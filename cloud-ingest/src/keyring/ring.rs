//! Beside the line: which of the cloud's keys is in which state, and what may follow. Pure: knows numbers and moments; the
//! keys themselves are in files, see [`super`].
//!
//! A key's life has one direction: `next` (controllers are told of it), `active` (it signs or seals), `old` (controllers
//! still believe it), `retired` (nobody is told of it any more). So whoever must believe a key has heard of it before it
//! is used, and a rotation is three steps that a person takes when the one before has reached everybody.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event_store::{Member, Standing, UtcMs};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Signs certificates; controllers trust whoever it vouches for.
    Root,
    /// Signs receipts.
    Receipt,
    /// Signs rosters and commands.
    Control,
    /// Seals badges; the secret itself is on every controller.
    Token,
    /// Signs the taps that come over HTTP, for their sources; no controller need know it.
    Capture,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Root, Kind::Receipt, Kind::Control, Kind::Token, Kind::Capture];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Root => "root",
            Kind::Receipt => "receipt",
            Kind::Control => "control",
            Kind::Token => "token",
            Kind::Capture => "capture",
        }
    }

    /// Whether controllers are told of it: of one that they need not know, none waits for them.
    pub fn is_told(self) -> bool {
        self != Kind::Capture
    }

    /// What a controller shows that has a bundle from after this key was activated; for kinds where that must be so
    /// before the one before it may go.
    fn proof_of_use(self, number: u16) -> Option<String> {
        match self {
            Kind::Root => Some(format!("signed-by-root-{number}")),
            Kind::Token => Some(format!("seals-with-token-{number}")),
            Kind::Receipt | Kind::Control | Kind::Capture => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In bundles, not used yet.
    Next,
    /// The one that is used.
    Active,
    /// Used before; still in bundles.
    Old,
    /// In no bundle any more. A token key goes on opening old taps.
    Retired,
}

impl State {
    /// The name in files and on screens.
    pub fn name(self) -> &'static str {
        match self {
            State::Next => "next",
            State::Active => "active",
            State::Old => "old",
            State::Retired => "retired",
        }
    }
}

/// One key, without itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is for.
    pub kind: Kind,
    /// 1, 2, 3 … within its kind.
    pub number: u16,
    /// Where it is in its life.
    pub state: State,
    /// When it was made.
    pub made_ms: i64,
    /// When it came into that state.
    pub since_ms: i64,
}

impl Entry {
    /// `receipt-2`: the name of its files, in bundles' notes and on the command line.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.name(), self.number)
    }
}

/// All keys there ever were.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// In the order in which they were made.
    #[serde(rename = "key", default)]
    pub keys: Vec<Entry>,
}

/// How many of the active controllers have something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// So many have it …
    pub have: usize,
    /// … of so many.
    pub of: usize,
    /// Some that lack it, for people.
    pub lacking: Vec<String>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.have, self.of)
    }
}

/// So many controllers are named in a message.
const NAMED: usize = 5;

/// Why a step of a rotation is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// There is one on its way already.
    #[error("{0} is on its way already: activate it first")]
    AlreadyNext(String),
    /// There is no such key.
    #[error("there is no key {0}; `cloud-ingest keys status` lists all")]
    NoSuchKey(String),
    /// The step does not follow from where the key is.
    #[error("{name} is {state}: {hint}", state = state.name())]
    WrongState {
        /// Which key.
        name: String,
        /// Where it is.
        state: State,
        /// What to do.
        hint: &'static str,
    },
    /// Somebody would be left behind.
    #[error(
        "{have} of {of} active controllers have {what}: connected ones fetch it within two minutes; wait for the others, or say --yes and --reason; they \
         would be left out, among them {lacking}",
        have = reach.have, of = reach.of, lacking = reach.lacking.join(", ")
    )]
    NotEverybody {
        /// What they lack.
        what: String,
        /// How many have it.
        reach: Reach,
    },
}

impl Ring {
    /// The key that is used now.
    pub fn active(&self, kind: Kind) -> Option<&Entry> {
        self.of(kind).find(|key| key.state == State::Active)
    }

    /// The keys of a kind, in their order.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.keys.iter().filter(move |key| key.kind == kind)
    }

    /// Those that controllers are told of: all but the retired.
    pub fn told(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.of(kind).filter(|key| key.state != State::Retired)
    }

    /// Whose signature every controller believes: the oldest that is not retired. Servers' certificates are by it until
    /// it is retired, because a controller that was off during a rotation knows no other.
    pub fn oldest_root(&self) -> Option<&Entry> {
        self.told(Kind::Root).find(|root| root.state != State::Next)
    }

    /// What is written down of a bundle that is made now.
    pub fn holdings(&self) -> Vec<String> {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_told());
        let told = kinds.flat_map(|kind| self.told(kind)).map(Entry::name);
        let in_use = [Kind::Root, Kind::Token].into_iter().filter_map(|kind| {
            let active = self.active(kind)?;
            kind.proof_of_use(active.number)
        });
        told.chain(in_use).collect()
    }

    /// The first key of a kind, active at once.
    pub fn create(&mut self, kind: Kind, now: UtcMs) -> Entry {
        assert!(self.of(kind).next().is_none(), "only the first key is created; later ones take over");
        self.push(kind, 1, State::Active, now)
    }

    /// The next key of a kind.
    pub fn rotate(&mut self, kind: Kind, now: UtcMs) -> Result<Entry, RingError> {
        if let Some(next) = self.of(kind).find(|key| key.state == State::Next) {
            return Err(RingError::AlreadyNext(next.name()));
        }
        let number = self.of(kind).map(|key| key.number).max().unwrap_or(0) + 1;
        Ok(self.push(kind, number, State::Next, now))
    }

    fn push(&mut self, kind: Kind, number: u16, state: State, now: UtcMs) -> Entry {
        let entry = Entry { kind, number, state, made_ms: now.0, since_ms: now.0 };
        self.keys.push(entry.clone());
        entry
    }

    /// Lets the next key take over. Refused while active controllers have not heard of it, unless `whatever` they say.
    pub fn activate(
        &mut self,
        kind: Kind,
        fleet: &[Member],
        now: UtcMs,
        whatever: bool,
    ) -> Result<Entry, RingError> {
        let Some(next) = self.of(kind).find(|key| key.state == State::Next).cloned() else {
            let number = self.of(kind).map(|key| key.number).max().unwrap_or(0) + 1;
            return Err(RingError::NoSuchKey(format!("{}-{number}", kind.name())));
        };
        require(&next.name(), fleet, whatever || !kind.is_told())?;
        for key in self.keys.iter_mut().filter(|key| key.kind == kind) {
            match key.state {
                State::Active => (key.state, key.since_ms) = (State::Old, now.0),
                State::Next => (key.state, key.since_ms) = (State::Active, now.0),
                State::Old | State::Retired => {}
            }
        }
        Ok(Entry { state: State::Active, since_ms: now.0, ..next })
    }

    /// Takes an old key out of bundles. Refused while active controllers still use what rests on it, unless
    /// `whatever` they say.
    pub fn retire(
        &mut self,
        kind: Kind,
        number: u16,
        fleet: &[Member],
        now: UtcMs,
        whatever: bool,
    ) -> Result<Entry, RingError> {
        let name = format!("{}-{number}", kind.name());
        let found = self.of(kind).find(|key| key.number == number).map(|key| key.state);
        let hint = match found {
            None => return Err(RingError::NoSuchKey(name)),
            Some(State::Old) => None,
            Some(State::Next) => Some("it is not in use yet, activate it or leave it"),
            Some(State::Active) => Some("rotate first, and activate the one that takes over"),
            Some(State::Retired) => Some("nothing is left to do"),
        };
        if let (Some(hint), Some(state)) = (hint, found) {
            return Err(RingError::WrongState { name, state, hint });
        }
        let in_use = self.active(kind).and_then(|active| kind.proof_of_use(active.number));
        if let Some(proof) = in_use {
            require(&proof, fleet, whatever)?;
        }
        let key = self.keys.iter_mut().find(|key| key.kind == kind && key.number == number);
        let key = key.expect("it was found above");
        (key.state, key.since_ms) = (State::Retired, now.0);
        Ok(key.clone())
    }
}

fn require(what: &str, fleet: &[Member], whatever: bool) -> Result<(), RingError> {
    let reach = reach(what, fleet);
    if reach.have == reach.of || whatever {
        return Ok(());
    }
    Err(RingError::NotEverybody { what: what.to_owned(), reach })
}

/// How many active controllers have `what` from their last bundle. Who was never enrolled has nothing.
pub fn reach(what: &str, fleet: &[Member]) -> Reach {
    let active = || fleet.iter().filter(|member| member.standing == Standing::Active);
    let has = |member: &&Member| {
        member.fetched.as_ref().is_some_and(|fetched| fetched.holds.iter().any(|held| held == what))
    };
    let lacking = active().filter(|member| !has(member)).take(NAMED);
    Reach {
        have: active().filter(has).count(),
        of: active().count(),
        lacking: lacking.map(|member| member.controller.id.to_string()).collect(),
    }
}

/// Text that names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use receipt, control, token or capture; for the root see `cloud-ingest ca`")]
pub struct NoKind;

impl FromStr for Kind {
    type Err = NoKind;
    fn from_str(name: &str) -> Result<Kind, NoKind> {
        Kind::ALL.into_iter().find(|kind| *kind != Kind::Root && kind.name() == name).ok_or(NoKind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::{Controller, Fetched};

    const NOW: UtcMs = UtcMs(1_000);

    fn member(n: usize, standing: Standing, holds: &[&str]) -> Member {
        Member {
            controller: Controller {
                id: format!("door-{n}").parse().unwrap(),
                label: String::new(),
                site: "hq".into(),
                record_keys: vec![],
            },
            standing,
            decided: None,
            certificate: None,
            fetched: Some(Fetched {
                at: NOW,
                holds: holds.iter().map(|held| (*held).to_owned()).collect(),
                agent_version: "0.1.0".into(),
            }),
        }
    }

    fn ring() -> Ring {
        let mut ring = Ring::default();
        for kind in Kind::ALL {
            ring.create(kind, UtcMs(0));
        }
        ring
    }

    fn states(ring: &Ring, kind: Kind) -> Vec<(u16, State)> {
        ring.of(kind).map(|key| (key.number, key.state)).collect()
    }

    #[test]
    fn a_key_is_told_then_used_then_only_believed_then_gone() {
        for kind in Kind::ALL {
            let mut ring = ring();
            assert_eq!(ring.rotate(kind, NOW).unwrap().number, 2);
            assert_eq!(states(&ring, kind), [(1, State::Active), (2, State::Next)]);
            assert_eq!(ring.holdings().contains(&format!("{}-2", kind.name())), kind.is_told());
            ring.activate(kind, &[], NOW, false).unwrap();
            assert_eq!(states(&ring, kind), [(1, State::Old), (2, State::Active)]);
            ring.retire(kind, 1, &[], NOW, false).unwrap();
            assert_eq!(states(&ring, kind), [(1, State::Retired), (2, State::Active)]);
            assert!(!ring.holdings().contains(&format!("{}-1", kind.name())));
        }
    }

    #[test]
    fn a_key_that_somebody_has_not_heard_of_is_not_used() {
        let mut ring = ring();
        ring.rotate(Kind::Receipt, NOW).unwrap();
        let knows = member(1, Standing::Active, &["receipt-1", "receipt-2"]);
        let lacks = member(2, Standing::Active, &["receipt-1"]);
        let revoked = member(3, Standing::Revoked, &["receipt-1"]);
        let refused = ring.activate(Kind::Receipt, &[knows.clone(), lacks, revoked.clone()], NOW, false);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "1 of 2 active controllers have receipt-2: connected ones fetch it within two minutes; wait for the others, or say --yes and --reason; they \
             would be left out, among them door-2"
        );
        ring.activate(Kind::Receipt, &[knows, revoked], NOW, false).unwrap();
    }

    #[test]
    fn a_key_that_no_controller_needs_waits_for_none() {
        let mut ring = ring();
        ring.rotate(Kind::Capture, NOW).unwrap();
        let knows_nothing = [member(1, Standing::Active, &[])];
        ring.activate(Kind::Capture, &knows_nothing, NOW, false).unwrap();
        ring.retire(Kind::Capture, 1, &knows_nothing, NOW, false).unwrap();
        assert_eq!(states(&ring, Kind::Capture), [(1, State::Retired), (2, State::Active)]);
    }

    #[test]
    fn a_token_key_or_root_stays_until_nobody_uses_what_rests_on_it() {
        for (kind, before, after) in
            [(Kind::Token, "token-2", "seals-with-token-2"), (Kind::Root, "root-2", "signed-by-root-2")]
        {
            let mut ring = ring();
            ring.rotate(kind, NOW).unwrap();
            let told = [member(1, Standing::Active, &[before])];
            ring.activate(kind, &told, NOW, false).unwrap();
            let refused = ring.retire(kind, 1, &told, NOW, false);
            assert!(matches!(refused, Err(RingError::NotEverybody { .. })), "{refused:?}");
            let uses = [member(1, Standing::Active, &[before, after])];
            ring.retire(kind, 1, &uses, NOW, false).unwrap();
        }
    }

    #[test]
    fn whoever_insists_may() {
        let mut ring = ring();
        ring.rotate(Kind::Token, NOW).unwrap();
        let lacking = [member(1, Standing::Active, &[])];
        ring.activate(Kind::Token, &lacking, NOW, true).unwrap();
        ring.retire(Kind::Token, 1, &lacking, NOW, true).unwrap();
    }

    #[test]
    fn steps_that_do_not_follow_are_refused() {
        let mut ring = ring();
        assert!(matches!(ring.activate(Kind::Control, &[], NOW, true), Err(RingError::NoSuchKey(_))));
        assert!(matches!(ring.retire(Kind::Control, 1, &[], NOW, true), Err(RingError::WrongState { .. })));
        assert!(matches!(ring.retire(Kind::Control, 9, &[], NOW, true), Err(RingError::NoSuchKey(_))));
        ring.rotate(Kind::Control, NOW).unwrap();
        assert!(matches!(ring.rotate(Kind::Control, NOW), Err(RingError::AlreadyNext(_))));
        assert!(matches!(ring.retire(Kind::Control, 2, &[], NOW, true), Err(RingError::WrongState { .. })));
    }

    #[test]
    fn servers_are_vouched_for_by_the_oldest_root_that_is_believed() {
        let mut ring = ring();
        let oldest = |ring: &Ring| ring.oldest_root().unwrap().number;
        ring.rotate(Kind::Root, NOW).unwrap();
        assert_eq!(oldest(&ring), 1);
        ring.activate(Kind::Root, &[], NOW, false).unwrap();
        assert_eq!(oldest(&ring), 1, "who was off meanwhile knows no other");
        ring.retire(Kind::Root, 1, &[], NOW, false).unwrap();
        assert_eq!(oldest(&ring), 2);
    }
}
