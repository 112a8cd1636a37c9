//! A receipt: the cloud's signed word that it has stored an outbox's records for good, up to a mark.
//!
//! A receipt opens the send window and allows pruning; nothing else does. It also brings the cloud's time.

use serde::{Deserialize, Serialize};

use crate::chain::ChainHash;
use crate::codec::{self, OpenError};
use crate::ids::{BootId, ControllerId, OutboxId, Seq, StoreEpoch};
use crate::keys::{PublicKey, SigningKey};

const LABEL: &[u8] = b"tapline/receipt/v1\0";

/// One receipt, version 1. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// For whom.
    pub controller: ControllerId,
    /// Which life of the store speaks.
    pub store_epoch: StoreEpoch,
    /// For which outbox.
    pub outbox: OutboxId,
    /// Every record 1 ..= this is committed in the store.
    pub stored_through: Seq,
    /// `h(stored_through)` as the store has it: the controller compares it with its own.
    pub hash: ChainHash,
    /// Something behind the mark was missed: please send from the mark again, now.
    pub resend: bool,
    /// Which hello this answers, if it answers one.
    pub echo: Option<Echo>,
    /// The cloud's clock when this receipt was stamped, milliseconds since 1970-01-01 UTC.
    pub cloud_utc_ms: i64,
}

/// What a receipt gives back of the hello it answers, so that the controller knows how old the cloud's time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The hello's boot.
    pub boot_id: BootId,
    /// The hello's CLOCK_BOOTTIME, milliseconds.
    pub boottime_ms: u64,
}

impl Receipt {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        codec::sign(LABEL, self, key)
    }

    /// Reads a message that came on `controller`'s topic and checks that one of the cloud's receipt keys signed it.
    pub fn open(message: &[u8], controller: &ControllerId, keys: &[PublicKey]) -> Result<Receipt, OpenError> {
        let receipt: Receipt = codec::peek(message)?;
        codec::verify_any(LABEL, message, keys)?;
        codec::meant_for(&receipt.controller, controller)?;
        Ok(receipt)
    }
}
