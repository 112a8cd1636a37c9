//! Steps 1 to 4 of 12 as the loop sees them: from what a reader says to what the person sees. Knows neither broker nor cloud.

use tap_protocol::badge::Credential;
use tap_protocol::hello::ReaderState;
use tap_protocol::ids::{EventId, ReaderName};
use tap_protocol::record::{Body, short_text};
use tap_protocol::tap::{Direction, Tap};
use tokio::sync::oneshot;

use super::{Agent, Waiting, refuse};
use crate::admission::{Admitted, TapKey};
use crate::clock;
use crate::control::Response;
use crate::feedback::{Audience, Due};
use crate::now::Now;
use crate::outbox::worker::{Committed, Job, Ticket};
use crate::reader::ReaderEvent;
use crate::reader::card_read::{CardRead, Oddity, Reject, reports_removal};

impl Agent {
    pub(super) fn reader(&mut self, event: ReaderEvent, now: &Now) {
        match event {
            ReaderEvent::Card(read) => {
                if read.missed > 0 {
                    self.reject(&read.reader, "missed", "cards came and went before they could be read", now);
                }
                self.card(&read, None, None, now);
            }
            ReaderEvent::Removed { reader, at_boottime_ms } => {
                self.admission.removed(&reader, at_boottime_ms)
            }
            ReaderEvent::Rejected { reader, why } => {
                if is_no_badge(&why) {
                    self.feedback.something_else(&reader);
                    self.signals.not_a_badge(&reader);
                }
                self.reject(&reader, why.kind(), &why.to_string(), now);
            }
            ReaderEvent::Odd { reader, what } => {
                let kind = what.kind();
                if let Some(reader) = self.reader_named(&reader) {
                    *reader.odd.entry(kind.to_owned()).or_default() += 1;
                }
                // A lamp says by itself what is wrong with it, once and with what to do.
                if what == Oddity::SameNumberAgain
                    && let Some(count) = self.complaints.due(kind, now.boottime_ms)
                {
                    tracing::warn!(%reader, count, "{what}");
                }
            }
            ReaderEvent::Up { reader, detail } => {
                tracing::info!(%reader, "reader is up: {detail}");
                if self.reader_is_now(&reader, ReaderState::Up, detail) {
                    self.record(Body::ReaderUp { reader }, Waiting::for_nobody(now.boottime_ms), now);
                }
            }
            ReaderEvent::Down { reader, why } => {
                tracing::warn!(%reader, why = why.kind(), "{why}");
                if self.reader_is_now(&reader, ReaderState::Down, why.to_string()) {
                    let why = short_text(why.kind());
                    self.record(Body::ReaderDown { reader, why }, Waiting::for_nobody(now.boottime_ms), now);
                }
            }
        }
    }

    pub(super) fn simulated_tap(
        &mut self,
        uid: &str,
        direction: Direction,
        answer: oneshot::Sender<Response>,
        now: &Now,
    ) {
        let credential: Credential = match uid.parse() {
            Ok(credential) => credential,
            Err(error) => {
                let _ = answer.send(Response::Refused { why: format!("{uid:?}: {error}") });
                return;
            }
        };
        let read = CardRead {
            reader: self.simulated_reader.clone(),
            credential,
            seen_at_boottime_ms: now.boottime_ms,
            atr: None,
            missed: 0,
        };
        self.card(&read, Some(direction), Some(answer), now);
    }

    /// From a read to a record on its way to the medium, or to a refusal.
    pub(super) fn card(
        &mut self,
        read: &CardRead,
        said_direction: Option<Direction>,
        answer: Option<oneshot::Sender<Response>>,
        now: &Now,
    ) {
        let started_us = clock::boottime_us();
        match self.admission.admit(read) {
            Admitted::Tap { key, credential, reader, direction } => {
                let badge = self.identity.token_key.seal(&credential);
                let direction = said_direction.unwrap_or(direction);
                let verdict = self.verdict(badge.token, now);
                let tap = Tap { reader: reader.clone(), badge, direction, verdict };
                if answer.is_none() {
                    self.feedback.tap(&reader, key, now.boottime_ms);
                }
                let since_ms = now.boottime_ms;
                let waiting = Waiting { started_us, since_ms, key: Some(key), reader: Some(reader), answer };
                self.record(Body::Tap(tap), waiting, now);
            }
            Admitted::Repeat { of, .. } => {
                self.counters.repeats += 1;
                if answer.is_none() {
                    self.shown_again(&read.reader, of, now);
                }
                refuse(answer, "the same card, still there".into());
            }
            Admitted::NotABadge(why) => {
                self.feedback.something_else(&read.reader);
                self.signals.not_a_badge(&read.reader);
                self.reject(&read.reader, why.kind(), &why.to_string(), now);
                refuse(answer, why.to_string());
            }
        }
    }

    /// The card of a tap was shown again. Whoever does that wants to know, and the answer is the same.
    pub(super) fn shown_again(&mut self, reader: &ReaderName, tap: TapKey, now: &Now) {
        let online = self.session.is_some();
        let Some(desk) = self.readers.iter().find(|desk| desk.name == *reader) else { return };
        let committed = desk.last_tap.as_ref().filter(|(key, _)| *key == tap).map(|(_, tap)| tap);
        match (committed, reports_removal(desk.kind)) {
            (Some(committed), true) => {
                self.feedback.something_else(reader);
                self.signals.recorded(committed, online);
            }
            // A reader that repeats itself says nothing new.
            (Some(_), false) => {}
            (None, true) => self.feedback.again(reader, tap, now.boottime_ms),
            (None, false) => self.feedback.still_there(reader, tap, now.boottime_ms),
        }
    }

    /// Gives a record to the outbox's thread. If that takes no more, the record is refused here and now.
    pub(super) fn record(&mut self, body: Body, waiting: Waiting, now: &Now) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let is_tap = matches!(body, Body::Tap(_));
        self.waiting.insert(ticket, waiting);
        if is_tap && self.revoked() {
            return self.not_committed(ticket, "the cloud has revoked this controller", now);
        }
        if self.outbox.submit(Job::Append { ticket, now: *now, body }).is_err() {
            self.not_committed(ticket, "more waits to be written than can be", now);
        }
    }

    pub(super) fn committed(
        &mut self,
        ticket: Ticket,
        record: Committed<tap_protocol::record::Record>,
        now: &Now,
    ) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let seq = record.seq();
        if let Some(key) = waiting.key {
            self.admission.committed(key, seq);
        }
        let Some(tap) = record.into_tap() else { return };
        let reader = &tap.value().reader;
        // A simulated tap has somebody who waits for it on the socket, whoever else taps.
        let audience = match (&waiting.answer, waiting.key) {
            (None, Some(key)) => self.feedback.answer(reader, key, now.boottime_ms),
            _ => Audience::Waits,
        };
        let signal = match audience {
            Audience::Waits => Some(self.signals.recorded(&tap, self.session.is_some())),
            Audience::Superseded | Audience::Gone => {
                self.counters.signals_withheld += 1;
                None
            }
        };
        let tap_to_signal_us = clock::boottime_us() - waiting.started_us;
        self.counters.taps_recorded += 1;
        self.measured.tap_to_signal.observe_us(tap_to_signal_us);
        let event_id = EventId::new(&self.setup.controller, tap.outbox(), seq);
        // Not at info: a line per tap would wear the SD card out faster than the taps themselves do.
        tracing::debug!(%reader, seq = seq.0, %event_id, "tap recorded");
        if let (Some(answer), Some(signal)) = (waiting.answer, signal) {
            let (event_id, signal) = (event_id.to_string(), signal.to_string());
            let _ = answer.send(Response::Recorded { seq: seq.0, event_id, signal, tap_to_signal_us });
        }
        if let Some(reader) = self.readers.iter_mut().find(|known| known.name == tap.value().reader) {
            reader.taps += 1;
            reader.last_tap_ms = Some(now.boottime_ms);
            reader.last_tap = waiting.key.map(|key| (key, tap));
        }
    }

    pub(super) fn not_committed(&mut self, ticket: Ticket, why: &str, now: &Now) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        // It may have been an anchor; one too many costs nothing.
        self.anchors.start_over();
        if let (Some(reader), Some(key)) = (waiting.reader, waiting.key) {
            self.counters.taps_refused += 1;
            if waiting.answer.is_some()
                || self.feedback.answer(&reader, key, now.boottime_ms) == Audience::Waits
            {
                self.signals.out_of_service(&reader);
            }
            self.reject(&reader, "not_durable", why, now);
            self.admission.refused(key);
        }
        refuse(waiting.answer, format!("the tap could not be made durable: {why}"));
    }

    /// What people at the readers are to see because time passed.
    pub(super) fn show_what_is_due(&mut self, now: &Now) {
        for due in self.feedback.due(now.boottime_ms) {
            match due {
                Due::Wait(reader) => self.signals.wait(&reader),
                Due::GiveUp(reader) => self.signals.out_of_service(&reader),
            }
        }
        let commit_since_ms = self.commit_since_ms();
        if let Some(in_service) = self.service.change(commit_since_ms, now.boottime_ms) {
            tracing::info!(
                "{}",
                if in_service { "in service" } else { "out of service: taps would not be recorded" }
            );
            self.readers.iter().for_each(|reader| self.signals.in_service(&reader.name, in_service));
        }
        if self.service.trial_is_due(commit_since_ms, now.boottime_ms) {
            // Without room there is enough to write that shows how writing goes.
            let _ = self.outbox.submit(Job::Try);
        }
    }
}

/// Whether a person who shows this must be told that it is no badge: the card answered, and has no number to give.
fn is_no_badge(why: &Reject) -> bool {
    matches!(why, Reject::StatusWord(_) | Reject::BadUidLength(_))
}
