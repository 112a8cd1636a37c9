//! What the agent says of itself: the shape of `edge-agent status --output json`, which scripts rely on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tap_protocol::hello::{ReaderKind, ReaderState};
use tap_protocol::ids::{BootId, ControllerId, OutboxId, ReaderName};
use tap_protocol::record::ClockState;
use tap_protocol::report::Outcome;

/// The whole agent at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub controller: ControllerId,
    /// The agent's version.
    pub version: String,
    /// Which run of the agent this is: its counters began at 0.
    pub instance: String,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
    /// Which boot.
    pub boot_id: BootId,
    /// Whether the kernel vouches for the wall clock.
    pub clock: ClockState,
    /// The link to the broker.
    pub broker: BrokerStatus,
    /// Oldest first; the last one is being written.
    pub outboxes: Vec<OutboxStatus>,
    /// Records without a receipt, over all outboxes.
    pub pending: u64,
    /// How long the oldest of them has waited, as far as this run of the agent can tell; `None` if none waits.
    pub oldest_unreceipted_age_ms: Option<u64>,
    /// Every reader.
    pub readers: Vec<ReaderStatus>,
    /// The roster in use, if any: without one every badge gets the green light.
    #[serde(default)]
    pub roster: Option<RosterStatus>,
    /// The newer one that is being fetched, if any.
    #[serde(default)]
    pub roster_fetch: Option<RosterFetch>,
    /// Outboxes that went apart from what the cloud has, and what became of that, since the agent started; the latest.
    #[serde(default)]
    pub settled: Vec<SettledStatus>,
    /// The last thing that the cloud ordered, and what came of it.
    #[serde(default)]
    pub last_command: Option<CommandStatus>,
    /// What was counted since the agent started.
    pub counters: Counters,
    /// What is wrong now, for people; empty if nothing is.
    pub problems: Vec<String>,
}

/// The link to the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Whether a session is up.
    pub connected: bool,
    /// Where to.
    pub address: String,
    /// Why not, if not.
    pub why: Option<String>,
    /// Sessions that were up since the agent started.
    pub sessions: u64,
    /// How long ago the last authentic receipt came, milliseconds.
    pub last_receipt_age_ms: Option<u64>,
}

/// One outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Which.
    pub outbox: OutboxId,
    /// The last record on the medium.
    pub last_seq: u64,
    /// The cloud has everything up to here.
    pub receipted_through: u64,
    /// Deleted up to here.
    pub pruned_through: u64,
}

/// The roster in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RosterStatus {
    /// Which.
    pub version: u64,
    /// Badges on it.
    pub badges: u32,
    /// How many of them were revoked.
    pub revoked: u32,
    /// How long ago the cloud last said that this is the roster, milliseconds, as far as the agent knows the time.
    pub age_ms: u64,
    /// After this a badge that is not on it may be new: milliseconds since 1970-01-01 UTC.
    pub expires_utc_ms: i64,
    /// Whether that is past, by the best time that the agent has.
    pub stale: bool,
}

/// A roster on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RosterFetch {
    /// Which.
    pub version: u64,
    /// In so many chunks.
    pub chunks: usize,
    /// So many of them are here.
    pub here: usize,
}

/// One command of the cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandStatus {
    /// Its number.
    pub number: u64,
    /// What was ordered.
    pub order: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What came of it, for people.
    pub detail: String,
}

/// One outbox that contradicted what the cloud has: a restored backup, or a clone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettledStatus {
    /// Which.
    pub outbox: OutboxId,
    /// The last record that both have.
    pub after: u64,
    /// What was done, for people.
    pub means: String,
}

/// One reader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// Which.
    pub reader: ReaderName,
    /// How it is connected.
    pub kind: ReaderKind,
    /// Whether it answers.
    pub state: ReaderState,
    /// What was found, or why it does not answer and what to do.
    pub detail: String,
    /// Taps recorded here since the agent started.
    pub taps: u64,
    /// How long ago the last one was, milliseconds.
    pub last_tap_age_ms: Option<u64>,
    /// Things shown that gave no tap, by kind.
    pub rejected: BTreeMap<String, u64>,
    /// Things to know of that gave no tap and cost none, by kind.
    #[serde(default)]
    pub odd: BTreeMap<String, u64>,
    /// How often it was brought back, by step.
    pub recoveries: BTreeMap<String, u64>,
}

/// Counted since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Taps on the medium.
    pub taps_recorded: u64,
    /// Taps that could not be made durable and were refused at the reader.
    pub taps_refused: u64,
    /// Answers that were not shown because they came too late or a later card had been shown.
    pub signals_withheld: u64,
    /// Reads of a card that had not been away.
    pub repeats: u64,
    /// Commits.
    pub commits: u64,
    /// Batches given to the broker.
    pub batches_sent: u64,
    /// Records in them: more than were recorded, if some were sent again.
    pub records_sent: u64,
    /// Authentic receipts.
    pub receipts: u64,
    /// Messages from the broker that were not authentic or not for us.
    pub messages_refused: u64,
    /// Outboxes that went apart from what the cloud has and were settled.
    #[serde(default)]
    pub outboxes_settled: u64,
    /// Records that are gone without a receipt, by reason; where nobody knows how many, one stands for them.
    pub lost: BTreeMap<String, u64>,
    /// How often the wall clock was set.
    pub clock_steps: u64,
    /// Log lines left out because there were too many of a kind, or dropped because the log was slower than the agent.
    pub log_lines_dropped: u64,
}
