//! Step 9 of 12: batches into rows. Knows no signatures (those are proved) and no destinations but as rows.
//!
//! Records are taken one by one, as if each batch had come alone: how batches were grouped never shows in what is
//! stored. Only the disk sees groups.

use std::collections::{BTreeMap, BTreeSet};

use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{self, VERSION_1};
use tap_protocol::envelope::{ChainedRecord, VerifiedBatch};
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, OutboxPrefix, Seq};
use tap_protocol::record::Stamp;
use tap_protocol::tap::Tap;
use tap_protocol::time_repair::Anchor;

use super::sql;
use super::writing::Writing;
use crate::event_store::meaning::{self, Meaning};
use crate::event_store::{
    Appended, Controller, DeadLetter, HeldFor, MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, Occurred, OrderKey,
    OutboxMark, PersonId, Position, Site, StoreError, UtcMs,
};
use crate::intake::admit::{self, Admission, Mark};

/// Taps whose time is worked out at once: a boot may have left a million behind.
const TAPS_AT_ONCE: usize = 1_000;

pub fn put_site(writing: &mut Writing<'_>, site: &Site) -> Result<(), StoreError> {
    writing.execute(sql::PUT_SITE, (&site.id, &site.label, &site.zone))?;
    Ok(())
}

pub fn put_controller(writing: &mut Writing<'_>, controller: &Controller) -> Result<(), StoreError> {
    let Controller { id, label, site, record_key } = controller;
    if writing.one(sql::SITE_EXISTS, [site], |_| Ok(()))?.is_none() {
        return Err(StoreError::NotFound { what: "site", name: site.clone() });
    }
    writing.execute(sql::PUT_CONTROLLER, (id.as_str(), label, site, record_key.0))?;
    Ok(())
}

pub fn append(
    writing: &mut Writing<'_>,
    batches: &[VerifiedBatch],
    received: UtcMs,
) -> Result<Vec<Appended>, StoreError> {
    let destinations = writing.all(sql::DESTINATIONS, [], |row| row.get(0))?;
    let mut append = Append { writing, destinations, received, anchors: BTreeMap::new() };
    batches.iter().map(|batch| append.batch(batch)).collect()
}

pub fn note_hello(
    writing: &mut Writing<'_>,
    hello: &Hello,
    received: UtcMs,
) -> Result<Vec<OutboxMark>, StoreError> {
    let controller_no = controller_no(writing, &hello.controller)?;
    let bytes = codec::encode(VERSION_1, hello);
    writing.execute(sql::PUT_HELLO, (controller_no, bytes, received))?;
    let named = hello.outboxes.iter().map(|named| {
        let outbox = Outbox::find_or_create(writing, controller_no, &hello.controller, named.outbox)?;
        outbox.was_spoken_of(writing, named.last_seq)?;
        Ok(outbox.mark(&hello.controller))
    });
    named.collect()
}

pub fn note_gone(
    writing: &mut Writing<'_>,
    controller: &ControllerId,
    received: UtcMs,
) -> Result<(), StoreError> {
    writing.execute(sql::PUT_GONE, (controller.as_str(), received))?;
    Ok(())
}

pub fn quarantine(writing: &mut Writing<'_>, letter: &DeadLetter) -> Result<(), StoreError> {
    let bytes = &letter.bytes[..letter.bytes.len().min(MAX_DEAD_LETTER_BYTES)];
    let columns = (letter.received, &letter.topic, letter.kind.as_ref(), &letter.reason, bytes);
    writing.execute(sql::NEW_DEAD_LETTER, columns)?;
    let too_old = writing.inserted() - i64::try_from(MAX_DEAD_LETTERS).expect("a small constant");
    writing.execute(sql::FORGET_DEAD_LETTERS, [too_old])?;
    writing.totals.quarantined += 1;
    Ok(())
}

fn controller_no(writing: &Writing<'_>, id: &ControllerId) -> Result<i64, StoreError> {
    let no = writing.one(sql::CONTROLLER_NO, [id.as_str()], |row| row.get(0))?;
    no.ok_or_else(|| StoreError::NotFound { what: "controller", name: id.to_string() })
}

/// An outbox's row.
struct Outbox {
    no: i64,
    id: OutboxId,
    stored_through: Seq,
    hash: ChainHash,
    last_seq: Seq,
}

impl Outbox {
    fn find_or_create(
        writing: &Writing<'_>,
        controller_no: i64,
        controller: &ControllerId,
        id: OutboxId,
    ) -> Result<Outbox, StoreError> {
        let known = writing.one(sql::OUTBOX, (controller_no, id.0), |row| {
            Ok(Outbox {
                no: row.get(0)?,
                id,
                stored_through: Seq(row.get(1)?),
                hash: ChainHash(row.get(2)?),
                last_seq: Seq(row.get(3)?),
            })
        })?;
        if let Some(known) = known {
            return Ok(known);
        }
        let (prefix, hash) = (OutboxPrefix::new(controller, id), ChainHash::start(id));
        writing.execute(sql::NEW_OUTBOX, (controller_no, id.0, prefix.to_bytes(), hash.0))?;
        Ok(Outbox { no: writing.inserted(), id, stored_through: Seq::ZERO, hash, last_seq: Seq::ZERO })
    }

    fn was_spoken_of(&self, writing: &Writing<'_>, last_seq: Seq) -> Result<(), StoreError> {
        let last_seq = meaning::spoken_of(last_seq);
        if last_seq > self.last_seq {
            writing.execute(sql::OUTBOX_SPOKEN_OF, (self.no, last_seq.0))?;
        }
        Ok(())
    }

    fn mark(&self, controller: &ControllerId) -> OutboxMark {
        OutboxMark {
            controller: controller.clone(),
            outbox: self.id,
            stored_through: self.stored_through,
            hash: self.hash,
        }
    }
}

/// An append under way.
struct Append<'w, 'a> {
    writing: &'w mut Writing<'a>,
    destinations: Vec<i64>,
    received: UtcMs,
    /// The anchors of each boot that was asked for so far: (outbox, boot).
    anchors: BTreeMap<(i64, u32), Vec<Anchor>>,
}

impl Append<'_, '_> {
    fn batch(&mut self, batch: &VerifiedBatch) -> Result<Appended, StoreError> {
        let controller_no = controller_no(self.writing, batch.controller())?;
        let mut outbox =
            Outbox::find_or_create(self.writing, controller_no, batch.controller(), batch.outbox())?;
        let mark = Mark { stored_through: outbox.stored_through, hash: outbox.hash };
        let stored_hash = self.hash_at(&outbox, admit::compare_at(mark.stored_through, batch))?;
        let admission = admit::admit(&mark, batch, stored_hash);
        match admission {
            Admission::Store { from } => self.store(&mut outbox, batch, from)?,
            Admission::Beyond => outbox.was_spoken_of(self.writing, batch.last_seq())?,
            Admission::Duplicate | Admission::Fork { .. } => {}
        }
        Ok(Appended { admission, mark: outbox.mark(batch.controller()) })
    }

    fn hash_at(&self, outbox: &Outbox, seq: Seq) -> Result<Option<ChainHash>, StoreError> {
        if seq == outbox.stored_through {
            return Ok(Some(outbox.hash));
        }
        self.writing.one(sql::HASH_AT, (outbox.no, seq.0), |row| row.get(0).map(ChainHash))
    }

    fn store(&mut self, outbox: &mut Outbox, batch: &VerifiedBatch, from: Seq) -> Result<(), StoreError> {
        let mut last_occurred = None;
        for (seq, record) in batch.records().filter(|(seq, _)| *seq >= from) {
            assert!(seq == outbox.stored_through.next(), "only what continues the mark is stored");
            last_occurred = self.record(outbox.no, seq, record)?;
            (outbox.stored_through, outbox.hash) = (seq, record.hash);
        }
        let last_occurred = last_occurred.map(|occurred| occurred.at);
        self.writing.execute(
            sql::OUTBOX_STORED,
            (outbox.no, outbox.stored_through.0, outbox.hash.0, self.received, last_occurred),
        )?;
        Ok(())
    }

    /// Stores one record with all that follows from it; returns its true time, if that is known.
    fn record(
        &mut self,
        outbox_no: i64,
        seq: Seq,
        record: &ChainedRecord,
    ) -> Result<Option<Occurred>, StoreError> {
        let totals = &mut self.writing.totals;
        totals.last_position += 1;
        totals.records += 1;
        let position = Position(totals.last_position);
        let meaning = Meaning::of(&record.bytes);
        self.writing.execute(
            sql::NEW_EVENT,
            (position, outbox_no, seq.0, self.received, meaning.kind(), &record.bytes, record.hash.0),
        )?;
        if let Meaning::Anchor(at, anchor) = &meaning {
            self.anchors_of(outbox_no, at.boot)?.push(*anchor);
            self.writing.execute(sql::NEW_ANCHOR, (outbox_no, at.boot, position))?;
            self.release_taps_of(outbox_no, at.boot)?;
        }
        let occurred = match meaning.stamp() {
            Some(at) => meaning::occurred(at, self.anchors_of(outbox_no, at.boot)?),
            None => None,
        };
        if let Meaning::Tap(at, tap) = &meaning {
            self.tap(outbox_no, position, at, tap, occurred)?;
        }
        Ok(occurred)
    }

    fn tap(
        &mut self,
        outbox_no: i64,
        position: Position,
        at: &Stamp,
        tap: &Tap,
        occurred: Option<Occurred>,
    ) -> Result<(), StoreError> {
        self.writing.execute(
            sql::NEW_TAP,
            (
                position,
                outbox_no,
                at.boot,
                tap.reader.as_str(),
                tap.badge.token.0,
                tap.direction.name(),
                tap.verdict.name(),
                occurred.map(|occurred| occurred.at),
                occurred.map(|occurred| occurred.uncertainty_ms),
            ),
        )?;
        self.writing.totals.taps += 1;
        let person = self.writing.one(sql::PERSON, [tap.badge.token.0], |row| row.get(0).map(PersonId))?;
        let held_for = meaning::held_for(occurred, person.as_ref());
        let key = person.map_or(OrderKey::Token(tap.badge.token), OrderKey::Person);
        for destination in &self.destinations {
            let lane = (*destination, key.clone());
            self.writing.new_delivery(&lane, position, held_for, self.received)?;
        }
        Ok(())
    }

    /// The anchors of a boot that are stored so far, this append's included.
    fn anchors_of(&mut self, outbox_no: i64, boot: u32) -> Result<&mut Vec<Anchor>, StoreError> {
        use std::collections::btree_map::Entry;
        match self.anchors.entry((outbox_no, boot)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let stored: Vec<Vec<u8>> =
                    self.writing.all(sql::ANCHORS, (outbox_no, boot), |row| row.get(0))?;
                let anchors = stored.iter().filter_map(|bytes| match Meaning::of(bytes) {
                    Meaning::Anchor(_, anchor) => Some(anchor),
                    Meaning::Tap(..) | Meaning::Other(..) | Meaning::Opaque => None,
                });
                Ok(unknown.insert(anchors.collect()))
            }
        }
    }

    /// A boot has one more anchor: taps of it that were held for their time may have it now.
    fn release_taps_of(&mut self, outbox_no: i64, boot: u32) -> Result<(), StoreError> {
        let anchors = self.anchors_of(outbox_no, boot)?.clone();
        let mut lanes = BTreeSet::new();
        let mut after = Position(0);
        loop {
            let waiting: Vec<(Position, Vec<u8>)> =
                self.writing.all(sql::TAPS_WITHOUT_TIME, (outbox_no, boot, after, TAPS_AT_ONCE), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            let Some((last, _)) = waiting.last() else { break };
            after = *last;
            for (position, bytes) in waiting {
                let at = Meaning::of(&bytes).stamp().copied();
                let occurred = at.and_then(|at| meaning::occurred(&at, &anchors));
                let Some(Occurred { at, uncertainty_ms }) = occurred else { continue };
                self.writing.execute(sql::TAP_OCCURRED, (position, at, uncertainty_ms))?;
                for destination in self.destinations.clone() {
                    if let Some(key) = self.release_from_time(destination, position)? {
                        lanes.insert((destination, key));
                    }
                }
            }
        }
        self.writing.settle(&lanes)
    }

    /// Releases a delivery from its hold for time; it may be held for its binding from here on. The lane, if it is to
    /// be settled.
    fn release_from_time(
        &mut self,
        destination: i64,
        position: Position,
    ) -> Result<Option<OrderKey>, StoreError> {
        let held = self.writing.one(sql::HELD, (destination, position), |row| {
            Ok((row.get::<_, OrderKey>(0)?, row.get::<_, Option<HeldFor>>(1)?))
        })?;
        let Some((key, Some(HeldFor::Time))) = held else { return Ok(None) };
        let next = match key {
            OrderKey::Person(_) => None,
            OrderKey::Token(_) => Some(HeldFor::Binding),
        };
        self.writing.execute(sql::HOLD, (destination, position, next))?;
        Ok(next.is_none().then_some(key))
    }
}
