//! Beside the line: the tap that nobody's badge made. Knows the store; a badge stays sealed here.
//!
//! Somebody new stands at a door and has just shown a card of which nobody knows the number. It need not be known: the tap
//! has the card, sealed.

use std::collections::BTreeMap;

use tap_protocol::badge::Token;
use tap_protocol::ids::ControllerId;

use super::timeline::Timeline;
use crate::event_store::{
    BadgeFilter, EventFilter, EventRow, EventStore, Position, StoreError, TapRow, Which,
};

/// Events in one look at the store.
const PAGE: usize = 100;

/// What is further back than this was not just now.
const LOOKED_AT: usize = 2_000;

/// The last tap that came from a controller and is nobody's. `None` if there is none among the last [`LOOKED_AT`].
pub fn last_unknown(
    store: &mut dyn EventStore,
    controller: &ControllerId,
) -> Result<Option<(EventRow, TapRow)>, StoreError> {
    let mut known: BTreeMap<Token, Timeline> = BTreeMap::new();
    let mut before: Option<Position> = None;
    for _ in 0..LOOKED_AT / PAGE {
        let filter = EventFilter {
            before,
            controller: Some(controller.clone()),
            taps_only: true,
            limit: PAGE,
            ..EventFilter::default()
        };
        let page = store.events(&filter)?;
        before = page.last().map(|row| row.position);
        let is_last = page.len() < PAGE;
        for row in page {
            let Some(tap) = row.tap.clone() else { continue };
            let token = tap.badge.token;
            if let std::collections::btree_map::Entry::Vacant(unasked) = known.entry(token) {
                unasked.insert(timeline(store, token)?);
            }
            if known[&token].holder(tap.occurred).is_none() {
                return Ok(Some((row, tap)));
            }
        }
        if is_last {
            break;
        }
    }
    Ok(None)
}

/// Who held the badge with this token, and when.
fn timeline(store: &mut dyn EventStore, token: Token) -> Result<Timeline, StoreError> {
    let filter = BadgeFilter { which: Some(Which::Badge(vec![token])), limit: 1, ..BadgeFilter::default() };
    Ok(store.badges(&filter)?.pop().map(|row| row.timeline).unwrap_or_default())
}
