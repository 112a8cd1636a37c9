//! Step 9 of 12: what the store in memory knows of boots and of their time. Knows no batches.

use std::collections::BTreeSet;

use tap_protocol::ids::{BootId, ControllerId};
use tap_protocol::record::{ClockState, Stamp};
use tap_protocol::time_repair::{Anchor, BootTime, Neighbours, TrueTime, true_time};

use super::{MemoryStore, index};
use crate::event_store::boots::{self, BootNo, Boots, Side};
use crate::event_store::meaning::{self, Meaning, PlacedAnchor};
use crate::event_store::{Position, Timeless};

/// One boot of a controller, over all outboxes that it wrote to.
#[derive(Debug, Clone)]
pub struct Boot {
    controller: ControllerId,
    id: Option<BootId>,
    time: BootTime,
    anchors: Vec<PlacedAnchor>,
    /// Taps that have no true time yet.
    without_time: BTreeSet<Position>,
}

impl MemoryStore {
    /// The boot of a record. An agent's start says which one its number stands for from here on.
    pub(super) fn boot_of(&mut self, outbox_no: usize, meaning: &Meaning) -> Option<BootNo> {
        let number = meaning.stamp()?.boot;
        let outbox = &self.outboxes[outbox_no];
        let known = outbox.boots.get(&number).copied();
        let said = match meaning {
            Meaning::Start(_, id) => Some(*id),
            _ => None,
        };
        let same = |boot: &Boot| said.is_some() && boot.id == said && boot.controller == outbox.controller;
        let boot = match (self.boots.iter().position(same), known) {
            (Some(same), _) => BootNo(same as i64),
            (None, Some(known)) if said.is_none() => known,
            (None, Some(known)) if self.boots[index_of(known)].id.is_none() => {
                self.boots[index_of(known)].id = said;
                known
            }
            (None, _) => {
                self.boots.push(Boot {
                    controller: outbox.controller.clone(),
                    id: said,
                    time: BootTime::default(),
                    anchors: Vec::new(),
                    without_time: BTreeSet::new(),
                });
                BootNo(self.boots.len() as i64 - 1)
            }
        };
        self.outboxes[outbox_no].boots.insert(number, boot);
        Some(boot)
    }

    pub(super) fn new_anchor(&mut self, boot: BootNo, position: Position, anchor: &Anchor) {
        let anchors = &mut self.boots[index_of(boot)].anchors;
        let placed = (anchor.latest_boottime_ms, position, *anchor);
        let at = anchors.partition_point(|(ms, position, _)| (*ms, *position) < (placed.0, placed.1));
        anchors.insert(at, placed);
    }

    pub(super) fn waits_for_its_time(&mut self, boot: BootNo, position: Position) {
        self.boots[index_of(boot)].without_time.insert(position);
    }

    /// When it was, as far as its own clock and its own boot's anchors say.
    pub(super) fn time_of_record(&self, boot: BootNo, at: &Stamp) -> TrueTime {
        self.time_with(boot, at, Neighbours::default())
    }

    /// The same with what is known around the boot.
    pub(super) fn time_with(&self, boot: BootNo, at: &Stamp, around: Neighbours) -> TrueTime {
        let anchors = meaning::nearest(&self.boots[index_of(boot)].anchors, at.boottime_ms);
        true_time(at, &anchors, around)
    }

    /// A record of the boot is there. Says whether it is the first of which the time is known.
    pub(super) fn saw(&mut self, boot: BootNo, at: &Stamp, time: TrueTime, is_anchor: bool) -> bool {
        let before = self.boots[index_of(boot)].time;
        let mut after = before;
        after.saw(at.boottime_ms, time);
        if is_anchor {
            let last = Stamp { boottime_ms: after.last_boottime_ms, clock: ClockState::Unsynced, ..*at };
            after.saw(last.boottime_ms, self.time_of_record(boot, &last));
        }
        self.boots[index_of(boot)].time = after;
        !before.is_known() && after.is_known()
    }

    /// More is known of a boot: taps of it that have no time may have it now.
    pub(super) fn release_taps_of(&mut self, boot: BootNo) {
        let Ok(around) = boots::neighbours(self, boot);
        let mut known = Vec::new();
        for position in self.boots[index_of(boot)].without_time.clone() {
            let Some(at) = self.at(position).meaning.stamp().copied() else { continue };
            let occurred = meaning::occurred(self.time_with(boot, &at, around));
            let event = &mut self.events[index(position)];
            let was_disputed = event.occurred == Err(Timeless::Disputed);
            let is_disputed = occurred == Err(Timeless::Disputed);
            event.occurred = occurred;
            self.totals.disputed += u64::from(is_disputed);
            self.totals.disputed -= u64::from(was_disputed);
            if occurred.is_ok() {
                self.boots[index_of(boot)].without_time.remove(&position);
                known.push(position);
            }
        }
        for destination in &mut self.destinations {
            let mut lanes = BTreeSet::new();
            for position in &known {
                let Meaning::Tap(_, tap) = &self.events[index(*position)].meaning else { continue };
                let person = self.badges.person(tap.badge.token);
                let Some(released) = destination.release_from_time(*position, person) else { continue };
                self.totals.unresolved -= u64::from(released.was_given_up);
                lanes.insert(released.lane);
            }
            destination.settle(&lanes);
        }
    }
}

impl Boots for MemoryStore {
    type Error = std::convert::Infallible;

    fn time_of(&mut self, boot: BootNo) -> Result<BootTime, Self::Error> {
        Ok(self.boots[index_of(boot)].time)
    }

    fn next_to(&mut self, boot: BootNo, side: Side) -> Result<Vec<BootNo>, Self::Error> {
        let next = self.outboxes.iter().flat_map(|outbox| {
            let numbers = outbox.boots.iter().filter(move |(_, no)| **no == boot).map(|(number, _)| *number);
            numbers.filter_map(move |number| match side {
                Side::Before => outbox.boots.range(..number).next_back().map(|(_, no)| *no),
                Side::After => outbox.boots.range(number.checked_add(1)?..).next().map(|(_, no)| *no),
            })
        });
        Ok(next.collect())
    }
}

fn index_of(boot: BootNo) -> usize {
    usize::try_from(boot.0).expect("a boot's number is its index")
}
