//! A command: what the cloud asks of one controller, signed by its control key and numbered. The controller keeps the
//! highest number that it took, on its disk, and takes no other twice; the cloud sends one at a time, again with every
//! hello, until the controller reports it done.

use serde::{Deserialize, Serialize};

use crate::codec::{self, OpenError};
use crate::ids::{ControllerId, OutboxId};
use crate::keys::{PublicKey, SigningKey};

const LABEL: &[u8] = b"tapline/command/v1\0";

/// One command, version 1. Frozen; [`Order`] is append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// For whom.
    pub controller: ControllerId,
    /// Which: only grows for a controller, also when the cloud is restored from a backup.
    pub number: u64,
    /// When it was given, by the cloud's clock: milliseconds since 1970-01-01 UTC.
    pub issued_utc_ms: i64,
    /// What to do.
    pub order: Order,
}

/// What a controller can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The store and this outbox contradict each other: begin another one, and say again there what the store lacks.
    StartNewOutbox {
        /// Which one is to be left.
        outbox: OutboxId,
    },
    /// Run all checks and report what they say.
    RunChecks,
    /// Fetch certificate and keys anew, now: something of them has changed, such as the token key.
    FetchKeys,
    /// This controller is out of trust: record nothing any more, since nothing will be taken.
    Revoke,
}

impl Command {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        codec::sign(LABEL, self, key)
    }

    /// Reads a message that came on `controller`'s topic and checks that one of the cloud's control keys signed it.
    /// Whether its number is new is for the caller to say.
    pub fn open(message: &[u8], controller: &ControllerId, keys: &[PublicKey]) -> Result<Command, OpenError> {
        let command: Command = codec::peek(message)?;
        codec::verify_any(LABEL, message, keys)?;
        codec::meant_for(&command.controller, controller)?;
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_arrives_as_it_was_given_and_only_where_it_was_meant_to() {
        let key = SigningKey::from_seed(&[5; 32]);
        let door: ControllerId = "hq-door-12".parse().unwrap();
        let orders = [
            Order::StartNewOutbox { outbox: OutboxId([7; 16]) },
            Order::RunChecks,
            Order::FetchKeys,
            Order::Revoke,
        ];
        for (number, order) in (1..).zip(orders) {
            let command = Command { controller: door.clone(), number, issued_utc_ms: 5, order };
            let message = command.sign(&key);
            assert_eq!(Command::open(&message, &door, &[key.public()]), Ok(command));
            let elsewhere = Command::open(&message, &"hq-door-13".parse().unwrap(), &[key.public()]);
            assert!(matches!(elsewhere, Err(OpenError::WrongController { .. })));
            let stranger = SigningKey::from_seed(&[6; 32]).public();
            assert!(matches!(Command::open(&message, &door, &[stranger]), Err(OpenError::Signature(_))));
        }
    }
}
