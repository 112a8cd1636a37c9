//! Step 9 of 12: one destination's deliveries in memory: their lanes, what is due, and how many are in which state.
//! Knows no records and no outboxes.

use std::collections::{BTreeMap, BTreeSet};

use crate::delivery::order::{self, Change, Standing};
use crate::event_store::{
    AttemptEnd, AttemptRow, Claim, DeliveryRow, DeliveryState, DestinationName, HeldFor, OrderKey, PersonId,
    Position, UtcMs,
};

#[derive(Debug, Clone)]
pub struct Destination {
    pub name: DestinationName,
    pub held_until: Option<UtcMs>,
    pub held_why: Option<String>,
    pub deliveries: BTreeMap<Position, Delivery>,
    /// The open deliveries of each order key.
    pub lanes: BTreeMap<OrderKey, BTreeSet<Position>>,
    /// The pending and unknown ones, in the order in which they are due.
    pub due: BTreeSet<(UtcMs, Position)>,
    pub in_flight: BTreeSet<Position>,
    /// What is held for time, in the order in which it was received.
    pub without_time: BTreeSet<(UtcMs, Position)>,
    pub counts: BTreeMap<DeliveryState, u64>,
}

#[derive(Debug, Clone)]
pub struct Delivery {
    pub key: OrderKey,
    pub state: DeliveryState,
    pub held_for: Option<HeldFor>,
    pub due: UtcMs,
    pub attempts: Vec<Attempt>,
    pub lease: Option<(u64, UtcMs)>,
    pub body: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Attempt {
    pub lease: u64,
    pub started: UtcMs,
    pub end: Option<AttemptEnd>,
}

/// A delivery that is not held for time any more.
pub struct Released {
    /// Where it stands in line now.
    pub lane: OrderKey,
    /// It had been set aside.
    pub was_given_up: bool,
}

impl Destination {
    pub fn new(name: &str) -> Destination {
        Destination {
            name: name.to_owned(),
            held_until: None,
            held_why: None,
            deliveries: BTreeMap::new(),
            lanes: BTreeMap::new(),
            due: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            without_time: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    pub fn delivery(&mut self, position: Position) -> &mut Delivery {
        self.deliveries.get_mut(&position).expect("every position in a lane has its delivery")
    }

    pub fn leased(&mut self, claim: &Claim) -> Option<&mut Delivery> {
        let delivery = self.deliveries.get_mut(&claim.position)?;
        delivery.lease.is_some_and(|(lease, _)| lease == claim.lease).then_some(delivery)
    }

    pub fn store(&mut self, position: Position, key: OrderKey, held_for: Option<HeldFor>, due: UtcMs) {
        let lane = self.lanes.entry(key.clone()).or_default();
        let state = order::stored(held_for, lane.is_empty());
        lane.insert(position);
        let delivery = Delivery { key, state, held_for, due, attempts: Vec::new(), lease: None, body: None };
        self.deliveries.insert(position, delivery);
        *self.counts.entry(state).or_default() += 1;
        if is_waiting(state) {
            self.due.insert((due, position));
        }
        if held_for == Some(HeldFor::Time) {
            self.without_time.insert((due, position));
        }
    }

    /// The one place where a state changes.
    pub fn set_state(&mut self, position: Position, to: DeliveryState) {
        let delivery = self.delivery(position);
        let (from, due) = (std::mem::replace(&mut delivery.state, to), delivery.due);
        if !to.is_open() {
            let key = delivery.key.clone();
            self.leave_lane(&key, position);
        }
        match to {
            DeliveryState::InFlight => self.in_flight.insert(position),
            _ => self.in_flight.remove(&position),
        };
        self.due.remove(&(due, position));
        if is_waiting(to) {
            self.due.insert((due, position));
        }
        *self.counts.entry(from).or_default() -= 1;
        *self.counts.entry(to).or_default() += 1;
    }

    pub fn change(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.set_state(change.position, change.to));
    }

    pub fn standing(&self, position: Position) -> Standing {
        let delivery = &self.deliveries[&position];
        Standing { position, state: delivery.state, held_for: delivery.held_for }
    }

    pub fn settle(&mut self, keys: &BTreeSet<OrderKey>) {
        for lane in keys.iter().filter_map(|key| self.lanes.get(key)).cloned().collect::<Vec<_>>() {
            let standings: Vec<Standing> = lane.iter().map(|position| self.standing(*position)).collect();
            self.change(&order::settle(&standings));
        }
    }

    /// Moves all that stands in one lane into another; returns how many were held for just that.
    pub fn rekey(&mut self, from: &OrderKey, to: &OrderKey) -> usize {
        let Some(moved) = self.lanes.remove(from) else { return 0 };
        let mut released = 0;
        for position in &moved {
            let delivery = self.delivery(*position);
            delivery.key = to.clone();
            released += usize::from(delivery.held_for.take_if(|why| *why == HeldFor::Binding).is_some());
        }
        self.lanes.entry(to.clone()).or_default().extend(moved);
        released
    }

    /// Sets aside what was received by then and is still held for its time. Returns how many.
    pub fn give_up_on_time(&mut self, received_by: UtcMs, limit: usize) -> usize {
        let old = self.without_time.iter().take_while(|(received, _)| *received <= received_by);
        let old: Vec<(UtcMs, Position)> = old.take(limit).copied().collect();
        let mut lanes = BTreeSet::new();
        for (received, position) in &old {
            self.without_time.remove(&(*received, *position));
            let delivery = self.delivery(*position);
            delivery.held_for = Some(HeldFor::TimeUnresolved);
            let key = delivery.key.clone();
            self.set_state(*position, DeliveryState::Parked);
            self.leave_lane(&key, *position);
            lanes.insert(key);
        }
        self.settle(&lanes);
        old.len()
    }

    fn leave_lane(&mut self, key: &OrderKey, position: Position) {
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.remove(&position);
        if lane.is_empty() {
            self.lanes.remove(key);
        }
    }

    /// Releases a delivery from its hold for time; it may be held for its binding from here on. One that was set aside
    /// takes its place in the line of whoever the badge is bound to by now (`person`).
    pub fn release_from_time(&mut self, position: Position, person: Option<&PersonId>) -> Option<Released> {
        let delivery = self.deliveries.get_mut(&position)?;
        let was_given_up = delivery.held_for == Some(HeldFor::TimeUnresolved);
        if let (true, OrderKey::Token(_), Some(person)) = (was_given_up, &delivery.key, person) {
            delivery.key = OrderKey::Person(person.clone());
        }
        delivery.held_for = match delivery.key {
            OrderKey::Person(_) => None,
            OrderKey::Token(_) => Some(HeldFor::Binding),
        };
        let (lane, received) = (delivery.key.clone(), delivery.due);
        self.without_time.remove(&(received, position));
        self.lanes.entry(lane.clone()).or_default().insert(position);
        Some(Released { lane, was_given_up })
    }

    /// Takes the lease back and makes it due again then.
    pub fn unlease(&mut self, position: Position, due: Option<UtcMs>) {
        let delivery = self.delivery(position);
        delivery.lease = None;
        delivery.due = due.unwrap_or(delivery.due);
    }

    pub fn end(&mut self, position: Position, state: DeliveryState) {
        self.unlease(position, None);
        let key = self.delivery(position).key.clone();
        self.set_state(position, state);
        let first = self.lanes.get(&key).and_then(BTreeSet::first).map(|first| self.standing(*first));
        self.change(first.and_then(order::next_in_line).as_slice());
    }

    pub fn leave_unknown(&mut self, position: Position, due: UtcMs) {
        self.unlease(position, Some(due));
        self.set_state(position, DeliveryState::Unknown);
    }

    pub fn back_in_line(&mut self, position: Position, due: UtcMs) {
        self.unlease(position, Some(due));
        let first = self.lanes[&self.deliveries[&position].key].first().copied().unwrap_or(position);
        self.change(&order::back_in_line(self.standing(first), self.standing(position)));
    }

    pub fn expire_leases(&mut self, now: UtcMs) -> usize {
        let ran_out =
            |position: &&Position| self.deliveries[*position].lease.is_some_and(|(_, until)| until <= now);
        let expired: Vec<Position> = self.in_flight.iter().filter(ran_out).copied().collect();
        for position in &expired {
            match self.deliveries[position].attempts.as_slice() {
                [] => self.back_in_line(*position, now),
                [_, ..] => self.leave_unknown(*position, now),
            }
        }
        expired.len()
    }

    /// Who stands before a parked delivery: the next lower position, or, for the lowest, the one that is being sent.
    pub fn ahead(&self, position: Position) -> Option<Position> {
        let delivery = &self.deliveries[&position];
        if delivery.state != DeliveryState::Parked || delivery.held_for.is_some() {
            return None;
        }
        let lane = self.lanes.get(&delivery.key)?;
        let is_sent = |position: &&Position| {
            matches!(self.deliveries[*position].state, DeliveryState::InFlight | DeliveryState::Unknown)
        };
        lane.range(..position).next_back().or_else(|| lane.iter().find(is_sent)).copied()
    }

    pub fn delivery_row(&self, position: Position) -> Option<DeliveryRow> {
        let delivery = self.deliveries.get(&position)?;
        Some(DeliveryRow {
            destination: self.name.clone(),
            state: delivery.state,
            held_for: delivery.held_for,
            person: match &delivery.key {
                OrderKey::Person(person) => Some(person.clone()),
                OrderKey::Token(_) => None,
            },
            attempts: delivery.attempts.len() as u32,
            next_attempt: is_waiting(delivery.state).then_some(delivery.due),
            behind: None,
        })
    }

    pub fn attempt_rows(&self, position: Position) -> Vec<AttemptRow> {
        let attempts = self.deliveries.get(&position).map_or(&[][..], |delivery| &delivery.attempts);
        let rows = (1..).zip(attempts).map(|(number, attempt)| AttemptRow {
            destination: self.name.clone(),
            number,
            started: attempt.started,
            finished: attempt.end.as_ref().map(|end| end.finished),
            outcome: attempt.end.as_ref().map(|end| end.outcome.to_owned()),
            status: attempt.end.as_ref().and_then(|end| end.status),
            answer: attempt.end.as_ref().map(|end| end.answer.clone()),
        });
        rows.collect()
    }

    pub fn body(&self, position: Position) -> Option<(DestinationName, String)> {
        let body = self.deliveries.get(&position)?.body.clone()?;
        Some((self.name.clone(), body))
    }
}

/// Sent when due.
fn is_waiting(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::Pending | DeliveryState::Unknown)
}
