//! What must hold: each promise is a function that is named after it, and says it in one line. They see only what the
//! oracle has seen.

use std::collections::{BTreeMap, BTreeSet};

use cloud_ingest::event_store::replays::{ReplayStanding, Replays, RowCounts};
use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{
    Claimed, Completeness, DeliveryState, EventFilter, EventRow, EventStore, HeldFor, TapRow, UtcMs,
};
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, Record};
use tap_protocol::time_repair::Anchor;

use super::{Boot, FateState, Oracle, Stored, delivery, delivery_of, index, place, row_of};
use crate::disk::{Disk, TapNo};
use crate::dispatcher::LEGACY;
use crate::edge::Door;
use crate::legacy::Legacy;
use crate::stage::BEGINNING_UTC_MS;
use crate::tally::Tally;

impl Oracle {
    /// Green ⊆ committed.
    pub(super) fn green_is_only_what_is_committed(&mut self, tap: TapNo) {
        if self.taps[tap].state != FateState::Committed {
            self.breaks(
                "green_is_only_what_is_committed",
                format!("tap {tap} is {:?}", self.taps[tap].state),
            );
        }
    }

    /// Pruned ⇒ a receipt covered it ⇒ the store had committed it.
    pub(super) fn what_is_pruned_is_stored(&mut self, outbox: OutboxId, through: u64) {
        let stored = self.mark(outbox);
        if stored.0 < through {
            let what =
                format!("outbox {outbox} was pruned through {through}, the store has it through {stored}");
            self.breaks("what_is_pruned_is_stored", what);
        }
    }

    /// Protocol, "Sending": on a new session sending resumes from the mark, because the broker may have forgotten.
    pub(super) fn a_new_session_begins_at_the_mark(&mut self, door: usize, mark: Seq, first: Seq) {
        if mark.next() != first {
            let what = format!(
                "door {}: the mark is {mark}, the session's first batch is asked for from {first}",
                door + 1
            );
            self.breaks("a_new_session_begins_at_the_mark", what);
        }
    }

    /// Protocol, "Receiving": PUBACK to the broker only after the store's commit.
    pub(super) fn what_is_acknowledged_is_decided(&mut self, message: u64) {
        if !self.decided.contains(&message) {
            let what = format!("message {message} was acknowledged before the store had it");
            self.breaks("what_is_acknowledged_is_decided", what);
        }
    }

    /// Every seq ≤ a receipt's mark is stored.
    pub(super) fn a_receipt_says_only_what_is_stored(&mut self, receipt: &Receipt) {
        let stored = self.mark(receipt.outbox);
        if receipt.stored_through > stored && self.epoch == Some(receipt.store_epoch) {
            let what = format!(
                "a receipt for {} says {}, the store has it through {stored}",
                receipt.outbox, receipt.stored_through
            );
            self.breaks("a_receipt_says_only_what_is_stored", what);
        }
    }

    /// Whatever a mark covers is stored, as long as it is of this life of the store.
    pub(super) fn a_mark_says_only_what_is_stored(&mut self, disk: &Disk) {
        for outbox in &disk.outboxes {
            let stored = self.mark(outbox.id);
            if outbox.mark.store_epoch.is_some()
                && outbox.mark.store_epoch == self.epoch
                && outbox.mark.receipted_through > stored
            {
                let mark = outbox.mark.receipted_through;
                let what = format!("outbox {} has mark {mark}, the store has it through {stored}", outbox.id);
                self.breaks("a_mark_says_only_what_is_stored", what);
            }
        }
    }

    /// Each record is stored once, under the next number of its outbox, byte for byte as its own controller
    /// wrote it.
    pub(super) fn what_is_stored_is_what_was_written(
        &mut self,
        row: &EventRow,
        store: &mut SqliteStore,
        now_ms: u64,
    ) {
        const PROMISE: &str = "what_is_stored_is_what_was_written";
        let place = format!("position {}, record {} of {}", row.position.0, row.seq, row.outbox);
        if index(row.position) != self.stored.len() {
            return self.breaks(PROMISE, format!("{place}: position {} was next", self.stored.len() + 1));
        }
        let mark = self.mark(row.outbox);
        if row.seq != mark.next() {
            return self.breaks(PROMISE, format!("{place}: {} was next", mark.next()));
        }
        if row.event_id != EventId::new(&row.controller, row.outbox, row.seq) {
            return self.breaks(PROMISE, format!("{place}: its id is {}", row.event_id));
        }
        let bytes =
            store.record_bytes(&row.controller, row.outbox, row.seq).ok().flatten().unwrap_or_default();
        let versions = self.written.get(&(row.outbox, row.seq)).map_or(&[][..], Vec::as_slice);
        let Some((_, tap)) = versions.iter().find(|(written, _)| *written == bytes) else {
            return self.breaks(PROMISE, format!("{place}: nobody ever wrote that"));
        };
        let door = self.door_of.get(&row.outbox).copied();
        if door.map(crate::broker::door_name).as_deref() != Some(row.controller.as_str()) {
            return self.breaks(PROMISE, format!("{place}: it is not {}'s", row.controller));
        }
        let tap = *tap;
        let token = row.tap.as_ref().map(|tap| tap.badge.token);
        if token.is_some() != tap.is_some() {
            return self.breaks(PROMISE, format!("{place}: a tap on one side only"));
        }
        if let Some(tap) = tap {
            let fate = &mut self.taps[tap];
            if fate.stored {
                return self.breaks("a_tap_is_stored_once", format!("{place}: tap {tap} was stored before"));
            }
            fate.stored = true;
            if fate.state == FateState::Destroyed {
                // A copy was still on its way in the broker.
                fate.state = FateState::Committed;
            }
        }
        self.marks.insert(row.outbox, row.seq);
        let joined_ms = token.and_then(|token| self.persons.get(&token)).map(|_| now_ms);
        let (outbox, event_id) = (row.outbox, row.event_id);
        let record = Record::decode(&bytes).ok();
        let number = record.as_ref().map_or(0, |record| record.at.boot);
        if let Some(Body::AgentStarted { boot_id, .. }) = record.as_ref().map(|record| &record.body) {
            self.boots.insert((outbox, number), *boot_id);
        }
        let named = self.boots.get(&(outbox, number)).copied();
        let boot = named.map_or(Boot::Numbered(outbox, number), Boot::Named);
        let is_anchor = record.is_some_and(|record| Anchor::of(&record).is_some());
        let received = row.received;
        let has_time = row.tap.as_ref().is_some_and(|tap| tap.occurred.is_ok());
        let place = has_time.then(|| super::place(row, self.across_ms));
        let stored =
            Stored { event_id, tap, token, received, place, joined_ms, ended: false, boot, is_anchor };
        self.stored.push(stored);
    }

    /// The states of the closed list sum up to what was ever to be delivered, at every moment.
    pub(super) fn every_delivery_is_in_one_state(&mut self, store: &mut SqliteStore) {
        let (counts, totals) =
            (store.delivery_counts().unwrap_or_default(), store.totals().unwrap_or_default());
        let sum: u64 = counts.iter().map(|count| count.count).sum();
        self.states_seen.extend(counts.iter().filter(|count| count.count > 0).map(|count| count.state));
        if sum != totals.deliveries
            || totals.deliveries != totals.taps
            || totals.last_position != totals.records
        {
            self.breaks("every_delivery_is_in_one_state", format!("{totals:?}, in states: {sum}"));
        }
    }

    /// A delivery is sent only when everything before it in its lane is done, but for what a late binding, or a door that was
    /// away, has put before it while it was already in front.
    pub(super) fn only_the_first_in_line_is_sent(&mut self, claimed: &Claimed, store: &mut SqliteStore) {
        let position = claimed.claim.position;
        let since_ms = self.in_front_since_ms.get(&position).copied().unwrap_or(u64::MAX);
        let all_before = match self.across_ms {
            None => 0..index(position),
            Some(_) => 0..self.stored.len(),
        };
        let own = (if self.across_ms.is_some() { claimed.tap.occurred.0 } else { 0 }, position);
        for before in all_before.filter(|before| *before != index(position)) {
            let stored = &self.stored[before];
            let joined_before = stored.joined_ms.is_some_and(|joined_ms| joined_ms < since_ms);
            if stored.ended || !joined_before || self.person(stored) != Some(&claimed.tap.person) {
                continue;
            }
            if stored.place.is_some_and(|place| place > own) {
                continue;
            }
            let row = row_of(stored.event_id, store);
            if row.as_ref().is_some_and(|row| place(row, self.across_ms) > own) {
                continue;
            }
            let delivery = row.as_ref().and_then(delivery);
            let state = delivery.map(|delivery| delivery.state);
            if delivery.is_some_and(|delivery| delivery.held_for == Some(HeldFor::TimeUnresolved)) {
                continue;
            }
            if state.is_some_and(DeliveryState::is_open) {
                let (at, person) = (position.0, &claimed.tap.person.0);
                let what =
                    format!("position {at} of {person} is sent while position {} is {state:?}", before + 1);
                return self.breaks("only_the_first_in_line_is_sent", what);
            }
            self.stored[before].ended = true;
        }
    }

    /// One idempotency key and one body per delivery, over all attempts; the key is the event's id.
    pub(super) fn one_key_and_one_body_per_delivery(&mut self, claimed: &Claimed, key: &str, body: &str) {
        const PROMISE: &str = "one_key_and_one_body_per_delivery";
        let event_id = self.stored.get(index(claimed.claim.position)).map(|stored| stored.event_id);
        if event_id.map(|id| id.to_string()).as_deref() != Some(key) {
            let what = format!("position {} is sent under the key {key}", claimed.claim.position.0);
            return self.breaks(PROMISE, what);
        }
        let first = self.bodies.entry(key.to_owned()).or_insert_with(|| body.to_owned());
        if first != body {
            let what = format!("{key} was sent as {first} and is now sent as {body}");
            self.breaks(PROMISE, what);
        }
    }

    /// A crash leaves `unknown`, never a request that nobody knows of; and nobody sends without a lease.
    pub(super) fn a_request_is_a_started_attempt(&mut self, claimed: &Claimed, store: &mut SqliteStore) {
        let state = delivery_of(claimed.event_id, store).map(|delivery| delivery.state);
        if state != Some(DeliveryState::InFlight) {
            let what = format!("position {} is sent without a lease", claimed.claim.position.0);
            self.breaks("a_request_is_a_started_attempt", what);
        }
    }

    /// The time that a destination is told is true within what it is told of doubt, whatever a wall clock showed.
    pub(super) fn true_time_is_true(&mut self, claimed: &Claimed) {
        let Some(tap) = self.stored.get(index(claimed.claim.position)).and_then(|stored| stored.tap) else {
            return;
        };
        let (truth, said) = (self.taps[tap].utc, claimed.tap.occurred);
        // Whole milliseconds are rounded on both sides.
        if truth.0.abs_diff(said.0) > claimed.tap.uncertainty_ms + 2 {
            let doubt = claimed.tap.uncertainty_ms;
            let what = format!("tap {tap} happened at {}, and {} ± {doubt} ms is told", truth.0, said.0);
            self.breaks("true_time_is_true", what);
        }
    }

    /// What a door is said to be complete through is stored, but for what a disaster took.
    pub fn what_is_complete_is_stored(&mut self, store: &mut SqliteStore, doors: &[Door]) {
        for told in store.doors(LEGACY).unwrap_or_default().unwrap_or_default() {
            let Some(complete) = told.complete else { continue };
            let Some(no) = doors.iter().position(|door| door.machine.id == told.controller) else { continue };
            // Of a copied disk that is not plugged in, nobody can say what is on it.
            if doors[no].machine.twin.is_some() || self.complete.insert(no, complete) == Some(complete) {
                continue;
            }
            let left = self.taps.iter().enumerate().find(|(_, fate)| {
                fate.door == no && fate.state == FateState::Committed && !fate.stored && fate.utc < complete
            });
            if let Some((tap, fate)) = left {
                let what = format!(
                    "door {} is complete through {}, and tap {tap} of {} is not stored",
                    no + 1,
                    complete.0,
                    fate.utc.0
                );
                self.breaks("what_is_complete_is_stored", what);
            }
        }
    }

    /// With order across controllers, a delivery that is not marked as early has nobody before it any more: whatever was
    /// tapped at another door by then is stored, so it stood in line.
    pub fn what_goes_in_time_has_nobody_before_it(&mut self, doors: &[Door]) {
        for (door, happened) in std::mem::take(&mut self.in_time) {
            let missing = self.taps.iter().enumerate().find(|(_, fate)| {
                fate.door != door
                    && fate.state == FateState::Committed
                    && !fate.stored
                    && fate.utc < happened
                    // Of a copied disk that is not plugged in, nobody can say what is on it.
                    && doors[fate.door].machine.twin.is_none()
            });
            if let Some((tap, fate)) = missing {
                let what = format!(
                    "a tap of {} at door {} goes, and tap {tap} of {} at door {} is not stored",
                    happened.0,
                    door + 1,
                    fate.utc.0,
                    fate.door + 1
                );
                self.breaks("what_goes_in_time_has_nobody_before_it", what);
            }
        }
    }

    /// Early is what has waited for as long as was agreed, or stands before one of the same person that has.
    pub(super) fn only_what_waited_for_long_enough_goes_early(
        &mut self,
        claimed: &Claimed,
        now_ms: u64,
        store: &mut SqliteStore,
    ) {
        let since = UtcMs(BEGINNING_UTC_MS + now_ms as i64 - self.across_ms.unwrap_or(0) as i64);
        let own = (claimed.tap.occurred.0, claimed.claim.position);
        let has_waited = self.stored.iter().any(|stored| {
            stored.received <= since
                && self.person(stored) == Some(&claimed.tap.person)
                && stored.place(self.across_ms, store).is_some_and(|place| place >= own)
        });
        if !has_waited {
            let what = format!("position {} goes early, and nobody has waited for so long", own.1.0);
            self.breaks("only_what_waited_for_long_enough_goes_early", what);
        }
    }

    /// Who was stored by `since` waits for no door that is away, nor does anybody who has done with waiting: neither itself nor
    /// behind one that does.
    pub(super) fn nobody_waits_longer_than_was_agreed(&mut self, since: UtcMs, store: &mut SqliteStore) {
        let mut rows_in = |state| {
            let filter = EventFilter { state: Some(state), limit: usize::MAX, ..EventFilter::default() };
            store.events(&filter).unwrap_or_default()
        };
        let for_others = |row: &EventRow| {
            delivery(row).is_some_and(|delivery| delivery.held_for == Some(HeldFor::Completeness))
        };
        let mut waiting: Vec<EventRow> = rows_in(DeliveryState::Held);
        waiting.retain(for_others);
        if waiting.is_empty() {
            return;
        }
        let mut firsts = BTreeMap::new();
        for row in &waiting {
            let place = place(row, self.across_ms);
            let person = delivery(row).and_then(|delivery| delivery.person.clone());
            firsts.entry(person).and_modify(|first| *first = place.min(*first)).or_insert(place);
        }
        let mut released = rows_in(DeliveryState::Parked);
        released.extend(rows_in(DeliveryState::Pending));
        released.retain(|row| delivery(row).is_some_and(|delivery| delivery.held_for.is_none()));
        let waits_behind = |row: &EventRow| {
            let person = delivery(row).and_then(|delivery| delivery.person.clone());
            firsts.get(&person).is_some_and(|first| *first < place(row, self.across_ms))
        };
        let too_long = waiting.iter().find(|row| row.received <= since);
        let in_vain = released.iter().find(|row| waits_behind(row));
        if let Some(row) = too_long.or(in_vain) {
            let (position, since_ms) = (row.position.0, since.0 - row.received.0);
            let what = format!("position {position} waits for doors that are away, {since_ms} ms too long");
            self.breaks("nobody_waits_longer_than_was_agreed", what);
        }
    }

    /// Accepted ⊆ store ∪ surviving outbox.
    pub fn nothing_accepted_is_lost(&mut self, doors: &[Door]) {
        self.look_for_all = false;
        let on_disk = self.on_disk(doors);
        let lost =
            self.taps.iter().enumerate().find(|(tap, fate)| {
                fate.state == FateState::Committed && !fate.stored && !on_disk.contains(tap)
            });
        if let Some((tap, fate)) = lost {
            let what = format!("tap {tap} of door {} is neither stored nor on a disk", fate.door + 1);
            self.breaks("nothing_accepted_is_lost", what);
        }
    }

    /// Every queue has a bound.
    pub fn every_queue_is_bounded(&mut self, what: &str, is: usize, at_most: usize) {
        if is > at_most {
            self.breaks("every_queue_is_bounded", format!("{what}: {is} of {at_most}"));
        }
    }

    /// After healing, everything is done within its time.
    pub fn everything_is_done_in_time(&mut self, left: &str, since_ms: u64) {
        self.breaks("everything_is_done_in_time", format!("{} s after healing {left}", since_ms / 1_000));
    }

    /// No run goes on for ever.
    pub fn every_run_ends(&mut self, steps: u64) {
        self.breaks("every_run_ends", format!("{steps} steps, and no end"));
    }

    /// What is still to be done, if anything: `None` when everything is delivered that can be.
    /// After a day (`a_day_has_passed`) nobody waits for a time any more, nor behind somebody who does.
    pub fn what_is_left(
        &mut self,
        store: &mut SqliteStore,
        doors: &[Door],
        a_day_has_passed: bool,
    ) -> Option<String> {
        let left = self.taps.iter().enumerate().find(|(_, fate)| match fate.state {
            FateState::Waiting => true,
            FateState::Committed => !fate.stored,
            FateState::Refused | FateState::Interrupted | FateState::Destroyed => false,
        });
        if let Some((tap, fate)) = left {
            return Some(format!("tap {tap} of door {} is {:?} and not stored", fate.door + 1, fate.state));
        }
        let counts = store.delivery_counts().unwrap_or_default();
        let moving = [DeliveryState::Pending, DeliveryState::InFlight, DeliveryState::Unknown];
        if let Some(count) = counts.iter().find(|count| count.count > 0 && moving.contains(&count.state)) {
            return Some(format!("{} deliveries are {}", count.count, count.state));
        }
        let held: u64 =
            counts.iter().filter(|count| count.state == DeliveryState::Held).map(|c| c.count).sum();
        let parked: u64 =
            counts.iter().filter(|count| count.state == DeliveryState::Parked).map(|c| c.count).sum();
        let unresolved = store.totals().unwrap_or_default().unresolved;
        if a_day_has_passed && held + parked > unresolved {
            return Some(format!(
                "after a day {held} deliveries are held and {parked} parked, {unresolved} of them set aside"
            ));
        }
        // A member waits as long as somebody stands in its line, and that one may wait for its time.
        if (a_day_has_passed || held + parked == 0)
            && let Some(open) = open_replay(store)
        {
            return Some(open);
        }
        if held + parked == 0 { None } else { self.what_is_held_in_vain(store, doors) }
    }

    /// A tap may be without time for ever only if its boot ended without ever learning it; parked only behind such a one.
    pub(super) fn what_is_held_in_vain(&self, store: &mut SqliteStore, doors: &[Door]) -> Option<String> {
        let rows =
            store.events(&EventFilter { taps_only: true, limit: usize::MAX, ..EventFilter::default() });
        let mut rows = rows.unwrap_or_default();
        rows.sort_by_key(|row| place(row, self.across_ms));
        let with_time = self.boots_with_time();
        let mut held_persons = BTreeSet::new();
        for row in &rows {
            let Some(delivery) = delivery(row) else { continue };
            let stored = &self.stored[index(row.position)];
            let person = self.person(stored);
            match (delivery.state, delivery.held_for) {
                (DeliveryState::Held, Some(HeldFor::Time))
                | (DeliveryState::Parked, Some(HeldFor::TimeUnresolved)) => {
                    let has_time = with_time.contains(&stored.boot);
                    let is_current =
                        doors.iter().any(|door| stored.boot == Boot::Named(door.machine.boot_id));
                    if has_time || is_current {
                        let place = format!("record {} of {}", row.seq, row.outbox);
                        return Some(format!(
                            "{place} is without its time, which its boot knows or can know"
                        ));
                    }
                    held_persons.extend(person);
                }
                (DeliveryState::Held, _) => return Some(format!("position {} is held", row.position.0)),
                (DeliveryState::Parked, _) if person.is_none_or(|person| !held_persons.contains(person)) => {
                    return Some(format!("position {} is parked behind nobody", row.position.0));
                }
                _ => {}
            }
        }
        None
    }

    /// At rest: read = committed + refused + interrupted, and stored taps = the sum over the delivery states.
    pub fn the_ledger_balances(&mut self, store: &mut SqliteStore, legacy: &Legacy, tally: &mut Tally) {
        const PROMISE: &str = "the_ledger_balances";
        let of = |state| self.taps.iter().filter(|fate| fate.state == state).count() as u64;
        let (committed, refused) = (of(FateState::Committed), of(FateState::Refused));
        let (interrupted, destroyed) = (of(FateState::Interrupted), of(FateState::Destroyed));
        let waiting = of(FateState::Waiting);
        let stored = self.taps.iter().filter(|fate| fate.stored).count() as u64;
        let said_again = self.taps.iter().filter(|fate| fate.said_again).count() as u64;
        for (what, n) in [
            ("taps read", self.taps.len() as u64),
            ("taps committed", committed + destroyed),
            ("taps that a crash interrupted", interrupted),
            ("taps destroyed by a disaster", destroyed),
            ("taps stored", stored),
            ("taps said again in a new outbox", said_again),
            ("records stored", self.stored.len() as u64),
            ("taps that found their time after a day", self.came_back),
            ("calls at the legacy API", legacy.calls()),
            ("deliveries that went early", self.went_early),
            ("deliveries that went before what was stored earlier", self.went_before),
        ] {
            tally.add(what, n);
        }
        if committed + refused + interrupted + destroyed + waiting != self.taps.len() as u64 || waiting > 0 {
            self.breaks(
                PROMISE,
                format!("{committed} committed, {refused} refused, {waiting} wait for ever"),
            );
        }
        let mut by_state: BTreeMap<DeliveryState, u64> = BTreeMap::new();
        let rows =
            store.events(&EventFilter { taps_only: true, limit: usize::MAX, ..EventFilter::default() });
        for row in rows.unwrap_or_default() {
            let Some(delivery) = delivery(&row) else {
                self.breaks(PROMISE, format!("position {} has no delivery", row.position.0));
                continue;
            };
            *by_state.entry(delivery.state).or_default() += 1;
            let is_estimate = |tap: &TapRow| tap.occurred.is_ok_and(|occurred| occurred.estimated);
            if row.tap.as_ref().is_some_and(is_estimate) {
                tally.count("taps with an estimated time");
            }
            let processed = legacy.has(&row.event_id.to_string());
            if processed && matches!(delivery.state, DeliveryState::Dead | DeliveryState::Discarded) {
                let (id, state) = (row.event_id, delivery.state);
                self.breaks("what_was_taken_stays_taken", format!("{id} was taken, and is {state}"));
            }
            if (delivery.state == DeliveryState::Delivered) && !processed {
                self.breaks(
                    PROMISE,
                    format!("{} is delivered, and the legacy API never saw it", row.event_id),
                );
            }
        }
        for count in store.delivery_counts().unwrap_or_default() {
            let counted = by_state.get(&count.state).copied().unwrap_or(0);
            if counted != count.count {
                self.breaks(
                    PROMISE,
                    format!("{counted} deliveries are {}, {} are counted", count.state, count.count),
                );
            }
            tally.add(&format!("at rest: {}", count.state), count.count);
        }
        self.every_member_has_its_end(store, tally);
        for state in &self.states_seen {
            tally.count(&format!("state reached: {state}"));
        }
    }

    /// At rest: each member of a replay came to one end, or was never begun because a person cancelled it.
    fn every_member_has_its_end(&mut self, store: &mut SqliteStore, tally: &mut Tally) {
        for replay in store.replays(usize::MAX).unwrap_or_default() {
            let rows = store.replay_rows(replay.no, 0, usize::MAX).unwrap_or_default();
            let mut counts = RowCounts { members: rows.len() as u64, ..RowCounts::default() };
            for row in &rows {
                *counts.of(row.outcome) += 1;
                tally.count(&format!("members: {}", row.outcome.name()));
            }
            let may_wait = replay.standing == ReplayStanding::Cancelled;
            if counts != replay.counts || counts.sending > 0 || (counts.waiting > 0 && !may_wait) {
                self.breaks("every_member_has_its_end", format!("{replay:?}, by its rows {counts:?}"));
            }
        }
    }
}

/// A replay that is not over.
fn open_replay(store: &mut SqliteStore) -> Option<String> {
    let replays = store.replays(usize::MAX).unwrap_or_default();
    let open =
        replays.into_iter().find(|one| one.standing == ReplayStanding::Running || one.counts.sending > 0);
    open.map(|one| format!("replay {} is {:?} with {:?}", one.no, one.standing, one.counts))
}
