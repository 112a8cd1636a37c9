//! Step 9 of 12: a controller's record keys in memory. Knows no controller.

use crate::event_store::{RecordKey, UtcMs};

/// What is known once `now_named` were put over `before`: nothing is forgotten, what is not named ends, and what is new
/// comes first.
pub fn with_those_of_old(before: Vec<RecordKey>, now_named: &[RecordKey]) -> Vec<RecordKey> {
    let end = |key: &RecordKey| RecordKey { good_until: Some(UtcMs(0)), ..*key };
    let new = now_named.iter().filter(|named| before.iter().all(|old| old.key != named.key)).copied();
    let kept = before
        .iter()
        .map(|old| now_named.iter().find(|named| named.key == old.key).copied().unwrap_or_else(|| end(old)));
    new.chain(kept).collect()
}
