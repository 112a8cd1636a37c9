//! Step 9 of 12: batches into rows. Knows no signatures (those are proved) and no destinations but as rows.
//!
//! Records are taken one by one, as if each batch had come alone: how batches were grouped never shows in what is
//! stored. Only the disk sees groups.

use std::collections::{BTreeMap, BTreeSet};

use tap_protocol::badge::Token;
use tap_protocol::chain::ChainHash;
use tap_protocol::codec::{self, VERSION_1};
use tap_protocol::envelope::{ChainedRecord, VerifiedBatch};
use tap_protocol::hello::Hello;
use tap_protocol::ids::{ControllerId, OutboxId, OutboxPrefix, Seq};
use tap_protocol::tap::Tap;
use tap_protocol::time_repair::TrueTime;

use super::bindings;
use super::claiming::{self, Old};
use super::completeness;
use super::directions::{self, Directions};
use super::following::Happened;
use super::occurring::Occurring;
use super::proof;
use super::rereading;
use super::session::{execute, one};
use super::statements as sql;
use super::values::{time_columns, timeless};
use super::writing::{Lane, Writing};
use crate::directory::timeline::{Stretch, Timeline};
use crate::event_store::boots::BootNo;
use crate::event_store::meaning::{self, Meaning};
use crate::event_store::{
    Appended, Controller, DeadLetter, HeldFor, MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, Occurred, OrderKey,
    OutboxMark, PersonId, Position, RecordKey, SignedBatch, Site, StoreError, Timeless, UtcMs,
};
use crate::intake::admit::{self, Admission, Mark};

/// Taps whose time is worked out at once: a boot may have left a million behind.
const TAPS_AT_ONCE: usize = 1_000;

pub fn put_site(writing: &mut Writing<'_>, site: &Site) -> Result<(), StoreError> {
    writing.execute(sql::PUT_SITE, (&site.id, &site.label, &site.zone))?;
    Ok(())
}

pub fn put_controller(writing: &mut Writing<'_>, controller: &Controller) -> Result<(), StoreError> {
    let Controller { id, label, site, record_keys } = controller;
    site_is_known(writing, site)?;
    writing.execute(sql::PUT_CONTROLLER, (id.as_str(), label, site))?;
    let controller_no = controller_no(writing, id)?;
    writing.execute(sql::END_RECORD_KEYS, [controller_no])?;
    // The newest was put last: that is the order in which they are read again.
    for RecordKey { key, good_until } in record_keys.iter().rev() {
        writing.execute(sql::PUT_RECORD_KEY, (controller_no, key.0, good_until))?;
    }
    Ok(())
}

/// A controller without a site has no time zone: no tap of it could be told to a person.
pub fn site_is_known(writing: &Writing<'_>, site: &str) -> Result<(), StoreError> {
    match writing.one(sql::SITE_EXISTS, [site], |_| Ok(()))? {
        Some(()) => Ok(()),
        None => Err(StoreError::NotFound { what: "site", name: site.to_owned() }),
    }
}

pub fn append(
    writing: &mut Writing<'_>,
    batches: &[VerifiedBatch],
    received: UtcMs,
) -> Result<Vec<Appended>, StoreError> {
    let received = writing.now(received);
    let destinations = writing.destinations()?;
    let occurring = Occurring::default();
    let timelines = timelines_of(writing, batches)?;
    let keys = timelines.iter().flat_map(|(token, timeline)| possible_keys(*token, timeline)).collect();
    for destination in &destinations {
        writing.look_at_lanes(*destination, &keys)?;
    }
    let (alternating, turns) = (BTreeMap::new(), BTreeMap::new());
    let mut append = Append {
        writing,
        destinations,
        received,
        controller_no: 0,
        controllers: BTreeMap::new(),
        occurring,
        timelines,
        alternating,
        turns,
        is_late: false,
    };
    let appended = batches.iter().map(|batch| append.batch(batch)).collect::<Result<_, _>>()?;
    append.occurring.write_down(append.writing)?;
    append.review()?;
    append.writing.settle_late()?;
    Ok(appended)
}

/// A record that could not be read when it was stored.
pub struct Late {
    pub position: Position,
    pub outbox_no: i64,
    pub controller_no: i64,
    pub received: UtcMs,
    /// What it says, as far as that can be read now.
    pub meaning: Meaning,
}

/// Makes of records that were stored before what they are, in their places.
pub fn in_their_places(writing: &mut Writing<'_>, late: Vec<Late>) -> Result<(), StoreError> {
    let destinations = writing.all(sql::DESTINATIONS, [], |row| row.get(0))?;
    let mut append = Append {
        writing,
        destinations,
        received: UtcMs(0),
        controller_no: 0,
        controllers: BTreeMap::new(),
        occurring: Occurring::default(),
        timelines: BTreeMap::new(),
        alternating: BTreeMap::new(),
        turns: BTreeMap::new(),
        is_late: true,
    };
    for Late { position, outbox_no, controller_no, received, meaning } in late {
        (append.controller_no, append.received) = (controller_no, received);
        if let Meaning::Tap(_, tap) = &meaning {
            let timeline = append.timeline(tap.badge.token)?;
            append.timelines.insert(tap.badge.token, timeline);
        }
        let stood_for = append.occurring.stood_for(append.writing, outbox_no, &meaning)?;
        append.follow(outbox_no, position, &meaning)?;
        if let Some((number, before)) = stood_for {
            for boot in append.occurring.became(append.writing, (outbox_no, number), before)? {
                append.release_taps_of(boot)?;
            }
        }
    }
    append.occurring.write_down(append.writing)?;
    append.review()
}

pub fn note_hello(
    writing: &mut Writing<'_>,
    hello: &Hello,
    received: UtcMs,
) -> Result<Vec<OutboxMark>, StoreError> {
    let received = writing.now(received);
    let controller_no = controller_no(writing, &hello.controller)?;
    let before = completeness::before(writing, controller_no)?;
    let bytes = codec::encode(VERSION_1, hello);
    writing.execute(sql::PUT_HELLO, (controller_no, bytes, received))?;
    let named = hello.outboxes.iter().map(|named| {
        let outbox = Outbox::find_or_create(writing, controller_no, &hello.controller, named.outbox)?;
        outbox.was_spoken_of(writing, named.last_seq)?;
        Ok(outbox.mark(&hello.controller))
    });
    let marks = named.collect::<Result<Vec<_>, StoreError>>()?;
    completeness::heard(writing, controller_no, &before, hello, received)?;
    Ok(marks)
}

pub fn note_gone(
    writing: &mut Writing<'_>,
    controller: &ControllerId,
    received: UtcMs,
) -> Result<(), StoreError> {
    writing.execute(sql::PUT_GONE, (controller.as_str(), writing.now(received)))?;
    Ok(())
}

pub fn quarantine(writing: &mut Writing<'_>, letter: &DeadLetter) -> Result<(), StoreError> {
    let bytes = &letter.bytes[..letter.bytes.len().min(MAX_DEAD_LETTER_BYTES)];
    let columns = (letter.received, &letter.topic, letter.kind.as_ref(), &letter.reason, bytes);
    let too_old = writing.insert(sql::NEW_DEAD_LETTER, columns)?
        - i64::try_from(MAX_DEAD_LETTERS).expect("a small constant");
    writing.execute(sql::FORGET_DEAD_LETTERS, [too_old])?;
    writing.totals.quarantined += 1;
    Ok(())
}

pub fn controller_no(writing: &Writing<'_>, id: &ControllerId) -> Result<i64, StoreError> {
    let no = one(writing.aside(), sql::CONTROLLER_NO, [id.as_str()], |row| row.get(0))?;
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
        let known = one(writing.aside(), sql::OUTBOX, (controller_no, id.0), |row| {
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
        let no = writing.insert(sql::NEW_OUTBOX, (controller_no, id.0, prefix.to_bytes(), hash.0))?;
        Ok(Outbox { no, id, stored_through: Seq::ZERO, hash, last_seq: Seq::ZERO })
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
    /// Whose batch it is.
    controller_no: i64,
    /// The numbers of controllers, as far as they were asked for.
    controllers: BTreeMap<ControllerId, i64>,
    occurring: Occurring,
    /// Who held the badges of these batches when, by token.
    timelines: BTreeMap<Token, Timeline>,
    /// The site of each controller whose taps alternate.
    alternating: BTreeMap<i64, Option<String>>,
    /// By site and person, between which times their taps have come.
    turns: BTreeMap<(String, PersonId), Stretch>,
    /// These records have been stored for long, and later ones stand behind them.
    is_late: bool,
}

/// The histories of these batches' badges. Asked once for all, because a server is asked over a network.
fn timelines_of(
    writing: &Writing<'_>,
    batches: &[VerifiedBatch],
) -> Result<BTreeMap<Token, Timeline>, StoreError> {
    let taps = batches.iter().flat_map(VerifiedBatch::records).filter_map(|(_, record)| {
        match Meaning::of(&record.bytes) {
            Meaning::Tap(_, tap) => Some(tap.badge.token),
            _ => None,
        }
    });
    bindings::timelines_of(writing.aside(), &taps.collect())
}

/// All that a tap of that badge may stand in line by.
fn possible_keys(token: Token, timeline: &Timeline) -> impl Iterator<Item = OrderKey> + '_ {
    let persons = timeline.spans().iter().map(|span| OrderKey::Person(span.person.clone()));
    persons.chain([OrderKey::Token(token)])
}

impl Append<'_, '_> {
    fn batch(&mut self, batch: &VerifiedBatch) -> Result<Appended, StoreError> {
        self.controller_no = match self.controllers.get(batch.controller()) {
            Some(no) => *no,
            None => controller_no(self.writing, batch.controller())?,
        };
        self.controllers.insert(batch.controller().clone(), self.controller_no);
        let mut outbox =
            Outbox::find_or_create(self.writing, self.controller_no, batch.controller(), batch.outbox())?;
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
            last_occurred = self.record(outbox, seq, record)?;
            (outbox.stored_through, outbox.hash) = (seq, record.hash);
        }
        let last_occurred = last_occurred.map(|occurred| occurred.at);
        execute(
            self.writing.aside(),
            sql::OUTBOX_STORED,
            (outbox.no, outbox.stored_through.0, outbox.hash.0, self.received, last_occurred),
        )?;
        proof::keep(self.writing, outbox.no, &SignedBatch::of(batch))
    }

    /// Stores one record with all that follows from it; returns its true time, if that is known.
    fn record(
        &mut self,
        outbox: &Outbox,
        seq: Seq,
        record: &ChainedRecord,
    ) -> Result<Option<Occurred>, StoreError> {
        let totals = &mut self.writing.totals;
        totals.last_position += 1;
        totals.records += 1;
        let position = Position(totals.last_position);
        let meaning = Meaning::of(&record.bytes);
        self.writing.new_event((
            position,
            outbox.no,
            seq.0,
            self.received,
            meaning.kind(),
            &record.bytes,
            record.hash.0,
        ));
        if meaning == Meaning::Opaque {
            rereading::note(self.writing, position)?;
        }
        self.follow(outbox.no, position, &meaning)
    }

    /// All that follows from what a stored record says; returns its true time, if that is known.
    fn follow(
        &mut self,
        outbox_no: i64,
        position: Position,
        meaning: &Meaning,
    ) -> Result<Option<Occurred>, StoreError> {
        let boot = self.occurring.boot_of(self.writing, (self.controller_no, outbox_no), meaning)?;
        let Some((boot, at)) = boot.zip(meaning.stamp()) else { return Ok(None) };
        let anchor = match meaning {
            Meaning::Anchor(_, anchor) => Some((position, anchor)),
            _ => None,
        };
        let seen = self.occurring.record(self.writing, boot, at, anchor)?;
        let occurred = match (meaning, seen.time) {
            (Meaning::Tap(..), TrueTime::Unknown) => {
                let around = self.occurring.around(self.writing, boot)?;
                self.occurring.time(self.writing, boot, at, around)?
            }
            _ => seen.time,
        };
        let occurred = meaning::occurred(occurred);
        if let Meaning::Tap(_, tap) = meaning {
            self.tap(boot, position, tap, occurred)?;
        }
        for boot in seen.concerns {
            self.release_taps_of(boot)?;
        }
        Ok(occurred.ok())
    }

    fn tap(
        &mut self,
        boot: BootNo,
        position: Position,
        tap: &Tap,
        occurred: Result<Occurred, Timeless>,
    ) -> Result<(), StoreError> {
        let (at, uncertainty_ms, estimated, timeless, not_before, not_after) = time_columns(occurred);
        self.writing.new_tap((
            position,
            boot,
            tap.reader.as_str(),
            tap.badge.token.0,
            tap.direction.name(),
            tap.verdict.name(),
            at,
            uncertainty_ms,
            estimated,
            timeless,
            not_before,
            not_after,
        ));
        self.writing.totals.taps += 1;
        self.writing.totals.disputed += u64::from(occurred == Err(Timeless::Disputed));
        let token = tap.badge.token;
        let timeline = &self.timelines[&token];
        let held_for = meaning::held_for(occurred, timeline.holder(occurred));
        let key = bindings::key(timeline, token, occurred);
        self.takes_its_turn(&key, occurred)?;
        let happened = Happened::new(self.controller_no, occurred);
        if self.is_late {
            let old = Old { position, token, received: self.received, occurred, happened };
            return claiming::tell_of_late(self.writing, &old);
        }
        for destination in &self.destinations {
            let lane = (*destination, key.clone());
            self.writing.new_delivery(&lane, position, happened, held_for, self.received)?;
        }
        Ok(())
    }

    /// Who held the badge when.
    fn timeline(&self, token: Token) -> Result<Timeline, StoreError> {
        bindings::timeline_of(self.writing.aside(), token)
    }

    /// Where taps alternate, one that comes late is another turn for those after it: at the end of the append they are
    /// looked at.
    fn takes_its_turn(
        &mut self,
        key: &OrderKey,
        occurred: Result<Occurred, Timeless>,
    ) -> Result<(), StoreError> {
        let controller_no = self.controller_no;
        if !self.alternating.contains_key(&controller_no) {
            let site =
                one(self.writing.aside(), sql::ALTERNATING_SITE_OF, [controller_no], |row| row.get(0))?;
            self.alternating.insert(controller_no, site);
        }
        let site = self.alternating[&controller_no].as_ref();
        if let (Some(site), OrderKey::Person(person), Ok(occurred)) = (site, key, occurred) {
            let turn = self
                .turns
                .entry((site.clone(), person.clone()))
                .or_insert(Stretch { from: occurred.at, until: occurred.at });
            turn.from = turn.from.min(occurred.at);
            turn.until = turn.until.max(occurred.at);
        }
        Ok(())
    }

    /// The end of the append: what was told of taps after those that came is compared.
    fn review(&mut self) -> Result<(), StoreError> {
        let mut directions = Directions::default();
        for ((site, person), stretch) in std::mem::take(&mut self.turns) {
            let rules = directions.rules(self.writing.aside(), &site)?;
            directions::review(self.writing, &person, &site, rules, stretch, self.received)?;
        }
        Ok(())
    }

    /// More is known of a boot: taps of it that have no time may have it now.
    fn release_taps_of(&mut self, boot: BootNo) -> Result<(), StoreError> {
        let around = self.occurring.around(self.writing, boot)?;
        let mut lanes = BTreeSet::new();
        let mut after = Position(0);
        loop {
            let waiting: Vec<(Position, Vec<u8>, Timeless)> =
                self.writing.all(sql::TAPS_WITHOUT_TIME, (boot, after, TAPS_AT_ONCE), |row| {
                    Ok((row.get(0)?, row.get(1)?, timeless(row, 2)?))
                })?;
            let Some((last, ..)) = waiting.last() else { break };
            after = *last;
            for (position, bytes, before) in waiting {
                let Meaning::Tap(at, tap) = Meaning::of(&bytes) else { continue };
                let time = self.occurring.time(self.writing, boot, &at, around)?;
                let occurred = meaning::occurred(time);
                if occurred == Err(before) {
                    continue;
                }
                let (at, uncertainty_ms, estimated, timeless, not_before, not_after) = time_columns(occurred);
                self.writing.execute(
                    sql::TAP_TIME,
                    (position, at, uncertainty_ms, estimated, timeless, not_before, not_after),
                )?;
                self.writing.totals.disputed += u64::from(occurred == Err(Timeless::Disputed));
                self.writing.totals.disputed -= u64::from(before == Timeless::Disputed);
                let timeline = self.timeline(tap.badge.token)?;
                let key = bindings::key(&timeline, tap.badge.token, occurred);
                for destination in self.destinations.clone() {
                    lanes.extend(self.more_is_known(destination, position, &key, occurred)?);
                }
                self.takes_its_turn(&key, occurred)?;
            }
        }
        self.writing.settle(&lanes)
    }

    /// More is known of the time of a tap that was held for it: it goes into the line where it belongs by now, and with its
    /// time known it is held no more, or for its binding. Returns the lanes that have changed.
    fn more_is_known(
        &mut self,
        destination: i64,
        position: Position,
        key: &OrderKey,
        occurred: Result<Occurred, Timeless>,
    ) -> Result<Vec<Lane>, StoreError> {
        let held = self.writing.one(sql::HELD, (destination, position), |row| {
            Ok((row.get::<OrderKey>(0)?, row.get::<Option<HeldFor>>(1)?))
        })?;
        let Some((before, Some(held_for))) = held else { return Ok(Vec::new()) };
        match (held_for, occurred) {
            (HeldFor::TimeUnresolved, Ok(_)) => self.writing.totals.unresolved -= 1,
            (HeldFor::Time, _) => {}
            (HeldFor::TimeUnresolved, Err(_))
            | (HeldFor::Binding | HeldFor::Person | HeldFor::Completeness, _) => {
                return Ok(Vec::new());
            }
        }
        if before != *key {
            self.writing.execute(sql::REKEY, (destination, position, key))?;
        }
        let next = match (occurred, key) {
            (Err(_), _) => Some(HeldFor::Time),
            (Ok(_), OrderKey::Token(_)) => Some(HeldFor::Binding),
            (Ok(_), OrderKey::Person(_)) => None,
        };
        self.writing.happened(destination, position, occurred)?;
        let next = self.writing.follows(destination).waits(next);
        self.writing.execute(sql::HOLD, (destination, position, next))?;
        Ok(vec![(destination, before), (destination, key.clone())])
    }
}
