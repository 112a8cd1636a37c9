//! Step 9 of 12: what the store keeps of commands to controllers, and of what contradicts itself. Pure: knows no SQL, no
//! broker and no key.

use serde::Serialize;
use tap_protocol::command::Order;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::report::Outcome;

use super::{OutboxMark, StoreError, UtcMs};

/// Commands to controllers, and what contradicts itself at them.
pub trait Commands {
    /// What is stored of an outbox at these places, as marks: those that are stored, in the order given.
    fn places(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seqs: &[Seq],
    ) -> Result<Vec<OutboxMark>, StoreError>;

    /// Has a command sent to a controller; gives its number. One that stands for the same order
    /// ([`stands_for`]) is not given twice.
    fn queue_command(
        &mut self,
        controller: &ControllerId,
        order: &Order,
        why: &str,
        now: UtcMs,
    ) -> Result<u64, StoreError>;

    /// The oldest command that has not ended.
    fn next_command(&mut self, controller: &ControllerId) -> Result<Option<CommandRow>, StoreError>;

    /// A command ended. Whether there was one that had not.
    fn end_command(
        &mut self,
        controller: &ControllerId,
        number: u64,
        end: &CommandEnd,
    ) -> Result<bool, StoreError>;

    /// A controller's commands, the newest first.
    fn commands(&mut self, controller: &ControllerId) -> Result<Vec<CommandRow>, StoreError>;

    /// Something contradicts itself. Whether that is new.
    fn note_trouble(
        &mut self,
        controller: &ControllerId,
        kind: TroubleKind,
        outbox: Option<OutboxId>,
        at: Option<Seq>,
        now: UtcMs,
    ) -> Result<bool, StoreError>;

    /// What contradicts itself at a controller, the latest first.
    fn troubles(&mut self, controller: &ControllerId) -> Result<Vec<TroubleRow>, StoreError>;
}

/// So many commands of a controller are kept, the newest.
pub const MAX_COMMANDS: usize = 100;

/// So many contradictions of a controller are kept, the newest: whoever has its key could make up more.
pub const MAX_TROUBLES: usize = 100;

/// One command as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// Its number: only grows for a controller.
    pub number: u64,
    /// What to do.
    pub order: Order,
    /// Why, for people.
    pub why: String,
    /// When it was given.
    pub issued: UtcMs,
    /// How it ended, once the controller has told.
    pub end: Option<CommandEnd>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEnd {
    /// When that was told.
    pub at: UtcMs,
    /// How.
    pub outcome: Outcome,
    /// In the controller's words.
    pub detail: String,
}

/// What can contradict itself. The names are in the store, the API, metrics and screens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// Records came under numbers that have other records: a clone, a restored backup, or an attack.
    Fork,
    /// The controller itself found that its outbox and the store go apart, and asks where.
    Apart,
    /// Two boots say hello in turn: two controllers use this identity.
    Twins,
}

impl TroubleKind {
    /// The closed list.
    pub const ALL: [TroubleKind; 3] = [TroubleKind::Fork, TroubleKind::Apart, TroubleKind::Twins];

    /// The name everywhere.
    pub fn name(self) -> &'static str {
        match self {
            TroubleKind::Fork => "fork",
            TroubleKind::Apart => "apart",
            TroubleKind::Twins => "twins",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<TroubleKind> {
        TroubleKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What it means and what to do, for people.
    pub fn explain(self) -> &'static str {
        match self {
            TroubleKind::Fork => {
                "records came under numbers that have other records: a copied card, a restored backup or an attack. They are in quarantine; the controller was told to say them again in another outbox"
            }
            TroubleKind::Apart => {
                "the controller found that its outbox and the store go apart: a copied card or a restored backup. What the store lacks is said again in another outbox"
            }
            TroubleKind::Twins => {
                "two controllers use this identity in turn: find the copy, and enrol it under a name of its own. Nothing is lost meanwhile, but each pushes the other from the broker"
            }
        }
    }
}

/// A contradiction of a controller, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubleRow {
    /// Which kind.
    pub kind: TroubleKind,
    /// In which outbox, if it is about one.
    pub outbox: Option<OutboxId>,
    /// At which record it was first seen, if that is known.
    pub at: Option<Seq>,
    /// When it was first seen.
    pub first: UtcMs,
    /// When it was last seen.
    pub last: UtcMs,
    /// How often.
    pub count: u64,
}

/// Whether a command that is kept is as good as giving this order now: while it is open; and an outbox can be left only
/// once.
pub fn stands_for(kept: &CommandRow, order: &Order) -> bool {
    kept.order == *order && (kept.end.is_none() || matches!(order, Order::StartNewOutbox { .. }))
}

/// The next command's number: only grows, also when the store is restored from a backup.
pub fn next_number(last: Option<u64>, now: UtcMs) -> u64 {
    last.map_or(1, |last| last + 1).max(now.0.max(1).unsigned_abs())
}

/// The word for an outcome in the store, the API and on screens.
pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
    }
}

/// The outcome of that name.
pub fn outcome_named(name: &str) -> Option<Outcome> {
    [Outcome::Done, Outcome::Refused, Outcome::Failed]
        .into_iter()
        .find(|outcome| outcome_name(*outcome) == name)
}

/// An order in words.
pub fn order_text(order: &Order) -> String {
    match order {
        Order::StartNewOutbox { outbox } => format!("start_new_outbox {outbox}"),
        Order::RunChecks => "run_checks".into(),
        Order::FetchKeys => "fetch_keys".into(),
        Order::Revoke => "revoke".into(),
    }
}
