//! Who and which: the identities that every other module speaks in. Knows nothing of bytes on the wire.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{MAX_CONTROLLER_ID_BYTES, MAX_READER_NAME_BYTES};

/// A name that is not a slug: lower-case letters, digits and inner hyphens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {given:?} is not a slug: use 1 to {max} lower-case letters, digits and hyphens, starting and ending with a letter or digit"
)]
pub struct NotASlug {
    what: &'static str,
    given: String,
    max: usize,
}

fn slug(what: &'static str, given: &str, max: usize) -> Result<String, NotASlug> {
    let bytes = given.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if bytes.len() <= max && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
        Ok(given.to_owned())
    } else {
        Err(NotASlug { what, given: given.chars().take(80).collect(), max })
    }
}

macro_rules! slug_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The slug itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotASlug;
            fn from_str(given: &str) -> Result<Self, NotASlug> {
                slug($what, given, $max).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                // Owned, not borrowed: TOML hands over owned strings.
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

slug_type! {
    /// A door controller for life, such as `hq-door-12`: certificate CN, MQTT client id and user name.
    /// The label that people see, the site and its time zone are kept elsewhere and can change.
    ControllerId, "controller id", MAX_CONTROLLER_ID_BYTES
}

slug_type! {
    /// A reader's name within its controller, such as `in` or `gate-2`.
    ReaderName, "reader name", MAX_READER_NAME_BYTES
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = BadHex;
            fn from_str(given: &str) -> Result<Self, BadHex> {
                fixed_hex(given).map(Self).ok_or(BadHex { what: $what, digits: $bytes * 2 })
            }
        }

        /// Hexadecimal where people read (JSON, TOML), raw bytes on the wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $bytes]>::deserialize(from).map(Self)
                }
            }
        }
    };
}

/// Text that is not the hexadecimal form of an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {digits} hexadecimal digits")]
pub struct BadHex {
    what: &'static str,
    digits: usize,
}

impl BadHex {
    pub(crate) fn new(what: &'static str, digits: usize) -> BadHex {
        BadHex { what, digits }
    }
}

pub(crate) fn fixed_hex<const N: usize>(given: &str) -> Option<[u8; N]> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(given.as_bytes()).ok()?.try_into().ok()
}

hex_id! {
    /// One outbox file: 128 random bits, minted when the SQLite file is created.
    OutboxId, "outbox id", 16
}

hex_id! {
    /// One boot of a controller: the kernel's random boot id.
    BootId, "boot id", 16
}

hex_id! {
    /// A trace (W3C trace context), derived from the event so that no retry can start a second one.
    TraceId, "trace id", 16
}

/// A record's number in its outbox: 1, 2, 3 … without a gap. As a mark ("stored through"), 0 means none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The mark before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The number after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// `n` further on.
    pub fn plus(self, n: u64) -> Seq {
        Seq(self.0 + n)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which life of the cloud's store a receipt speaks for: Unix milliseconds when the store was created or
/// restored, made larger than every epoch before it. A higher epoch may lower the mark; a lower one is old news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreEpoch(pub u64);

/// The sequence number's share of an [`EventId`], in bits.
const SEQ_BITS: u32 = 48;

/// One record for ever: a function of (controller, outbox, seq), so that no retry can mint a second one.
///
/// A UUID version 8 (RFC 9562 §5.8) with this layout, most significant bit first:
///
/// | bits | what |
/// |---|---|
/// | 48 | bits 0–47 of SHA-256(`"tapline/event/v1"` ‖ 0 ‖ controller ‖ 0 ‖ outbox id) |
/// | 4 | version 8 |
/// | 12 | bits 48–59 of the same hash |
/// | 2 | variant `10` |
/// | 14 | bits 60–73 of the same hash |
/// | 48 | seq |
///
/// The first 74 free bits name the outbox and the last 48 the record, so an event is found through its outbox's
/// row and seq: no index over random ids is needed. It is also the idempotency key towards every destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(u128);

impl EventId {
    /// The id of record `seq` of `outbox` on `controller`. `seq` must be below 2^48.
    pub fn new(controller: &ControllerId, outbox: OutboxId, seq: Seq) -> EventId {
        OutboxPrefix::new(controller, outbox).event(seq)
    }

    /// The outbox's share of the id.
    pub fn outbox_prefix(self) -> OutboxPrefix {
        OutboxPrefix(self.0 >> SEQ_BITS << SEQ_BITS)
    }

    /// The record's number.
    pub fn seq(self) -> Seq {
        Seq((self.0 & ((1 << SEQ_BITS) - 1)) as u64)
    }

    /// The 16 bytes of the UUID.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The trace that this event's journey is shown under: never all zero.
    pub fn trace_id(self) -> TraceId {
        let hash =
            digest::digest(&digest::SHA256, &[b"tapline/trace/v1\0".as_slice(), &self.to_bytes()].concat());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_ref()[..16]);
        id[15] |= 1;
        TraceId(id)
    }
}

/// The part of an [`EventId`] that all records of one outbox share. Compute it once per outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPrefix(u128);

impl OutboxPrefix {
    /// The prefix for `outbox` of `controller`.
    pub fn new(controller: &ControllerId, outbox: OutboxId) -> OutboxPrefix {
        let mut hasher = digest::Context::new(&digest::SHA256);
        hasher.update(b"tapline/event/v1\0");
        hasher.update(controller.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(&outbox.0);
        let hash = hasher.finish();
        let first = hash.as_ref()[..16].iter().fold(0u128, |all, byte| all << 8 | u128::from(*byte));
        let high_48 = first >> 80;
        let mid_12 = first >> 68 & 0xfff;
        let low_14 = first >> 54 & 0x3fff;
        OutboxPrefix(high_48 << 80 | 8 << 76 | mid_12 << 64 | 0b10 << 62 | low_14 << 48)
    }

    /// The id of record `seq` of this outbox. `seq` must be below 2^48 (a million taps a second for nine years).
    pub fn event(self, seq: Seq) -> EventId {
        assert!(seq.0 >> SEQ_BITS == 0, "seq {seq} does not fit an event id");
        EventId(self.0 | u128::from(seq.0))
    }

    /// 16 bytes with the seq part zero: how a store indexes it.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            n >> 80 & 0xffff,
            n >> 64 & 0xffff,
            n >> 48 & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// Text that is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event id looks like 0198c0de-0000-8000-8000-000000000001")]
pub struct NotAnEventId;

impl FromStr for EventId {
    type Err = NotAnEventId;
    fn from_str(given: &str) -> Result<Self, NotAnEventId> {
        let hyphens_right = given.len() == 36 && [8, 13, 18, 23].iter().all(|i| given.as_bytes()[*i] == b'-');
        let digits: String = given.chars().filter(|c| *c != '-').collect();
        let id = u128::from_str_radix(&digits, 16).map_err(|_| NotAnEventId)?;
        let is_v8 = id >> 76 & 0xf == 8 && id >> 62 & 0b11 == 0b10;
        if hyphens_right && digits.len() == 32 && is_v8 { Ok(EventId(id)) } else { Err(NotAnEventId) }
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(name: &str) -> ControllerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_slug_is_lower_case_letters_digits_and_inner_hyphens() {
        for good in ["a", "hq-door-12", "0", &"x".repeat(MAX_CONTROLLER_ID_BYTES)] {
            assert_eq!(controller(good).as_str(), good);
        }
        for bad in
            ["", "-a", "a-", "A", "a_b", "a/b", "a+b", "#", "ä", &"x".repeat(MAX_CONTROLLER_ID_BYTES + 1)]
        {
            assert!(bad.parse::<ControllerId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn an_event_id_is_a_v8_uuid_that_carries_its_seq() {
        let id = EventId::new(&controller("hq-door-12"), OutboxId([7; 16]), Seq(258));
        assert_eq!(id.to_string(), "058b8351-c0a3-8a64-a2a3-000000000102");
        assert_eq!(id.seq(), Seq(258));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.outbox_prefix(), OutboxPrefix::new(&controller("hq-door-12"), OutboxId([7; 16])));
    }

    #[test]
    fn another_controller_outbox_or_seq_is_another_event() {
        let id = |c: &str, o: u8, s: u64| EventId::new(&controller(c), OutboxId([o; 16]), Seq(s));
        let all = [id("a", 1, 1), id("b", 1, 1), id("a", 2, 1), id("a", 1, 2)];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn text_that_is_no_event_id_is_refused() {
        for bad in [
            "",
            "61a7ca6c",
            "058b8351-c0a3-4a64-a2a3-000000000102",
            "058b83510c0a3-8a64-a2a3-000000000102",
            "ä",
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(NotAnEventId), "{bad:?}");
        }
    }
}
