//! Step 3 of 12 as the loop sees it: what the outbox's thread answers, and what follows for taps, sending and people.

use tap_protocol::ids::{OutboxId, Seq};

use super::{Agent, DAMAGE_PAUSE_MS, with_causes};
use crate::now::Now;
use crate::outbox::OutboxError;
use crate::outbox::carve::MAX_SEQ;
use crate::outbox::shelf::News;
use crate::outbox::space::Level;
use crate::outbox::worker::{Done, OutboxView};
use crate::relay::Relay;

impl Agent {
    pub(super) fn outbox_answered(&mut self, done: Done, now: &Now) {
        match done {
            Done::Appended { records, commit_us } => {
                self.writing_works();
                self.measured.commit.observe_us(commit_us);
                self.counters.commits += 1;
                if let Some((_, last)) = records.last() {
                    self.grew(last.outbox(), last.seq(), now);
                }
                records.into_iter().for_each(|(ticket, record)| self.committed(ticket, record, now));
            }
            Done::Tried(Ok(())) => self.writing_works(),
            Done::Tried(Err(error)) => {
                self.writing_fails(&error, now);
            }
            Done::AppendFailed { tickets, error } => {
                let why = self.writing_fails(&error, now);
                tickets.into_iter().for_each(|ticket| self.not_committed(ticket, &why, now));
            }
            Done::Chunk { outbox, chunk: Ok(chunk) } => self.send_batch(outbox, chunk, now),
            Done::Chunk { outbox, chunk: Err(error) } => {
                let why = with_causes(&error);
                if self.complaints.due("read", now.boottime_ms).is_some() {
                    tracing::error!(%outbox, why, "the outbox cannot be read; its records stay and wait");
                }
                self.problems.insert("read", format!("the outbox {outbox} cannot be read: {why}"));
                self.relay.not_sent();
                self.send_not_before_ms = now.boottime_ms + DAMAGE_PAUSE_MS;
            }
            Done::HashAt { receipt, own: Ok(own) } => self.receipt_compared(&receipt, own, now),
            Done::StartFailed(error) => {
                let why = with_causes(&error);
                self.problems.insert("start", format!("no new outbox can be started: {why}"));
                if let Some(count) = self.complaints.due("start", now.boottime_ms) {
                    tracing::error!(why, count, "no new outbox can be started");
                }
            }
            Done::HashAt { own: Err(error), .. } | Done::HousekeepingFailed(error) => {
                if let Some(count) = self.complaints.due("housekeep", now.boottime_ms) {
                    tracing::error!(why = with_causes(&error), count, "the outbox cannot be kept in order");
                }
            }
            Done::Gone { .. } => self.relay.not_sent(),
            Done::Left { outbox, is_done } => self.left(outbox, is_done, now),
            Done::News(news) => self.hear(&news),
            Done::Shelf(shelf) => self.shelf_is_now(shelf, now),
            Done::Stopped => {}
        }
    }

    pub(super) fn writing_works(&mut self) {
        self.problems.remove("outbox");
        self.service.wrote();
    }

    pub(super) fn writing_fails(&mut self, error: &OutboxError, now: &Now) -> String {
        let why = with_causes(error);
        if let Some(count) = self.complaints.due("append", now.boottime_ms) {
            tracing::error!(why, count, "taps cannot be recorded");
        }
        self.problems.insert("outbox", format!("taps cannot be recorded: {why}"));
        self.service.failed();
        why
    }

    pub(super) fn shelf_is_now(&mut self, shelf: Vec<OutboxView>, now: &Now) {
        if self.shelf.is_empty() {
            let sent = shelf.iter().filter(|view| !view.is_retired && view.is_sound);
            self.relay = Relay::new(sent.map(|view| (view.id, view.last_seq, view.mark)));
            if self.session.is_some() {
                self.relay.connected(now.boottime_ms);
            }
            if let Some(newest) = shelf.last() {
                self.ages.began(newest.last_seq, newest.mark.receipted_through, now.boottime_ms);
            }
        }
        let newest = shelf.last().map(|view| view.id);
        for view in &shelf {
            if view.is_retired || !view.is_sound {
                self.relay.retired(view.id);
            } else if view.is_settled {
                if self.relay.settled_at(view.id) != Some(view.last_seq) {
                    self.relay.settled(view.id, view.last_seq, view.mark);
                }
            } else {
                self.relay.started(view.id, view.last_seq, view.mark);
                self.relay.appended(view.id, view.last_seq, now.boottime_ms);
            }
        }
        self.relay.shelf_is(shelf.iter().map(|view| view.id));
        // Nothing may overtake what is being salvaged; the cloud is asked what it has of it.
        self.relay.hold(shelf.iter().any(|view| !view.is_sound));
        let is_new = self.shelf.last().map(|view| view.id) != newest;
        if let (true, Some(newest)) = (is_new, shelf.last()) {
            tracing::info!(outbox = %newest.id, seq = newest.last_seq.0, "writing to this outbox");
            self.anchors.start_over();
        }
        self.shelf = shelf;
    }

    /// Damage, and what became of it.
    pub(super) fn hear(&mut self, news: &News) {
        let text = news.to_string();
        match news {
            News::SetAside { .. } | News::Disputed(_) => {
                tracing::error!("{text}");
                self.problems.insert("damage", text);
            }
            News::Lost { ranges, .. } if !ranges.is_empty() => {
                // Where nobody knows how many there were, one stands for them.
                let records = |(from, to): &(Seq, Seq)| if *to < MAX_SEQ { to.0 - from.0 + 1 } else { 1 };
                let lost = self.counters.lost.entry("damaged".into()).or_default();
                *lost += ranges.iter().map(records).sum::<u64>();
                tracing::error!("{text}");
                self.problems.insert("lost", text);
            }
            News::HistoryGone { range: (from, to), .. } => {
                *self.counters.lost.entry("pruned".into()).or_default() += to.0 - from.0 + 1;
                tracing::error!("{text}");
                self.problems.insert("lost", text);
            }
            News::Lost { .. } | News::Salvaged(_) => tracing::warn!("{text}"),
            News::Room(verdict) => match verdict.level {
                Level::Fine => {
                    tracing::info!("{text}");
                    self.problems.remove("room");
                    self.problems.remove("outbox");
                }
                Level::High | Level::Full => {
                    tracing::warn!("{text}");
                    self.problems.insert("room", text);
                }
            },
            News::Mended(_) => {
                tracing::info!("{text}");
                self.problems.remove("damage");
            }
        }
    }

    pub(super) fn grew(&mut self, outbox: OutboxId, last_seq: Seq, now: &Now) {
        self.relay.appended(outbox, last_seq, now.boottime_ms);
        self.ages.grew(last_seq, now.boottime_ms);
        if let Some(view) = self.shelf.iter_mut().find(|view| view.id == outbox) {
            view.last_seq = last_seq;
        }
    }
}
