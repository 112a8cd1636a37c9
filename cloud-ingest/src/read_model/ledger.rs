//! Beside the line: whether it all adds up. Pure.

use serde::Serialize;

use crate::event_store::{DeliveryCount, DeliveryState, Totals};

/// The totals, the deliveries, and whether they agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// What was stored.
    #[serde(flatten)]
    pub totals: Totals,
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
    Ledger { totals, by_state, balanced: complaints.is_empty(), complaints }
}

impl Ledger {
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

        let hole = ledger(Totals { last_position: 8, ..totals }, counts);
        assert_eq!(hole.complaints, ["7 records are stored, but the last position is 8"]);
    }
}
