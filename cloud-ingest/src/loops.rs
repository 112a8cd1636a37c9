//! Beside the line: which loops a process has. What they do is theirs. Pure.

use serde::Serialize;

/// The loops of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loop {
    /// Reads from the broker's connection.
    Broker,
    /// Stores what came.
    Intake,
    /// Sends what is due.
    Dispatch,
    /// Keeps the numbers for people fresh: proves that the store answers.
    Watch,
}

impl Loop {
    /// All loops.
    pub const ALL: [Loop; 4] = [Loop::Broker, Loop::Intake, Loop::Dispatch, Loop::Watch];

    /// The name in metrics and in reasons.
    pub fn name(self) -> &'static str {
        match self {
            Loop::Broker => "broker",
            Loop::Intake => "intake",
            Loop::Dispatch => "dispatch",
            Loop::Watch => "watch",
        }
    }
}
