//! Step 9 of 12: taps that come over HTTP, and who may bring them. Knows no HTTP: what is here is proved, read and sealed.
//!
//! A *source* is a controller that the cloud itself signs for. Its taps stand in outboxes like any other's, so that
//! positions, proofs and event ids need no rule of their own. What is added is the idempotency key: whether a tap was
//! brought before is decided in the transaction that would store it, because nowhere else is it known.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tap_protocol::badge::TokenKeyId;
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;

use super::{Appended, Deed, StoreError, UtcMs};

/// An API key's number.
pub type ApiKeyId = [u8; 5];

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// An idempotency key is remembered for so long. Longer than a tap may be old when it is brought ([`MAX_AGE_MS`]), so that
/// a tap whose key is forgotten is too old to be brought again: none is ever stored twice.
pub const KEYS_KEPT_MS: i64 = 35 * DAY_MS;

/// A tap may be so old when it is brought: a kiosk that was offline over the holidays.
pub const MAX_AGE_MS: i64 = 31 * DAY_MS;

/// A tap may be so far ahead of our clock: theirs is set by hand, maybe.
pub const MAX_AHEAD_MS: i64 = 5 * 60 * 1_000;

const _: () =
    assert!(KEYS_KEPT_MS > MAX_AGE_MS + 2 * MAX_AHEAD_MS, "a forgotten key must not bring a tap again");

/// That a key was used is written down at most this often: it is for people who ask which keys are still in use.
pub const LAST_USE_EVERY_MS: i64 = 60 * 60 * 1_000;

/// So many idempotency keys whose time is over are forgotten with each group: far more than it brings.
pub const FORGOTTEN_AT_ONCE: usize = 1_000;

/// Someone who brings taps over HTTP, as a controller of its own kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name for life.
    pub id: ControllerId,
    /// What people call it.
    pub label: String,
    /// Where its taps happen, for their time zone.
    pub site: String,
}

/// An API key as it is made. Its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// Its number.
    pub id: ApiKeyId,
    /// What its secret hashes to.
    pub secret_sha256: [u8; 32],
    /// Whose taps it brings.
    pub source: ControllerId,
    /// When it ends, if it does.
    pub expires: Option<UtcMs>,
}

/// An API key with its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyState {
    /// As it was made.
    pub key: NewApiKey,
    /// When.
    pub created: UtcMs,
    /// When it was last used, to [`LAST_USE_EVERY_MS`].
    pub last_used: Option<UtcMs>,
    /// When it was taken back.
    pub revoked: Option<UtcMs>,
}

/// One uninterrupted series of captures: of a run of this process, or of a file of its spool. Random, so that no restart
/// and no backup that was put back ever gives an event id twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sitting(pub [u8; 16]);

impl Sitting {
    /// Where the taps of a source stand that were captured in this sitting.
    pub fn outbox(&self, source: &ControllerId) -> OutboxId {
        let hashed = [b"tapline/capture/v1\0".as_slice(), &self.0, source.as_str().as_bytes()].concat();
        let hash = digest(&SHA256, &hashed);
        OutboxId(hash.as_ref()[..16].try_into().expect("a hash has 32 bytes"))
    }
}

/// What a request means, as a hash of everything in it with the badge sealed under that token key. Not of the clear
/// number: few enough of those exist to try them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// Under which key the badge was sealed for it.
    pub token_key: TokenKeyId,
    /// The hash.
    pub sha256: [u8; 32],
}

/// A tap that somebody brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedTap {
    /// Who.
    pub source: ControllerId,
    /// By which API key.
    pub api_key: ApiKeyId,
    /// What its idempotency key hashes to: within its source, the same is the same tap.
    pub key_sha256: [u8; 32],
    /// What it means, under each token key: the one that sealed its badge first.
    pub prints: Vec<Print>,
    /// When it came.
    pub received: UtcMs,
    /// The record: a tap.
    pub record: Vec<u8>,
}

impl CapturedTap {
    /// Whether it means the same as one that was remembered by `print`; `None` if the key is gone under which that could
    /// be said.
    pub fn means_the_same(&self, print: &Print) -> Option<bool> {
        let same_key = self.prints.iter().find(|mine| mine.token_key == print.token_key);
        same_key.map(|mine| mine.sha256 == print.sha256)
    }
}

/// A captured tap and where it is to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToCapture {
    /// What.
    pub tap: CapturedTap,
    /// In which sitting.
    pub sitting: Sitting,
    /// Under which number, if that was promised already: it waited in the spool.
    pub promised: Option<Seq>,
}

/// What became of a captured tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured {
    /// It is stored, now or by an earlier call.
    Stored(EventId),
    /// The same was brought before, and is stored under this id.
    Before(EventId),
    /// Another tap was brought before under the same idempotency key: nothing is stored.
    OtherBefore(EventId),
    /// The API key is not good any more: nothing is stored.
    Refused,
    /// It was promised under the first id while the store was away, and the same was stored meanwhile under the second: at
    /// its promised place a record says so, which is no tap.
    SameAs {
        /// What it was answered with.
        promised: EventId,
        /// The tap.
        tap: EventId,
    },
    /// It was promised while the store was away, and another tap had been brought under the same idempotency key: both
    /// were answered for, so both are stored.
    Both {
        /// This one.
        stored: EventId,
        /// The other one.
        other: EventId,
    },
}

/// What a group came to: one answer each, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenIn {
    /// Of the batches.
    pub appended: Vec<Appended>,
    /// Of the captured taps.
    pub captured: Vec<Captured>,
}

/// Why there is no such API key now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoApiKey {
    /// A door has that name.
    #[error("{0} is a door controller: give the source another name")]
    IsADoor(ControllerId),
}

/// Taps over HTTP: API keys, and one transaction for all that came.
pub trait Capture {
    /// Makes an API key known, and its source with it: a source that is known keeps its taps and gets this label and
    /// site. The site must be known.
    fn put_api_key(
        &mut self,
        key: &NewApiKey,
        source: &Source,
        deed: &Deed,
    ) -> Result<Result<(), NoApiKey>, StoreError>;

    /// All API keys that were ever made, the newest first.
    fn api_keys(&mut self) -> Result<Vec<ApiKeyState>, StoreError>;

    /// All sources, by id.
    fn capture_sources(&mut self) -> Result<Vec<Source>, StoreError>;

    /// Takes a key back; `false` if there is none, or it was taken back before.
    fn revoke_api_key(&mut self, id: ApiKeyId, deed: &Deed) -> Result<bool, StoreError>;

    /// Stores a group that came over both ways, in one transaction: batches as [`super::EventStore::append`] does, then
    /// captured taps, in the order given, signed with `key`. Every one must fit its outbox: what was promised a place is
    /// stored at that place, and where promised ones before it are gone, a record says so.
    fn take_in(
        &mut self,
        batches: &[VerifiedBatch],
        captures: &[ToCapture],
        key: &SigningKey,
        received: UtcMs,
    ) -> Result<TakenIn, StoreError>;
}
