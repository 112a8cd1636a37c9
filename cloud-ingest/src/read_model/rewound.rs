//! Beside the line: whether controllers hold receipts that this store cannot have given: then a backup was put back and
//! nobody said so. Pure.
//!
//! A receipt follows the commit, so under one epoch no controller's mark is ever above the store's. Where one is, the
//! controller will not send what lies between, and what comes after it finds no connection: nothing is stored any more,
//! and nothing is lost either, until `cloud-ingest store restored` begins a new epoch.

use serde::Serialize;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};

use crate::event_store::{ControllerState, UtcMs, first_epoch};

/// An outbox whose controller holds a receipt beyond the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewound {
    /// Whose.
    pub controller: ControllerId,
    /// Which.
    pub outbox: OutboxId,
    /// The controller holds a receipt up to here …
    pub receipted_through: Seq,
    /// … and the store has records up to here.
    pub stored_through: Seq,
}

/// The outboxes of one controller that are ahead of the store, by its last hello.
pub fn of(state: &ControllerState) -> Vec<Rewound> {
    let Some(hello) = &state.hello else { return Vec::new() };
    let ahead = hello.hello.outboxes.iter().filter_map(|told| {
        let epoch = told.store_epoch?;
        let stored = state.outboxes.iter().find(|stored| stored.outbox == told.outbox)?.stored_through;
        let is_ahead = epoch == state.store_epoch && told.receipted_through > stored;
        (is_ahead || epoch > state.store_epoch).then(|| Rewound {
            controller: state.controller.id.clone(),
            outbox: told.outbox,
            receipted_through: told.receipted_through,
            stored_through: stored,
        })
    });
    ahead.collect()
}

/// What is wrong and what to do, if any controller is ahead of the store.
pub fn complaint(states: &[ControllerState]) -> Option<String> {
    let ahead: Vec<Rewound> = states.iter().flat_map(of).collect();
    let first = ahead.first()?;
    Some(format!(
        "the store is older than receipts that {} controllers hold ({} has one for record {} of outbox {}, and the store \
         ends at {}): a backup was put back and nobody said so, and nothing new can be stored. Stop the service and run \
         `cloud-ingest store restored`",
        states.iter().filter(|state| !of(state).is_empty()).count(),
        first.controller,
        first.receipted_through,
        first.outbox,
        first.stored_through,
    ))
}

/// The latest life of the store that a controller has heard of. What lies absurdly far ahead is nobody's word: one broken
/// controller must not use the numbers up.
pub fn latest_epoch_told(states: &[ControllerState]) -> Option<StoreEpoch> {
    let told = states.iter().filter_map(|state| state.hello.as_ref());
    let epochs = told.flat_map(|hello| &hello.hello.outboxes).filter_map(|outbox| outbox.store_epoch);
    epochs.filter(|epoch| *epoch <= first_epoch(LAST_BELIEVED)).max()
}

/// The year 9999, milliseconds.
const LAST_BELIEVED: UtcMs = UtcMs(253_402_300_799_000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_model::lag;

    #[track_caller]
    fn check(epoch_told: Option<u64>, receipted: u64, stored: u64, is_ahead: bool) {
        let mut state = lag::tests::well();
        state.store_epoch = StoreEpoch(10);
        state.outboxes[0].stored_through = Seq(stored);
        let told = &mut state.hello.as_mut().unwrap().hello.outboxes[0];
        (told.store_epoch, told.receipted_through) = (epoch_told.map(StoreEpoch), Seq(receipted));
        assert_eq!(of(&state).len(), usize::from(is_ahead));
        assert_eq!(complaint(&[state]).is_some(), is_ahead);
    }

    #[test]
    fn a_receipt_beyond_the_store_under_its_own_epoch_cannot_be() {
        check(Some(10), 9, 9, false);
        check(Some(10), 8, 9, false);
        check(Some(10), 9, 8, true);
        check(None, 0, 0, false);
    }

    #[test]
    fn a_receipt_of_an_earlier_life_may_be_ahead_and_one_of_a_later_life_cannot_be() {
        check(Some(9), 9, 3, false);
        check(Some(11), 3, 9, true);
    }

    #[test]
    fn the_complaint_says_who_and_what_to_do() {
        let mut state = lag::tests::well();
        let told = &mut state.hello.as_mut().unwrap().hello.outboxes[0];
        (told.store_epoch, told.receipted_through) = (Some(state.store_epoch), Seq(12));
        let said = complaint(&[state.clone(), state]).unwrap();
        for part in
            ["2 controllers", "door-1 has one for record 12", "ends at 9", "cloud-ingest store restored"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn an_absurd_epoch_is_nobodys_word() {
        let mut state = lag::tests::well();
        let told = &mut state.hello.as_mut().unwrap().hello.outboxes[0];
        told.store_epoch = Some(StoreEpoch(u64::MAX));
        assert_eq!(latest_epoch_told(&[state.clone()]), None);
        state.hello.as_mut().unwrap().hello.outboxes[0].store_epoch = Some(StoreEpoch(77));
        assert_eq!(latest_epoch_told(&[state]), Some(StoreEpoch(77)));
    }
}
