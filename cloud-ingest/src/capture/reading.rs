//! Step 7 of 12, over HTTP: what a request says, and the record that it becomes. Pure: knows no HTTP but the texts that it is
//! given, no store and no clock.
//!
//! The clear card number lives from [`read`] to [`Reading::captured`], in the same function of the caller; what leaves
//! here is sealed.

use jiff::Timestamp;
use ring::digest::{Context, SHA256, digest};
use serde::Deserialize;
use tap_protocol::badge::{Credential, TokenKey};
use tap_protocol::ids::{ControllerId, ReaderName};
use tap_protocol::record::{Body, ClockState, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

use crate::event_store::UtcMs;
use crate::event_store::capture::{ApiKeyId, CapturedTap, MAX_AGE_MS, MAX_AHEAD_MS, Print};

/// The longest request: a badge of 1,024 bits, generously written.
pub const MAX_BODY_BYTES: usize = 8 * 1024;

/// A UUID has 36; who builds a key of several parts needs some more.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;

/// The reader of a tap that names none.
const DEFAULT_READER: &str = "api";

/// The longest time that anybody writes: nanoseconds and an offset.
const MAX_TIME_BYTES: usize = 40;

/// A request as it came, read and within its bounds. It holds a clear card number: no `Debug`, no `Clone`.
pub struct Reading {
    badge: Credential,
    occurred: UtcMs,
    direction: Direction,
    reader: ReaderName,
    key_sha256: [u8; 32],
}

/// Why a request is not taken. The messages go to whoever sent it, and to no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is not what was asked for at all: 400.
    #[error("{0}")]
    Form(String),
    /// It is readable and says something that cannot be: 422.
    #[error("{0}")]
    Value(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    badge: String,
    occurred_at: String,
    #[serde(default)]
    direction: Direction,
    reader: Option<String>,
}

/// Reads a request that came at `now`.
pub fn read(idempotency_key: Option<&str>, body: &[u8], now: UtcMs) -> Result<Reading, Wrong> {
    let key = idempotency_key.unwrap_or_default();
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Wrong::Form(format!(
            "send an `Idempotency-Key` of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters, such as a UUID, one \
             per tap: whoever repeats a request with it does not record the tap twice"
        )));
    }
    let fields: Fields = serde_json::from_slice(body).map_err(|error| match error.is_data() {
        true => Wrong::Value(format!("the body is not as documented: {error}")),
        false => Wrong::Form(format!("the body is no JSON: {error}")),
    })?;
    let badge: Credential = fields.badge.parse().map_err(|error| Wrong::Value(format!("badge: {error}")))?;
    let reader = fields.reader.as_deref().unwrap_or(DEFAULT_READER);
    Ok(Reading {
        badge,
        occurred: occurred(&fields.occurred_at, now)?,
        direction: fields.direction,
        reader: reader.parse().map_err(|error| Wrong::Value(format!("reader: {error}")))?,
        key_sha256: digest(&SHA256, key.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes"),
    })
}

/// A moment with its offset from UTC, not too old and not ahead.
fn occurred(text: &str, now: UtcMs) -> Result<UtcMs, Wrong> {
    let wrong = |why: &str| Wrong::Value(format!("occurredAt: {why}"));
    let is_plain = text.len() <= MAX_TIME_BYTES && !text.contains('[');
    let moment: Option<Timestamp> = if is_plain { text.parse().ok() } else { None };
    let moment = moment.ok_or_else(|| {
        wrong("write the moment with its offset from UTC, such as 2026-03-02T08:00:00+01:00 or 2026-03-02T07:00:00Z")
    })?;
    let occurred = UtcMs(moment.as_millisecond());
    if occurred.0 > now.0 + MAX_AHEAD_MS {
        return Err(wrong("this is more than five minutes ahead of the clock here: is yours right?"));
    }
    if occurred.0 < now.0 - MAX_AGE_MS {
        return Err(wrong("this is more than 31 days ago: older taps are for a person to correct"));
    }
    Ok(occurred)
}

impl Reading {
    /// The tap of that source, sealed under the first of `keys`; prints under all of them, so that the same request is
    /// known again after the token key was changed.
    pub fn captured(
        &self,
        source: ControllerId,
        api_key: ApiKeyId,
        keys: &[TokenKey],
        received: UtcMs,
    ) -> CapturedTap {
        let sealing = keys.first().expect("a keyring without a token key is not loaded");
        let tap = Tap {
            reader: self.reader.clone(),
            badge: sealing.seal(&self.badge),
            direction: self.direction,
            verdict: Verdict::NoRoster,
        };
        // Whoever captured it told the time: there is no boot of ours to count it by.
        let at = Stamp { boot: 1, boottime_ms: 0, wall_ms: self.occurred.0, clock: ClockState::Synced };
        CapturedTap {
            source,
            api_key,
            key_sha256: self.key_sha256,
            prints: keys.iter().map(|key| self.print(key)).collect(),
            received,
            record: Record { at, body: Body::Tap(tap) }.encode(),
        }
    }

    fn print(&self, key: &TokenKey) -> Print {
        let mut hashing = Context::new(&SHA256);
        hashing.update(b"tapline/capture-print/v1\0");
        hashing.update(&key.seal(&self.badge).token.0);
        hashing.update(&self.occurred.0.to_be_bytes());
        hashing.update(self.direction.name().as_bytes());
        hashing.update(&[0]);
        hashing.update(self.reader.as_str().as_bytes());
        let sha256 = hashing.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes");
        Print { token_key: key.id(), sha256 }
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::TokenKeyId;

    use super::*;

    /// 2026-03-02 07:00:00 UTC.
    const NOW: UtcMs = UtcMs(1_772_434_800_000);

    const GOOD: &str =
        r#"{"badge":"04A224B1C2D380","occurredAt":"2026-03-02T07:59:00+01:00","direction":"in"}"#;

    fn keys() -> [TokenKey; 2] {
        [TokenKey::new(TokenKeyId(2), [2; 32]), TokenKey::new(TokenKeyId(1), [1; 32])]
    }

    fn captured(body: &str) -> CapturedTap {
        let reading = read(Some("k-1"), body.as_bytes(), NOW).unwrap_or_else(|wrong| panic!("{wrong}"));
        reading.captured("api-1".parse().unwrap(), [1; 5], &keys(), NOW)
    }

    #[track_caller]
    fn refused(body: &str) -> Wrong {
        read(Some("k-1"), body.as_bytes(), NOW).err().unwrap_or_else(|| panic!("taken: {body}"))
    }

    #[track_caller]
    fn wrong_value(field: &str, value: &str, said: &str) {
        let mut body: serde_json::Value = serde_json::from_str(GOOD).unwrap();
        body[field] = serde_json::from_str(value).unwrap();
        match refused(&body.to_string()) {
            Wrong::Value(why) => assert!(why.contains(said), "{why}"),
            Wrong::Form(why) => panic!("a form: {why}"),
        }
    }

    #[test]
    fn a_request_becomes_a_sealed_tap() {
        let tap = captured(GOOD);
        let Record { at, body: Body::Tap(sealed) } = Record::decode(&tap.record).unwrap() else { panic!() };
        assert_eq!((at.wall_ms, at.clock), (NOW.0 - 60_000, ClockState::Synced));
        assert_eq!((sealed.direction, sealed.reader.as_str()), (Direction::In, "api"));
        assert_eq!(keys()[0].open(&sealed.badge).unwrap().reveal(), "hf:04A224B1C2D380");
        let clear = [0x04, 0xa2, 0x24, 0xb1, 0xc2, 0xd3, 0x80];
        assert!(!tap.record.windows(7).any(|bytes| bytes == clear));
    }

    #[test]
    fn the_same_meaning_has_the_same_print_however_it_is_written() {
        let same = r#" { "direction" : "in", "badge":"hf:04:a2:24:b1:c2:d3:80",
                       "reader":"api", "occurredAt":"2026-03-02T06:59:00.000Z" } "#;
        assert_eq!(captured(GOOD).prints, captured(same).prints);
        for (field, value) in [
            ("badge", "04A224B1C2D381"),
            ("occurredAt", "2026-03-02T06:59:00.001Z"),
            ("direction", "out"),
            ("reader", "gate"),
        ] {
            let mut other: serde_json::Value = serde_json::from_str(GOOD).unwrap();
            other[field] = value.into();
            assert_ne!(captured(GOOD).prints, captured(&other.to_string()).prints, "{field}");
        }
    }

    #[test]
    fn the_same_meaning_is_known_again_under_another_token_key() {
        let before = captured(GOOD).prints;
        let reading = read(Some("k-1"), GOOD.as_bytes(), NOW).unwrap_or_else(|wrong| panic!("{wrong}"));
        let [_, older] = keys();
        let after = reading.captured("api-1".parse().unwrap(), [1; 5], &[older], NOW);
        assert_eq!(after.means_the_same(&before[1]), Some(true));
        assert_eq!(after.means_the_same(&before[0]), None);
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        wrong_value("badge", r#""xyz""#, "badge: write a badge as hexadecimal");
        wrong_value("badge", "12345", "expected a string");
        wrong_value("occurredAt", r#""2026-03-02T07:59:00""#, "offset from UTC");
        wrong_value("occurredAt", r#""2026-03-02T07:59:00+01:00[Europe/Berlin]""#, "offset from UTC");
        wrong_value("occurredAt", r#""yesterday""#, "offset from UTC");
        wrong_value("occurredAt", r#""2026-03-02T07:05:01Z""#, "ahead of the clock");
        wrong_value("occurredAt", r#""2026-01-30T06:59:59Z""#, "31 days ago");
        wrong_value("occurredAt", r#""0001-01-01T00:00:00Z""#, "31 days ago");
        wrong_value("direction", r#""sideways""#, "unknown variant");
        wrong_value("reader", r#""Main Gate""#, "reader: reader name");
        wrong_value("person", r#""P-1""#, "unknown field `person`");
        assert!(
            matches!(refused(r#"{"badge":"04A224B1C2D380"}"#), Wrong::Value(why) if why.contains("occurredAt"))
        );
        let twice = GOOD.replace("\"direction\"", "\"badge\":\"04A224B1C2D381\",\"direction\"");
        assert!(matches!(refused(&twice), Wrong::Value(why) if why.contains("duplicate field")));
    }

    #[test]
    fn what_is_no_json_or_has_no_key_is_no_request() {
        for body in ["", "{", "badge=04A224B1C2D380", "\u{0}", "{} {}"] {
            assert!(matches!(refused(body), Wrong::Form(_) | Wrong::Value(_)), "{body:?}");
        }
        assert!(matches!(refused("{"), Wrong::Form(why) if why.contains("no JSON")));
        let long = "k".repeat(MAX_IDEMPOTENCY_KEY_BYTES + 1);
        for key in [None, Some(""), Some("two words"), Some("ä"), Some(long.as_str())] {
            assert!(
                matches!(read(key, GOOD.as_bytes(), NOW), Err(Wrong::Form(why)) if why.contains("Idempotency-Key"))
            );
        }
        assert!(read(Some(&long[1..]), GOOD.as_bytes(), NOW).is_ok());
    }
}
