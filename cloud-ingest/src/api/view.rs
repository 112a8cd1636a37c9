//! Beside the line: the shapes of the API's answers. Pure. Badges show as tokens, never clear; times are RFC 3339 in
//! UTC.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::Serialize;
use tap_protocol::hello::{ReaderKind, ReaderState};
use tap_protocol::ids::{ControllerId, EventId, OutboxId, ReaderName, Seq, TraceId};

use crate::delivery::class::Class;
use crate::directory::direction::{Decided, WORKED_OUT_BY};
use crate::event_store::commands::{CommandRow, TroubleKind, TroubleRow, order_text, outcome_name};
use crate::event_store::people::{self, What};
use crate::event_store::{
    ControllerState, DeliveryRow, DeliveryState, DestinationState, EventDetail, EventRow, HeldFor, Member,
    Position, Standing, TapRow, Timeless, UtcMs, WatermarkRow,
};
use crate::read_model::controller::Known;
use crate::read_model::explain::{self, Stage};
use crate::read_model::lag;

/// RFC 3339 in UTC with milliseconds.
pub fn time(at: UtcMs) -> String {
    match Timestamp::from_millisecond(at.0) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => format!("out of range: {} ms", at.0),
    }
}

/// A page of the event list.
#[derive(Debug, Serialize)]
pub struct Events {
    events: Vec<Event>,
    /// `before` of the next page; `null` on the last.
    next_before: Option<Position>,
}

impl Events {
    /// The rows in the API's words, asked for with that limit.
    pub fn of(rows: &[EventRow], limit: usize) -> Events {
        let last = rows.last().filter(|_| rows.len() == limit);
        Events { events: rows.iter().map(Event::of).collect(), next_before: last.map(|row| row.position) }
    }
}

/// One line of the event list.
#[derive(Debug, Serialize)]
pub struct Event {
    position: Position,
    event_id: EventId,
    controller: ControllerId,
    outbox: OutboxId,
    seq: Seq,
    kind: String,
    stored_at: String,
    after_revocation: bool,
    #[serde(flatten)]
    tap: Option<Tap>,
}

#[derive(Debug, Serialize)]
struct Tap {
    stage: Stage,
    reader: ReaderName,
    badge_token: String,
    direction: &'static str,
    verdict: &'static str,
    recorded_wall: String,
    time: &'static str,
    occurred_at: Option<String>,
    uncertainty_ms: Option<u64>,
    not_before: Option<String>,
    not_after: Option<String>,
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Serialize)]
struct Delivery {
    destination: String,
    state: DeliveryState,
    held_for: Option<HeldFor>,
    person: Option<String>,
    attempts: u32,
    next_attempt: Option<String>,
    behind: Option<EventId>,
    blocks_until: Option<String>,
    class: Class,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_early: bool,
}

impl Event {
    /// The row in the API's words.
    pub fn of(row: &EventRow) -> Event {
        Event {
            position: row.position,
            event_id: row.event_id,
            controller: row.controller.clone(),
            outbox: row.outbox,
            seq: row.seq,
            kind: row.kind.clone(),
            stored_at: time(row.received),
            after_revocation: row.after_revocation,
            tap: row.tap.as_ref().map(Tap::of),
        }
    }
}

impl Tap {
    fn of(tap: &TapRow) -> Tap {
        let occurred = tap.occurred.ok();
        let (not_before, not_after) = match tap.occurred {
            Err(Timeless::Between { not_before, not_after }) => (Some(not_before), Some(not_after)),
            Ok(_) | Err(Timeless::Unknown | Timeless::Disputed) => (None, None),
        };
        Tap {
            stage: explain::stage(tap),
            reader: tap.reader.clone(),
            badge_token: tap.badge.token.to_string(),
            direction: tap.direction.name(),
            verdict: tap.verdict.name(),
            recorded_wall: time(tap.recorded_wall),
            time: how_known(tap),
            occurred_at: occurred.map(|occurred| time(occurred.at)),
            uncertainty_ms: occurred.map(|occurred| occurred.uncertainty_ms),
            not_before: not_before.map(time),
            not_after: not_after.map(time),
            deliveries: tap.deliveries.iter().map(Delivery::of).collect(),
        }
    }
}

/// What is known of a tap's time, in one word.
fn how_known(tap: &TapRow) -> &'static str {
    match tap.occurred {
        Ok(occurred) if occurred.estimated => "estimated",
        Ok(_) => "known",
        Err(Timeless::Between { .. }) => "between",
        Err(Timeless::Unknown) => "unknown",
        Err(Timeless::Disputed) => "disputed",
    }
}

impl Delivery {
    fn of(row: &DeliveryRow) -> Delivery {
        Delivery {
            destination: row.destination.clone(),
            state: row.state,
            held_for: row.held_for,
            person: row.person.as_ref().map(|person| person.0.clone()),
            attempts: row.attempts,
            next_attempt: row.next_attempt.map(time),
            behind: row.behind,
            blocks_until: row.blocks_until.filter(|until| until.0 < i64::MAX).map(time),
            class: row.class,
            is_early: row.is_early,
        }
    }
}

/// How far destinations were told that taps are complete.
#[derive(Debug, Serialize)]
pub struct Watermarks {
    watermarks: Vec<Watermark>,
}

impl Watermarks {
    /// The rows in the API's words.
    pub fn of(rows: &[WatermarkRow], now: UtcMs) -> Watermarks {
        Watermarks { watermarks: rows.iter().map(|row| Watermark::of(row, now)).collect() }
    }
}

/// How far one destination was told.
#[derive(Debug, Serialize)]
pub struct Watermark {
    destination: String,
    name: String,
    stands_at: Option<String>,
    moved_at: Option<String>,
    complete_through: Option<String>,
    lag_ms: Option<u64>,
    held_back_by: Option<ControllerId>,
    held_back_why: Option<String>,
    trouble: Option<String>,
    failures: u32,
}

impl Watermark {
    /// The row in the API's words.
    pub fn of(row: &WatermarkRow, now: UtcMs) -> Watermark {
        Watermark {
            destination: row.destination.clone(),
            name: row.name.clone(),
            stands_at: row.stands_at.clone(),
            moved_at: row.moved.map(time),
            complete_through: row.complete.map(time),
            lag_ms: row.lag_ms(now),
            held_back_by: row.held_back_by.clone(),
            held_back_why: row.held_back_why.clone(),
            trouble: row.trouble.clone(),
            failures: row.failures,
        }
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let name = &self.name;
        let through = self.complete_through.as_deref().unwrap_or("nothing");
        let stands = self.stands_at.as_deref().unwrap_or("where we have not moved it yet");
        let held = match (&self.held_back_by, &self.held_back_why) {
            (Some(door), Some(why)) => format!("{door} {why}"),
            (_, why) => why.clone().unwrap_or_default(),
        };
        let trouble =
            self.trouble.as_ref().map(|why| format!("; it cannot be moved: {why}")).unwrap_or_default();
        format!(
            "{name}: Last Sync of Checkin stands at {stands}; complete through {through}: {held}{trouble}"
        )
    }
}

/// What a destination was told of a tap and came out otherwise.
#[derive(Debug, Serialize)]
pub struct Difference {
    position: Position,
    /// Which tap.
    pub event_id: EventId,
    controller: ControllerId,
    occurred_at: Option<String>,
    destination: String,
    what: What,
    told: String,
    is: Option<String>,
    noted_at: String,
}

impl Difference {
    /// In the API's words.
    pub fn of(one: &people::Difference) -> Difference {
        Difference {
            position: one.position,
            event_id: one.event_id,
            controller: one.controller.clone(),
            occurred_at: one.occurred.map(time),
            destination: one.destination.clone(),
            what: one.what,
            told: one.told.clone(),
            is: one.is.clone(),
            noted_at: time(one.noted),
        }
    }

    /// Column by column, for people.
    pub fn in_words(&self) -> [String; 8] {
        [
            self.position.0.to_string(),
            self.occurred_at.clone().unwrap_or_default(),
            self.controller.to_string(),
            self.destination.clone(),
            self.what.name().to_owned(),
            self.told.clone(),
            self.is.clone().unwrap_or_else(|| "nobody's".into()),
            self.event_id.to_string(),
        ]
    }
}

/// A page of differences.
#[derive(Debug, Serialize)]
pub struct Differences {
    /// The newest taps' first.
    pub differences: Vec<Difference>,
    /// `before` of the next page; `null` if there may be no more.
    pub next_before: Option<Position>,
}

impl Differences {
    /// Those of at most `limit` taps, as the store gave them.
    pub fn of(found: &[people::Difference], limit: usize) -> Differences {
        let mut taps: Vec<Position> = found.iter().map(|one| one.position).collect();
        taps.dedup();
        let next_before = taps.last().copied().filter(|_| taps.len() == limit);
        Differences { differences: found.iter().map(Difference::of).collect(), next_before }
    }
}

/// Which way a tap goes by what is known now.
#[derive(Debug, Serialize)]
struct Decision {
    #[serde(flatten)]
    decided: Decided,
    explain: String,
    /// The version of the way in which it is worked out.
    worked_out_by: u32,
}

/// One event with its story.
#[derive(Debug, Serialize)]
pub struct Detail {
    #[serde(flatten)]
    event: Event,
    explain: String,
    steps: Vec<Step>,
    attempts: Vec<Attempt>,
    bodies: Vec<Body>,
    decided: Option<Decision>,
    differences: Vec<Difference>,
    hash: String,
    trace_id: TraceId,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    at: String,
    what: String,
}

#[derive(Debug, Serialize)]
struct Attempt {
    destination: String,
    number: u32,
    started_at: String,
    finished_at: Option<String>,
    outcome: Option<String>,
    status: Option<u16>,
    answer: Option<String>,
}

#[derive(Debug, Serialize)]
struct Body {
    destination: String,
    body: String,
}

impl Detail {
    /// The event in the API's words.
    pub fn of(detail: &EventDetail, destinations: &[DestinationState], now: UtcMs) -> Detail {
        let attempt = |row: &crate::event_store::AttemptRow| Attempt {
            destination: row.destination.clone(),
            number: row.number,
            started_at: time(row.started),
            finished_at: row.finished.map(time),
            outcome: row.outcome.clone(),
            status: row.status,
            answer: row.answer.clone(),
        };
        let steps = explain::steps(detail);
        Detail {
            event: Event::of(&detail.row),
            explain: explain::sentence(detail, destinations, now),
            steps: steps
                .into_iter()
                .map(|step| Step { step: step.step, at: time(step.at), what: step.what })
                .collect(),
            attempts: detail.attempts.iter().map(attempt).collect(),
            bodies: detail
                .bodies
                .iter()
                .map(|(destination, body)| Body { destination: destination.clone(), body: body.clone() })
                .collect(),
            decided: detail.decided.map(|decided| Decision {
                decided,
                explain: explain::direction(&decided),
                worked_out_by: WORKED_OUT_BY,
            }),
            differences: detail.differences.iter().map(Difference::of).collect(),
            hash: detail.hash.to_string(),
            trace_id: detail.row.event_id.trace_id(),
        }
    }
}

/// All controllers.
#[derive(Debug, Serialize)]
pub struct Controllers {
    controllers: Vec<Controller>,
}

impl Controllers {
    /// The states in the API's words.
    pub fn of(states: &[ControllerState], fleet: &[Member], now: UtcMs) -> Controllers {
        let trust = |state: &ControllerState| fleet.iter().find(|m| m.controller.id == state.controller.id);
        let controllers = states.iter().map(|state| {
            let controller = Controller::of(state, now);
            trust(state).into_iter().fold(controller, Controller::with_trust)
        });
        Controllers { controllers: controllers.collect() }
    }
}

/// One controller.
#[derive(Debug, Serialize)]
pub struct Controller {
    id: ControllerId,
    label: String,
    site: String,
    cause: lag::Cause,
    explain: &'static str,
    lag_records: u64,
    lag_ms: u64,
    last_hello: Option<String>,
    gone_since: Option<String>,
    agent_version: Option<String>,
    clock: Option<&'static str>,
    roster_version: Option<u64>,
    readers: Vec<Reader>,
    outboxes: Vec<Outbox>,
    trust: Option<Trust>,
}

/// What trust in a controller rests on.
#[derive(Debug, Serialize)]
struct Trust {
    standing: Standing,
    standing_since: Option<String>,
    standing_why: Option<String>,
    certificate_serial: Option<String>,
    certificate_until: Option<String>,
    record_keys: Vec<String>,
    fetched_at: Option<String>,
    holds: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Reader {
    reader: ReaderName,
    kind: ReaderKind,
    state: ReaderState,
}

#[derive(Debug, Serialize)]
struct Outbox {
    outbox: OutboxId,
    last_seq: Seq,
    stored_through: Seq,
    last_stored_at: Option<String>,
    last_occurred_at: Option<String>,
}

impl Controller {
    /// The controller in the API's words.
    pub fn of(state: &ControllerState, now: UtcMs) -> Controller {
        let lag = lag::of(state, now);
        let hello = state.hello.as_ref();
        Controller {
            id: state.controller.id.clone(),
            label: state.controller.label.clone(),
            site: state.controller.site.clone(),
            cause: lag.cause,
            explain: lag.cause.sentence(),
            lag_records: lag.records,
            lag_ms: lag.ms,
            last_hello: hello.map(|hello| time(hello.received)),
            gone_since: state.gone.map(time),
            agent_version: hello.map(|hello| hello.hello.agent_version.clone()),
            clock: hello.map(|hello| hello.hello.clock.name()),
            roster_version: hello.and_then(|hello| hello.hello.roster_version),
            readers: hello
                .iter()
                .flat_map(|hello| &hello.hello.readers)
                .map(|r| Reader { reader: r.reader.clone(), kind: r.kind, state: r.state })
                .collect(),
            outboxes: state
                .outboxes
                .iter()
                .map(|o| Outbox {
                    outbox: o.outbox,
                    last_seq: o.last_seq,
                    stored_through: o.stored_through,
                    last_stored_at: o.last_stored.map(time),
                    last_occurred_at: o.last_occurred.map(time),
                })
                .collect(),
            trust: None,
        }
    }

    /// With what trust in it rests on.
    #[must_use]
    pub fn with_trust(self, member: &Member) -> Controller {
        let keys = &member.controller.record_keys;
        let trust = Trust {
            standing: member.standing,
            standing_since: member.decided.as_ref().map(|(since, _)| time(*since)),
            standing_why: member.decided.as_ref().map(|(_, why)| why.clone()),
            certificate_serial: member.certificate.map(|known| HEXLOWER.encode(&known.serial)),
            certificate_until: member.certificate.map(|known| time(known.not_after)),
            record_keys: keys.iter().map(|known| known.key.to_string()).collect(),
            fetched_at: member.fetched.as_ref().map(|fetched| time(fetched.at)),
            holds: member.fetched.as_ref().map(|fetched| fetched.holds.clone()).unwrap_or_default(),
        };
        Controller { trust: Some(trust), ..self }
    }

    /// Line by line, for people.
    pub fn in_words(&self) -> Vec<(&'static str, String)> {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
        let mut lines = vec![
            ("controller", self.id.to_string()),
            ("label", self.label.clone()),
            ("site", self.site.clone()),
            ("status", self.explain.to_owned()),
            ("records to come", self.lag_records.to_string()),
            ("last hello", or_none(&self.last_hello)),
        ];
        if let Some(trust) = &self.trust {
            let standing = match (&trust.standing_since, &trust.standing_why) {
                (Some(since), Some(why)) => format!("{} since {since}: {why}", trust.standing.name()),
                _ => trust.standing.name().to_owned(),
            };
            lines.extend([
                ("standing", standing),
                ("certificate until", or_none(&trust.certificate_until)),
                ("certificate number", or_none(&trust.certificate_serial)),
                ("last bundle", or_none(&trust.fetched_at)),
                ("has", trust.holds.join(" ")),
                ("record keys", trust.record_keys.join(" ")),
            ]);
        }
        lines.extend(self.outboxes.iter().map(|outbox| {
            ("outbox", format!("{}: stored {} of {}", outbox.outbox, outbox.stored_through, outbox.last_seq))
        }));
        lines
    }
}

/// One controller with what contradicts itself there, and what it was told to do.
#[derive(Debug, Serialize)]
pub struct ControllerDetail {
    #[serde(flatten)]
    controller: Controller,
    contradictions: Vec<Contradiction>,
    commands: Vec<CommandView>,
}

#[derive(Debug, Serialize)]
struct Contradiction {
    kind: TroubleKind,
    explain: &'static str,
    outbox: Option<OutboxId>,
    at: Option<Seq>,
    first_at: String,
    last_at: String,
    count: u64,
}

/// One command.
#[derive(Debug, Serialize)]
pub struct CommandView {
    number: u64,
    order: String,
    why: String,
    issued_at: String,
    ended_at: Option<String>,
    outcome: Option<&'static str>,
    detail: Option<String>,
}

impl ControllerDetail {
    /// In the API's words.
    pub fn of(known: &Known, now: UtcMs) -> ControllerDetail {
        let contradiction = |trouble: &TroubleRow| Contradiction {
            kind: trouble.kind,
            explain: trouble.kind.explain(),
            outbox: trouble.outbox,
            at: trouble.at,
            first_at: time(trouble.first),
            last_at: time(trouble.last),
            count: trouble.count,
        };
        ControllerDetail {
            controller: Controller::of(&known.state, now).with_trust(&known.member),
            contradictions: known.troubles.iter().map(contradiction).collect(),
            commands: known.commands.iter().map(CommandView::of).collect(),
        }
    }
}

impl CommandView {
    /// In the API's words.
    pub fn of(row: &CommandRow) -> CommandView {
        CommandView {
            number: row.number,
            order: order_text(&row.order),
            why: row.why.clone(),
            issued_at: time(row.issued),
            ended_at: row.end.as_ref().map(|end| time(end.at)),
            outcome: row.end.as_ref().map(|end| outcome_name(end.outcome)),
            detail: row.end.as_ref().map(|end| end.detail.clone()),
        }
    }
}
