//! Hello: what a controller says of itself on every connect and every minute. The cloud answers each with a receipt
//! per outbox.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, OpenError};
use crate::ids::{BootId, ControllerId, OutboxId, ReaderName, Seq, StoreEpoch};
use crate::keys::{PublicKey, SigningKey};
use crate::limits::{MAX_HELLO_OUTBOXES, MAX_READERS};
use crate::record::ClockState;

const LABEL: &[u8] = b"tapline/hello/v1\0";

/// One hello, version 1. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who.
    pub controller: ControllerId,
    /// Which boot.
    pub boot_id: BootId,
    /// CLOCK_BOOTTIME when this hello was made, milliseconds. The receipt echoes it.
    pub boottime_ms: u64,
    /// The wall clock when this hello was made, milliseconds since 1970-01-01 UTC.
    pub wall_ms: i64,
    /// Whether that wall clock was to be believed.
    pub clock: ClockState,
    /// The agent's version.
    pub agent_version: String,
    /// The newest record version that the agent writes.
    pub record_version: u8,
    /// The roster in use, if any.
    pub roster_version: Option<u64>,
    /// All outboxes on the disk, oldest first, at most [`MAX_HELLO_OUTBOXES`]; the last one is being written.
    pub outboxes: Vec<OutboxHello>,
    /// All readers, at most [`MAX_READERS`].
    pub readers: Vec<ReaderHello>,
}

/// One outbox in a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxHello {
    /// Which.
    pub outbox: OutboxId,
    /// The last record committed.
    pub last_seq: Seq,
    /// The highest mark that a receipt gave.
    pub receipted_through: Seq,
    /// The store epoch of that receipt; `None` before the first.
    pub store_epoch: Option<StoreEpoch>,
    /// How long the oldest record without a receipt has waited, as far as this boot can tell; `None` if none waits.
    pub oldest_unreceipted_age_ms: Option<u64>,
}

/// One reader in a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderHello {
    /// Which.
    pub reader: ReaderName,
    /// How it is connected.
    pub kind: ReaderKind,
    /// Whether it answers.
    pub state: ReaderState,
}

/// How a reader is connected. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderKind {
    /// Through pcscd.
    Pcsc,
    /// On a serial port.
    Serial,
    /// Taps typed at the controller (`edge-agent tap --simulate`).
    Simulated,
}

/// Whether a reader answers. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderState {
    /// It is being opened for the first time.
    Starting,
    /// It answers.
    Up,
    /// It is gone or silent.
    Down,
}

impl Hello {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        assert!(self.outboxes.len() <= MAX_HELLO_OUTBOXES && self.readers.len() <= MAX_READERS);
        codec::sign(LABEL, self, key)
    }

    /// Reads a message that came on `controller`'s topic and checks that its record key signed it.
    pub fn open(message: &[u8], controller: &ControllerId, key: &PublicKey) -> Result<Hello, OpenError> {
        let hello: Hello = codec::peek(message)?;
        codec::verify(LABEL, message, key)?;
        codec::meant_for(&hello.controller, controller)?;
        if hello.outboxes.len() > MAX_HELLO_OUTBOXES || hello.readers.len() > MAX_READERS {
            return Err(DecodeError::Rule("a hello names at most 16 outboxes and 16 readers").into());
        }
        Ok(hello)
    }
}
