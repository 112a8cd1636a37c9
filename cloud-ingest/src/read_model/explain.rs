//! Beside the line: one event's story, for people: its steps in order, how far it is, and one sentence. Pure.

use jiff::Timestamp;
use serde::Serialize;
use tap_protocol::tap::Direction;

use crate::directory::direction::{Decided, Why};
use crate::event_store::people::What;
use crate::event_store::{
    AttemptRow, DeliveryRow, DeliveryState, DestinationState, EventDetail, HeldFor, Hindrance, TapRow,
    Timeless, UtcMs,
};

/// How far a tap is, in the words of the line of stages on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The cloud has it for good.
    Stored,
    /// At least one request went out.
    Sent,
    /// The destination has answered for good: taken or refused.
    Answered,
}

/// How far the least advanced of a tap's deliveries is.
pub fn stage(tap: &TapRow) -> Stage {
    tap.deliveries.iter().map(stage_of).min().unwrap_or(Stage::Stored)
}

fn stage_of(delivery: &DeliveryRow) -> Stage {
    match delivery.state {
        DeliveryState::Delivered | DeliveryState::Dead => Stage::Answered,
        DeliveryState::Held
        | DeliveryState::Pending
        | DeliveryState::InFlight
        | DeliveryState::Unknown
        | DeliveryState::Parked
        | DeliveryState::Discarded => match delivery.attempts {
            0 => Stage::Stored,
            _ => Stage::Sent,
        },
    }
}

/// One step of a story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `recorded`, `stored`, `sent` or `answered`.
    pub step: &'static str,
    /// When.
    pub at: UtcMs,
    /// For people.
    pub what: String,
}

/// The steps in the order in which they happened.
pub fn steps(detail: &EventDetail) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(tap) = &detail.row.tap {
        let (at, what) = match &tap.occurred {
            Ok(occurred) => {
                let how = if occurred.estimated { "estimated" } else { "true" };
                let known = format!("at reader {}, {how} to ±{} ms", tap.reader, occurred.uncertainty_ms);
                (occurred.at, known)
            }
            Err(_) => (tap.recorded_wall, format!("at reader {}, as its clock showed", tap.reader)),
        };
        steps.push(Step { step: "recorded", at, what });
    }
    let row = &detail.row;
    let stored = format!("as position {}, record {} of its outbox", row.position.0, row.seq);
    steps.push(Step { step: "stored", at: row.received, what: stored });
    if let Some(at) = detail.reread {
        let what = "what a newer controller had written could be read from here on".to_owned();
        steps.push(Step { step: "read anew", at, what });
    }
    for attempt in &detail.attempts {
        if let (Some(word), Some(at)) = (persons_word(attempt), attempt.finished) {
            let what = format!("for {} by a person's word: {word}", attempt.destination);
            steps.push(Step { step: "answered", at, what });
            continue;
        }
        steps.push(Step {
            step: "sent",
            at: attempt.started,
            what: format!("to {}, attempt {}", attempt.destination, attempt.number),
        });
        if let Some(at) = attempt.finished {
            steps.push(Step { step: "answered", at, what: answer(attempt) });
        }
    }
    steps
}

/// Who decided it and why, if no request was made.
fn persons_word(attempt: &AttemptRow) -> Option<&str> {
    let is_word = matches!(attempt.outcome.as_deref(), Some("said_delivered" | "discarded"));
    attempt.answer.as_deref().filter(|_| is_word)
}

fn answer(attempt: &AttemptRow) -> String {
    let outcome = attempt.outcome.as_deref().unwrap_or("no answer").replace('_', " ");
    match attempt.status {
        Some(status) => format!("{outcome} (HTTP {status})"),
        None => outcome,
    }
}

/// One sentence that says which way a tap goes, and how that came about.
pub fn direction(decided: &Decided) -> String {
    let way = match decided.direction {
        Direction::In => "In",
        Direction::Out => "Out",
        Direction::Unspecified => "No direction",
    };
    let why = match decided.why {
        Why::Placed => "as its reader is placed".to_owned(),
        Why::Unplaced => "its reader serves both ways, and the site does not have taps alternate".to_owned(),
        Why::NotTold => "the site tells none".to_owned(),
        Why::First => "the person's first tap at the site, or the first after a long gap".to_owned(),
        Why::Follows { previous } => {
            format!("the other way than the person's tap before it (position {})", previous.0)
        }
        Why::Again { previous } => format!("shown again right after position {}", previous.0),
        Why::NotYet => {
            "so far as its reader says, until it is known whose tap it is and when it was".to_owned()
        }
    };
    match decided.rule {
        0 => format!("{way}: {why}."),
        rule => format!("{way}: {why} (rule {rule} of the site)."),
    }
}

/// What destinations were told of an event and came out otherwise, a sentence each.
pub fn differences(detail: &EventDetail) -> Vec<String> {
    let said = detail.differences.iter().map(|one| {
        let is = one.is.as_deref().unwrap_or("nobody");
        let (told, destination) = (&one.told, &one.destination);
        match one.what {
            What::Person => format!("{destination} was told that it is {told}'s; it is {is}'s."),
            What::Direction => format!("{destination} was told that it goes {told}; it goes {is}."),
        }
    });
    said.collect()
}

/// One sentence that says where the event is and what it waits for.
pub fn sentence(detail: &EventDetail, destinations: &[DestinationState], now: UtcMs) -> String {
    let Some(tap) = &detail.row.tap else {
        return format!("A {} record is stored; it is not delivered anywhere.", detail.row.kind);
    };
    if tap.deliveries.is_empty() {
        return "The tap is stored; there was no destination when it came.".into();
    }
    let told: Vec<String> = tap
        .deliveries
        .iter()
        .map(|delivery| {
            let hold = destinations
                .iter()
                .find(|d| d.destination == delivery.destination)
                .and_then(|d| d.hindrance(now));
            let last = detail.attempts.iter().rfind(|a| a.destination == delivery.destination);
            of_delivery(delivery, tap.occurred.err(), last, hold)
        })
        .collect();
    told.join(" ")
}

/// What is known of a time that is not known.
fn instead(timeless: Option<Timeless>) -> String {
    match timeless {
        Some(Timeless::Disputed) => {
            "what the controller's clock and the cloud's receipts say of it contradicts \
             itself, and a person has to look at the clocks"
                .into()
        }
        Some(Timeless::Between { not_before, not_after }) => {
            let at = |time: UtcMs| Timestamp::from_millisecond(time.0).unwrap_or_default();
            format!("it lies between {:.0} and {:.0}", at(not_before), at(not_after))
        }
        Some(Timeless::Unknown) | None => {
            "the controller's clock was wrong, and nothing has said yet when that was".into()
        }
    }
}

fn of_delivery(
    delivery: &DeliveryRow,
    timeless: Option<Timeless>,
    last: Option<&AttemptRow>,
    hold: Option<Hindrance>,
) -> String {
    let to = &delivery.destination;
    let tries = match delivery.attempts {
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let last_said = last.filter(|a| a.finished.is_some()).map(answer);
    let word = last.and_then(persons_word);
    match (delivery.state, delivery.held_for) {
        (DeliveryState::Delivered, _) if word.is_some() => {
            format!("Delivered to {to} by a person's word: {}.", word.unwrap_or_default())
        }
        (DeliveryState::Discarded, _) if word.is_some() => {
            format!("A person took it out of the queue for {to}: {}.", word.unwrap_or_default())
        }
        (DeliveryState::Delivered, _) if delivery.is_early => format!(
            "Delivered to {to} after {tries}, before all controllers of its site had told what they have: an earlier tap of \
             this person may come after it."
        ),
        (DeliveryState::Delivered, _) => format!("Delivered to {to} after {tries}."),
        (DeliveryState::Unknown, Some(HeldFor::Person)) => format!(
            "Sent to {to}, but whether it was taken is not known ({}), and {to} cannot tell: a person must look there, and \
             this person's later taps wait.",
            last_said.unwrap_or_else(|| "no answer".into())
        ),
        (DeliveryState::Dead, _) if delivery.blocks_until.is_some() => format!(
            "{to} refused it for good: {}. A person has to look, and this person's later taps wait for that.",
            last_said.unwrap_or_else(|| "no reason is known".into())
        ),
        (DeliveryState::Dead, _) => format!(
            "{to} refused it for good: {}. A person has to look.",
            last_said.unwrap_or_else(|| "no reason is known".into())
        ),
        (DeliveryState::Discarded, _) => match last.and_then(|last| last.answer.as_deref()) {
            Some(why) if last.is_some_and(|last| last.started == last.finished.unwrap_or(UtcMs(0))) => {
                format!("Not sent to {to}: {why}.")
            }
            _ => format!("A person took it out of the queue for {to}."),
        },
        (DeliveryState::Held, Some(HeldFor::Binding)) => {
            "Waiting until somebody says whose badge it is (cloud-ingest badges assign).".into()
        }
        (DeliveryState::Held, Some(HeldFor::Completeness)) => format!(
            "Waiting until all controllers of its site have told what happened before it: {to} wants the taps of a person in \
             order."
        ),
        (DeliveryState::Held, _) => format!("Waiting for its true time: {}.", instead(timeless)),
        (DeliveryState::Parked, Some(HeldFor::TimeUnresolved)) => format!(
            "Set aside for {to} after 24 hours without its true time: {}. Nobody waits for it; it is sent if its time \
             becomes known.",
            instead(timeless)
        ),
        (DeliveryState::Parked, _) => match delivery.behind {
            Some(ahead) => format!("Waiting for an earlier tap of the same person: {ahead}."),
            None => format!("Set aside for {to}."),
        },
        (DeliveryState::InFlight, _) => format!("On its way to {to}, attempt {}.", delivery.attempts),
        (DeliveryState::Pending | DeliveryState::Unknown, _) if hold.is_some() => {
            format!("Waiting: {}.", hold.map(|hindrance| hindrance.why).unwrap_or_default())
        }
        (DeliveryState::Unknown, _) => format!(
            "Sent to {to}, but whether it was taken is not known ({}); it is sent again under the same key.",
            last_said.unwrap_or_else(|| "no answer".into())
        ),
        (DeliveryState::Pending, _) => match last_said {
            Some(said) => format!("Waiting for the next attempt at {to}; the last one: {said}."),
            None => format!("Waiting to be sent to {to}."),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::class::Class;
    use crate::event_store::{EventRow, Occurred, PersonId, Position};
    use crate::fixture;
    use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
    use tap_protocol::chain::ChainHash;
    use tap_protocol::ids::{EventId, OutboxId, Seq};
    use tap_protocol::tap::Verdict;

    fn detail(state: DeliveryState, attempts: Vec<AttemptRow>) -> EventDetail {
        let controller = "door-1".parse().unwrap();
        let outbox = OutboxId([7; 16]);
        EventDetail {
            row: EventRow {
                position: Position(17),
                event_id: EventId::new(&controller, outbox, Seq(4)),
                controller,
                outbox,
                seq: Seq(4),
                received: UtcMs(2_000),
                kind: "tap".into(),
                after_revocation: false,
                tap: Some(TapRow {
                    reader: "in".parse().unwrap(),
                    badge: SealedBadge { key_id: TokenKeyId(1), token: Token([0; 16]), ciphertext: vec![] },
                    direction: Direction::In,
                    verdict: Verdict::Known,
                    recorded_wall: UtcMs(900),
                    occurred: Ok(Occurred { at: UtcMs(1_000), uncertainty_ms: 3, estimated: false }),
                    deliveries: vec![DeliveryRow {
                        destination: "legacy".into(),
                        state,
                        held_for: None,
                        person: Some(PersonId("E-1".into())),
                        attempts: attempts.len() as u32,
                        next_attempt: None,
                        behind: None,
                        blocks_until: None,
                        class: Class::Live,
                        is_early: false,
                    }],
                }),
            },
            hash: ChainHash([0; 32]),
            attempts,
            bodies: vec![],
            decided: None,
            differences: vec![],
            reread: None,
        }
    }

    fn attempt(number: u32, end: Option<(&str, Option<u16>)>) -> AttemptRow {
        AttemptRow {
            destination: "legacy".into(),
            number,
            started: UtcMs(3_000),
            finished: end.map(|_| UtcMs(3_400)),
            outcome: end.map(|(outcome, _)| outcome.into()),
            status: end.and_then(|(_, status)| status),
            answer: None,
        }
    }

    #[track_caller]
    fn check(state: DeliveryState, attempts: Vec<AttemptRow>, stage_is: Stage, says: &str) {
        let detail = detail(state, attempts);
        assert_eq!(sentence(&detail, &[], UtcMs(5_000)), says);
        assert_eq!(stage(detail.row.tap.as_ref().unwrap()), stage_is);
    }

    #[test]
    fn every_state_has_its_sentence_and_stage() {
        use DeliveryState::*;
        let ok = || vec![attempt(1, Some(("delivered", Some(200))))];
        check(Delivered, ok(), Stage::Answered, "Delivered to legacy after 1 attempt.");
        check(
            Dead,
            vec![attempt(1, Some(("refused", Some(422))))],
            Stage::Answered,
            "legacy refused it for good: refused (HTTP 422). A person has to look.",
        );
        let word = |outcome: &str| {
            let said = attempt(2, Some((outcome, None)));
            vec![attempt(1, None), AttemptRow { answer: Some("mara: it is there".into()), ..said }]
        };
        let says = "Delivered to legacy by a person's word: mara: it is there.";
        check(Delivered, word("said_delivered"), Stage::Answered, says);
        let says = "A person took it out of the queue for legacy: mara: it is there.";
        check(Discarded, word("discarded"), Stage::Sent, says);
        assert_eq!(steps(&detail(Discarded, word("discarded"))).last().unwrap().step, "answered");
        check(Pending, vec![], Stage::Stored, "Waiting to be sent to legacy.");
        check(
            Pending,
            vec![attempt(1, Some(("server_error", Some(503))))],
            Stage::Sent,
            "Waiting for the next attempt at legacy; the last one: server error (HTTP 503).",
        );
        check(
            Unknown,
            vec![attempt(1, Some(("timed_out", None)))],
            Stage::Sent,
            "Sent to legacy, but whether it was taken is not known (timed out); it is sent again under the same key.",
        );
        check(InFlight, vec![attempt(1, None)], Stage::Sent, "On its way to legacy, attempt 1.");
        check(Parked, vec![], Stage::Stored, "Set aside for legacy.");
        check(Discarded, vec![], Stage::Stored, "A person took it out of the queue for legacy.");
    }

    #[track_caller]
    fn without_time(state: DeliveryState, held_for: HeldFor, timeless: Timeless, says: &str) {
        let mut detail = detail(state, vec![]);
        let tap = detail.row.tap.as_mut().unwrap();
        tap.occurred = Err(timeless);
        tap.deliveries[0].held_for = Some(held_for);
        assert_eq!(sentence(&detail, &[], UtcMs(5_000)), says);
        assert_eq!(stage(detail.row.tap.as_ref().unwrap()), Stage::Stored);
    }

    #[test]
    fn a_tap_without_time_says_what_is_known_instead() {
        let between = Timeless::Between { not_before: UtcMs(60_000), not_after: UtcMs(3_600_000) };
        without_time(
            DeliveryState::Held,
            HeldFor::Time,
            Timeless::Unknown,
            "Waiting for its true time: the controller's clock was wrong, and nothing has said yet when that was.",
        );
        without_time(
            DeliveryState::Held,
            HeldFor::Time,
            between,
            "Waiting for its true time: it lies between 1970-01-01T00:01:00Z and 1970-01-01T01:00:00Z.",
        );
        without_time(
            DeliveryState::Held,
            HeldFor::Time,
            Timeless::Disputed,
            "Waiting for its true time: what the controller's clock and the cloud's receipts say of it contradicts \
             itself, and a person has to look at the clocks.",
        );
        without_time(
            DeliveryState::Parked,
            HeldFor::TimeUnresolved,
            between,
            "Set aside for legacy after 24 hours without its true time: it lies between 1970-01-01T00:01:00Z and \
             1970-01-01T01:00:00Z. Nobody waits for it; it is sent if its time becomes known.",
        );
    }

    #[test]
    fn an_estimate_is_called_one() {
        let mut detail = detail(DeliveryState::Pending, vec![]);
        let estimate = Occurred { at: UtcMs(1_000), uncertainty_ms: 20_000, estimated: true };
        detail.row.tap.as_mut().unwrap().occurred = Ok(estimate);
        assert_eq!(steps(&detail)[0].what, "at reader in, estimated to ±20000 ms");
    }

    #[test]
    fn a_held_destination_is_the_reason_as_long_as_it_is_held() {
        let waiting = detail(DeliveryState::Pending, vec![]);
        let mut held = fixture::destination_state("legacy");
        (held.held_until, held.held_why) = (Some(UtcMs(6_000)), Some("too many requests".into()));
        assert_eq!(
            sentence(&waiting, std::slice::from_ref(&held), UtcMs(5_000)),
            "Waiting: too many requests."
        );
        assert_eq!(sentence(&waiting, &[held], UtcMs(6_000)), "Waiting to be sent to legacy.");
    }

    #[test]
    fn the_steps_are_told_in_order() {
        let detail = detail(
            DeliveryState::Delivered,
            vec![attempt(1, Some(("timed_out", None))), attempt(2, Some(("delivered", Some(200))))],
        );
        let told: Vec<_> =
            steps(&detail).into_iter().map(|s| format!("{} {}: {}", s.at.0, s.step, s.what)).collect();
        assert_eq!(
            told,
            [
                "1000 recorded: at reader in, true to ±3 ms",
                "2000 stored: as position 17, record 4 of its outbox",
                "3000 sent: to legacy, attempt 1",
                "3400 answered: timed out",
                "3000 sent: to legacy, attempt 2",
                "3400 answered: delivered (HTTP 200)",
            ]
        );
    }
}
