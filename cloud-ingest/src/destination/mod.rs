//! Step 12 of 12: one call to a legacy attendance API, and what its answer means. Knows one delivery at a time; nothing
//! of queues, order or time to come.

use std::future::Future;

use tap_protocol::ids::EventId;

use crate::event_store::DeliverableTap;

pub mod fields;
pub mod guard;
pub mod http_json;
pub mod rules;
pub mod settings;
pub mod template;

/// What one attempt came to: the closed list. What follows from it is for [`crate::delivery::retry`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Taken, as documented.
    Delivered,
    /// It had been taken before, as documented.
    Duplicate,
    /// Too many requests: not before this.
    RateLimited {
        /// What it asked for, if it said.
        retry_after_ms: Option<u64>,
    },
    /// It does not believe that we may do this (401, 403): our configuration's trouble, never the tap's.
    Unauthorized,
    /// Refused for good, with this status.
    Refused(u16),
    /// The server's own trouble (5xx, 408, 425).
    ServerError {
        /// When it asked us to come back, if it said.
        retry_after_ms: Option<u64>,
    },
    /// A success by status, an error by content.
    ErrorInside(String),
    /// An answer outside of what is documented: it may have been taken.
    NotUnderstood(String),
    /// Sent, and no answer in time.
    TimedOut,
    /// No connection: not sent.
    Unreachable(String),
    /// The connection broke after sending began: it may have been taken.
    BrokenOff(String),
}

impl Outcome {
    /// All words, for counters that start at zero.
    pub const WORDS: [&str; 11] = [
        "delivered",
        "duplicate",
        "rate_limited",
        "unauthorized",
        "refused",
        "server_error",
        "error_inside",
        "not_understood",
        "timed_out",
        "unreachable",
        "broken_off",
    ];

    /// One word, for counters and the record of attempts.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Duplicate => "duplicate",
            Outcome::RateLimited { .. } => "rate_limited",
            Outcome::Unauthorized => "unauthorized",
            Outcome::Refused(_) => "refused",
            Outcome::ServerError { .. } => "server_error",
            Outcome::ErrorInside(_) => "error_inside",
            Outcome::NotUnderstood(_) => "not_understood",
            Outcome::TimedOut => "timed_out",
            Outcome::Unreachable(_) => "unreachable",
            Outcome::BrokenOff(_) => "broken_off",
        }
    }
}

/// An attempt's outcome with what is written down of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What it came to.
    pub outcome: Outcome,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What was said, or what went wrong, cut to [`crate::event_store::MAX_ANSWER_BYTES`].
    pub answer: String,
}

/// No request can be made of a tap, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no request can be made of this tap: {0}")]
pub struct CannotRender(pub String);

/// A legacy API.
pub trait Destination: Send + Sync + 'static {
    /// The request's body: the same bytes whenever the arguments are the same.
    fn render(&self, event: EventId, tap: &DeliverableTap) -> String;

    /// One request under the event's idempotency key. Ends by itself, in time.
    fn send(&self, event: EventId, body: String) -> impl Future<Output = Answered> + Send;
}

/// `text`, cut to `max` bytes at a character's boundary.
pub fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
