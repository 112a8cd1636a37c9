//! Beside the line: a range of the store as a segment's bytes. Knows the parts and no name of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest;
use tap_protocol::badge::{SealedBadge, Token};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::StoreEpoch;

use super::Deed;
use super::parts::{self, Part};
use crate::event_store::archive::{
    ArchivedDelivery, ArchivedDifference, NewSegment, Range, SegmentOutbox, Told,
};
use crate::event_store::{
    DeliveryCount, EventStore, Occurred, OrderKey, Position, SignedBatch, StoreError, StoredRecord, Timeless,
    UtcMs,
};

/// Hears how many records are written.
pub type Progress<'p> = &'p mut dyn FnMut(u64);

/// Why it was not written.
pub enum Failed {
    /// The store.
    Store(StoreError),
    /// The disk.
    File(io::Error),
}

/// Writes the range and brings it to the disk. The file's name, length and hash are for whoever reads it back.
pub fn write(
    store: &mut dyn EventStore,
    range: Range,
    epoch: StoreEpoch,
    deed: &Deed<'_>,
    file: File,
    progress: Progress<'_>,
) -> Result<NewSegment, Failed> {
    let mut writer = Writer::new(file).map_err(Failed::File)?;
    let header = parts::Header {
        store_epoch: epoch.0,
        from: range.from.0,
        to: range.to.0,
        made_ms: deed.now.0,
        made_by: deed.by.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut wrote = writer.part(&Part::Header(header));
    let mut counting = Counting::new(range);
    let read = store.read_range(range, &mut |told| {
        if wrote.is_ok() {
            counting.take(&told);
            progress(counting.records);
            wrote = writer.part(&part(told));
        }
        if wrote.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    wrote.map_err(Failed::File)?;
    read.map_err(Failed::Store)?;
    let segment = counting.end(deed);
    writer.end(&segment, counting_records(&segment)).map_err(Failed::File)?;
    Ok(segment)
}

fn counting_records(segment: &NewSegment) -> u64 {
    segment.outboxes.iter().map(|outbox| outbox.to.0 + 1 - outbox.from.0).sum()
}

/// Bytes on their way to the disk: hashed, packed.
struct Writer {
    packed: BufWriter<GzEncoder<File>>,
    hash: digest::Context,
}

impl Writer {
    fn new(file: File) -> io::Result<Writer> {
        let packed = BufWriter::new(GzEncoder::new(file, Compression::default()));
        let mut writer = Writer { packed, hash: digest::Context::new(&digest::SHA256) };
        writer.bytes(&parts::MAGIC)?;
        Ok(writer)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.packed.write_all(bytes)
    }

    fn part(&mut self, part: &Part) -> io::Result<()> {
        self.bytes(&part.encode())
    }

    fn end(mut self, segment: &NewSegment, records: u64) -> io::Result<()> {
        let sha256 = self.hash.clone().finish();
        let outboxes = segment.outboxes.iter().map(|outbox| parts::Ended {
            controller: outbox.controller.to_string(),
            outbox: outbox.outbox.0,
            from: outbox.from.0,
            to: outbox.to.0,
            hash_before: outbox.hash_before.0,
            hash_after: outbox.hash_after.0,
        });
        let deliveries = segment.deliveries.iter();
        let end = parts::End {
            records,
            taps: segment.taps,
            attempts: segment.attempts,
            received_from_ms: segment.received.0.0,
            received_to_ms: segment.received.1.0,
            outboxes: outboxes.collect(),
            deliveries: deliveries
                .map(|cell| (cell.destination.clone(), cell.state.name().to_owned(), cell.count))
                .collect(),
            sha256: sha256.as_ref().try_into().expect("SHA-256 has 32 bytes"),
        };
        self.part(&Part::End(end))?;
        let file = self.packed.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        file.sync_all()
    }
}

/// What the store is told of the segment.
struct Counting {
    segment: NewSegment,
    destination: String,
    deliveries: BTreeMap<(String, &'static str), DeliveryCount>,
    badges: BTreeMap<Token, SealedBadge>,
    received: Option<(UtcMs, UtcMs)>,
    records: u64,
}

impl Counting {
    fn new(range: Range) -> Counting {
        let segment = NewSegment {
            range,
            file: String::new(),
            sha256: [0; 32],
            bytes: 0,
            taps: 0,
            received: (UtcMs(0), UtcMs(0)),
            outboxes: Vec::new(),
            deliveries: Vec::new(),
            attempts: 0,
            badges: Vec::new(),
            made: UtcMs(0),
            made_by: String::new(),
        };
        Counting {
            segment,
            destination: String::new(),
            deliveries: BTreeMap::new(),
            badges: BTreeMap::new(),
            received: None,
            records: 0,
        }
    }

    fn take(&mut self, told: &Told) {
        match told {
            Told::Outbox { controller, outbox, before: (seq, hash), .. } => {
                self.segment.outboxes.push(SegmentOutbox {
                    controller: controller.clone(),
                    outbox: *outbox,
                    from: seq.next(),
                    to: *seq,
                    hash_before: *hash,
                    hash_after: *hash,
                });
            }
            Told::Record(record, tap) => {
                self.records += 1;
                let (from, to) = self.received.unwrap_or((record.received, record.received));
                self.received = Some((from.min(record.received), to.max(record.received)));
                if let Some(outbox) = self.segment.outboxes.last_mut() {
                    (outbox.to, outbox.hash_after) = (record.seq, record.hash);
                }
                self.segment.taps += u64::from(record.kind == "tap");
                if let Some((_, badge)) = tap {
                    self.badges.entry(badge.token).or_insert_with(|| badge.clone());
                }
            }
            Told::Destination(name) => self.destination = name.clone(),
            Told::Delivery(delivery) => {
                let (destination, state) = (self.destination.clone(), delivery.state);
                let cell = DeliveryCount { destination: destination.clone(), state, count: 0 };
                self.deliveries.entry((destination, state.name())).or_insert(cell).count += 1;
            }
            Told::Attempt(..) => self.segment.attempts += 1,
            Told::Signature(_) | Told::Difference(_) => {}
        }
    }

    fn end(self, deed: &Deed<'_>) -> NewSegment {
        NewSegment {
            received: self.received.unwrap_or((UtcMs(0), UtcMs(0))),
            deliveries: self.deliveries.into_values().collect(),
            badges: self.badges.into_values().collect(),
            made: deed.now,
            made_by: deed.by.to_owned(),
            ..self.segment
        }
    }
}

fn part(told: Told) -> Part {
    match told {
        Told::Outbox { controller, outbox, prefix, record_keys, before: (seq, ChainHash(hash)) } => {
            Part::Outbox(parts::Outbox {
                controller: controller.to_string(),
                outbox: outbox.0,
                prefix,
                record_keys: record_keys.into_iter().map(|key| key.0).collect(),
                seq_before: seq.0,
                hash_before: hash,
            })
        }
        Told::Record(record, tap) => {
            let StoredRecord { position, seq, received, kind, bytes, hash, .. } = record;
            Part::Record(parts::Record {
                position: position.0,
                seq: seq.0,
                received_ms: received.0,
                kind,
                bytes,
                hash: hash.0,
                time: tap.map(|(occurred, _)| time(occurred)),
            })
        }
        Told::Signature(SignedBatch { first_seq, last_seq, proof }) => Part::Signature(parts::Signature {
            first_seq: first_seq.0,
            last_seq: last_seq.0,
            key: proof.key.0,
            signature: proof.signature.to_vec(),
            message: proof.message,
        }),
        Told::Destination(name) => Part::Destination(name),
        Told::Delivery(delivery) => {
            let ArchivedDelivery {
                position,
                order_key,
                state,
                due,
                attempts,
                failures,
                class,
                body,
                direction,
            } = delivery;
            Part::Delivery(parts::Delivery {
                position: position.0,
                person: match order_key {
                    OrderKey::Person(person) => Some(person.0),
                    OrderKey::Token(_) => None,
                },
                state: state.name().to_owned(),
                due_ms: due.0,
                attempts,
                failures,
                class: class.name().to_owned(),
                body,
                direction,
            })
        }
        Told::Attempt(Position(position), attempt) => Part::Attempt(parts::Attempt {
            position,
            number: attempt.number,
            started_ms: attempt.started.0,
            finished_ms: attempt.finished.map(|at| at.0),
            outcome: attempt.outcome,
            status: attempt.status,
            answer: attempt.answer,
        }),
        Told::Difference(ArchivedDifference { position, what, told, is, noted }) => {
            Part::Difference(parts::Difference { position: position.0, what, told, is, noted_ms: noted.0 })
        }
    }
}

fn time(occurred: Result<Occurred, Timeless>) -> parts::Time {
    match occurred {
        Ok(Occurred { at, uncertainty_ms, estimated }) => {
            parts::Time::Known { at_ms: at.0, uncertainty_ms, estimated }
        }
        Err(Timeless::Unknown) => parts::Time::Unknown,
        Err(Timeless::Between { not_before, not_after }) => {
            parts::Time::Between { not_before_ms: not_before.0, not_after_ms: not_after.0 }
        }
        Err(Timeless::Disputed) => parts::Time::Disputed,
    }
}
