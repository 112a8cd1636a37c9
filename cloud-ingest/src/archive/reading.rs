//! Beside the line: a segment's file, read without a store: whether all that is in it holds, and what is in it. What holding
//! means is [`crate::read_model::audit`]'s, as for the store.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::read::GzDecoder;
use ring::digest;
use tap_protocol::badge::Token;
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::BatchProof;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::PublicKey;
use tap_protocol::record::{Body, Record};

use super::parts::{self, End, Header, NoPart, Part};
use crate::event_store::archive::{Archived, NewSegment};
use crate::event_store::{OutboxMark, Position, SignedBatch, StoredRecord, Totals, UtcMs, Walked};
use crate::read_model::audit::{Audit, Finding};

/// Why a segment is not good.
#[derive(Debug, thiserror::Error)]
pub enum NotGood {
    /// It cannot be read to its end.
    #[error("the segment cannot be read")]
    Unreadable(#[from] io::Error),
    /// It is none.
    #[error(transparent)]
    NoSegment(#[from] NoPart),
    /// Its parts do not belong together.
    #[error("the segment is damaged: {0}")]
    Damaged(&'static str),
    /// Its records do not prove themselves.
    #[error("{count} places of the segment do not hold; the first: {first}")]
    NotProved {
        /// How many.
        count: u64,
        /// The first, in words.
        first: String,
    },
    /// It is of other events than it should be.
    #[error("the segment is not what was read from the store: {0}")]
    Other(&'static str),
}

/// What a segment says of itself, first and last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Which it is.
    pub header: Header,
    /// What is in it.
    pub end: End,
}

/// What was found in a file that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How long the file is.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// What is in it.
    pub contents: Contents,
    /// Signatures over its records.
    pub signatures: u64,
    /// Under these record keys.
    pub keys: Vec<String>,
}

/// A segment that is being read.
pub struct Segment<R> {
    bytes: R,
    hash: digest::Context,
    has_ended: bool,
}

impl Segment<BufReader<GzDecoder<BufReader<File>>>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, NotGood> {
        Segment::read(BufReader::new(GzDecoder::new(BufReader::new(File::open(path)?))))
    }
}

impl<R: Read> Segment<R> {
    /// Begins to read.
    fn read(mut bytes: R) -> Result<Segment<R>, NotGood> {
        let mut first = [0; 8];
        bytes.read_exact(&mut first).map_err(|error| match error.kind() {
            // No gzip, or too short for anything.
            io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => NoPart::Foreign.into(),
            _ => NotGood::from(error),
        })?;
        parts::check_magic(&first)?;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&first);
        Ok(Segment { bytes, hash, has_ended: false })
    }

    /// The next part; `None` after the last one, when that was whole and nothing follows.
    pub fn part(&mut self) -> Result<Option<Part>, NotGood> {
        if self.has_ended {
            return match self.bytes.read(&mut [0])? {
                0 => Ok(None),
                _ => Err(NotGood::Damaged("something follows its end")),
            };
        }
        let mut length = [0; 4];
        self.bytes.read_exact(&mut length)?;
        let mut body = vec![0; parts::part_length(length)?];
        self.bytes.read_exact(&mut body)?;
        let part = Part::decode(&body)?;
        if let Part::End(end) = &part {
            self.has_ended = true;
            if self.hash.clone().finish().as_ref() != end.sha256 {
                return Err(NotGood::Damaged("its bytes are not those that were written"));
            }
        }
        self.hash.update(&length);
        self.hash.update(&body);
        Ok(Some(part))
    }

    fn contents(mut self) -> Result<Contents, NotGood> {
        let Some(Part::Header(header)) = self.part()? else {
            return Err(NotGood::Damaged("it does not begin with what it is"));
        };
        let mut end = None;
        while let Some(part) = self.part()? {
            if let Part::End(found) = part {
                end = Some(found);
            }
        }
        end.map(|end| Contents { header, end }).ok_or(NotGood::Damaged("it has no end"))
    }
}

/// Reads a file twice: whether it is whole, and whether everything in it holds.
pub fn verify(path: &Path) -> Result<Found, NotGood> {
    let contents = Segment::open(path)?.contents()?;
    let mut walk = Walk::new(&contents);
    let mut segment = Segment::open(path)?;
    while let Some(part) = segment.part()? {
        walk.take(part)?;
    }
    let audited = walk.end()?;
    if let Some(finding) = audited.findings.first() {
        return Err(NotGood::NotProved { count: audited.found, first: in_words(finding) });
    }
    let (bytes, sha256) = file_hash(path)?;
    let keys = audited.keys.into_iter().collect();
    Ok(Found { bytes, sha256, contents, signatures: audited.signatures, keys })
}

/// Length and SHA-256 of a file.
pub fn file_hash(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let (mut file, mut hash) = (File::open(path)?, digest::Context::new(&digest::SHA256));
    let (mut buffer, mut bytes) = (vec![0; 64 * 1024], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
    Ok((bytes, hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")))
}

fn in_words(finding: &Finding) -> String {
    let controller = finding.controller.as_ref().map_or(String::new(), |id| format!("{id}: "));
    let seq = finding.seq.map_or(String::new(), |seq| format!("record {seq}: "));
    format!("{controller}{seq}{}", finding.what)
}

/// Whether the file has what was read from the store.
pub fn is_the_same(contents: &Contents, segment: &NewSegment, epoch: StoreEpoch) -> Result<(), NotGood> {
    let Contents { header, end } = contents;
    let outboxes = segment.outboxes.iter().zip(&end.outboxes).all(|(read, found)| {
        (read.controller.as_str(), read.outbox.0, read.from.0, read.to.0)
            == (found.controller.as_str(), found.outbox, found.from, found.to)
            && (read.hash_before.0, read.hash_after.0) == (found.hash_before, found.hash_after)
    });
    let deliveries =
        segment.deliveries.iter().zip(&end.deliveries).all(|(read, (destination, state, count))| {
            (read.destination.as_str(), read.state.name(), read.count) == (destination, state, *count)
        });
    for (is_the_same, what) in [
        ((header.from, header.to) == (segment.range.from.0, segment.range.to.0), "other positions"),
        (header.store_epoch == epoch.0, "another life of the store"),
        (end.records == segment.range.len() && end.taps == segment.taps, "other numbers of records and taps"),
        (outboxes && segment.outboxes.len() == end.outboxes.len(), "other outboxes"),
        (deliveries && segment.deliveries.len() == end.deliveries.len(), "other deliveries"),
        (end.attempts == segment.attempts, "another number of attempts"),
    ] {
        if !is_the_same {
            return Err(NotGood::Other(what));
        }
    }
    Ok(())
}

/// A segment as a walk over a store: what proves records is the same.
pub struct Walk<'c> {
    contents: &'c Contents,
    audit: Audit,
    outboxes: usize,
    positions: Vec<u64>,
    destination: Option<String>,
    deliveries: Vec<(String, String, u64)>,
    attempts: u64,
}

impl<'c> Walk<'c> {
    fn new(contents: &'c Contents) -> Walk<'c> {
        let Contents { header, end } = contents;
        let before = header.from.saturating_sub(1);
        let totals =
            Totals { records: header.to, last_position: header.to, taps: end.taps, ..Totals::default() };
        let archived = Archived { through: before, records: before, ..Archived::default() };
        let mut audit = Audit::of_a_part();
        let _ = audit.take(Walked::Store { totals, records: end.records, archived });
        Walk {
            contents,
            audit,
            outboxes: 0,
            positions: Vec::new(),
            destination: None,
            deliveries: Vec::new(),
            attempts: 0,
        }
    }

    fn take(&mut self, part: Part) -> Result<(), NotGood> {
        match part {
            Part::Header(_) | Part::Difference(_) | Part::End(_) => {}
            Part::Outbox(outbox) => {
                let ended = self.contents.end.outboxes.get(self.outboxes);
                let ended = ended.ok_or(NotGood::Damaged("it has more outboxes than its end says"))?;
                self.outboxes += 1;
                let is_the_one = (&ended.controller, ended.outbox) == (&outbox.controller, outbox.outbox)
                    && (ended.from, ended.hash_before) == (outbox.seq_before + 1, outbox.hash_before);
                if !is_the_one {
                    return Err(NotGood::Damaged("its outboxes are others than its end says"));
                }
                let _ = self.audit.take(walked_outbox(outbox, ended)?);
            }
            Part::Record(record) => {
                self.positions.push(record.position);
                let _ = self.audit.take(Walked::Record(stored(record)));
            }
            Part::Signature(signature) => {
                let _ = self.audit.take(Walked::Batch(signed(signature)?));
            }
            Part::Destination(name) => self.destination = Some(name),
            Part::Delivery(delivery) => {
                let destination = self.destination.clone().unwrap_or_default();
                let cell = self
                    .deliveries
                    .iter_mut()
                    .find(|(at, state, _)| (at, state) == (&destination, &delivery.state));
                match cell {
                    Some((.., count)) => *count += 1,
                    None => self.deliveries.push((destination, delivery.state, 1)),
                }
            }
            Part::Attempt(_) => self.attempts += 1,
        }
        Ok(())
    }

    fn end(mut self) -> Result<crate::read_model::audit::Audited, NotGood> {
        let end = &self.contents.end;
        self.positions.sort_unstable();
        for position in &self.positions {
            let _ = self.audit.take(Walked::Position(Position(*position)));
        }
        self.deliveries.sort();
        let mut deliveries = end.deliveries.clone();
        deliveries.sort();
        if self.outboxes != end.outboxes.len() || self.positions.len() as u64 != end.records {
            return Err(NotGood::Damaged("it has other records than its end says"));
        }
        if self.deliveries != deliveries || self.attempts != end.attempts {
            return Err(NotGood::Damaged("it has other deliveries than its end says"));
        }
        Ok(self.audit.end())
    }
}

/// Tells a segment that holds as a store's walk is told, for one controller if that is wanted.
pub fn walk(
    path: &Path,
    only: Option<&ControllerId>,
    told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
) -> Result<(), NotGood> {
    let contents = Segment::open(path)?.contents()?;
    let mut segment = Segment::open(path)?;
    let (mut outboxes, mut is_wanted) = (contents.end.outboxes.iter(), false);
    while let Some(part) = segment.part()? {
        let went_on = match part {
            Part::Outbox(outbox) => {
                let ended =
                    outboxes.next().ok_or(NotGood::Damaged("it has more outboxes than its end says"))?;
                is_wanted = only.is_none_or(|only| only.as_str() == outbox.controller);
                match is_wanted {
                    true => told(walked_outbox(outbox, ended)?),
                    false => ControlFlow::Continue(()),
                }
            }
            Part::Record(record) if is_wanted => told(Walked::Record(stored(record))),
            Part::Signature(signature) if is_wanted => told(Walked::Batch(signed(signature)?)),
            _ => ControlFlow::Continue(()),
        };
        if went_on.is_break() {
            break;
        }
    }
    Ok(())
}

fn walked_outbox(outbox: parts::Outbox, ended: &parts::Ended) -> Result<Walked<'static>, NotGood> {
    let controller: Result<ControllerId, _> = outbox.controller.parse();
    let mark = OutboxMark {
        controller: controller.map_err(|_| NotGood::Damaged("a controller's name is none"))?,
        outbox: OutboxId(outbox.outbox),
        stored_through: Seq(ended.to),
        hash: ChainHash(ended.hash_after),
    };
    Ok(Walked::Outbox {
        mark,
        prefix: outbox.prefix,
        record_keys: outbox.record_keys.into_iter().map(PublicKey).collect(),
        archived: (Seq(outbox.seq_before), ChainHash(outbox.hash_before)),
    })
}

fn stored(record: parts::Record) -> StoredRecord {
    let token = match Record::decode(&record.bytes) {
        Ok(Record { body: Body::Tap(tap), .. }) if record.time.is_some() => Some(Token(tap.badge.token.0)),
        _ => None,
    };
    let occurred = match record.time {
        Some(parts::Time::Known { at_ms, .. }) => Some(UtcMs(at_ms)),
        _ => None,
    };
    StoredRecord {
        position: Position(record.position),
        seq: Seq(record.seq),
        received: UtcMs(record.received_ms),
        kind: record.kind,
        bytes: record.bytes,
        hash: ChainHash(record.hash),
        token,
        occurred,
    }
}

fn signed(signature: parts::Signature) -> Result<SignedBatch, NotGood> {
    let bytes = signature.signature.try_into().map_err(|_| NotGood::Damaged("a signature is none"))?;
    Ok(SignedBatch {
        first_seq: Seq(signature.first_seq),
        last_seq: Seq(signature.last_seq),
        proof: BatchProof { key: PublicKey(signature.key), signature: bytes, message: signature.message },
    })
}
