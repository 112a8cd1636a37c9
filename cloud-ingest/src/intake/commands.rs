//! Beside step 7 of 12: commands out, and what controllers report of them; contradictions noted. Knows no records.
//!
//! One command at a time, again with every hello, until the controller says how it ended: a command that is lost, or a
//! controller that is away for a month, needs nothing else.

use tap_protocol::command::{Command, Order};
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::report::Outcome;
use tap_protocol::topic::{Channel, Topic};

use super::{BrokerLink, Running, Stopped};
use crate::event_store::Standing;
use crate::event_store::commands::{CommandEnd, TroubleKind, order_text};
use crate::receipts;

/// The service looks at its keys every few seconds: who was sent to fetch them sooner could get the old ones.
const KEYS_ARE_LIVE_AFTER_MS: i64 = 10_000;

impl<L: BrokerLink> Running<L> {
    pub(super) async fn command_done(
        &mut self,
        controller: ControllerId,
        number: u64,
        outcome: Outcome,
        detail: String,
    ) -> Result<(), Stopped> {
        let (id, end) = (controller.clone(), CommandEnd { at: self.worker.clock.now(), outcome, detail });
        let noted = end.clone();
        let ended =
            self.persist("note the end of a command", move |store| store.end_command(&id, number, &noted));
        if let Ok(true) = ended.await? {
            tracing::info!(%controller, number, ?outcome, detail = end.detail, "a command came to its end");
            self.send_next_command(&controller).await?;
        }
        Ok(())
    }

    /// Answers with a receipt for each place up to the mark: each is true for ever, whatever else is.
    pub(super) async fn hashes_wanted(
        &mut self,
        controller: ControllerId,
        outbox: OutboxId,
        seqs: Vec<Seq>,
    ) -> Result<(), Stopped> {
        self.trouble(&controller, TroubleKind::Apart, Some(outbox), None).await?;
        let id = controller.clone();
        let places = self.persist("look places up", move |store| store.places(&id, outbox, &seqs)).await?;
        if let Ok(places) = places {
            let stamp = self.stamp().await?;
            self.publish(receipts::at_places(&places, stamp));
        }
        Ok(())
    }

    /// Records contradict what is stored: the controller is told to leave that outbox, once.
    pub(super) async fn forked(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        at: Seq,
    ) -> Result<(), Stopped> {
        self.trouble(controller, TroubleKind::Fork, Some(outbox), Some(at)).await?;
        let (id, now) = (controller.clone(), self.worker.clock.now());
        let why = format!("record {at} of outbox {outbox} came with another content than is stored");
        // What the store refuses for good was logged.
        let _ = self
            .persist("queue a command", move |store| {
                store.queue_command(&id, &Order::StartNewOutbox { outbox }, &why, now)
            })
            .await?;
        Ok(())
    }

    /// After a hello: is this one controller, and what is it to do?
    pub(super) async fn greeted(&mut self, hello: &Hello) -> Result<(), Stopped> {
        if self.twins.hello(&hello.controller, hello.boot_id, hello.boottime_ms) {
            self.trouble(&hello.controller, TroubleKind::Twins, None, None).await?;
        }
        self.send_next_command(&hello.controller).await
    }

    pub(super) async fn send_next_command(&mut self, controller: &ControllerId) -> Result<(), Stopped> {
        let (id, now) = (controller.clone(), self.worker.clock.now());
        let next = self
            .persist("look for a command", move |store| {
                let is_revoked =
                    store.member(&id)?.is_some_and(|member| member.standing == Standing::Revoked);
                while let Some(next) = store.next_command(&id)? {
                    // Nobody who is out of trust is heard, so a revocation is never reported done; and who was enrolled
                    // again must not hear of it.
                    if next.order != Order::Revoke || is_revoked {
                        return Ok(Some(next));
                    }
                    let detail = "the controller was enrolled again".into();
                    store.end_command(
                        &id,
                        next.number,
                        &CommandEnd { at: now, outcome: Outcome::Refused, detail },
                    )?;
                }
                Ok(None)
            })
            .await?;
        if let Ok(Some(next)) = next {
            if next.order == Order::FetchKeys && now.0 - next.issued.0 < KEYS_ARE_LIVE_AFTER_MS {
                return Ok(());
            }
            let order = order_text(&next.order);
            let (number, issued_utc_ms) = (next.number, next.issued.0);
            let command =
                Command { controller: controller.clone(), number, issued_utc_ms, order: next.order };
            let topic = Topic::new(controller, Channel::Command).to_string();
            // One that finds no room is sent again after the next hello.
            let is_sent = self.worker.link.publish(topic, command.sign(&self.worker.keys.now().control()));
            tracing::info!(%controller, number, order, is_sent, "a command goes out");
        }
        Ok(())
    }

    /// Notes a contradiction, and says it: at once if it is new, else once a minute.
    async fn trouble(
        &mut self,
        controller: &ControllerId,
        kind: TroubleKind,
        outbox: Option<OutboxId>,
        at: Option<Seq>,
    ) -> Result<(), Stopped> {
        let (id, now) = (controller.clone(), self.worker.clock.now());
        let is_new = self
            .persist("note a contradiction", move |store| store.note_trouble(&id, kind, outbox, at, now))
            .await?
            .unwrap_or(false);
        self.worker.metrics.trouble(kind);
        if self.complaints.speaks((kind.name(), Some(controller.clone())), now) || is_new {
            let outbox = outbox.map(|outbox| outbox.to_string());
            tracing::warn!(%controller, kind = kind.name(), outbox, is_new, "{}", kind.explain());
        }
        Ok(())
    }
}
