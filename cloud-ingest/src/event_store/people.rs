//! Beside the line: what sites say of directions and of their cards, and what was told otherwise. In words of the domain,
//! pure.

use std::collections::BTreeSet;

use serde::Serialize;
use tap_protocol::badge::{SealedBadge, Token};
use tap_protocol::ids::{ControllerId, EventId};

use super::{DestinationName, Position, StoreError, UtcMs};
use crate::directory::direction::{Rule, Rules};

/// Directions, cards, and what came out otherwise.
pub trait People {
    /// Gives a site a rule for directions, for taps from `rule.from` on; its number is given here. Returns the rule that
    /// holds then: the one before, if it says the same.
    fn put_rule(&mut self, site: &str, rule: &Rule) -> Result<Rule, StoreError>;

    /// All rules that a site ever had, the oldest first.
    fn rules(&mut self, site: &str) -> Result<Rules, StoreError>;

    /// Says in which ways numbers are printed on the cards of a site, by the names of profiles.
    fn put_card_profiles(&mut self, site: &str, profiles: &[&str]) -> Result<(), StoreError>;

    /// The names of a site's profiles, in order.
    fn card_profiles(&mut self, site: &str) -> Result<Vec<String>, StoreError>;

    /// Which of these tokens a tap or a badge has.
    fn seen(&mut self, tokens: &[Token]) -> Result<BTreeSet<Token>, StoreError>;

    /// A badge's seal, by its token: as a list or a tap has it.
    fn seal_of(&mut self, token: Token) -> Result<Option<SealedBadge>, StoreError>;

    /// What destinations were told and came out otherwise later, the newest taps first.
    fn differences(&mut self, filter: &DifferenceFilter) -> Result<Vec<Difference>, StoreError>;
}

/// Which differences to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DifferenceFilter {
    /// Only of taps before this position (the cursor of a page: a tap's differences are never on two).
    pub before: Option<Position>,
    /// Those of at most so many taps.
    pub limit: usize,
}

/// What a destination was told and came out otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Whose tap it was.
    Person,
    /// Which way it went.
    Direction,
}

impl What {
    /// The name in the store, in JSON and on screens.
    pub fn name(self) -> &'static str {
        match self {
            What::Person => "person",
            What::Direction => "direction",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<What> {
        [What::Person, What::Direction].into_iter().find(|what| what.name() == name)
    }
}

/// One tap of which a destination was told something that is otherwise by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which tap.
    pub position: Position,
    /// Its name.
    pub event_id: EventId,
    /// Where it was.
    pub controller: ControllerId,
    /// When it was, true time.
    pub occurred: Option<UtcMs>,
    /// Who was told.
    pub destination: DestinationName,
    /// What of it.
    pub what: What,
    /// What was told.
    pub told: String,
    /// What is so; `None` if that is nobody.
    pub is: Option<String>,
    /// When that was found.
    pub noted: UtcMs,
}
