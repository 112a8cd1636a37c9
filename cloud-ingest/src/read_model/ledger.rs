//! Beside the line: whether it all adds up. Pure.

use serde::Serialize;

use crate::event_store::archive::Archived;
use crate::event_store::{DeliveryCount, DeliveryState, Totals};

/// The totals, the deliveries, and whether they agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// What was stored.
    #[serde(flatten)]
    pub totals: Totals,
    /// What of it is archived, and counted like the rest.
    pub archived: Archived,
    /// The deliveries, per destination and state.
    pub by_state: Vec<DeliveryCount>,
    /// Whether every number is where it belongs.
    pub balanced: bool,
    /// What does not add up, for people; empty if balanced.
    pub complaints: Vec<String>,
}

/// Adds it up: positions are gapless, and every delivery ever made is in exactly one state.
pub fn ledger(totals: Totals, by_state: Vec<DeliveryCount>) -> Ledger {
    let mut complaints = Vec::new();
    if totals.last_position != totals.records {
        complaints.push(format!(
            "{} records are stored, but the last position is {}",
            totals.records, totals.last_position
        ));
    }
    let sum: u64 = by_state.iter().map(|cell| cell.count).sum();
    if sum != totals.deliveries {
        complaints.push(format!("{} deliveries were made, but {sum} are in some state", totals.deliveries));
    }
    let archived = Archived::default();
    Ledger { totals, archived, by_state, balanced: complaints.is_empty(), complaints }
}

impl Ledger {
    /// With what is archived, which must be a part of what there was.
    #[must_use]
    pub fn with_archived(mut self, archived: Archived) -> Ledger {
        let Archived { through, records, taps, deliveries, attempts, .. } = archived;
        for (what, archived, of) in [
            ("records", records, through),
            ("records", records, self.totals.records),
            ("taps", taps, self.totals.taps),
            ("deliveries", deliveries, self.totals.deliveries),
            ("attempts", attempts, self.totals.attempts),
        ] {
            if archived > of {
                self.complaints.push(format!("{archived} {what} are archived, of {of} that there were"));
            }
        }
        if records < through {
            self.complaints.push(format!("{records} records are archived, of {through} that there were"));
        }
        self.balanced = self.complaints.is_empty();
        self.archived = archived;
        self
    }

    /// How many deliveries are in `state`, over all destinations.
    pub fn in_state(&self, state: DeliveryState) -> u64 {
        self.by_state.iter().filter(|cell| cell.state == state).map(|cell| cell.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(state: DeliveryState, count: u64) -> DeliveryCount {
        DeliveryCount { destination: "legacy".into(), state, count }
    }

    #[test]
    fn every_delivery_is_in_exactly_one_state_or_the_ledger_complains() {
        let totals = Totals { records: 7, taps: 5, deliveries: 5, last_position: 7, ..Totals::default() };
        let counts = vec![count(DeliveryState::Delivered, 3), count(DeliveryState::Dead, 2)];
        let good = ledger(totals, counts.clone());
        assert!(good.balanced);
        assert_eq!(good.in_state(DeliveryState::Delivered), 3);

        let lost = ledger(Totals { deliveries: 6, ..totals }, counts.clone());
        assert_eq!(lost.complaints, ["6 deliveries were made, but 5 are in some state"]);

        let part = Archived { through: 3, records: 3, taps: 2, deliveries: 2, ..Archived::default() };
        assert!(good.clone().with_archived(part).balanced);
        let more = good.with_archived(Archived { taps: 6, records: 2, ..part });
        let (taps, records) =
            ("6 taps are archived, of 5 that there were", "2 records are archived, of 3 that there were");
        assert_eq!((more.complaints, more.balanced), (vec![taps.to_owned(), records.into()], false));

        let hole = ledger(Totals { last_position: 8, ..totals }, counts);
        assert_eq!(hole.complaints, ["7 records are stored, but the last position is 8"]);
    }
}
