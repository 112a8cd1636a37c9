//! The tap: one card shown at one reader, as both sides speak of it.

use serde::{Deserialize, Serialize};

use crate::badge::SealedBadge;
use crate::ids::ReaderName;

/// One accepted card presentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Which reader of the controller.
    pub reader: ReaderName,
    /// Who, sealed.
    pub badge: SealedBadge,
    /// Which way, as the reader is placed.
    pub direction: Direction,
    /// What the roster said at the door.
    pub verdict: Verdict,
}

/// Which way a reader lets people through. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The reader stands at an entrance.
    In,
    /// The reader stands at an exit.
    Out,
    /// The reader serves both ways, or nobody said.
    #[default]
    Unspecified,
}

impl Direction {
    /// The name in configuration, JSON and the store.
    pub fn name(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
            Direction::Unspecified => "unspecified",
        }
    }
}

/// What the controller's roster said of the badge. It decides the feedback, never whether the tap is recorded.
/// Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// On the roster.
    Known,
    /// Not on the roster.
    Unknown,
    /// On the roster as revoked.
    Revoked,
    /// The controller has no roster.
    NoRoster,
}

impl Verdict {
    /// The name in JSON and the store.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Known => "known",
            Verdict::Unknown => "unknown",
            Verdict::Revoked => "revoked",
            Verdict::NoRoster => "no_roster",
        }
    }
}
