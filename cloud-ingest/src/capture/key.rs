//! Step 7 of 12, over HTTP: API keys as text, and whether one that is shown is good. Pure: knows no store and no
//! randomness.
//!
//! `tl_PREFIX_SECRET`: the prefix is the key's number and no secret, so lists and logs name a key by it. Of the secret
//! (256 bits) only the hash is kept; that needs no salt and no slow hash, because nobody can guess 256 bits.

use std::collections::HashMap;
use std::fmt;

use data_encoding::BASE32_NOPAD;
use ring::digest::{SHA256, digest};
use tap_protocol::ids::ControllerId;

use crate::event_store::UtcMs;
use crate::event_store::capture::{ApiKeyId, ApiKeyState};

/// A key as it is shown, once.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its number.
    pub id: ApiKeyId,
    secret: [u8; 32],
}

/// What the key's number looks like in the text of the key and everywhere else.
pub fn prefix(id: &ApiKeyId) -> String {
    BASE32_NOPAD.encode(id).to_ascii_lowercase()
}

/// The number behind a prefix.
pub fn id_of(prefix: &str) -> Option<ApiKeyId> {
    BASE32_NOPAD.decode(prefix.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

impl ApiKey {
    /// Of random bytes.
    pub fn new(id: ApiKeyId, secret: [u8; 32]) -> ApiKey {
        ApiKey { id, secret }
    }

    /// What the store keeps of the secret.
    pub fn secret_sha256(&self) -> [u8; 32] {
        digest(&SHA256, &self.secret).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    /// The text, to be shown once.
    pub fn reveal(&self) -> String {
        format!("tl_{}_{}", prefix(&self.id), BASE32_NOPAD.encode(&self.secret).to_ascii_lowercase())
    }

    /// Reads the text.
    pub fn read(text: &str) -> Option<ApiKey> {
        let (prefix, secret) = text.strip_prefix("tl_")?.split_once('_')?;
        let secret = BASE32_NOPAD.decode(secret.to_ascii_uppercase().as_bytes()).ok()?;
        Some(ApiKey { id: id_of(prefix)?, secret: secret.try_into().ok()? })
    }
}

/// Never the secret.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", prefix(&self.id))
    }
}

/// Why a key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGood {
    /// Nothing that reads like a key.
    #[error("send the API key as `Authorization: Bearer tl_…`; `cloud-ingest api-keys create` makes one")]
    Missing,
    /// There is no such key, or its secret is another: nobody is told which.
    #[error("this API key is not known here; `cloud-ingest api-keys list` shows those that are")]
    Unknown,
    /// Its time is over.
    #[error("this API key ended; make a new one with `cloud-ingest api-keys create`")]
    Expired,
    /// It was taken back.
    #[error("this API key was revoked; make a new one with `cloud-ingest api-keys create`")]
    Revoked,
}

/// All keys, as the store had them when it was last asked: so that a request is answered, and a tap taken, while the
/// store is away.
#[derive(Debug, Default)]
pub struct KeyBook {
    keys: HashMap<ApiKeyId, ApiKeyState>,
}

impl KeyBook {
    /// Of what the store has.
    pub fn new(keys: Vec<ApiKeyState>) -> KeyBook {
        KeyBook { keys: keys.into_iter().map(|state| (state.key.id, state)).collect() }
    }

    /// Whether there is a key of that number.
    pub fn has(&self, id: &ApiKeyId) -> bool {
        self.keys.contains_key(id)
    }

    /// Which source speaks, by the value of its `Authorization` header.
    pub fn source(
        &self,
        authorization: Option<&str>,
        now: UtcMs,
    ) -> Result<(ApiKeyId, ControllerId), NotGood> {
        let shown = authorization.and_then(bearer).and_then(ApiKey::read).ok_or(NotGood::Missing)?;
        let state = self.keys.get(&shown.id).filter(|state| {
            // In constant time: how long it takes must not tell how much of a secret was right.
            constant_time_eq(&state.key.secret_sha256, &shown.secret_sha256())
        });
        let state = state.ok_or(NotGood::Unknown)?;
        if state.revoked.is_some() {
            Err(NotGood::Revoked)
        } else if state.key.expires.is_some_and(|expires| now >= expires) {
            Err(NotGood::Expired)
        } else {
            Ok((state.key.id, state.key.source.clone()))
        }
    }
}

/// The scheme's name is not told apart by case (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn constant_time_eq(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::capture::NewApiKey;

    fn key(n: u8) -> ApiKey {
        ApiKey::new([n; 5], [n + 100; 32])
    }

    fn state(n: u8) -> ApiKeyState {
        ApiKeyState {
            key: NewApiKey {
                id: key(n).id,
                secret_sha256: key(n).secret_sha256(),
                source: format!("api-{n}").parse().unwrap(),
                expires: None,
            },
            created: UtcMs(1),
            last_used: None,
            revoked: None,
        }
    }

    fn book() -> KeyBook {
        let ends = ApiKeyState { key: NewApiKey { expires: Some(UtcMs(50)), ..state(2).key }, ..state(2) };
        let revoked = ApiKeyState { revoked: Some(UtcMs(9)), ..state(3) };
        KeyBook::new(vec![state(1), ends, revoked])
    }

    fn shown(text: &str) -> Result<String, NotGood> {
        let header = format!("Bearer {text}");
        book().source(Some(&header), UtcMs(49)).map(|(_, source)| source.to_string())
    }

    #[test]
    fn a_key_is_known_by_its_text() {
        assert_eq!(shown(&key(1).reveal()), Ok("api-1".into()));
        assert_eq!(key(1).reveal(), "tl_aeaqcaib_mvswkzlfmvswkzlfmvswkzlfmvswkzlfmvswkzlfmvswkzlfmvsq");
        assert_eq!(id_of("aeaqcaib"), Some([1; 5]));
        let lower = format!("bearer  {}", key(1).reveal());
        assert!(book().source(Some(&lower), UtcMs(49)).is_ok());
    }

    #[test]
    fn a_key_is_good_until_its_end_or_its_revocation() {
        assert_eq!(shown(&key(2).reveal()), Ok("api-2".into()));
        let header = format!("Bearer {}", key(2).reveal());
        assert_eq!(book().source(Some(&header), UtcMs(50)), Err(NotGood::Expired));
        assert_eq!(shown(&key(3).reveal()), Err(NotGood::Revoked));
    }

    #[test]
    fn nobody_is_told_whether_the_number_or_the_secret_is_wrong() {
        let wrong_secret = ApiKey::new([1; 5], [9; 32]);
        assert_eq!(shown(&wrong_secret.reveal()), Err(NotGood::Unknown));
        assert_eq!(shown(&key(7).reveal()), Err(NotGood::Unknown));
        let revoked_by_guess = ApiKey::new([3; 5], [9; 32]);
        assert_eq!(shown(&revoked_by_guess.reveal()), Err(NotGood::Unknown));
    }

    #[test]
    fn what_reads_like_no_key_is_missing() {
        for text in ["", "tl_", "tl_aeaqcaib", "tl_aeaqcaib_", "aeaqcaib_mvsw", "tl_é_é"] {
            assert_eq!(shown(text), Err(NotGood::Missing), "{text:?}");
        }
        assert_eq!(book().source(None, UtcMs(0)), Err(NotGood::Missing));
        assert_eq!(book().source(Some("Basic abc"), UtcMs(0)), Err(NotGood::Missing));
        assert_eq!(book().source(Some(&key(1).reveal()), UtcMs(0)), Err(NotGood::Missing));
    }

    #[test]
    fn nothing_shows_a_secret_by_accident() {
        assert_eq!(format!("{:?}", key(1)), "ApiKey(aeaqcaib)");
        assert!(!format!("{:?}", book()).contains("mvsw"));
    }
}
