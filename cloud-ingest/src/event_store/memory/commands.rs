//! Commands and contradictions, in plain collections.

use std::collections::BTreeMap;

use tap_protocol::command::Order;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use super::MemoryStore;
use crate::event_store::commands::{
    CommandEnd, CommandRow, MAX_COMMANDS, MAX_TROUBLES, TroubleKind, TroubleRow, next_number, stands_for,
};
use crate::event_store::{OutboxMark, StoreError, UtcMs};

/// All controllers' commands and contradictions.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    /// Oldest first.
    commands: BTreeMap<ControllerId, Vec<CommandRow>>,
    troubles: BTreeMap<ControllerId, Vec<TroubleRow>>,
}

impl MemoryStore {
    pub(super) fn places_of(
        &self,
        controller: &ControllerId,
        outbox: OutboxId,
        seqs: &[Seq],
    ) -> Vec<OutboxMark> {
        let Some(known) = self.outboxes.iter().find(|o| o.controller == *controller && o.id == outbox) else {
            return Vec::new();
        };
        let at = |seq: &Seq| {
            let hash = self.at(known.position(*seq)?).hash;
            Some(OutboxMark { stored_through: *seq, hash, ..known.mark() })
        };
        seqs.iter().filter_map(at).collect()
    }

    pub(super) fn queue(
        &mut self,
        controller: &ControllerId,
        order: &Order,
        why: &str,
        now: UtcMs,
    ) -> Result<u64, StoreError> {
        self.known(controller)?;
        let kept = self.commands.commands.entry(controller.clone()).or_default();
        if let Some(kept) = kept.iter().find(|kept| stands_for(kept, order)) {
            return Ok(kept.number);
        }
        let number = next_number(kept.last().map(|last| last.number), now);
        kept.push(CommandRow { number, order: order.clone(), why: why.into(), issued: now, end: None });
        if kept.len() > MAX_COMMANDS {
            kept.remove(0);
        }
        Ok(number)
    }

    pub(super) fn first_open(&self, controller: &ControllerId) -> Option<CommandRow> {
        self.commands.commands.get(controller)?.iter().find(|kept| kept.end.is_none()).cloned()
    }

    pub(super) fn end(&mut self, controller: &ControllerId, number: u64, end: &CommandEnd) -> bool {
        let mut kept = self.commands.commands.get_mut(controller).into_iter().flatten();
        let open = kept.find(|kept| kept.number == number && kept.end.is_none());
        open.map(|kept| kept.end = Some(end.clone())).is_some()
    }

    pub(super) fn commands_of(&self, controller: &ControllerId) -> Vec<CommandRow> {
        self.commands.commands.get(controller).into_iter().flatten().rev().cloned().collect()
    }

    pub(super) fn trouble(
        &mut self,
        controller: &ControllerId,
        kind: TroubleKind,
        outbox: Option<OutboxId>,
        at: Option<Seq>,
        now: UtcMs,
    ) -> Result<bool, StoreError> {
        self.known(controller)?;
        let kept = self.commands.troubles.entry(controller.clone()).or_default();
        if let Some(known) = kept.iter_mut().find(|known| known.kind == kind && known.outbox == outbox) {
            (known.last, known.count) = (now, known.count + 1);
            return Ok(false);
        }
        if kept.len() == MAX_TROUBLES {
            let oldest =
                (0..kept.len()).min_by_key(|at| (kept[*at].last, kept[*at].kind.name(), kept[*at].outbox));
            if let Some(oldest) = oldest {
                kept.remove(oldest);
            }
        }
        kept.push(TroubleRow { kind, outbox, at, first: now, last: now, count: 1 });
        Ok(true)
    }

    pub(super) fn troubles_of(&self, controller: &ControllerId) -> Vec<TroubleRow> {
        let mut all: Vec<_> = self.commands.troubles.get(controller).into_iter().flatten().cloned().collect();
        all.sort_by_key(|trouble| (std::cmp::Reverse(trouble.last), trouble.kind.name(), trouble.outbox));
        all
    }
}
