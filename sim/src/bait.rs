//! Planted bugs: each is a mistake that somebody could make in the acting code, built into the simulated actors and never
//! into the product. A simulator that does not catch them proves nothing.

use std::fmt;

/// One planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bait {
    /// The edge takes the broker's PUBACK for a receipt.
    MarkOnPuback,
    /// The intake acknowledges to the broker before the store has committed.
    AckBeforeCommit,
    /// The intake sends receipts before the store has committed.
    ReceiptBeforeCommit,
    /// Receipts say the highest record seen, not the mark.
    ReceiptIsMax,
    /// Every attempt has its own idempotency key.
    NewKeyPerAttempt,
    /// The dispatcher renders the body anew for each attempt, with the time of sending in it.
    NewBodyPerAttempt,
    /// The dispatcher does not wait for the head of an order key.
    Overtaking,
    /// The dispatcher sends although its lease is lost.
    LostLeaseSends,
    /// The light is green before the commit.
    GreenBeforeCommit,
    /// What was given to a lost session is not sent again: the relay is not told of the new one.
    NoGoBack,
    /// The outbox prunes what is old, receipted or not.
    PruneWithoutReceipt,
    /// What follows the last receipt is said again, whatever the store has after it.
    SaysAgainFromTheMark,
    /// The dispatcher takes a clock for the passing of time that runs too fast.
    PushesTheTime,
    /// The dispatcher forgets that the destination wants taps in the order in which they happened.
    ForgetsTheOrder,
    /// The dispatcher waits for no door that is away.
    HasNoPatience,
    /// The dispatcher waits for doors that are away for twice as long as was agreed.
    WaitsTooLong,
}

impl Bait {
    /// All of them.
    pub const ALL: [Bait; 16] = [
        Bait::MarkOnPuback,
        Bait::AckBeforeCommit,
        Bait::ReceiptBeforeCommit,
        Bait::ReceiptIsMax,
        Bait::NewKeyPerAttempt,
        Bait::NewBodyPerAttempt,
        Bait::Overtaking,
        Bait::LostLeaseSends,
        Bait::GreenBeforeCommit,
        Bait::NoGoBack,
        Bait::PruneWithoutReceipt,
        Bait::SaysAgainFromTheMark,
        Bait::PushesTheTime,
        Bait::ForgetsTheOrder,
        Bait::HasNoPatience,
        Bait::WaitsTooLong,
    ];
}

impl fmt::Display for Bait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
