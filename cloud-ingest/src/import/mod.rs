//! Steps 7 and 8 of 12, from files: what a controller exported to a USB stick is proved, admitted, stored or put aside by
//! the very same functions as what comes over the network. Knows the store and portions; where files are is the caller's.
//!
//! Everything may be imported again, in any order, while the controller sends the same over the network: admission
//! compares, and nothing is stored twice. A batch that finds nothing to continue is tried again after the others, so
//! sticks may be given in any order.

mod portions;

use std::collections::HashMap;

use serde::Serialize;
use tap_protocol::envelope::{UnverifiedBatch, VerifiedBatch};
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::PublicKey;
use tap_protocol::topic::{Channel, Topic};

pub use self::portions::{Portion, Portions, Problem, Source};
use crate::event_store::{Appended, DeadLetter, EventStore, StoreError, UtcMs, good_keys};
use crate::intake::admit::Admission;
use crate::intake::verify::{Arrival, Reject, verify};
use crate::intake::worker::MAX_GROUP_MESSAGES;

/// What became of batches that follow each other in one file and shared their fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// In which file.
    pub file: String,
    /// The first of these batches, counted from 1 …
    pub first_batch: u64,
    /// … and the last.
    pub last_batch: u64,
    /// Whose, if that could be read.
    pub controller: Option<ControllerId>,
    /// From which outbox, if that could be read.
    pub outbox: Option<OutboxId>,
    /// The first record …
    pub first_seq: Option<u64>,
    /// … and the last.
    pub last_seq: Option<u64>,
    /// What.
    pub became: Became,
    /// Records that are stored by this import. The others of these batches were there.
    pub new_records: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Became {
    /// All of it is in the store now.
    Stored,
    /// All of it was there before.
    Known,
    /// Records before it are missing, here and in the store.
    Beyond {
        /// The first record that is missing.
        missing: u64,
    },
    /// Put into quarantine.
    Refused {
        /// As in the list of quarantined messages.
        kind: &'static str,
        /// For people.
        reason: String,
    },
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    /// Whether everything in these files is in the store now.
    pub complete: bool,
    /// Records that this import stored.
    pub new_records: u64,
    /// Records that were there.
    pub known_records: u64,
    /// Batches that wait for records that are in none of these files.
    pub beyond: u64,
    /// Batches that were put into quarantine, now or at an earlier import.
    pub refused: u64,
    /// Files that cannot be read to their end, and why.
    pub damaged: Vec<String>,
    /// Batch by batch, those that shared their fate as one.
    pub rows: Vec<Row>,
}

/// Imports whole files. `told` hears how many bytes were read.
pub fn import(
    store: &mut dyn EventStore,
    sources: Vec<Source>,
    now: UtcMs,
    told: &mut dyn FnMut(u64),
) -> Result<Imported, StoreError> {
    let files = sources.iter().map(|source| source.name.clone()).collect();
    let mut import =
        Import { store, now, files, keys: HashMap::new(), fates: Vec::new(), imported: Imported::default() };
    let mut waiting = Vec::new();
    let mut files = Vec::new();
    for (file, source) in sources.into_iter().enumerate() {
        let mut portions = Portions::new(source);
        let mut group = Vec::new();
        for portion in portions.by_ref() {
            match portion {
                Ok(portion) => {
                    told(portion.content.len() as u64 + 4);
                    group.push(Place { file, portion });
                }
                Err(problem) => {
                    let name = &import.files[file];
                    import.imported.damaged.push(format!("{name}: {problem}"));
                }
            }
            if group.len() == MAX_GROUP_MESSAGES {
                waiting.extend(import.group(std::mem::take(&mut group))?);
            }
        }
        waiting.extend(import.group(group)?);
        files.push(portions);
    }
    import.come_again(waiting, &mut files)?;
    Ok(import.end())
}

/// A portion and where it stands.
struct Place {
    file: usize,
    portion: Portion,
}

/// A batch that was beyond: where to read it again.
struct Waiting {
    first_seq: Seq,
    file: usize,
    number: u64,
    offset: u64,
}

struct Import<'s> {
    store: &'s mut dyn EventStore,
    now: UtcMs,
    files: Vec<String>,
    keys: HashMap<ControllerId, Vec<PublicKey>>,
    /// One row a batch, in no order.
    fates: Vec<(usize, Row)>,
    imported: Imported,
}

impl Import<'_> {
    /// Works off some portions. Returns those that find nothing to continue.
    fn group(&mut self, group: Vec<Place>) -> Result<Vec<Waiting>, StoreError> {
        let mut batches = Vec::new();
        let mut places = Vec::new();
        for place in group {
            match self.prove(&place.portion.content)? {
                Ok(batch) => {
                    batches.push(batch);
                    places.push(place);
                }
                Err(reject) => self.refuse(place, None, reject)?,
            }
        }
        let appended = self.append(&batches)?;
        let mut waiting = Vec::new();
        for ((batch, place), appended) in batches.iter().zip(places).zip(appended) {
            let admission = appended.as_ref().map(|appended| &appended.admission);
            let records = batch.records().count() as u64;
            if let Some(reject) = Reject::not_admitted(batch, admission) {
                self.refuse(place, Some(batch), reject)?;
                continue;
            }
            let (became, new) = match admission {
                Some(Admission::Store { from }) => (Became::Stored, batch.last_seq().0 + 1 - from.0),
                Some(Admission::Beyond) => {
                    let mark = appended.map_or(0, |appended| appended.mark.stored_through.0);
                    let Place { file, portion: Portion { number, offset, .. } } = place;
                    waiting.push(Waiting { first_seq: batch.first_seq(), file, number, offset });
                    (Became::Beyond { missing: mark + 1 }, 0)
                }
                _ => (Became::Known, 0),
            };
            if !matches!(became, Became::Beyond { .. }) {
                self.imported.new_records += new;
                self.imported.known_records += records - new;
            }
            self.fate(&place, Some(batch), became, new);
        }
        Ok(waiting)
    }

    /// As a message on its controller's topic.
    fn prove(&mut self, message: &[u8]) -> Result<Result<VerifiedBatch, Reject>, StoreError> {
        let controller = match UnverifiedBatch::parse(message) {
            Ok(batch) => batch.claimed_controller().clone(),
            Err(error) => return Ok(Err(Reject::of(&error.into(), None))),
        };
        let keys = match self.keys.get(&controller) {
            Some(keys) => keys.clone(),
            None => {
                let known = self.store.controller(&controller)?;
                let keys = known.map_or(vec![], |controller| good_keys(&controller.record_keys, self.now));
                self.keys.entry(controller.clone()).or_insert(keys).clone()
            }
        };
        let topic = Topic::new(&controller, Channel::Records).to_string();
        Ok(match verify(&topic, message, |_| keys) {
            Arrival::Records(batch) => Ok(batch),
            Arrival::Reject(reject) => Err(reject),
            Arrival::Hello(_) | Arrival::Report(_) | Arrival::Gone(_) => unreachable!("it came as records"),
        })
    }

    /// One transaction; batch by batch if the store refuses one of them for good.
    fn append(&mut self, batches: &[VerifiedBatch]) -> Result<Vec<Option<Appended>>, StoreError> {
        match self.store.append(batches, self.now) {
            Ok(appended) => Ok(appended.into_iter().map(Some).collect()),
            Err(error) if error.is_retryable() => Err(error),
            Err(_) => batches
                .iter()
                .map(|batch| match self.store.append(std::slice::from_ref(batch), self.now) {
                    Ok(mut appended) => Ok(appended.pop()),
                    Err(error) if error.is_retryable() => Err(error),
                    Err(_) => Ok(None),
                })
                .collect(),
        }
    }

    /// Puts a batch into quarantine, once: whoever imports a file again does not fill it.
    fn refuse(
        &mut self,
        place: Place,
        batch: Option<&VerifiedBatch>,
        reject: Reject,
    ) -> Result<(), StoreError> {
        let Reject { kind, reason, controller } = reject;
        let letter = DeadLetter {
            received: self.now,
            topic: format!("import/{}#{}", self.files[place.file], place.portion.number),
            kind: kind.into(),
            reason: reason.clone(),
            bytes: place.portion.content.clone(),
        };
        if !self.store.is_quarantined(&letter)? {
            self.store.quarantine(&letter)?;
        }
        self.fate(&place, batch, Became::Refused { kind, reason }, 0);
        if let Some((_, row)) = self.fates.last_mut() {
            row.controller = row.controller.take().or(controller);
        }
        Ok(())
    }

    fn fate(&mut self, place: &Place, batch: Option<&VerifiedBatch>, became: Became, new_records: u64) {
        let row = Row {
            file: self.files[place.file].clone(),
            first_batch: place.portion.number,
            last_batch: place.portion.number,
            controller: batch.map(|batch| batch.controller().clone()),
            outbox: batch.map(VerifiedBatch::outbox),
            first_seq: batch.map(|batch| batch.first_seq().0),
            last_seq: batch.map(|batch| batch.last_seq().0),
            became,
            new_records,
        };
        self.fates.push((place.file, row));
    }

    /// What was beyond is tried again as long as something new is stored.
    fn come_again(&mut self, mut waiting: Vec<Waiting>, files: &mut [Portions]) -> Result<(), StoreError> {
        let mut before = 0;
        while !waiting.is_empty() && before != self.imported.new_records {
            before = self.imported.new_records;
            let mut still = Vec::new();
            // In the order in which they can be stored: one turn does it.
            waiting.sort_by_key(|waiting| waiting.first_seq);
            for Waiting { file, number, offset, .. } in waiting {
                let Some(portion) = files[file].again(number, offset) else { continue };
                self.fates.retain(|(of, row)| (*of, row.first_batch) != (file, number));
                still.extend(self.group(vec![Place { file, portion }])?);
            }
            waiting = still;
        }
        Ok(())
    }

    fn end(mut self) -> Imported {
        self.fates.sort_by_key(|(file, row)| (*file, row.first_batch));
        let mut imported = self.imported;
        for (_, row) in self.fates {
            imported.beyond += u64::from(matches!(row.became, Became::Beyond { .. }));
            imported.refused += u64::from(matches!(row.became, Became::Refused { .. }));
            match imported.rows.last_mut().filter(|last| last.goes_on_with(&row)) {
                Some(last) => {
                    (last.last_batch, last.last_seq) = (row.last_batch, row.last_seq);
                    last.new_records += row.new_records;
                }
                None => imported.rows.push(row),
            }
        }
        imported.complete = imported.beyond + imported.refused == 0 && imported.damaged.is_empty();
        imported
    }
}

impl Row {
    fn goes_on_with(&self, next: &Row) -> bool {
        self.file == next.file
            && self.last_batch + 1 == next.first_batch
            && (&self.controller, self.outbox, &self.became) == (&next.controller, next.outbox, &next.became)
            && self.last_seq.map(|seq| seq + 1) == next.first_seq
    }
}

#[cfg(test)]
mod tests;
