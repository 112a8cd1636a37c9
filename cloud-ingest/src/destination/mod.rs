//! Step 12 of 12: one call to a legacy attendance API, and what its answer means. Knows one delivery at a time; nothing
//! of queues, order or time to come.

pub mod fields;
pub mod frappe_hr;
pub mod guard;
mod http;
pub mod http_json;
pub mod open;
mod resolver;
pub mod rules;
pub mod settings;
pub mod template;

use std::future::{Future, ready};

use serde::Serialize;
use tap_protocol::ids::EventId;

use crate::destination::settings::AfterUnknown;
use crate::event_store::{DeliverableTap, MAX_ANSWER_BYTES};

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
    /// It is not what the settings say, or the guard lets nothing go there: not this tap's trouble either, and the next
    /// one's too. Says why, for people.
    Misconfigured(String),
    /// No request could be made of this tap: nothing was sent, and nothing would be better later.
    Unrenderable(String),
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
    pub const WORDS: [&str; 13] = [
        "delivered",
        "duplicate",
        "rate_limited",
        "unauthorized",
        "misconfigured",
        "unrenderable",
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
            Outcome::Misconfigured(_) => "misconfigured",
            Outcome::Unrenderable(_) => "unrenderable",
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

impl CannotRender {
    /// The end of a delivery that never became a request.
    pub fn into_answered(self) -> Answered {
        let answer = cut(&self.to_string(), MAX_ANSWER_BYTES);
        Answered { outcome: Outcome::Unrenderable(self.0), status: None, answer }
    }
}

/// A legacy API.
pub trait Destination: Send + Sync + 'static {
    /// The request as it is kept: the same bytes whenever the arguments are the same. A delivery whose tap cannot be
    /// rendered is dead, with this reason.
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender>;

    /// One request of what was rendered, under the event's idempotency key. Ends by itself, in time.
    fn send(&self, event: EventId, rendered: String) -> impl Future<Output = Answered> + Send;

    /// What is to be done when nobody knows whether a request was processed.
    fn after_unknown(&self) -> AfterUnknown {
        AfterUnknown::Repeat
    }

    /// How long a request without an answer may still be at work over there. Until then nothing more is sent or asked
    /// under its order key: two that run at once may both be taken.
    fn settles_after_ms(&self) -> u64 {
        0
    }

    /// Asks whether what was rendered is there.
    fn look_up(&self, event: EventId, rendered: &str) -> impl Future<Output = LookedUp> + Send {
        let _ = (event, rendered);
        ready(LookedUp::CannotTell)
    }

    /// Tries what can be tried without telling it anything; with a sample, tells it that too, and takes it back where
    /// that is possible.
    fn probe(&self, sample: Option<&Sample>) -> impl Future<Output = Probe> + Send {
        let _ = sample;
        ready(Probe::default())
    }
}

/// What a destination says when it is asked for a tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookedUp {
    /// It is there, and this is what it is called there.
    Found(String),
    /// It is not there.
    Absent,
    /// It did not answer that: to be asked again, as for an attempt that came to this.
    Unclear(Answered),
    /// There is no way to ask.
    CannotTell,
}

/// A tap to try a destination with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Under which key.
    pub event: EventId,
    /// What is told.
    pub tap: DeliverableTap,
}

/// What came of trying a destination, step by step, in order. Later steps are left out where an earlier one makes them
/// pointless.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Probe {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step of a [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried.
    pub what: &'static str,
    /// What came of it.
    pub finding: Finding,
    /// What is so, what it means, what to do.
    pub says: String,
}

/// How a step of a [`Probe`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// As it should be.
    Good,
    /// It works, and somebody should look.
    Doubtful,
    /// Taps would not arrive, or not as they should.
    Bad,
}

impl Probe {
    /// Adds a step.
    pub fn note(&mut self, what: &'static str, finding: Finding, says: impl Into<String>) {
        self.steps.push(Step { what, finding, says: says.into() });
    }

    /// Whether taps can be sent.
    pub fn is_good(&self) -> bool {
        self.steps.iter().all(|step| step.finding != Finding::Bad)
    }
}

/// What a destination said, as it may be kept and shown: no control character, which could rewrite a terminal, and no
/// more than [`MAX_ANSWER_BYTES`].
pub fn readable(answer: &[u8]) -> String {
    let start = &answer[..answer.len().min(2 * MAX_ANSWER_BYTES)];
    let text: String = String::from_utf8_lossy(start)
        .chars()
        .map(|char| if is_harmless(char) { char } else { char::REPLACEMENT_CHARACTER })
        .collect();
    cut(&text, MAX_ANSWER_BYTES)
}

/// Neither a control character nor one that changes the direction of what stands around it.
fn is_harmless(char: char) -> bool {
    let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    matches!(char, '\n' | '\t') || !(char.is_control() || turns)
}

/// `text`, cut to `max` bytes at a character's boundary.
pub fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_destination_says_cannot_play_with_a_terminal() {
        assert_eq!(readable(b"a\x1b[2J\x07\r\nb\tc\x7f"), "a\u{fffd}[2J\u{fffd}\u{fffd}\nb\tc\u{fffd}");
        assert_eq!(readable("\u{202e}evil\u{2066}\u{9b}1m".as_bytes()), "\u{fffd}evil\u{fffd}\u{fffd}1m");
        assert_eq!(readable("Müller \u{1f600}".as_bytes()), "Müller \u{1f600}");
        assert_eq!(readable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_a_destination_says_is_kept_in_part() {
        assert_eq!(readable(&[b'x'; 100_000]).len(), MAX_ANSWER_BYTES);
        assert!(readable(&[0xff; 100_000]).len() <= MAX_ANSWER_BYTES);
    }

    #[test]
    fn every_outcome_has_a_word_of_the_list() {
        let text = String::new;
        let all = [
            Outcome::Delivered,
            Outcome::Duplicate,
            Outcome::RateLimited { retry_after_ms: None },
            Outcome::Unauthorized,
            Outcome::Misconfigured(text()),
            Outcome::Unrenderable(text()),
            Outcome::Refused(422),
            Outcome::ServerError { retry_after_ms: None },
            Outcome::ErrorInside(text()),
            Outcome::NotUnderstood(text()),
            Outcome::TimedOut,
            Outcome::Unreachable(text()),
            Outcome::BrokenOff(text()),
        ];
        assert_eq!(all.map(|outcome| outcome.word()), Outcome::WORDS);
    }
}
