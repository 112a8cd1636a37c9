//! A report: what a controller says to the cloud beside records and hellos: which parts of a roster it lacks, what came
//! of a command, and which hashes it wants to compare. Signed by its record key, on `tap/v1/{controller}/report`.
//!
//! A report asks or tells and changes no record, so a lost one is said again and a repeated one does no harm.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, OpenError};
use crate::ids::{BootId, ControllerId, OutboxId, Seq};
use crate::keys::{PublicKey, SigningKey};
use crate::limits::{MAX_PROBED_HASHES, MAX_REPORT_TEXT_BYTES};

const LABEL: &[u8] = b"tapline/report/v1\0";

/// One report, version 1. Frozen; [`What`] is append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub controller: ControllerId,
    /// In which boot.
    pub boot_id: BootId,
    /// CLOCK_BOOTTIME when it was made, milliseconds.
    pub boottime_ms: u64,
    /// What.
    pub what: What,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Please send these chunks of this roster.
    RosterWanted {
        /// Which roster.
        version: u64,
        /// The first chunk.
        from: u32,
        /// How many.
        count: u32,
    },
    /// This is what came of a command.
    CommandDone {
        /// Which.
        number: u64,
        /// How it ended.
        outcome: Outcome,
        /// For people; at most [`MAX_REPORT_TEXT_BYTES`].
        detail: String,
    },
    /// Please say with a receipt for each of these places what the store has there: the controller looks for the last
    /// record that both sides have.
    HashesWanted {
        /// In which outbox.
        outbox: OutboxId,
        /// Where; at most [`MAX_PROBED_HASHES`], ascending.
        seqs: Vec<Seq>,
    },
}

/// How a command ended. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, or it was done before.
    Done,
    /// It makes no sense here (any more).
    Refused,
    /// Tried, and it did not work.
    Failed,
}

impl Report {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        self.what.check().expect("the controller keeps the rules");
        codec::sign(LABEL, self, key)
    }

    /// Reads a message that came on `controller`'s topic and checks that its record key signed it.
    pub fn open(message: &[u8], controller: &ControllerId, key: &PublicKey) -> Result<Report, OpenError> {
        let report: Report = codec::peek(message)?;
        codec::verify(LABEL, message, key)?;
        codec::meant_for(&report.controller, controller)?;
        report.what.check()?;
        Ok(report)
    }
}

impl What {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            What::RosterWanted { .. } => Ok(()),
            What::CommandDone { detail, .. } if detail.len() > MAX_REPORT_TEXT_BYTES => {
                Err(DecodeError::Rule("a report's text has at most 4096 bytes"))
            }
            What::CommandDone { .. } => Ok(()),
            What::HashesWanted { seqs, .. }
                if seqs.len() > MAX_PROBED_HASHES || !seqs.is_sorted_by(|a, b| a < b) =>
            {
                Err(DecodeError::Rule("a report asks for at most 32 hashes, in ascending order"))
            }
            What::HashesWanted { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(what: What) -> Report {
        let controller = "hq-door-12".parse().unwrap();
        Report { controller, boot_id: BootId([4; 16]), boottime_ms: 5, what }
    }

    fn open(message: &[u8]) -> Result<Report, OpenError> {
        Report::open(message, &"hq-door-12".parse().unwrap(), &SigningKey::from_seed(&[1; 32]).public())
    }

    #[test]
    fn every_report_arrives_as_it_was_made() {
        let outbox = OutboxId([7; 16]);
        for what in [
            What::RosterWanted { version: 7, from: 3, count: 16 },
            What::CommandDone { number: 9, outcome: Outcome::Refused, detail: "no such outbox".into() },
            What::HashesWanted { outbox, seqs: vec![] },
            What::HashesWanted { outbox, seqs: vec![Seq(1), Seq(5)] },
        ] {
            let sent = report(what);
            assert_eq!(open(&sent.sign(&SigningKey::from_seed(&[1; 32]))), Ok(sent));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused_though_it_is_signed() {
        let outbox = OutboxId([7; 16]);
        for what in [
            What::CommandDone { number: 9, outcome: Outcome::Done, detail: "x".repeat(4_097) },
            What::HashesWanted { outbox, seqs: vec![Seq(5), Seq(5)] },
            What::HashesWanted { outbox, seqs: (1..=33).map(Seq).collect() },
        ] {
            let message = codec::sign(LABEL, &report(what), &SigningKey::from_seed(&[1; 32]));
            assert!(matches!(open(&message), Err(OpenError::Decode(DecodeError::Rule(_)))));
        }
    }
}
