//! The legacy attendance API as such things are: it takes a tap once per idempotency key, and it has moods. Knows keys and
//! bodies; nothing of the store behind them.

use std::collections::{BTreeSet, VecDeque};

use crate::dice::Dice;

/// How it behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As documented.
    Well,
    /// 429, with `Retry-After` or without.
    TooMany,
    /// 500, and it did nothing.
    Error,
    /// 500, and it did process the tap.
    ErrorAfterProcessing,
    /// It processes the tap and never answers.
    SilentAfterProcessing,
    /// It takes its time; the client may have given up by then.
    Slow,
    /// 200 with something that is not the documented answer. Processed or not.
    Garbage,
    /// 200 with an error inside; not processed.
    ErrorInside,
    /// 401.
    ClosedDoor,
    /// It processes the tap and the connection breaks.
    BreaksOff,
    /// Nobody listens.
    Down,
}

/// What becomes of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Status, `Retry-After` in seconds, body, after so long.
    Answer(u16, Option<u64>, String, u64),
    /// No answer, ever.
    Silence,
    /// The connection is refused.
    Refused,
    /// The connection breaks.
    Broken,
}

/// The server.
#[derive(Debug)]
pub struct Legacy {
    mood: Mood,
    until_ms: u64,
    processed: BTreeSet<String>,
    calls: u64,
    /// When calls came, within the last minute.
    minute: VecDeque<u64>,
}

impl Default for Legacy {
    fn default() -> Legacy {
        Legacy {
            mood: Mood::Well,
            until_ms: 0,
            processed: BTreeSet::new(),
            calls: 0,
            minute: VecDeque::new(),
        }
    }
}

impl Legacy {
    /// It behaves like this until then.
    pub fn is_now(&mut self, mood: Mood, until_ms: u64) {
        (self.mood, self.until_ms) = (mood, until_ms);
    }

    /// Whether this tap was processed.
    pub fn has(&self, key: &str) -> bool {
        self.processed.contains(key)
    }

    /// How many requests came.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// How many requests came within the minute up to the last one.
    pub fn within_a_minute(&self) -> usize {
        self.minute.len()
    }

    /// One request.
    pub fn request(&mut self, key: &str, now_ms: u64, dice: &mut Dice) -> Reply {
        let mood = if now_ms < self.until_ms { self.mood } else { Mood::Well };
        if mood == Mood::Down {
            return Reply::Refused;
        }
        self.calls += 1;
        self.minute.push_back(now_ms);
        while self.minute.front().is_some_and(|first| first + 60_000 < now_ms) {
            self.minute.pop_front();
        }
        let quick_ms = dice.between(10, 120);
        let answer = |status, body: &str| Reply::Answer(status, None, body.to_owned(), quick_ms);
        match mood {
            Mood::Well | Mood::Down => self.process(key, quick_ms),
            Mood::TooMany => {
                let retry_after_s = dice.percent(70).then(|| dice.between(0, 20));
                Reply::Answer(429, retry_after_s, "{\"error\":\"too many\"}".into(), quick_ms)
            }
            Mood::Error => answer(500, "oops"),
            Mood::ErrorAfterProcessing => {
                self.process(key, quick_ms);
                answer(500, "oops")
            }
            Mood::SilentAfterProcessing => {
                self.process(key, quick_ms);
                Reply::Silence
            }
            Mood::Slow => {
                let slow_ms = dice.between(2_000, 20_000);
                self.process(key, slow_ms)
            }
            Mood::Garbage => {
                if dice.percent(50) {
                    self.process(key, quick_ms);
                }
                let said = ["<html>Welcome</html>", "{}", "[]", "", "{\"stat"];
                answer(200, said[dice.below(said.len() as u64) as usize])
            }
            Mood::ErrorInside => answer(200, "{\"status\":\"ok\",\"exception\":\"locked\"}"),
            Mood::ClosedDoor => answer(401, "{}"),
            Mood::BreaksOff => {
                self.process(key, quick_ms);
                Reply::Broken
            }
        }
    }

    fn process(&mut self, key: &str, after_ms: u64) -> Reply {
        if is_poison(key) {
            return Reply::Answer(422, None, "{\"error\":\"no such shift\"}".into(), after_ms);
        }
        let body = match self.processed.insert(key.to_owned()) {
            true => "{\"status\":\"ok\"}",
            false => "{\"status\":\"ok\",\"duplicate\":true}",
        };
        Reply::Answer(200, None, body.into(), after_ms)
    }
}

/// One tap in 37 is refused for good.
fn is_poison(key: &str) -> bool {
    key.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 37 == 0
}
