//! Beside step 11, the seam to the store: how far controllers are complete, and how far destinations were told so. Pure:
//! knows no SQL; what follows from what is for [`crate::delivery::complete`] to say.

use serde::Serialize;
use tap_protocol::ids::ControllerId;

use super::{Deed, DestinationName, StoreError, Turn, UtcMs};
use crate::delivery::complete::Door;
use crate::delivery::ticks::Passed;

/// How far all that was tapped is stored and told.
pub trait Completeness {
    /// All controllers, as far as this destination has been told of their taps. Of a destination that is not asked to keep
    /// account of it, and of one that has only begun to, nothing is known: `None`.
    fn doors(&mut self, destination: &str) -> Result<Option<Vec<Door>>, StoreError>;

    /// Whatever the controller's outboxes still hold that it names no more is not waited for. Says of how many that is so.
    fn waive(&mut self, controller: &ControllerId, deed: &Deed) -> Result<usize, StoreError>;

    /// All watermarks that were ever looked at.
    fn watermarks(&mut self) -> Result<Vec<WatermarkRow>, StoreError>;

    /// Writes down how far a watermark could go, or what came of moving it. `calls` that were made for it have ended.
    fn put_watermark(&mut self, row: &WatermarkRow, calls: u32) -> Result<(), StoreError>;

    /// Takes so many calls of the destination's limit for a watermark, at this process's turn, whose other members but
    /// `vouch`, `rules` and the like are not looked at; and says that nobody else is to begin before `next`. Gives the time
    /// if they may be made, and nothing if there is no room for them, the destination is held back or stopped, or somebody
    /// else has begun.
    fn begin_watermark(
        &mut self,
        turn: &Turn<'_>,
        name: &str,
        calls: u32,
        next: UtcMs,
    ) -> Result<Option<Passed>, StoreError>;
}

/// What is behind by no more than this is in order: doors say hello every minute, and one is taken off for their clocks.
pub const BEHIND_AFTER_MS: u64 = 5 * 60_000;

/// How far one destination was told that taps are complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WatermarkRow {
    /// Which destination.
    pub destination: DestinationName,
    /// What it goes by there: a shift type of Frappe's.
    pub name: String,
    /// Where it stands, in the destination's own words.
    pub stands_at: Option<String>,
    /// When it was moved there by us.
    pub moved: Option<UtcMs>,
    /// How far it could go when it was looked at.
    pub complete: Option<UtcMs>,
    /// The controller that keeps it from going further.
    pub held_back_by: Option<ControllerId>,
    /// By what, for people.
    pub held_back_why: Option<String>,
    /// When that was.
    pub looked: UtcMs,
    /// Why it could not be moved, if the last time it could not.
    pub trouble: Option<String>,
    /// How often in a row.
    pub failures: u32,
    /// It is not tried before.
    pub next: UtcMs,
}

impl WatermarkRow {
    /// One that nobody has looked at.
    pub fn new(destination: &str, name: &str) -> WatermarkRow {
        WatermarkRow {
            destination: destination.to_owned(),
            name: name.to_owned(),
            stands_at: None,
            moved: None,
            complete: None,
            held_back_by: None,
            held_back_why: None,
            looked: UtcMs(0),
            trouble: None,
            failures: 0,
            next: UtcMs(0),
        }
    }

    /// Whether it is further behind than at a site where all is well.
    pub fn is_behind(&self, now: UtcMs) -> bool {
        self.lag_ms(now).is_none_or(|lag_ms| lag_ms > BEHIND_AFTER_MS)
    }

    /// How far what it could be moved to is behind the present; `None` if it could go nowhere.
    pub fn lag_ms(&self, now: UtcMs) -> Option<u64> {
        let complete = self.complete?;
        Some(u64::try_from(now.0.saturating_sub(complete.0)).unwrap_or(0))
    }
}
