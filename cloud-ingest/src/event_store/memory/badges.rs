//! Beside the line: badges, their seals and rosters in plain collections. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::roster::{Standing, entry};

use crate::event_store::badges::{is_newest, next_version};
use crate::event_store::{
    BadgeFilter, BadgeRow, Binding, Bound, PersonId, Revocation, RosterState, Snapshot, Stood, UtcMs, Which,
};

/// All badges.
#[derive(Debug, Clone, Default)]
pub struct Badges {
    badges: BTreeMap<u64, Badge>,
    seals: BTreeMap<Token, Seal>,
    state: RosterState,
    made_for: Option<Vec<TokenKeyId>>,
}

#[derive(Debug, Clone)]
struct Badge {
    person: PersonId,
    since: UtcMs,
    revoked: Option<Revocation>,
}

#[derive(Debug, Clone)]
struct Seal {
    badge: u64,
    key_id: TokenKeyId,
    ciphertext: Vec<u8>,
}

impl Badges {
    /// Whose badge that is.
    pub fn person(&self, token: Token) -> Option<&PersonId> {
        self.badges.get(&self.seals.get(&token)?.badge).map(|badge| &badge.person)
    }

    pub fn count(&self) -> u64 {
        self.badges.len() as u64
    }

    /// Binds one badge; says which tokens are bound from now on.
    pub fn bind(&mut self, Binding { seals, person }: &Binding, now: UtcMs, bound: &mut Bound) -> Vec<Token> {
        let mut known: BTreeSet<u64> =
            seals.iter().filter_map(|seal| Some(self.seals.get(&seal.token)?.badge)).collect();
        let no = match known.pop_first() {
            None => {
                let no = self.badges.last_key_value().map_or(1, |(no, _)| no + 1);
                self.badges.insert(no, Badge { person: person.clone(), since: now, revoked: None });
                bound.new += 1;
                self.state.changes += 1;
                no
            }
            Some(no) => {
                for other in known {
                    self.merge(other, no);
                }
                let badge = self.badges.get_mut(&no).expect("a seal's badge is there");
                bound.revoked += usize::from(badge.revoked.is_some());
                if badge.person == *person {
                    bound.unchanged += 1;
                } else {
                    (badge.person, badge.since) = (person.clone(), now);
                    bound.changed += 1;
                    self.state.changes += 1;
                }
                no
            }
        };
        seals.iter().filter(|seal| self.put_seal(no, seal)).map(|seal| seal.token).collect()
    }

    fn merge(&mut self, from: u64, into: u64) {
        self.seals.values_mut().filter(|seal| seal.badge == from).for_each(|seal| seal.badge = into);
        let gone = self.badges.remove(&from).expect("a seal's badge is there");
        let kept = self.badges.get_mut(&into).expect("a seal's badge is there");
        if kept.revoked.is_none() {
            kept.revoked = gone.revoked;
        }
        self.state.changes += 1;
    }

    /// Returns whether it is new.
    fn put_seal(&mut self, badge: u64, seal: &SealedBadge) -> bool {
        if self.seals.contains_key(&seal.token) {
            return false;
        }
        let SealedBadge { key_id, token, ciphertext } = seal.clone();
        self.seals.insert(token, Seal { badge, key_id, ciphertext });
        self.state.changes += 1;
        true
    }

    /// Gives the badge of `token` another seal; says whose it is, if that is new.
    pub fn add_seal(&mut self, token: Token, seal: &SealedBadge) -> Option<PersonId> {
        let badge = self.seals.get(&token)?.badge;
        if !self.put_seal(badge, seal) {
            return None;
        }
        self.person(token).cloned()
    }

    pub fn revoke(&mut self, which: &Which, why: &str, now: UtcMs) -> Stood {
        self.stand(which, |badge| {
            let is_new = badge.revoked.is_none();
            badge.revoked.get_or_insert_with(|| Revocation { at: now, why: why.to_owned(), roster: None });
            is_new
        })
    }

    pub fn reinstate(&mut self, which: &Which) -> Stood {
        self.stand(which, |badge| badge.revoked.take().is_some())
    }

    fn stand(&mut self, which: &Which, change: impl Fn(&mut Badge) -> bool) -> Stood {
        let mut stood = Stood::default();
        for no in self.nos(which) {
            match self.badges.get_mut(&no).is_some_and(&change) {
                true => stood.changed += 1,
                false => stood.unchanged += 1,
            }
        }
        self.state.changes += stood.changed as u64;
        stood
    }

    fn nos(&self, which: &Which) -> BTreeSet<u64> {
        match which {
            Which::Person(person) => {
                let theirs = self.badges.iter().filter(|(_, badge)| badge.person == *person);
                theirs.map(|(no, _)| *no).collect()
            }
            Which::Badge(tokens) => {
                tokens.iter().filter_map(|token| Some(self.seals.get(token)?.badge)).collect()
            }
        }
    }

    pub fn list(&self, filter: &BadgeFilter) -> Vec<BadgeRow> {
        let meant = filter.which.as_ref().map(|which| self.nos(which));
        let listed = self.badges.iter().filter(|(no, badge)| {
            **no > filter.after.unwrap_or(0)
                && meant.as_ref().is_none_or(|meant| meant.contains(no))
                && (badge.revoked.is_some() || !filter.revoked_only)
        });
        listed.take(filter.limit).map(|(no, badge)| self.row(*no, badge)).collect()
    }

    fn row(&self, no: u64, badge: &Badge) -> BadgeRow {
        let seals = self.seals.iter().filter(|(_, seal)| seal.badge == no).map(|(token, seal)| SealedBadge {
            key_id: seal.key_id,
            token: *token,
            ciphertext: seal.ciphertext.clone(),
        });
        BadgeRow {
            no,
            person: badge.person.clone(),
            since: badge.since,
            revoked: badge.revoked.clone(),
            seals: seals.collect(),
        }
    }

    pub fn state(&self) -> RosterState {
        self.state
    }

    pub fn roster(&mut self, keys: &[TokenKeyId], claimed: Option<u64>, now: UtcMs) -> Snapshot {
        let is_new = self.state.changes != self.state.made_of || self.made_for.as_deref() != Some(keys);
        let version = match self.state.version {
            Some(previous) if !is_new && is_newest(previous, claimed, now) => previous,
            previous => {
                let version = next_version(previous, claimed, now);
                (self.state.version, self.state.made_of) = (Some(version), self.state.changes);
                self.made_for = Some(keys.to_vec());
                for revoked in self.badges.values_mut().filter_map(|badge| badge.revoked.as_mut()) {
                    revoked.roster.get_or_insert(version);
                }
                version
            }
        };
        let listed = self.seals.iter().filter(|(_, seal)| keys.contains(&seal.key_id));
        let entries = listed.flat_map(|(token, seal)| {
            let is_revoked = self.badges[&seal.badge].revoked.is_some();
            entry(*token, if is_revoked { Standing::Revoked } else { Standing::Known })
        });
        Snapshot { version, entries: entries.collect() }
    }
}
