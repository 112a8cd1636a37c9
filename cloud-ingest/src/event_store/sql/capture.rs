//! Step 9 of 12: captured taps and API keys as rows. Knows no HTTP; batches that it makes are appended like any other.
//!
//! All is decided first: which taps are new by their idempotency keys, and under which numbers they stand. What follows
//! is batches, signed, proved and admitted as if a controller had sent them.

use std::collections::BTreeMap;

use tap_protocol::badge::TokenKeyId;
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch, VerifiedBatch};
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::limits::{MAX_BATCH_RECORD_BYTES, MAX_BATCH_RECORDS};
use tap_protocol::record::{Body, LossReason, Record, Stamp};

use super::intake::{self, controller_no, site_is_known};
use super::session::{Row, Session, all, execute, one};
use super::writing::Writing;
use super::{fleet, reading, statements as sql};
use crate::event_store::capture::{
    ApiKeyId, ApiKeyState, Captured, CapturedTap, FORGOTTEN_AT_ONCE, KEYS_KEPT_MS, LAST_USE_EVERY_MS,
    NewApiKey, NoApiKey, Place, Print, Source, TakenIn, ToCapture,
};
use crate::event_store::{Deed, StoreError, UtcMs};
use crate::intake::admit::Admission;

pub fn put_api_key(
    writing: &mut Writing<'_>,
    key: &NewApiKey,
    source: &Source,
    deed: &Deed,
) -> Result<Result<(), NoApiKey>, StoreError> {
    let Source { id, label, site } = source;
    site_is_known(writing, site)?;
    let known = writing.one(sql::CONTROLLER_NO, [id.as_str()], |row| row.get::<i64>(0))?;
    if known.is_some() && !is_source(writing.aside(), id)? {
        return Ok(Err(NoApiKey::IsADoor(id.clone())));
    }
    writing.execute(sql::PUT_CONTROLLER, (id.as_str(), label, site))?;
    let no = controller_no(writing, id)?;
    writing.execute(sql::PUT_SOURCE, [no])?;
    writing.execute(sql::NEW_API_KEY, (key.id, key.secret_sha256, no, deed.at, key.expires))?;
    fleet::note_deed(writing, deed)?;
    Ok(Ok(()))
}

pub fn api_keys(snapshot: &dyn Session) -> Result<Vec<ApiKeyState>, StoreError> {
    all(snapshot, sql::API_KEYS, [], api_key_state)
}

pub fn sources(snapshot: &dyn Session) -> Result<Vec<Source>, StoreError> {
    all(snapshot, sql::SOURCES, [], |row| {
        Ok(Source {
            id: reading::controller_id(&row.get::<String>(0)?)?,
            label: row.get(1)?,
            site: row.get(2)?,
        })
    })
}

pub fn revoke_api_key(writing: &mut Writing<'_>, id: ApiKeyId, deed: &Deed) -> Result<bool, StoreError> {
    if writing.execute(sql::REVOKE_API_KEY, (id, deed.at))? == 0 {
        return Ok(false);
    }
    fleet::note_deed(writing, deed)?;
    Ok(true)
}

/// Whether the cloud itself signs for it.
pub fn is_source(session: &dyn Session, id: &ControllerId) -> Result<bool, StoreError> {
    Ok(one(session, sql::IS_SOURCE, [id.as_str()], |_| Ok(()))?.is_some())
}

pub fn take_in(
    writing: &mut Writing<'_>,
    batches: &[VerifiedBatch],
    captures: &[ToCapture],
    key: &SigningKey,
    received: UtcMs,
) -> Result<TakenIn, StoreError> {
    let received = writing.now(received);
    let appended = intake::append(writing, batches, received)?;
    if captures.is_empty() {
        return Ok(TakenIn { appended, captured: Vec::new() });
    }
    let mut plan = Plan {
        writing,
        key,
        received,
        sources: BTreeMap::new(),
        api_keys: BTreeMap::new(),
        tails: Vec::new(),
    };
    let captured = captures.iter().map(|capture| plan.place(capture)).collect::<Result<_, _>>()?;
    let signed = plan.sign();
    for stored in intake::append(writing, &signed, received)? {
        assert!(matches!(stored.admission, Admission::Store { .. }), "what was planned continues its outbox");
    }
    let too_old = UtcMs(received.0 - KEYS_KEPT_MS);
    writing.execute(sql::FORGET_CAPTURED, (too_old, FORGOTTEN_AT_ONCE))?;
    Ok(TakenIn { appended, captured })
}

fn api_key_state(row: &Row<'_>) -> Result<ApiKeyState, StoreError> {
    Ok(ApiKeyState {
        key: NewApiKey {
            id: row.get(0)?,
            secret_sha256: row.get(1)?,
            source: reading::controller_id(&row.get::<String>(2)?)?,
            expires: row.get(4)?,
        },
        created: row.get(3)?,
        last_used: row.get(5)?,
        revoked: row.get(6)?,
    })
}

/// What is to be stored of a group.
struct Plan<'p, 'w> {
    writing: &'p mut Writing<'w>,
    key: &'p SigningKey,
    received: UtcMs,
    /// Sources of which it is known that they have the signing key.
    sources: BTreeMap<ControllerId, i64>,
    /// Whether each is good.
    api_keys: BTreeMap<ApiKeyId, bool>,
    /// In the order in which they were first met: a file of the spool before the next.
    tails: Vec<Tail>,
}

/// What is to be added to one outbox.
struct Tail {
    source: ControllerId,
    outbox: OutboxId,
    stored_through: Seq,
    hash: ChainHash,
    records: Vec<Vec<u8>>,
}

/// Under which number a tap was stored before that had the same idempotency key, and what it meant.
struct Before {
    outbox: OutboxId,
    seq: Seq,
    print: Print,
}

impl Plan<'_, '_> {
    fn place(&mut self, capture: &ToCapture) -> Result<Captured, StoreError> {
        let ToCapture { tap, sitting, place } = capture;
        let is_good = self.is_good(tap)?;
        let promised = match place {
            Place::Next(_) if !is_good => return Ok(Captured::Refused),
            Place::Next(claim) if !claim.take() => return Ok(Captured::TakenElsewhere),
            Place::Next(_) => None,
            // What was promised is kept, whatever became of the key since.
            Place::Promised(seq) => Some(*seq),
        };
        let source_no = self.source_no(&tap.source)?;
        let outbox = sitting.outbox(&tap.source);
        let index = self.tail(source_no, &tap.source, outbox)?;
        let id = |seq: Seq| EventId::new(&tap.source, outbox, seq);
        if let Some(promised) = promised {
            let tail = &mut self.tails[index];
            if promised < tail.next_seq() {
                return Ok(Captured::Before(id(promised)));
            }
            while tail.next_seq() < promised {
                tail.records.push(gone(outbox, tail.next_seq()));
            }
        }
        let before = self.before(source_no, tap)?;
        let tail = &mut self.tails[index];
        let seq = tail.next_seq();
        let Some(Before { outbox: other_outbox, seq: other_seq, print }) = before else {
            tail.records.push(tap.record.clone());
            self.remember(source_no, tap, outbox, seq)?;
            return Ok(Captured::Stored(id(seq)));
        };
        let other = EventId::new(&tap.source, other_outbox, other_seq);
        Ok(match (promised, tap.means_the_same(&print)) {
            (None, Some(true)) => Captured::Before(other),
            (None, Some(false) | None) => Captured::OtherBefore(other),
            (Some(_), Some(true)) => {
                let body = Body::SameAs { outbox: other_outbox, seq: other_seq };
                tail.records.push(Record { at: Stamp::NONE, body }.encode());
                Captured::SameAs { promised: id(seq), tap: other }
            }
            (Some(_), Some(false) | None) => {
                tail.records.push(tap.record.clone());
                Captured::Both { stored: id(seq), other }
            }
        })
    }

    /// Whether the API key is good now; notes that it was used.
    fn is_good(&mut self, tap: &CapturedTap) -> Result<bool, StoreError> {
        if let Some(is_good) = self.api_keys.get(&tap.api_key) {
            return Ok(*is_good);
        }
        let state = self.writing.one(sql::API_KEY, [tap.api_key], api_key_state)?;
        let is_good = state.as_ref().is_some_and(|state| {
            let is_over = state.key.expires.is_some_and(|expires| self.received >= expires);
            state.revoked.is_none() && !is_over && state.key.source == tap.source
        });
        let last_used = state.and_then(|state| state.last_used);
        if last_used.is_none_or(|last| self.received.0 - last.0 >= LAST_USE_EVERY_MS) {
            self.writing.execute(sql::USE_API_KEY, (tap.api_key, self.received))?;
        }
        self.api_keys.insert(tap.api_key, is_good);
        Ok(is_good)
    }

    /// The source, with the key that signs among its record keys.
    fn source_no(&mut self, source: &ControllerId) -> Result<i64, StoreError> {
        if let Some(no) = self.sources.get(source) {
            return Ok(*no);
        }
        let no = controller_no(self.writing, source)?;
        let public = self.key.public();
        let has = self.writing.one(sql::RECORD_KEY_IS_GOOD, (no, public.0), |_| Ok(()))?.is_some();
        if !has {
            self.writing.execute(sql::END_RECORD_KEYS, [no])?;
            self.writing.execute(sql::PUT_RECORD_KEY, (no, public.0, None::<UtcMs>))?;
        }
        self.sources.insert(source.clone(), no);
        Ok(no)
    }

    fn tail(&mut self, source_no: i64, source: &ControllerId, outbox: OutboxId) -> Result<usize, StoreError> {
        if let Some(index) = self.tails.iter().position(|tail| tail.outbox == outbox) {
            return Ok(index);
        }
        let known = one(self.writing.aside(), sql::OUTBOX, (source_no, outbox.0), |row| {
            Ok((Seq(row.get(1)?), ChainHash(row.get(2)?)))
        })?;
        let (stored_through, hash) = known.unwrap_or((Seq::ZERO, ChainHash::start(outbox)));
        self.tails.push(Tail { source: source.clone(), outbox, stored_through, hash, records: Vec::new() });
        Ok(self.tails.len() - 1)
    }

    fn before(&self, source_no: i64, tap: &CapturedTap) -> Result<Option<Before>, StoreError> {
        one(self.writing.aside(), sql::CAPTURED, (source_no, tap.key_sha256), |row| {
            let print = Print { token_key: TokenKeyId(row.get(2)?), sha256: row.get(3)? };
            Ok(Before { outbox: OutboxId(row.get(0)?), seq: Seq(row.get(1)?), print })
        })
    }

    fn remember(
        &self,
        source_no: i64,
        tap: &CapturedTap,
        outbox: OutboxId,
        seq: Seq,
    ) -> Result<(), StoreError> {
        let print = tap.prints.first().ok_or_else(|| StoreError::broken("a captured tap has no print"))?;
        let columns =
            (source_no, tap.key_sha256, outbox.0, seq.0, print.token_key.0, print.sha256, self.received);
        execute(self.writing.aside(), sql::NEW_CAPTURED, columns)?;
        Ok(())
    }

    /// The batches, as the sources would have sent them.
    fn sign(self) -> Vec<VerifiedBatch> {
        let key = self.key;
        self.tails.into_iter().flat_map(|tail| tail.sign(key)).collect()
    }
}

impl Tail {
    fn next_seq(&self) -> Seq {
        self.stored_through.plus(self.records.len() as u64 + 1)
    }

    fn sign(self, key: &SigningKey) -> Vec<VerifiedBatch> {
        let Tail { source, outbox, stored_through, mut hash, records } = self;
        let mut signed = Vec::new();
        let (mut first_seq, mut batch, mut bytes) = (stored_through.next(), Vec::new(), 0);
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            bytes += record.len();
            batch.push(record);
            let is_full = batch.len() == MAX_BATCH_RECORDS
                || records.peek().is_none_or(|next| bytes + next.len() > MAX_BATCH_RECORD_BYTES);
            if is_full {
                let records = std::mem::take(&mut batch);
                let hash_before = hash;
                hash = records.iter().fold(hash, |hash, record| hash.next(record));
                let count = records.len() as u64;
                let message =
                    Batch { controller: source.clone(), outbox, first_seq, hash_before, records }.sign(key);
                let proved = UnverifiedBatch::parse(&message)
                    .ok()
                    .and_then(|batch| batch.verify(&source, &key.public()).ok());
                signed.push(proved.expect("it was made and signed just now"));
                (first_seq, bytes) = (first_seq.plus(count), 0);
            }
        }
        signed
    }
}

/// What stood at that number was promised and is gone: the spool's file was damaged.
fn gone(outbox: OutboxId, seq: Seq) -> Vec<u8> {
    let body = Body::Lost { outbox, from: seq, to: seq, why: LossReason::Damaged };
    Record { at: Stamp::NONE, body }.encode()
}
