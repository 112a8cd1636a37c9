//! Step 9 of 12: what the store keeps of who takes in from a broker. Pure: knows no SQL, no clock, and not when somebody is to
//! take over; that is for [`crate::intake::lease`] to say.

use super::StoreError;
use crate::intake::lease::{Claim, Fence};

/// Who of several processes takes in: one row per broker.
pub trait Leases {
    /// The row, if anybody has ever taken in from this broker.
    fn intake_claim(&mut self, broker: &str) -> Result<Option<Claim>, StoreError>;

    /// Has `holder` take in from here on, if the row still is as it was seen. Under which number, or `None` if it has
    /// changed meanwhile.
    fn take_intake(
        &mut self,
        broker: &str,
        holder: &str,
        seen: Option<&Claim>,
    ) -> Result<Option<Fence>, StoreError>;

    /// Changes the row of whoever has that number; `false` if another has taken over.
    fn beat_intake(&mut self, broker: &str, fence: Fence) -> Result<bool, StoreError>;

    /// Whoever has that number takes in no more, and nobody needs to wait for it.
    fn leave_intake(&mut self, broker: &str, fence: Fence) -> Result<(), StoreError>;
}
