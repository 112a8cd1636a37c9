//! Step 8 of 12: what is still taken from a controller that is out of trust. Pure: knows no store and no broker.
//!
//! What it had recorded before, people rely on: their taps are stored, and flagged. What it had spoken of before it was
//! revoked was recorded before; everything else may be made up by whoever has it now.

use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::ids::{ControllerId, Seq};

use super::verify::Reject;

/// A batch of a revoked controller: what of it is to be stored, and why the rest is not.
pub fn divide(batch: VerifiedBatch, trusted_through: Seq) -> (Option<VerifiedBatch>, Option<Reject>) {
    if batch.last_seq() <= trusted_through {
        return (Some(batch), None);
    }
    let reason = format!(
        "the controller is revoked, and had spoken of records up to {trusted_through} of this outbox alone: {} to {} \
         are not taken",
        batch.first_seq().max(trusted_through.next()),
        batch.last_seq()
    );
    let reject = Reject { kind: KIND, reason, controller: Some(batch.controller().clone()) };
    (batch.up_to(trusted_through), Some(reject))
}

/// Anything else that it says.
pub fn not_heard(controller: &ControllerId) -> Reject {
    let reason = "the controller is revoked: nothing that it says of itself is heard".to_owned();
    Reject { kind: KIND, reason, controller: Some(controller.clone()) }
}

const KIND: &str = "revoked";
