//! Step 9 of 12: which controllers are trusted, with what, and how that came about: enrolment tokens, certificates,
//! standing, and the log of who decided it. Pure: knows no store; the two functions at the end decide for all stores.

use serde::Serialize;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::PublicKey;

use super::{Controller, StoreError, UtcMs};

/// Trust: enrolment, standing, certificates. Every change is written into the fleet's log with it.
pub trait Fleet {
    /// All controllers, by id, with what trust in them rests on.
    fn fleet(&mut self) -> Result<Vec<Member>, StoreError>;

    /// One of them.
    fn member(&mut self, id: &ControllerId) -> Result<Option<Member>, StoreError>;

    /// Changes what people call a controller, and where it hangs.
    fn rename(
        &mut self,
        id: &ControllerId,
        label: Option<&str>,
        site: Option<&str>,
        deed: &Deed,
    ) -> Result<(), StoreError>;

    /// Retires or revokes a controller (or takes that back), from `deed.at` on. Its enrolment tokens are withdrawn; a
    /// revoked one's certificates are good for nothing any more, and of its outboxes only what it had spoken of by now
    /// is still to be stored.
    fn set_standing(&mut self, id: &ControllerId, standing: Standing, deed: &Deed) -> Result<(), StoreError>;

    /// Up to where a revoked controller's outbox is to be stored: zero for one it had not spoken of. `None` if it is
    /// not revoked: then all of it.
    fn trusted_through(&mut self, id: &ControllerId, outbox: OutboxId) -> Result<Option<Seq>, StoreError>;

    /// Certificates that are good for nothing any more though their end is after `now`, by number.
    fn revoked_certificates(&mut self, now: UtcMs) -> Result<Vec<RevokedCertificate>, StoreError>;

    /// Makes tokens known, all or none. Their sites must be known.
    fn put_enroll_tokens(&mut self, tokens: &[NewToken], deed: &Deed) -> Result<(), StoreError>;

    /// All tokens that were ever made, the newest first.
    fn enroll_tokens(&mut self) -> Result<Vec<TokenState>, StoreError>;

    /// One of them.
    fn enroll_token(&mut self, id: TokenId) -> Result<Option<TokenState>, StoreError>;

    /// Takes a token back; `false` if there is none, or it was taken back before.
    fn withdraw_enroll_token(&mut self, id: TokenId, deed: &Deed) -> Result<bool, StoreError>;

    /// Uses a token up: adds its controller, or makes it active again, with one record key, and writes its certificate
    /// down. Certificates of other TLS keys that it had are good for nothing any more.
    fn enroll(&mut self, enrolment: &Enrolment) -> Result<Result<Controller, Refusal>, StoreError>;

    /// Writes a controller's next certificate down, and its new record key if it brings one.
    fn renew(&mut self, renewal: &Renewal) -> Result<Result<Controller, Refusal>, StoreError>;

    /// Writes something into the fleet's log that changes nothing else in the store.
    fn note_deed(&mut self, deed: &Deed) -> Result<(), StoreError>;

    /// What was decided, the newest first.
    fn deeds(&mut self, limit: usize) -> Result<Vec<Deed>, StoreError>;

    /// How many deeds there are: whoever sees the same number twice has missed none.
    fn deed_count(&mut self) -> Result<u64, StoreError>;
}

/// An enrolment token's number.
pub type TokenId = [u8; 5];

/// A certificate's serial number: 16 bytes, never given twice.
pub type Serial = [u8; 16];

/// Certificates that ended so long ago are forgotten: far longer than anybody's clock is wrong at a door that works.
pub const CERTIFICATES_KEPT_MS: i64 = 90 * 24 * 60 * 60 * 1_000;

/// Whether a controller is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    Active,
    /// Taken down by its owner: gets no certificate any more, and what it still sends is taken.
    Retired,
    /// Stolen or suspect: gets no certificate, its session is ended, and new records are put aside.
    Revoked,
}

impl Standing {
    /// The name in the store, the API and on screens.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Active => "active",
            Standing::Retired => "retired",
            Standing::Revoked => "revoked",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Standing> {
        [Standing::Active, Standing::Retired, Standing::Revoked].into_iter().find(|s| s.name() == name)
    }
}

/// One controller of the fleet, with all that trust in it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who, and its record keys.
    pub controller: Controller,
    /// Whether it is trusted.
    pub standing: Standing,
    /// Since when, and why: if anybody ever decided it.
    pub decided: Option<(UtcMs, String)>,
    /// The certificate that was issued last.
    pub certificate: Option<Certificate>,
    /// What it got with its last bundle.
    pub fetched: Option<Fetched>,
}

/// A certificate as the store knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Its number.
    pub serial: Serial,
    /// When it was issued.
    pub issued: UtcMs,
    /// When it ends.
    pub not_after: UtcMs,
}

/// What a controller was given with a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// When.
    pub at: UtcMs,
    /// The names of the keys and roots in it, such as `receipt-2` and `root-1`.
    pub holds: Vec<String>,
    /// The agent that asked.
    pub agent_version: String,
}

/// Something that was decided about the fleet or its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deed {
    /// When.
    pub at: UtcMs,
    /// By whom: the login name, or `cloud-ingest` itself.
    pub who: String,
    /// In a word: `revoke`, `enroll`, `activate`, ….
    pub what: String,
    /// Which controller, token or key.
    pub about: String,
    /// Why, as given.
    pub why: String,
}

impl Deed {
    /// Done by the service, because a controller asked for it.
    pub fn by_itself(at: UtcMs, what: &str, about: &str) -> Deed {
        let [what, about] = [what, about].map(str::to_owned);
        Deed { at, who: "cloud-ingest".into(), what, about, why: String::new() }
    }
}

/// A new enrolment token. Its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its number.
    pub id: TokenId,
    /// What its secret hashes to.
    pub secret_sha256: [u8; 32],
    /// Who may be enrolled with it.
    pub controller: ControllerId,
    /// Where that one hangs.
    pub site: String,
    /// What people call it.
    pub label: String,
    /// When it ends.
    pub expires: UtcMs,
}

/// An enrolment token with its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenState {
    /// As it was made.
    pub token: NewToken,
    /// When it was made.
    pub created: UtcMs,
    /// When it was used, and by which keys.
    pub used: Option<(UtcMs, DeviceKeys)>,
    /// When it was taken back.
    pub withdrawn: Option<UtcMs>,
}

/// The public halves that a controller made for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKeys {
    /// The TLS key: an uncompressed point of P-256.
    pub tls: Vec<u8>,
    /// The record key.
    pub record: PublicKey,
}

/// What all bundles leave in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// When.
    pub at: UtcMs,
    /// The controller's keys from now on.
    pub keys: DeviceKeys,
    /// The certificate's number.
    pub serial: Serial,
    /// Its end.
    pub not_after: UtcMs,
    /// What is in the bundle.
    pub holds: Vec<String>,
    /// Who asks.
    pub agent_version: String,
}

/// A controller asks to be let in with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Which token.
    pub token: TokenId,
    /// What the secret that was shown hashes to.
    pub secret_sha256: [u8; 32],
    /// What it is to get.
    pub issue: Issue,
}

/// A controller asks for its next certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Who.
    pub controller: ControllerId,
    /// The record key that signed the request.
    pub signed_by: PublicKey,
    /// What it is to get.
    pub issue: Issue,
    /// Until when the record keys before are good, if it brings a new one.
    pub overlap_until: UtcMs,
}

/// Why a controller gets no bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such token, or its secret is another: nobody is told which.
    UnknownToken,
    /// Another controller, or this one with other keys, used it.
    UsedToken(UtcMs),
    /// Its time is over.
    ExpiredToken(UtcMs),
    /// It was taken back.
    WithdrawnToken(UtcMs),
    /// No controller of that name was ever enrolled.
    UnknownController,
    /// The key that signed is not, or no more, this controller's.
    UnknownKey,
    /// It is out of trust, since when and why.
    NotActive(Standing, UtcMs, String),
}

/// A certificate that is good for nothing any more, before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Its number.
    pub serial: Serial,
    /// Since when.
    pub revoked: UtcMs,
}

/// Whether `enrolment` may have what it asks for. A token is used once; the same keys may ask again within its life,
/// because the answer may have been lost.
pub fn may_enroll(token: Option<&TokenState>, enrolment: &Enrolment) -> Result<(), Refusal> {
    let Some(state) = token.filter(|state| {
        // In constant time: the hash comparison must not tell how much of a secret was right.
        constant_time_eq(&state.token.secret_sha256, &enrolment.secret_sha256)
    }) else {
        return Err(Refusal::UnknownToken);
    };
    if let Some(withdrawn) = state.withdrawn {
        return Err(Refusal::WithdrawnToken(withdrawn));
    }
    if enrolment.issue.at >= state.token.expires {
        return Err(Refusal::ExpiredToken(state.token.expires));
    }
    match &state.used {
        Some((used, keys)) if *keys != enrolment.issue.keys => Err(Refusal::UsedToken(*used)),
        Some(_) | None => Ok(()),
    }
}

/// Whether `renewal` may have what it asks for.
pub fn may_renew(member: Option<&Member>, renewal: &Renewal) -> Result<(), Refusal> {
    let Some(member) = member else { return Err(Refusal::UnknownController) };
    let good = super::good_keys(&member.controller.record_keys, renewal.issue.at);
    if !good.contains(&renewal.signed_by) {
        // Who is out of trust is told so below, and only with the controller's key in hand.
        return Err(Refusal::UnknownKey);
    }
    match (member.standing, &member.decided) {
        (Standing::Active, _) => Ok(()),
        (standing, Some((since, why))) => Err(Refusal::NotActive(standing, *since, why.clone())),
        (standing, None) => Err(Refusal::NotActive(standing, UtcMs(0), String::new())),
    }
}

fn constant_time_eq(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}
