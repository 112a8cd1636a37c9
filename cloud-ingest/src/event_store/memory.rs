//! Step 9 of 12: the event store in plain collections. Knows no disk: it is what the simulator runs on, and the model
//! that every other store is compared with.
//!
//! Deterministic: no hash maps, no clock, no randomness. Nothing here fails half-way: what can be refused is refused
//! before the first change, so a method is a transaction by construction.

mod badges;
mod commands;
mod destination;
mod fleet;
mod keys;
mod occurring;
mod proof;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::command::Order;
use tap_protocol::envelope::{ChainedRecord, VerifiedBatch};
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq, StoreEpoch};
use tap_protocol::time_repair::TrueTime;

use super::boots::{self, BootNo};
use super::commands::{CommandEnd, CommandRow, TroubleKind, TroubleRow};
use super::meaning::{self, Meaning};
use super::{
    Appended, AttemptEnd, BadgeFilter, BadgeRow, Binding, Bound, Claim, Claimed, Controller, ControllerState,
    DeadLetter, Deed, DeliverableTap, DeliveryCount, DeliveryState, DestinationState, Enrolment, EventDetail,
    EventFilter, EventRow, EventStore, GIVE_UP_ON_TIME_AFTER_MS, HelloState, Lease, MAX_ANSWER_BYTES,
    MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, MAX_GIVEN_UP_AT_ONCE, Member, NewToken, Next, Occurred,
    OrderKey, OutboxMark, OutboxState, PersonId, Position, Refusal, Renewal, RevokedCertificate, RosterState,
    SignedBatch, Site, Snapshot, Standing, Stood, StoreError, TapRow, Timeless, TokenId, TokenState, Totals,
    UtcMs, Walked, Which, first_epoch, next_epoch,
};
use crate::intake::admit::{self, Admission, Mark};

/// The event store in memory. A clone is a backup.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    epoch: StoreEpoch,
    sites: BTreeMap<String, Site>,
    controllers: BTreeMap<ControllerId, KnownController>,
    /// In the order they were first seen; an index into it is an outbox's number.
    outboxes: Vec<Outbox>,
    /// An index into it is a [`BootNo`].
    boots: Vec<occurring::Boot>,
    /// Position 1 is at index 0.
    events: Vec<Event>,
    badges: badges::Badges,
    destinations: Vec<destination::Destination>,
    dead_letters: VecDeque<DeadLetter>,
    totals: Totals,
    last_lease: u64,
    trust: fleet::Trust,
    commands: commands::Commands,
}

#[derive(Debug, Clone)]
struct KnownController {
    controller: Controller,
    hello: Option<HelloState>,
    gone: Option<UtcMs>,
}

#[derive(Debug, Clone)]
struct Outbox {
    controller: ControllerId,
    id: OutboxId,
    stored_through: Seq,
    hash: ChainHash,
    last_seq: Seq,
    last_stored: Option<UtcMs>,
    last_occurred: Option<UtcMs>,
    /// Seq 1 is at index 0.
    positions: Vec<Position>,
    /// What stands behind the boot numbers of its records.
    boots: BTreeMap<u32, BootNo>,
    /// The signatures over its records, in order.
    signed: Vec<SignedBatch>,
}

#[derive(Debug, Clone)]
struct Event {
    outbox_no: usize,
    seq: Seq,
    received: UtcMs,
    meaning: Meaning,
    bytes: Vec<u8>,
    hash: ChainHash,
    occurred: Result<Occurred, Timeless>,
}

impl MemoryStore {
    /// An empty store whose epoch is from `now`.
    pub fn new(now: UtcMs) -> MemoryStore {
        MemoryStore {
            epoch: first_epoch(now),
            sites: BTreeMap::new(),
            controllers: BTreeMap::new(),
            outboxes: Vec::new(),
            boots: Vec::new(),
            events: Vec::new(),
            badges: badges::Badges::default(),
            destinations: Vec::new(),
            dead_letters: VecDeque::new(),
            totals: Totals::default(),
            last_lease: 0,
            trust: fleet::Trust::default(),
            commands: commands::Commands::default(),
        }
    }

    /// This content, put back from a backup at `now`: another life of the store, with an epoch above all before it.
    pub fn restored(self, now: UtcMs) -> MemoryStore {
        MemoryStore { epoch: next_epoch(self.epoch, now), ..self }
    }
}

impl EventStore for MemoryStore {
    fn store_epoch(&mut self) -> Result<StoreEpoch, StoreError> {
        Ok(self.epoch)
    }

    fn put_controller(&mut self, controller: &Controller) -> Result<(), StoreError> {
        if !self.sites.contains_key(&controller.site) {
            return Err(StoreError::NotFound { what: "site", name: controller.site.clone() });
        }
        let new = || KnownController { controller: controller.clone(), hello: None, gone: None };
        let known = self.controllers.entry(controller.id.clone()).or_insert_with(new);
        let before = std::mem::replace(&mut known.controller, controller.clone());
        known.controller.record_keys = keys::with_those_of_old(before.record_keys, &controller.record_keys);
        Ok(())
    }

    fn put_site(&mut self, site: &Site) -> Result<(), StoreError> {
        self.sites.insert(site.id.clone(), site.clone());
        Ok(())
    }

    fn controller(&mut self, id: &ControllerId) -> Result<Option<Controller>, StoreError> {
        Ok(self.controllers.get(id).map(|known| known.controller.clone()))
    }

    fn sites(&mut self) -> Result<Vec<Site>, StoreError> {
        Ok(self.sites.values().cloned().collect())
    }

    fn append(&mut self, batches: &[VerifiedBatch], received: UtcMs) -> Result<Vec<Appended>, StoreError> {
        batches.iter().try_for_each(|batch| self.known(batch.controller()))?;
        Ok(batches.iter().map(|batch| self.admit(batch, received)).collect())
    }

    fn note_hello(&mut self, hello: &Hello, received: UtcMs) -> Result<Vec<OutboxMark>, StoreError> {
        self.known(&hello.controller)?;
        if let Some(known) = self.controllers.get_mut(&hello.controller) {
            (known.hello, known.gone) = (Some(HelloState { received, hello: hello.clone() }), None);
        }
        let named = hello.outboxes.iter().map(|named| {
            let no = self.outbox_no(&hello.controller, named.outbox);
            self.outboxes[no].was_spoken_of(named.last_seq);
            self.outboxes[no].mark()
        });
        Ok(named.collect())
    }

    fn note_gone(&mut self, controller: &ControllerId, received: UtcMs) -> Result<(), StoreError> {
        if let Some(known) = self.controllers.get_mut(controller) {
            known.gone = Some(received);
        }
        Ok(())
    }

    fn marks(&mut self) -> Result<Vec<OutboxMark>, StoreError> {
        Ok(self.outboxes.iter().map(Outbox::mark).collect())
    }

    fn quarantine(&mut self, letter: &DeadLetter) -> Result<(), StoreError> {
        let mut letter = letter.clone();
        letter.bytes.truncate(MAX_DEAD_LETTER_BYTES);
        self.dead_letters.push_front(letter);
        self.dead_letters.truncate(MAX_DEAD_LETTERS);
        self.totals.quarantined += 1;
        Ok(())
    }

    fn bind_badges(&mut self, bindings: &[Binding], now: UtcMs) -> Result<Bound, StoreError> {
        let mut bound = Bound::default();
        let mut persons = BTreeSet::new();
        for binding in bindings {
            for token in self.badges.bind(binding, now, &mut bound) {
                bound.released += self.release(token, &binding.person, &mut persons);
            }
        }
        self.destinations.iter_mut().for_each(|destination| destination.settle(&persons));
        self.totals.badges = self.badges.count();
        Ok(bound)
    }

    fn put_destination(&mut self, name: &str) -> Result<(), StoreError> {
        if self.destinations.iter().all(|known| known.name != name) {
            self.destinations.push(destination::Destination::new(name));
        }
        Ok(())
    }

    fn claim(
        &mut self,
        destination: &str,
        now: UtcMs,
        lease_until: UtcMs,
        limit: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        let no = self.destination_no(destination)?;
        if self.destinations[no].held_until.is_some_and(|until| now < until) {
            return Ok(Vec::new());
        }
        let due = self.destinations[no].due.iter().take_while(|(due, _)| *due <= now).take(limit);
        let due: Vec<Position> = due.map(|(_, position)| *position).collect();
        let claimed = due.into_iter().map(|position| {
            self.last_lease += 1;
            let destination = &mut self.destinations[no];
            destination.set_state(position, DeliveryState::InFlight);
            destination.delivery(position).lease = Some((self.last_lease, lease_until));
            self.claimed(no, position, self.last_lease)
        });
        Ok(claimed.collect())
    }

    fn start_attempt(&mut self, claim: &Claim, body: &str, now: UtcMs) -> Result<Lease, StoreError> {
        let no = self.destination_no(&claim.destination)?;
        let Some(delivery) = self.destinations[no].leased(claim) else { return Ok(Lease::Lost) };
        if delivery.lease.is_none_or(|(_, until)| until <= now) {
            return Ok(Lease::Lost);
        }
        if delivery.body.as_ref().is_some_and(|first| first != body) {
            let refused = format!("position {} was sent with another body before", claim.position.0);
            return Err(StoreError::Broken(refused.into()));
        }
        delivery.body = Some(body.to_owned());
        if delivery.attempts.iter().all(|attempt| attempt.lease != claim.lease) {
            delivery.attempts.push(destination::Attempt { lease: claim.lease, started: now, end: None });
            self.totals.attempts += 1;
        }
        Ok(Lease::Held)
    }

    fn finish(&mut self, claim: &Claim, attempt: &AttemptEnd, next: Next) -> Result<Lease, StoreError> {
        let no = self.destination_no(&claim.destination)?;
        let destination = &mut self.destinations[no];
        let is_leased = destination.leased(claim).is_some();
        let Some(delivery) = destination.deliveries.get_mut(&claim.position) else { return Ok(Lease::Lost) };
        let was_started = delivery.attempts.iter().any(|attempt| attempt.lease == claim.lease);
        if is_leased && !was_started {
            delivery.attempts.push(destination::Attempt {
                lease: claim.lease,
                started: attempt.finished,
                end: None,
            });
            self.totals.attempts += 1;
        }
        if let Some(started) = delivery.attempts.iter_mut().find(|attempt| attempt.lease == claim.lease) {
            let answer = meaning::cut(&attempt.answer, MAX_ANSWER_BYTES).to_owned();
            started.end.get_or_insert_with(|| AttemptEnd { answer, ..attempt.clone() });
        }
        if !is_leased {
            return Ok(Lease::Lost);
        }
        match next {
            Next::Delivered => destination.end(claim.position, DeliveryState::Delivered),
            Next::Dead => destination.end(claim.position, DeliveryState::Dead),
            Next::UnknownUntil(due) => destination.leave_unknown(claim.position, due),
            Next::RetryAt(due) => destination.back_in_line(claim.position, due),
        }
        Ok(Lease::Held)
    }

    fn expire_leases(&mut self, now: UtcMs) -> Result<usize, StoreError> {
        Ok(self.destinations.iter_mut().map(|destination| destination.expire_leases(now)).sum())
    }

    fn give_up_on_time(&mut self, now: UtcMs) -> Result<usize, StoreError> {
        let received_by = UtcMs(now.0 - GIVE_UP_ON_TIME_AFTER_MS);
        let mut given_up = 0;
        for destination in &mut self.destinations {
            given_up += destination.give_up_on_time(received_by, MAX_GIVEN_UP_AT_ONCE - given_up);
        }
        self.totals.unresolved += given_up as u64;
        Ok(given_up)
    }

    fn hold_destination(&mut self, destination: &str, until: UtcMs, why: &str) -> Result<(), StoreError> {
        let no = self.destination_no(destination)?;
        let destination = &mut self.destinations[no];
        (destination.held_until, destination.held_why) = (Some(until), Some(why.to_owned()));
        Ok(())
    }

    fn next_due(&mut self, destination: &str) -> Result<Option<UtcMs>, StoreError> {
        let destination = &self.destinations[self.destination_no(destination)?];
        let first = destination.due.first().map(|(due, _)| *due);
        Ok(first.map(|due| destination.held_until.map_or(due, |until| due.max(until))))
    }

    fn events(&mut self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
        let end = filter.before.map_or(self.events.len(), |before| {
            usize::try_from(before.0.saturating_sub(1)).unwrap_or(usize::MAX).min(self.events.len())
        });
        let newest = (1..=end as u64).rev().map(Position);
        Ok(newest
            .filter(|position| self.is_listed(*position, filter))
            .take(filter.limit)
            .map(|position| self.event_row(position))
            .collect())
    }

    fn event(&mut self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        let found = self.outboxes.iter().find_map(|outbox| {
            let position = outbox.position(id.seq())?;
            (EventId::new(&outbox.controller, outbox.id, id.seq()) == id).then_some(position)
        });
        Ok(found.map(|position| EventDetail {
            row: self.event_row(position),
            hash: self.at(position).hash,
            attempts: self.destinations.iter().flat_map(|known| known.attempt_rows(position)).collect(),
            bodies: self.destinations.iter().filter_map(|known| known.body(position)).collect(),
        }))
    }

    fn record_bytes(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seq: Seq,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let outbox = self.outboxes.iter().find(|known| known.controller == *controller && known.id == outbox);
        let position = outbox.and_then(|outbox| outbox.position(seq));
        Ok(position.map(|position| self.at(position).bytes.clone()))
    }

    fn controllers(&mut self) -> Result<Vec<ControllerState>, StoreError> {
        let states = self.controllers.values().map(|known| ControllerState {
            controller: known.controller.clone(),
            hello: known.hello.clone(),
            gone: known.gone,
            store_epoch: self.epoch,
            outboxes: self
                .outboxes
                .iter()
                .filter(|outbox| outbox.controller == known.controller.id)
                .map(Outbox::state)
                .collect(),
        });
        Ok(states.collect())
    }

    fn delivery_counts(&mut self) -> Result<Vec<DeliveryCount>, StoreError> {
        let counts = self.destinations.iter().flat_map(|known| {
            DeliveryState::ALL.map(|state| DeliveryCount {
                destination: known.name.clone(),
                state,
                count: known.counts.get(&state).copied().unwrap_or(0),
            })
        });
        Ok(counts.collect())
    }

    fn destinations(&mut self) -> Result<Vec<DestinationState>, StoreError> {
        let states = self.destinations.iter().map(|known| {
            let oldest = known.lanes.values().filter_map(BTreeSet::first).min();
            DestinationState {
                destination: known.name.clone(),
                held_until: known.held_until,
                held_why: known.held_why.clone(),
                oldest_open_received: oldest.map(|position| self.at(*position).received),
            }
        });
        Ok(states.collect())
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        Ok(self.totals)
    }

    fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.dead_letters.iter().take(limit).cloned().collect())
    }

    // Trust.

    fn fleet(&mut self) -> Result<Vec<Member>, StoreError> {
        Ok(self.controllers.values().map(|known| self.trust.member(&known.controller)).collect())
    }

    fn member(&mut self, id: &ControllerId) -> Result<Option<Member>, StoreError> {
        Ok(self.controllers.get(id).map(|known| self.trust.member(&known.controller)))
    }

    fn rename(
        &mut self,
        id: &ControllerId,
        label: Option<&str>,
        site: Option<&str>,
        deed: &Deed,
    ) -> Result<(), StoreError> {
        self.known(id)?;
        self.rename_known(id, label, site, deed)
    }

    fn set_standing(&mut self, id: &ControllerId, standing: Standing, deed: &Deed) -> Result<(), StoreError> {
        self.known(id)?;
        self.trust.set_standing(id, standing, deed, &self.outboxes);
        Ok(())
    }

    fn trusted_through(&mut self, id: &ControllerId, outbox: OutboxId) -> Result<Option<Seq>, StoreError> {
        Ok(self.trust.trusted_through(id, outbox))
    }

    fn revoked_certificates(&mut self, now: UtcMs) -> Result<Vec<RevokedCertificate>, StoreError> {
        Ok(self.trust.revoked_certificates(now))
    }

    fn put_enroll_tokens(&mut self, tokens: &[NewToken], deed: &Deed) -> Result<(), StoreError> {
        if let Some(lost) = tokens.iter().find(|token| !self.sites.contains_key(&token.site)) {
            return Err(StoreError::NotFound { what: "site", name: lost.site.clone() });
        }
        self.trust.put_tokens(tokens, deed);
        Ok(())
    }

    fn enroll_tokens(&mut self) -> Result<Vec<TokenState>, StoreError> {
        Ok(self.trust.tokens(None))
    }

    fn enroll_token(&mut self, id: TokenId) -> Result<Option<TokenState>, StoreError> {
        Ok(self.trust.tokens(Some(id)).pop())
    }

    fn withdraw_enroll_token(&mut self, id: TokenId, deed: &Deed) -> Result<bool, StoreError> {
        Ok(self.trust.withdraw(id, deed))
    }

    fn enroll(&mut self, enrolment: &Enrolment) -> Result<Result<Controller, Refusal>, StoreError> {
        Ok(self.enroll_with_token(enrolment))
    }

    fn renew(&mut self, renewal: &Renewal) -> Result<Result<Controller, Refusal>, StoreError> {
        Ok(self.renew_known(renewal))
    }

    fn note_deed(&mut self, deed: &Deed) -> Result<(), StoreError> {
        self.trust.note(deed);
        Ok(())
    }

    fn deeds(&mut self, limit: usize) -> Result<Vec<Deed>, StoreError> {
        Ok(self.trust.deeds(limit))
    }

    fn deed_count(&mut self) -> Result<u64, StoreError> {
        Ok(self.trust.deed_count())
    }

    fn walk(
        &mut self,
        only: Option<&ControllerId>,
        told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // It went through, or nobody wanted to hear more.
        let _ = self.walk_all(only, told);
        Ok(())
    }

    fn new_epoch(&mut self, heard_of: Option<StoreEpoch>, now: UtcMs) -> Result<StoreEpoch, StoreError> {
        self.epoch = next_epoch(heard_of.into_iter().fold(self.epoch, StoreEpoch::max), now);
        Ok(self.epoch)
    }

    fn is_quarantined(&mut self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let bytes = &letter.bytes[..letter.bytes.len().min(MAX_DEAD_LETTER_BYTES)];
        Ok(self.dead_letters.iter().any(|kept| kept.kind == letter.kind && kept.bytes == bytes))
    }

    // Badges and the roster.

    fn add_seals(&mut self, seals: &[(Token, SealedBadge)]) -> Result<usize, StoreError> {
        let mut persons = BTreeSet::new();
        let mut added = 0;
        for (token, seal) in seals {
            let Some(person) = self.badges.add_seal(*token, seal) else { continue };
            self.release(seal.token, &person, &mut persons);
            added += 1;
        }
        self.destinations.iter_mut().for_each(|destination| destination.settle(&persons));
        Ok(added)
    }

    fn revoke_badges(&mut self, which: &Which, why: &str, now: UtcMs) -> Result<Stood, StoreError> {
        Ok(self.badges.revoke(which, why, now))
    }

    fn reinstate_badges(&mut self, which: &Which) -> Result<Stood, StoreError> {
        Ok(self.badges.reinstate(which))
    }

    fn badges(&mut self, filter: &BadgeFilter) -> Result<Vec<BadgeRow>, StoreError> {
        Ok(self.badges.list(filter))
    }

    fn roster_state(&mut self) -> Result<RosterState, StoreError> {
        Ok(self.badges.state())
    }

    fn roster(
        &mut self,
        keys: &[TokenKeyId],
        claimed: Option<u64>,
        now: UtcMs,
    ) -> Result<Snapshot, StoreError> {
        Ok(self.badges.roster(keys, claimed, now))
    }

    // Commands, and what contradicts itself.

    fn places(
        &mut self,
        controller: &ControllerId,
        outbox: OutboxId,
        seqs: &[Seq],
    ) -> Result<Vec<OutboxMark>, StoreError> {
        Ok(self.places_of(controller, outbox, seqs))
    }

    fn queue_command(
        &mut self,
        controller: &ControllerId,
        order: &Order,
        why: &str,
        now: UtcMs,
    ) -> Result<u64, StoreError> {
        self.queue(controller, order, why, now)
    }

    fn next_command(&mut self, controller: &ControllerId) -> Result<Option<CommandRow>, StoreError> {
        Ok(self.first_open(controller))
    }

    fn end_command(
        &mut self,
        controller: &ControllerId,
        number: u64,
        end: &CommandEnd,
    ) -> Result<bool, StoreError> {
        self.known(controller)?;
        Ok(self.end(controller, number, end))
    }

    fn commands(&mut self, controller: &ControllerId) -> Result<Vec<CommandRow>, StoreError> {
        Ok(self.commands_of(controller))
    }

    fn note_trouble(
        &mut self,
        controller: &ControllerId,
        kind: TroubleKind,
        outbox: Option<OutboxId>,
        at: Option<Seq>,
        now: UtcMs,
    ) -> Result<bool, StoreError> {
        self.trouble(controller, kind, outbox, at, now)
    }

    fn troubles(&mut self, controller: &ControllerId) -> Result<Vec<TroubleRow>, StoreError> {
        Ok(self.troubles_of(controller))
    }
}

/// Directory.
impl MemoryStore {
    /// What waited for a token to be bound stands in its person's lines from now on; returns how many.
    fn release(&mut self, token: Token, person: &PersonId, persons: &mut BTreeSet<OrderKey>) -> usize {
        let key = OrderKey::Person(person.clone());
        let rekey =
            |destination: &mut destination::Destination| destination.rekey(&OrderKey::Token(token), &key);
        let released = self.destinations.iter_mut().map(rekey).sum();
        persons.insert(key);
        released
    }
}

/// Intake.
impl MemoryStore {
    fn known(&self, controller: &ControllerId) -> Result<(), StoreError> {
        match self.controllers.contains_key(controller) {
            true => Ok(()),
            false => Err(StoreError::NotFound { what: "controller", name: controller.to_string() }),
        }
    }

    fn outbox_no(&mut self, controller: &ControllerId, id: OutboxId) -> usize {
        let known = self.outboxes.iter().position(|known| known.controller == *controller && known.id == id);
        known.unwrap_or_else(|| {
            self.outboxes.push(Outbox::new(controller.clone(), id));
            self.outboxes.len() - 1
        })
    }

    fn admit(&mut self, batch: &VerifiedBatch, received: UtcMs) -> Appended {
        let no = self.outbox_no(batch.controller(), batch.outbox());
        let outbox = &self.outboxes[no];
        let mark = Mark { stored_through: outbox.stored_through, hash: outbox.hash };
        let at = admit::compare_at(mark.stored_through, batch);
        let stored_hash = match outbox.position(at) {
            Some(position) => Some(self.at(position).hash),
            None => (at == mark.stored_through).then_some(mark.hash),
        };
        let admission = admit::admit(&mark, batch, stored_hash);
        match admission {
            Admission::Store { from } => {
                for (seq, record) in batch.records().filter(|(seq, _)| *seq >= from) {
                    self.store(no, seq, record, received);
                }
                self.outboxes[no].signed.push(SignedBatch::of(batch));
            }
            Admission::Beyond => self.outboxes[no].was_spoken_of(batch.last_seq()),
            Admission::Duplicate | Admission::Fork { .. } => {}
        }
        Appended { admission, mark: self.outboxes[no].mark() }
    }

    fn store(&mut self, outbox_no: usize, seq: Seq, record: &ChainedRecord, received: UtcMs) {
        let outbox = &mut self.outboxes[outbox_no];
        assert!(seq == outbox.stored_through.next(), "only what continues the mark is stored");
        self.totals.last_position += 1;
        self.totals.records += 1;
        let position = Position(self.totals.last_position);
        let meaning = Meaning::of(&record.bytes);
        let boot = self.boot_of(outbox_no, &meaning);
        if let (Some(boot), Meaning::Anchor(_, anchor)) = (boot, &meaning) {
            self.new_anchor(boot, position, anchor);
        }
        let stamped = boot.zip(meaning.stamp());
        let time = stamped.map_or(TrueTime::Unknown, |(boot, at)| self.time_of_record(boot, at));
        let became_known = stamped
            .is_some_and(|(boot, at)| self.saw(boot, at, time, matches!(meaning, Meaning::Anchor(..))));
        let occurred = match (&meaning, boot, time) {
            (Meaning::Tap(at, _), Some(boot), TrueTime::Unknown) => {
                let Ok(around) = boots::neighbours(self, boot);
                self.time_with(boot, at, around)
            }
            _ => time,
        };
        let occurred = meaning::occurred(occurred);
        let outbox = &mut self.outboxes[outbox_no];
        outbox.positions.push(position);
        (outbox.stored_through, outbox.hash) = (seq, record.hash);
        outbox.was_spoken_of(seq);
        outbox.last_stored = Some(received);
        outbox.last_occurred = occurred.ok().map(|occurred| occurred.at);
        self.events.push(Event {
            outbox_no,
            seq,
            received,
            meaning: meaning.clone(),
            bytes: record.bytes.clone(),
            hash: record.hash,
            occurred,
        });
        let Some(boot) = boot else { return };
        match meaning {
            Meaning::Tap(_, tap) => {
                if let Err(why) = occurred {
                    self.waits_for_its_time(boot, position);
                    self.totals.disputed += u64::from(why == Timeless::Disputed);
                }
                let person = self.badges.person(tap.badge.token);
                let held_for = meaning::held_for(occurred, person);
                let key = person.cloned().map_or(OrderKey::Token(tap.badge.token), OrderKey::Person);
                self.totals.taps += 1;
                for destination in &mut self.destinations {
                    destination.store(position, key.clone(), held_for, received);
                    self.totals.deliveries += 1;
                }
            }
            Meaning::Anchor(..) => self.release_taps_of(boot),
            Meaning::Start(..) | Meaning::Other(..) | Meaning::Opaque => {}
        }
        if became_known {
            let Ok(concerned) = boots::concerned(self, boot);
            concerned.into_iter().for_each(|boot| self.release_taps_of(boot));
        }
    }
}

/// Delivery and reading.
impl MemoryStore {
    fn destination_no(&self, name: &str) -> Result<usize, StoreError> {
        let no = self.destinations.iter().position(|known| known.name == name);
        no.ok_or_else(|| StoreError::NotFound { what: "destination", name: name.to_owned() })
    }

    fn at(&self, position: Position) -> &Event {
        &self.events[index(position)]
    }

    fn event_id(&self, position: Position) -> EventId {
        let event = self.at(position);
        let outbox = &self.outboxes[event.outbox_no];
        EventId::new(&outbox.controller, outbox.id, event.seq)
    }

    fn claimed(&self, no: usize, position: Position, lease: u64) -> Claimed {
        let (destination, event) = (&self.destinations[no], self.at(position));
        let delivery = &destination.deliveries[&position];
        let controller = &self.controllers[&self.outboxes[event.outbox_no].controller].controller;
        let (OrderKey::Person(person), Meaning::Tap(_, tap), Ok(occurred)) =
            (&delivery.key, &event.meaning, event.occurred)
        else {
            panic!("only a tap with a person and a time is due, not {delivery:?}");
        };
        Claimed {
            claim: Claim { destination: destination.name.clone(), position, lease },
            event_id: self.event_id(position),
            attempts: delivery.attempts.len() as u32,
            body: delivery.body.clone(),
            tap: DeliverableTap {
                person: person.clone(),
                controller: controller.id.clone(),
                site: self.sites[&controller.site].clone(),
                reader: tap.reader.clone(),
                direction: tap.direction,
                occurred: occurred.at,
                uncertainty_ms: occurred.uncertainty_ms,
            },
        }
    }

    fn is_listed(&self, position: Position, filter: &EventFilter) -> bool {
        let event = self.at(position);
        let controller = &self.outboxes[event.outbox_no].controller;
        let in_state = |state| {
            let mut deliveries = self.destinations.iter().filter_map(|known| known.deliveries.get(&position));
            deliveries.any(|delivery| delivery.state == state)
        };
        filter.controller.as_ref().is_none_or(|wanted| wanted == controller)
            && (!filter.taps_only || matches!(event.meaning, Meaning::Tap(..)))
            && filter.state.is_none_or(in_state)
    }

    fn event_row(&self, position: Position) -> EventRow {
        let event = self.at(position);
        let outbox = &self.outboxes[event.outbox_no];
        let tap = match &event.meaning {
            Meaning::Tap(at, tap) => Some(TapRow {
                reader: tap.reader.clone(),
                badge: tap.badge.clone(),
                direction: tap.direction,
                verdict: tap.verdict,
                recorded_wall: UtcMs(at.wall_ms),
                occurred: event.occurred,
                deliveries: self
                    .destinations
                    .iter()
                    .filter_map(|known| {
                        let mut row = known.delivery_row(position)?;
                        row.behind = known.ahead(position).map(|ahead| self.event_id(ahead));
                        Some(row)
                    })
                    .collect(),
            }),
            Meaning::Anchor(..) | Meaning::Start(..) | Meaning::Other(..) | Meaning::Opaque => None,
        };
        EventRow {
            position,
            event_id: self.event_id(position),
            controller: outbox.controller.clone(),
            outbox: outbox.id,
            seq: event.seq,
            received: event.received,
            kind: event.meaning.kind().to_owned(),
            after_revocation: self.trust.was_revoked(&outbox.controller, event.received),
            tap,
        }
    }
}

fn index(position: Position) -> usize {
    usize::try_from(position.0 - 1).expect("what is in memory can be indexed")
}

impl Outbox {
    fn new(controller: ControllerId, id: OutboxId) -> Outbox {
        Outbox {
            controller,
            id,
            stored_through: Seq::ZERO,
            hash: ChainHash::start(id),
            last_seq: Seq::ZERO,
            last_stored: None,
            last_occurred: None,
            positions: Vec::new(),
            boots: BTreeMap::new(),
            signed: Vec::new(),
        }
    }

    fn was_spoken_of(&mut self, last_seq: Seq) {
        self.last_seq = self.last_seq.max(meaning::spoken_of(last_seq));
    }

    fn position(&self, seq: Seq) -> Option<Position> {
        let index = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.positions.get(index).copied()
    }

    fn mark(&self) -> OutboxMark {
        OutboxMark {
            controller: self.controller.clone(),
            outbox: self.id,
            stored_through: self.stored_through,
            hash: self.hash,
        }
    }

    fn state(&self) -> OutboxState {
        OutboxState {
            outbox: self.id,
            last_seq: self.last_seq,
            stored_through: self.stored_through,
            last_stored: self.last_stored,
            last_occurred: self.last_occurred,
        }
    }
}
