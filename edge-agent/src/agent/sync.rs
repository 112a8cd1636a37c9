//! Steps 5 and 6 of 12 as the loop sees them: sessions, receipts, hellos and batches. Knows no reader.

use tap_protocol::envelope::Batch;
use tap_protocol::hello::{Hello, ReaderHello};
use tap_protocol::ids::OutboxId;
use tap_protocol::receipt::Receipt;
use tap_protocol::record::short_text;
use tap_protocol::topic::{Channel, Topic};
use tokio::sync::oneshot;

use super::{Agent, SEND_PAUSE_MS, Waiting, refuse, with_causes};
use crate::broker_link::LinkEvent;
use crate::control::Response;
use crate::now::Now;
use crate::outbox::Chunk;
use crate::outbox::worker::{Job, told_in_hello};
use crate::relay::{Send, Verdict};

/// A hello's receipt comes within a second, from a cloud that is catching up within some.
const MAX_RECEIPT_TRIP_MS: u64 = 60_000;

impl Agent {
    pub(super) fn link(&mut self, event: LinkEvent, now: &Now) {
        match event {
            LinkEvent::Up(session) => {
                tracing::info!("connected to the broker at {}", self.setup.broker_address);
                self.session = Some(session);
                self.link_why = None;
                self.sessions += 1;
                self.relay.connected(now.boottime_ms);
                self.rosters.assembler.connected();
                self.settlement.connected();
            }
            LinkEvent::Down { why } => {
                let changed = self.link_why.as_deref() != Some(&why);
                let is_due = self.complaints.due("link", now.boottime_ms).is_some();
                if self.session.take().is_some() || changed || is_due {
                    tracing::warn!(why, "no broker at {}; taps are kept", self.setup.broker_address);
                }
                for answer in self.round_trips.all() {
                    refuse(
                        Some(answer),
                        format!("the session with the broker ended before an answer came: {why}"),
                    );
                }
                self.link_why = Some(why);
                self.relay.disconnected();
                self.rosters.assembler.disconnected();
            }
            LinkEvent::Message { topic, payload } => self.message(&topic, &payload, now),
        }
    }

    pub(super) fn message(&mut self, topic: &str, payload: &[u8], now: &Now) {
        let taken = match topic.parse::<Topic>() {
            Ok(topic) if topic.controller == self.setup.controller => match topic.channel {
                Channel::Receipt => self.receipt(payload, now),
                Channel::Roster => self.roster(payload, now),
                Channel::Command => self.command(payload, now),
                Channel::Records | Channel::Hello | Channel::Gone | Channel::Report => {
                    Err(format!("nobody but this controller writes to {topic}"))
                }
            },
            _ => Err(format!("nothing is expected on {}", short_text(topic))),
        };
        if let Err(why) = taken {
            self.counters.messages_refused += 1;
            if let Some(count) = self.complaints.due("message", now.boottime_ms) {
                tracing::warn!(why, count, "a message from the broker is refused");
            }
        }
    }

    fn receipt(&mut self, payload: &[u8], now: &Now) -> Result<(), String> {
        let receipt = Receipt::open(payload, &self.setup.controller, &self.identity.receipt_keys)
            .map_err(|error| with_causes(&error))?;
        self.counters.receipts += 1;
        self.last_receipt_ms = Some(now.boottime_ms);
        if let Some(echo) = receipt.echo.filter(|echo| echo.boot_id == self.setup.boot_id) {
            // One that was long under way tells an old time.
            if let (Some(known), 0..=MAX_RECEIPT_TRIP_MS) =
                (&self.known_time, now.boottime_ms.saturating_sub(echo.boottime_ms))
            {
                known.learn(receipt.cloud_utc_ms, now.boottime_ms);
            }
            let told = self.round_trips.receipt_came(echo.boottime_ms, receipt.cloud_utc_ms, now);
            for (answer, trip) in told {
                let _ = answer.send(Response::RoundTrip(trip));
            }
        }
        if let Some(anchor) = self.anchors.receipt_came(&receipt, now) {
            self.record(anchor, Waiting::for_nobody(now.boottime_ms), now);
        }
        // Without room for the look-up the receipt is lost; the next hello brings another.
        let _ = self.outbox.submit(Job::HashAt { receipt: Box::new(receipt) });
        Ok(())
    }

    pub(super) fn receipt_compared(
        &mut self,
        receipt: &Receipt,
        own: Option<tap_protocol::chain::ChainHash>,
        now: &Now,
    ) {
        if self.starting_new.is_some() || self.settlement_hears(receipt, own) {
            return;
        }
        let verdict = self.relay.receipt(receipt, own, now.boottime_ms);
        self.wanted_outbox_judged(receipt, verdict, now);
        match verdict {
            Verdict::Rewound | Verdict::Forked => self.goes_apart(receipt, verdict, now),
            _ => self.judged(receipt, verdict),
        }
    }

    fn judged(&mut self, receipt: &Receipt, verdict: Verdict) {
        match verdict {
            Verdict::Advanced(mark) | Verdict::Restored(mark) => {
                if let Some(view) = self.shelf.iter_mut().find(|view| view.id == receipt.outbox) {
                    view.mark = mark;
                }
                if self.shelf.last().is_some_and(|newest| newest.id == receipt.outbox) {
                    self.ages.receipted(mark.receipted_through);
                }
                let _ = self.outbox.submit(Job::SetMark { outbox: receipt.outbox, mark });
            }
            Verdict::Nothing | Verdict::Rewound | Verdict::Forked => {}
            Verdict::HistoryGone => {
                // Without room for the job, the next receipt says it again.
                let _ = self.outbox.submit(Job::Refill { receipt: Box::new(receipt.clone()) });
            }
            Verdict::Foreign => self.counters.messages_refused += 1,
        }
    }

    pub(super) fn send_what_is_due(&mut self, now: &Now) {
        if now.boottime_ms < self.send_not_before_ms {
            return;
        }
        self.settle_what_is_due(now);
        while let Some(send) = self.relay.next(now.boottime_ms) {
            match send {
                Send::Hello => self.send_hello(now),
                Send::Batch { outbox, from } => {
                    if self.outbox.submit(Job::Read { outbox, from }).is_err() {
                        self.relay.not_sent();
                        self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn send_hello(&mut self, now: &Now) {
        let Some(session) = &self.session else { return };
        // It speaks for a moment before which all that happened is in the outboxes it names: what is on its way to the medium
        // is not there yet.
        let now = &now.before(self.waiting.values().map(|waiting| waiting.since_ms).min());
        let oldest_ms = self.ages.oldest_ms(now.boottime_ms);
        let newest = self.shelf.last().map(|view| view.id);
        let outboxes = told_in_hello(&self.shelf)
            .into_iter()
            .map(|view| view.hello(oldest_ms.filter(|_| newest == Some(view.id))));
        let hello = Hello {
            controller: self.setup.controller.clone(),
            boot_id: self.setup.boot_id,
            boottime_ms: now.boottime_ms,
            wall_ms: now.wall_ms,
            clock: now.clock,
            agent_version: short_text(env!("CARGO_PKG_VERSION")),
            record_version: tap_protocol::codec::VERSION_1,
            roster_version: self.rosters.version(),
            outboxes: outboxes.collect(),
            readers: self
                .readers
                .iter()
                .map(|r| ReaderHello { reader: r.name.clone(), kind: r.kind, state: r.state })
                .collect(),
        };
        let message = hello.sign(&self.identity.record_key);
        if session.try_publish(&Topic::new(&self.setup.controller, Channel::Hello), message).is_ok() {
            self.anchors.hello_sent(now.boottime_ms);
            self.round_trips.hello_sent(now.boottime_ms);
        }
    }

    pub(super) fn send_batch(&mut self, outbox: OutboxId, chunk: Chunk, now: &Now) {
        self.problems.remove("read");
        let count = chunk.records.len() as u64;
        let (Some(session), true) = (&self.session, count > 0) else { return self.relay.not_sent() };
        let first_seq = chunk.first_seq;
        let batch = Batch {
            controller: self.setup.controller.clone(),
            outbox,
            first_seq,
            hash_before: chunk.hash_before,
            records: chunk.records,
        };
        let message = batch.sign(&self.identity.record_key);
        match session.try_publish(&Topic::new(&self.setup.controller, Channel::Records), message) {
            Ok(()) => {
                self.counters.batches_sent += 1;
                self.counters.records_sent += count;
                self.relay.sent(outbox, first_seq, first_seq.plus(count - 1));
            }
            Err(_) => {
                self.relay.not_sent();
                self.send_not_before_ms = now.boottime_ms + SEND_PAUSE_MS;
            }
        }
    }

    /// Somebody wants to know whether the cloud answers.
    pub(super) fn round_trip(&mut self, answer: oneshot::Sender<Response>, now: &Now) {
        if let Some(why) = &self.link_why {
            refuse(Some(answer), format!("there is no session with the broker: {why}"));
        } else if let Err(answer) = self.round_trips.asked(answer, now.boottime_ms) {
            refuse(Some(answer), "others wait for the same answer already: try again in ten seconds".into());
        } else {
            self.relay.hello_now(now.boottime_ms);
        }
    }
}
