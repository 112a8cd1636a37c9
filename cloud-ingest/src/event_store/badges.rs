//! Beside the line: badges, their seals and the roster that is made of them, in words of the domain. Pure.
//!
//! One badge has a seal for every token key under which it was ever imported or sealed again, so it is one person's however
//! the tenant's key changes. The roster is a snapshot of all badges under the keys in use.

use serde::Serialize;
use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};

use super::{Binding, Bound, PersonId, StoreError, UtcMs};
use crate::directory::timeline::Timeline;

/// Whose badge is whose, and the roster.
pub trait Directory {
    /// Says who held badges when ([`When`] says what goes without saying), all in one transaction with what follows: what
    /// was held for a person to be named is released, what is not sent yet stands in the line of whoever held the badge at
    /// the tap's time, and what was told otherwise before is written down. A badge that was revoked stays so.
    ///
    /// [`When`]: crate::directory::timeline::When
    fn bind_badges(&mut self, bindings: &[Binding], now: UtcMs) -> Result<Bound, StoreError>;

    /// Gives badges, each named by a token that it has, another seal, and releases what was held under that. Seals of
    /// badges that are not known, and tokens that are taken, count for nothing. Returns how many are new.
    fn add_seals(&mut self, seals: &[(Token, SealedBadge)]) -> Result<usize, StoreError>;

    /// From the next roster on these badges are revoked. That concerns the light at the door, and no tap.
    fn revoke_badges(&mut self, which: &Which, why: &str, now: UtcMs) -> Result<Stood, StoreError>;

    /// From the next roster on these badges are known again.
    fn reinstate_badges(&mut self, which: &Which) -> Result<Stood, StoreError>;

    /// Badges, in the order in which they became known.
    fn badges(&mut self, filter: &BadgeFilter) -> Result<Vec<BadgeRow>, StoreError>;

    /// Whether badges were changed since the newest roster: never a scan.
    fn roster_state(&mut self) -> Result<RosterState, StoreError>;

    /// The newest roster: all badges under these keys. It is another than before if badges or keys have changed, or if a
    /// controller claims to have a newer one.
    fn roster(
        &mut self,
        keys: &[TokenKeyId],
        claimed: Option<u64>,
        now: UtcMs,
    ) -> Result<Snapshot, StoreError>;
}

/// A controller that claims a version further ahead of our clock than this is not believed: versions could run out.
const BELIEVED_AHEAD_MS: u64 = 24 * 60 * 60 * 1_000;

/// Which badges are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with any of these tokens.
    Badge(Vec<Token>),
    /// All of a person's: to list, that they ever had; to revoke, that they have.
    Person(PersonId),
}

/// Which badges to list, in the order in which they became known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadgeFilter {
    /// Only those with a number above this (the cursor of a page).
    pub after: Option<u64>,
    /// Only these.
    pub which: Option<Which>,
    /// Only those that were revoked.
    pub revoked_only: bool,
    /// At most so many.
    pub limit: usize,
}

/// One badge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadgeRow {
    /// Its number here, for pages.
    pub no: u64,
    /// Whose it was and is, and when.
    pub timeline: Timeline,
    /// If it was revoked.
    pub revoked: Option<Revocation>,
    /// Under every key under which it was sealed, by token.
    pub seals: Vec<SealedBadge>,
}

/// That a badge was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// When.
    pub at: UtcMs,
    /// Why, for people.
    pub why: String,
    /// The first roster that says so; `None` until one is made.
    pub roster: Option<u64>,
}

/// What a revocation or a reinstatement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Stood {
    /// Badges whose standing changed.
    pub changed: usize,
    /// Badges that stood so already.
    pub unchanged: usize,
}

/// Where rosters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RosterState {
    /// The newest roster, if one was ever made.
    pub version: Option<u64>,
    /// How often badges were changed.
    pub changes: u64,
    /// How often they had been when the newest roster was made.
    pub made_of: u64,
}

/// The newest roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which.
    pub version: u64,
    /// Its entries as they are on the wire, in the order of their tokens.
    pub entries: Vec<u8>,
}

/// The version of a roster that is made now: above the one before, above what a controller claims to have (this store may
/// have been restored from a backup), and above all that an earlier life of this store gave, by the clock.
pub fn next_version(previous: Option<u64>, claimed: Option<u64>, now: UtcMs) -> u64 {
    let above = |version: Option<u64>| version.map_or(0, |version| version.saturating_add(1));
    ms(now).max(above(previous)).max(above(believed(claimed, now)))
}

/// Whether no controller has a newer one, as far as controllers are believed.
pub fn is_newest(version: u64, claimed: Option<u64>, now: UtcMs) -> bool {
    believed(claimed, now).is_none_or(|claimed| claimed <= version)
}

fn believed(claimed: Option<u64>, now: UtcMs) -> Option<u64> {
    claimed.filter(|claimed| *claimed <= ms(now).saturating_add(BELIEVED_AHEAD_MS))
}

fn ms(now: UtcMs) -> u64 {
    now.0.max(1).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_grow_whatever_the_clock_and_the_backups_do() {
        let now = UtcMs(1_000_000);
        assert_eq!(next_version(None, None, now), 1_000_000);
        assert_eq!(next_version(Some(999_999), None, now), 1_000_000);
        assert_eq!(next_version(Some(1_000_000), None, now), 1_000_001);
        assert_eq!(next_version(Some(2_000_000), None, now), 2_000_001, "the clock went back");
        assert_eq!(next_version(Some(5), Some(3_000_000), now), 3_000_001, "restored from a backup");
        assert_eq!(next_version(Some(5), Some(u64::MAX), now), 1_000_000, "nobody can use them up");
        assert_eq!(next_version(None, None, UtcMs(-1)), 1);
        let newest = |claimed| is_newest(1_000_000, claimed, now);
        assert!(
            newest(None) && newest(Some(1_000_000)) && !newest(Some(1_000_001)) && newest(Some(u64::MAX))
        );
    }
}
