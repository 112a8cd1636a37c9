//! Beside the line: the walk over all that proves the records, in memory.

use std::ops::ControlFlow;

use tap_protocol::ids::ControllerId;

use super::{MemoryStore, Outbox};
use crate::event_store::meaning::Meaning;
use crate::event_store::proof::stored_prefix;
use crate::event_store::{Position, StoredRecord, Walked};

impl MemoryStore {
    pub(super) fn walk_all(
        &self,
        only: Option<&ControllerId>,
        told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let is_wanted = |outbox: &&Outbox| only.is_none_or(|only| outbox.controller == *only);
        let mut outboxes: Vec<&Outbox> = self.outboxes.iter().filter(is_wanted).collect();
        outboxes.sort_by_key(|outbox| &outbox.controller);
        let records = outboxes.iter().map(|outbox| outbox.stored_through.0).sum();
        told(Walked::Store { totals: self.totals, records })?;
        for outbox in outboxes {
            let mark = outbox.mark();
            let prefix = stored_prefix(&mark);
            let known = &self.controllers[&outbox.controller].controller.record_keys;
            let record_keys = known.iter().map(|known| known.key).collect();
            told(Walked::Outbox { mark, prefix, record_keys })?;
            let mut signed = outbox.signed.iter().peekable();
            for position in &outbox.positions {
                let record = self.stored_record(*position);
                let seq = record.seq;
                told(Walked::Record(record))?;
                while let Some(batch) = signed.next_if(|batch| batch.last_seq <= seq) {
                    told(Walked::Batch(batch.clone()))?;
                }
            }
        }
        if only.is_none() {
            (1..=self.events.len() as u64)
                .try_for_each(|position| told(Walked::Position(Position(position))))?;
        }
        ControlFlow::Continue(())
    }

    fn stored_record(&self, position: Position) -> StoredRecord {
        let event = self.at(position);
        let (token, occurred) = match &event.meaning {
            Meaning::Tap(_, tap) => (Some(tap.badge.token), event.occurred.ok().map(|occurred| occurred.at)),
            _ => (None, None),
        };
        StoredRecord {
            position,
            seq: event.seq,
            received: event.received,
            kind: event.meaning.kind().to_owned(),
            bytes: event.bytes.clone(),
            hash: event.hash,
            token,
            occurred,
        }
    }
}
