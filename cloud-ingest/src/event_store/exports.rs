//! Beside the line, the seam to the store: taps in the order of their time, a portion at a time, for lists that leave the
//! house. Pure: knows no SQL and no file format.

use tap_protocol::badge::Token;
use tap_protocol::ids::{ControllerId, EventId};
use tap_protocol::tap::Direction;

use super::{DeliveryState, DestinationName, Occurred, PersonId, Position, StoreError, UtcMs};

/// What can be taken out.
pub trait Exports {
    /// The next taps of a stretch of time, by their true time. A tap that was stored late is in its place; each portion is
    /// of one moment, and a tap that comes between two of them, before where the list is, is not in it.
    fn taps_by_time(&mut self, portion: &Portion) -> Result<Vec<TapLine>, StoreError>;

    /// How many taps have no true time yet: they are in no such list.
    fn taps_without_time(&mut self) -> Result<u64, StoreError>;
}

/// Which taps, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// Only after this tap: the last one of the portion before. At first, the stretch's first moment and position 0.
    pub after: (UtcMs, Position),
    /// Only before this moment.
    pub until: UtcMs,
    /// Only at this site.
    pub site: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Portion {
    /// The first of a stretch.
    pub fn first(from: UtcMs, until: UtcMs, site: Option<String>, limit: usize) -> Portion {
        Portion { after: (from, Position(0)), until, site, limit }
    }
}

/// A tap with all that such a list says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapLine {
    /// Its place.
    pub position: Position,
    /// Its name.
    pub event_id: EventId,
    /// At which site.
    pub site: String,
    /// In whose zone it is told.
    pub zone: String,
    /// At which controller.
    pub controller: ControllerId,
    /// At which reader.
    pub reader: String,
    /// When.
    pub occurred: Occurred,
    /// When the cloud stored it.
    pub received: UtcMs,
    /// Whose badge it was, as is known now.
    pub person: Option<PersonId>,
    /// Which badge; never its number.
    pub token: Token,
    /// What the door said.
    pub verdict: String,
    /// Which way its reader is placed.
    pub placed: Direction,
    /// Which way it goes, as is known now.
    pub decided: Direction,
    /// What became of it.
    pub deliveries: Vec<LineDelivery>,
}

/// What became of a tap at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineDelivery {
    /// Where.
    pub destination: DestinationName,
    /// How far it is.
    pub state: DeliveryState,
    /// Which way the destination is told, if that is fixed.
    pub told: Option<Direction>,
}
