//! Beside the line: the challenges of enrolment. Pure: `now` and randomness are arguments.
//!
//! A challenge carries its moment and a code over it, so that none is kept while it is under way; a used one is kept until
//! its time is over, so that none is used twice.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use ring::hmac;

use crate::event_store::UtcMs;

/// So long is a challenge good: time to sign it on a slow controller, over a slow line.
pub const GOOD_FOR_MS: i64 = 5 * 60 * 1_000;

/// So many used challenges are kept; with more, nobody is answered until some have ended.
pub const MAX_USED: usize = 16_384;

const BYTES: usize = 32;
const MOMENT: std::ops::Range<usize> = 0..8;
const SIGNED: std::ops::Range<usize> = 0..16;
const CODE: std::ops::Range<usize> = 16..BYTES;

/// Makes challenges and takes each back once.
pub struct Challenges {
    key: hmac::Key,
    /// By their moment, which they begin with.
    used: BTreeSet<[u8; BYTES]>,
}

/// Why a challenge is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotGood {
    /// Not made here, or before the service started.
    Foreign,
    /// Older than [`GOOD_FOR_MS`].
    TooOld,
    /// It was used before.
    Used,
    /// Too many others were used lately.
    Busy,
}

impl Challenges {
    /// Under a secret that nobody else has.
    pub fn new(secret: &[u8; 32]) -> Challenges {
        Challenges { key: hmac::Key::new(hmac::HMAC_SHA256, secret), used: BTreeSet::new() }
    }

    /// A new one.
    pub fn make(&self, now: UtcMs, random: [u8; 8]) -> String {
        let mut bytes = [0; BYTES];
        bytes[MOMENT].copy_from_slice(&now.0.to_be_bytes());
        bytes[MOMENT.end..SIGNED.end].copy_from_slice(&random);
        let code = hmac::sign(&self.key, &bytes[SIGNED]);
        bytes[CODE].copy_from_slice(&code.as_ref()[..CODE.len()]);
        HEXLOWER.encode(&bytes)
    }

    /// Takes one back.
    pub fn take(&mut self, challenge: &str, now: UtcMs) -> Result<(), NotGood> {
        let decoded = HEXLOWER.decode(challenge.as_bytes()).ok();
        let bytes: [u8; BYTES] = decoded.and_then(|bytes| bytes.try_into().ok()).ok_or(NotGood::Foreign)?;
        let code = hmac::sign(&self.key, &bytes[SIGNED]);
        let same = code.as_ref()[..CODE.len()].iter().zip(&bytes[CODE]).fold(0, |d, (a, b)| d | (a ^ b)) == 0;
        if !same {
            return Err(NotGood::Foreign);
        }
        let made = i64::from_be_bytes(bytes[MOMENT].try_into().expect("eight bytes"));
        if !(0..GOOD_FOR_MS).contains(&(now.0 - made)) {
            return Err(NotGood::TooOld);
        }
        let mut oldest_good = [0; BYTES];
        oldest_good[MOMENT].copy_from_slice(&(now.0 - GOOD_FOR_MS).max(0).to_be_bytes());
        self.used = self.used.split_off(&oldest_good);
        if self.used.len() >= MAX_USED {
            return Err(NotGood::Busy);
        }
        if self.used.insert(bytes) { Ok(()) } else { Err(NotGood::Used) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UtcMs = UtcMs(1_772_434_800_000);

    fn later(ms: i64) -> UtcMs {
        UtcMs(NOW.0 + ms)
    }

    #[test]
    fn a_challenge_is_good_once_and_for_five_minutes() {
        let mut challenges = Challenges::new(&[1; 32]);
        let made = challenges.make(NOW, [2; 8]);
        assert_eq!(made.len(), 64);
        assert_eq!(challenges.take(&made, later(GOOD_FOR_MS)), Err(NotGood::TooOld));
        assert_eq!(challenges.take(&made, later(GOOD_FOR_MS - 1)), Ok(()));
        assert_eq!(challenges.take(&made, later(GOOD_FOR_MS - 1)), Err(NotGood::Used));
    }

    #[test]
    fn no_changed_or_foreign_challenge_is_taken() {
        let mut challenges = Challenges::new(&[1; 32]);
        let made = challenges.make(NOW, [2; 8]);
        for at in 0..made.len() {
            let mut changed = made.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(challenges.take(&changed, NOW), Err(NotGood::Foreign), "{at}");
        }
        let foreign = Challenges::new(&[3; 32]).make(NOW, [2; 8]);
        for bad in ["", "abc", &made[..62], &made.to_uppercase(), &foreign] {
            assert_eq!(challenges.take(bad, NOW), Err(NotGood::Foreign), "{bad}");
        }
    }

    #[test]
    fn what_is_kept_of_used_ones_has_an_end() {
        let mut challenges = Challenges::new(&[1; 32]);
        let mut take = |n: usize, now: UtcMs| {
            let made = challenges.make(now, (n as u64).to_be_bytes());
            challenges.take(&made, now)
        };
        for n in 0..MAX_USED {
            assert_eq!(take(n, NOW), Ok(()));
        }
        assert_eq!(take(MAX_USED, NOW), Err(NotGood::Busy));
        assert_eq!(take(0, later(GOOD_FOR_MS + 1)), Ok(()));
    }
}
