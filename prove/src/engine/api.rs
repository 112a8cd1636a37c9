//! Whom taps are told: an API that does what its mood says, and the network before it. What it is asked arrives late, in
//! any order, and also when whoever asked has died.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cloud_ingest::destination::frappe_hr::Advances;
use cloud_ingest::destination::settings::AfterUnknown;
use cloud_ingest::destination::{Answered, CannotRender, Destination, LookedUp, Outcome, http_json};
use cloud_ingest::event_store::DeliverableTap;
use tap_protocol::ids::EventId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::day::Mood;
use super::referee::Sign;
use super::world::{Shared, machine::Machine};

/// Longer than that no request is on its way.
pub const MOST_UNDER_WAY_MS: u64 = 3_000;

/// After so long nothing that was asked can still be at work.
pub const SETTLES_MS: u64 = 6_000;

/// One of so many taps is refused for good, whenever it is told.
const REFUSES_ONE_IN: u64 = 17;

/// What the API knows.
#[derive(Debug, Default)]
pub struct Books {
    /// What it has taken.
    pub taken: BTreeSet<EventId>,
    /// What it will never take.
    pub refused: BTreeSet<EventId>,
    mood: Option<(Mood, u64, u8)>,
}

impl Books {
    /// It is like that until then, to so many requests in a hundred.
    pub fn is_now(&mut self, mood: Mood, until_ms: u64, share: u8) {
        self.mood = Some((mood, until_ms, share));
    }

    /// Whether that is its last word about this one.
    pub fn is_final(&self, event: EventId) -> bool {
        self.taken.contains(&event) || self.refused.contains(&event)
    }
}

/// The API as one run of one replica reaches it.
pub struct Api {
    /// What is shared by all.
    pub shared: Arc<Shared>,
    /// The machine from which it is asked.
    pub machine: Arc<Machine>,
    /// Which run of it.
    pub run: u32,
}

/// Taps are all that it is told.
impl Advances for Api {}

impl Api {
    async fn ask(&self, event: EventId, body: &str, is_look_up: bool) -> Reply {
        let shared = Arc::clone(&self.shared);
        let no = shared.with(|stage, now_ms| {
            let claimed_ms = self.machine.heard_from_store_ms();
            let run = (self.machine.no, self.run);
            let no = stage.referee.sent(event, body, run, claimed_ms, now_ms, is_look_up);
            if self.machine.is_still() {
                stage.referee.stands_still(self.machine.no);
            }
            no
        });
        let _given_up = GivenUp { shared: Arc::clone(&shared), no };
        let (reply, answer) = oneshot::channel();
        // The request is on its way, whatever becomes of whoever sent it.
        tokio::spawn(async move {
            let way_ms = shared.with(|stage, _| match stage.dice.below(10) {
                0 => stage.dice.below(MOST_UNDER_WAY_MS),
                _ => 1 + stage.dice.below(40),
            });
            sleep(Duration::from_millis(way_ms)).await;
            let (said, after_ms) = shared.with(|stage, now_ms| {
                let mood = stage.mood(now_ms);
                let said = stage.arrived(event, is_look_up, mood, no, now_ms);
                let slow = mood == Mood::Slow;
                let after_ms = if slow { stage.timeout_ms * 9 / 10 } else { 1 + stage.dice.below(60) };
                (said, after_ms)
            });
            sleep(Duration::from_millis(after_ms)).await;
            match said {
                Some(said) => drop(reply.send(said)),
                // Nothing is ever said.
                None => std::future::pending().await,
            }
        });
        let within = Duration::from_millis(self.shared.timeout_ms);
        let said = match timeout(within, answer).await {
            Ok(Ok(said)) => said,
            _ => Reply::Outcome(Outcome::TimedOut),
        };
        self.machine.goes_on().await;
        let heard_no = self.shared.next_no();
        self.shared.with(|stage, now_ms| {
            stage.referee.heard(no, said.sign(), said.hold_ms(), heard_no, now_ms);
        });
        said
    }
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To a tap, or to nobody in particular.
    Outcome(Outcome),
    /// To the question whether it has a tap.
    Has(bool),
}

impl Reply {
    fn sign(&self) -> Sign {
        match self {
            Reply::Has(_) => Sign::Answered,
            Reply::Outcome(outcome) => match outcome {
                Outcome::Delivered | Outcome::Duplicate | Outcome::Refused(_) | Outcome::ErrorInside(_) => {
                    Sign::Answered
                }
                Outcome::RateLimited { .. } | Outcome::ServerError { retry_after_ms: Some(_) } => Sign::Busy,
                Outcome::Unauthorized => Sign::Denied,
                _ => Sign::Failed,
            },
        }
    }

    fn hold_ms(&self) -> Option<u64> {
        match self {
            Reply::Outcome(
                Outcome::RateLimited { retry_after_ms } | Outcome::ServerError { retry_after_ms },
            ) => *retry_after_ms,
            _ => None,
        }
    }
}

/// Tells the referee when nobody waits for an answer any more.
struct GivenUp {
    shared: Arc<Shared>,
    no: usize,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.shared.with(|stage, _| stage.referee.given_up(self.no));
    }
}

impl Destination for Api {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender> {
        Ok(http_json::render(event, tap))
    }

    async fn send(&self, event: EventId, body: String) -> Answered {
        let outcome = match self.ask(event, &body, false).await {
            Reply::Outcome(outcome) => outcome,
            Reply::Has(_) => unreachable!("nobody asked"),
        };
        Answered { outcome, status: None, answer: String::new() }
    }

    fn after_unknown(&self) -> AfterUnknown {
        if self.shared.looks_up { AfterUnknown::LookUp } else { AfterUnknown::Repeat }
    }

    fn settles_after_ms(&self) -> u64 {
        if self.shared.looks_up { SETTLES_MS } else { 0 }
    }

    async fn look_up(&self, event: EventId, body: &str) -> LookedUp {
        match self.ask(event, body, true).await {
            Reply::Has(true) => LookedUp::Found("17".into()),
            Reply::Has(false) => LookedUp::Absent,
            Reply::Outcome(outcome) => {
                LookedUp::Unclear(Answered { outcome, status: None, answer: String::new() })
            }
        }
    }
}

impl super::world::Stage {
    fn mood(&mut self, now_ms: u64) -> Mood {
        let dice = self.dice.below(100);
        match self.books.mood {
            Some((mood, until_ms, share)) if now_ms < until_ms && dice < share.into() => mood,
            _ => Mood::Well,
        }
    }

    /// A request arrives: what is done, and what is said, if anything is.
    fn arrived(
        &mut self,
        event: EventId,
        is_look_up: bool,
        mood: Mood,
        no: usize,
        now_ms: u64,
    ) -> Option<Reply> {
        self.referee.arrived(no, &self.books, now_ms);
        let outcome = |outcome| Some(Reply::Outcome(outcome));
        match mood {
            Mood::TooMany(retry_after_ms) => return outcome(Outcome::RateLimited { retry_after_ms }),
            Mood::Busy(ms) => return outcome(Outcome::ServerError { retry_after_ms: Some(ms) }),
            Mood::Error => return outcome(Outcome::ServerError { retry_after_ms: None }),
            Mood::Gone => return outcome(Outcome::Unreachable("refused".into())),
            Mood::ClosedDoor => return outcome(Outcome::Unauthorized),
            Mood::ErrorInside if !is_look_up => return outcome(Outcome::ErrorInside("locked".into())),
            Mood::SilentBefore => return None,
            _ => {}
        }
        let said =
            if is_look_up { Reply::Has(self.books.taken.contains(&event)) } else { self.take(event, now_ms) };
        match mood {
            Mood::SilentAfter => None,
            Mood::BreaksOff => outcome(Outcome::BrokenOff("reset".into())),
            Mood::Garbage => outcome(Outcome::NotUnderstood("html".into())),
            _ => Some(said),
        }
    }

    fn take(&mut self, event: EventId, now_ms: u64) -> Reply {
        if event.seq().0 % REFUSES_ONE_IN == 5 {
            self.books.refused.insert(event);
            return Reply::Outcome(Outcome::Refused(422));
        }
        let is_new = self.books.taken.insert(event);
        if !is_new {
            self.referee.took_again(event, now_ms);
        }
        Reply::Outcome(if is_new { Outcome::Delivered } else { Outcome::Duplicate })
    }
}
