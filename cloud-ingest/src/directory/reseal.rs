//! Beside the line: every badge under another token key too, so that one person keeps one identity while controllers change
//! over, and old taps stay readable. Knows keys and the store; opens badges only to seal them again.

use tap_protocol::badge::{SealedBadge, Token, TokenKey};

use crate::event_store::{BadgeFilter, EventStore, StoreError};

/// Badges in one transaction: intake waits some milliseconds for it.
const PAGE: usize = 500;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resealed {
    /// Badges that have a seal under the new key now and had none.
    pub sealed: usize,
    /// Badges that none of the keys opens.
    pub unreadable: usize,
    /// Where to go on; `None` when all badges were looked at.
    pub next: Option<u64>,
}

/// Gives every badge a seal under `new_key`; `keys` are those that open what is there. May be repeated.
pub fn reseal(
    store: &mut dyn EventStore,
    keys: &[TokenKey],
    new_key: &TokenKey,
) -> Result<Resealed, StoreError> {
    let mut all = Resealed::default();
    loop {
        let page = some(store, keys, new_key, all.next)?;
        all = Resealed {
            sealed: all.sealed + page.sealed,
            unreadable: all.unreadable + page.unreadable,
            next: page.next,
        };
        if all.next.is_none() {
            return Ok(all);
        }
    }
}

/// As [`reseal`], for the next few badges.
pub fn some(
    store: &mut dyn EventStore,
    keys: &[TokenKey],
    new_key: &TokenKey,
    after: Option<u64>,
) -> Result<Resealed, StoreError> {
    let page = store.badges(&BadgeFilter { after, limit: PAGE, ..BadgeFilter::default() })?;
    let mut done = Resealed {
        next: page.last().filter(|_| page.len() == PAGE).map(|row| row.no),
        ..Resealed::default()
    };
    let mut seals: Vec<(Token, SealedBadge)> = Vec::new();
    for row in page.iter().filter(|row| row.seals.iter().all(|seal| seal.key_id != new_key.id())) {
        let opened = row.seals.iter().find_map(|seal| {
            let key = keys.iter().find(|key| key.id() == seal.key_id)?;
            Some((seal.token, key.open(seal).ok()?))
        });
        match opened {
            Some((token, credential)) => seals.push((token, new_key.seal(&credential))),
            None => done.unreadable += 1,
        }
    }
    done.sealed = store.add_seals(&seals)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::{Credential, Technology, TokenKeyId};

    use super::*;
    use crate::directory::badges::seals;
    use crate::event_store::sqlite::SqliteStore;
    use crate::event_store::{Binding, PersonId, UtcMs, Which};

    const NOW: UtcMs = UtcMs(1_700_000_000_000);

    fn key(id: u16) -> TokenKey {
        TokenKey::new(TokenKeyId(id), [id as u8; 32])
    }

    fn badge(n: u32) -> Credential {
        Credential::from_bytes(Technology::Hf, &[&[4, 1, 2], &n.to_be_bytes()[..]].concat()).unwrap()
    }

    fn bind(store: &mut dyn EventStore, numbers: std::ops::Range<u32>, keys: &[TokenKey]) {
        let bindings: Vec<Binding> =
            numbers.map(|n| Binding::new(seals(&badge(n), keys), PersonId(format!("E-{n}")))).collect();
        store.bind_badges(&bindings, NOW).unwrap();
    }

    fn both_stores(case: impl Fn(&mut dyn EventStore)) {
        case(&mut SqliteStore::in_memory(NOW));
        let folder = tempfile::tempdir().unwrap();
        case(&mut SqliteStore::open(&folder.path().join("store.db"), NOW).unwrap());
    }

    #[test]
    fn every_badge_is_one_persons_under_both_keys_and_a_second_time_changes_nothing() {
        both_stores(|store| {
            let badges = PAGE as u32 * 2 + 1;
            bind(store, 0..badges, &[key(1)]);
            let keys = [key(1), key(2)];
            let all = Resealed { sealed: badges as usize, ..Resealed::default() };
            assert_eq!(reseal(store, &keys, &key(2)).unwrap(), all);
            assert_eq!(reseal(store, &keys, &key(2)).unwrap(), Resealed::default());
            assert_eq!(store.totals().unwrap().badges, u64::from(badges));
            let under_new = Which::Badge(vec![key(2).seal(&badge(7)).token]);
            let row =
                store.badges(&BadgeFilter { which: Some(under_new), limit: 2, ..BadgeFilter::default() });
            let row = row.unwrap().remove(0);
            assert_eq!(row.timeline.at(NOW).unwrap().person, PersonId("E-7".into()));
            for seal in &row.seals {
                let key = keys.iter().find(|key| key.id() == seal.key_id).unwrap();
                assert_eq!(key.open(seal).unwrap(), badge(7), "what was sealed long ago stays readable");
            }
        });
    }

    #[test]
    fn what_no_key_opens_is_counted_and_left_as_it_is() {
        both_stores(|store| {
            bind(store, 0..1, &[key(1)]);
            bind(store, 1..3, &[key(3)]);
            let done = reseal(store, &[key(1), key(2)], &key(2)).unwrap();
            assert_eq!(done, Resealed { sealed: 1, unreadable: 2, next: None });
        });
    }
}
