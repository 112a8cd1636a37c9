//! Beside the line, as far as it is rows: taps by their true time, with an index that is in that order. A portion is a
//! fixed number of statements, and one for each tap only where directions alternate.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tap_protocol::badge::Token;
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::tap::Direction;

use super::session::{Session, all, each, one};
use super::statements as sql;
use super::values::capped;
use super::{bindings, directions, reading};
use crate::directory::direction::{Rules, Shown};
use crate::event_store::exports::{LineDelivery, Portion, TapLine};
use crate::event_store::{DeliveryState, Occurred, Position, StoreError};

pub fn taps_by_time(snapshot: &dyn Session, portion: &Portion) -> Result<Vec<TapLine>, StoreError> {
    let mut lines = lines(snapshot, portion)?;
    decide(snapshot, &mut lines)?;
    deliveries(snapshot, portion, &mut lines)?;
    Ok(lines)
}

pub fn taps_without_time(snapshot: &dyn Session) -> Result<u64, StoreError> {
    Ok(one(snapshot, sql::COUNT_WITHOUT_TIME, [], |row| row.get(0))?.unwrap_or(0))
}

fn lines(snapshot: &dyn Session, portion: &Portion) -> Result<Vec<TapLine>, StoreError> {
    let Portion { after: (at, position), until, site, limit } = portion;
    let wanted = (*at, *position, *until, site.as_deref(), capped(*limit as u64));
    all(snapshot, sql::TAPS_BY_TIME, wanted, |row| {
        let controller = reading::controller_id(&row.get::<String>(11)?)?;
        let occurred = Occurred { at: row.get(1)?, uncertainty_ms: row.get(2)?, estimated: row.get(3)? };
        let placed: Direction = row.get(6)?;
        Ok(TapLine {
            position: row.get(0)?,
            event_id: EventId::new(&controller, OutboxId(row.get(10)?), Seq(row.get(8)?)),
            site: row.get(12)?,
            zone: row.get(13)?,
            controller,
            reader: row.get::<String>(4)?,
            occurred,
            received: row.get(9)?,
            person: None,
            token: Token(row.get(5)?),
            verdict: row.get(7)?,
            placed,
            decided: placed,
            deliveries: Vec::new(),
        })
    })
}

/// Whose each was, and which way it went, by what is known now.
fn decide(snapshot: &dyn Session, lines: &mut [TapLine]) -> Result<(), StoreError> {
    let tokens: BTreeSet<Token> = lines.iter().map(|line| line.token).collect();
    let timelines = bindings::timelines_of(snapshot, &tokens)?;
    let mut rules: BTreeMap<String, Rules> = BTreeMap::new();
    for line in lines {
        let Some(holder) = timelines.get(&line.token).and_then(|known| known.holder(Ok(line.occurred)))
        else {
            continue;
        };
        line.person = Some(holder.clone());
        if !rules.contains_key(&line.site) {
            rules.insert(line.site.clone(), directions::rules(snapshot, &line.site)?);
        }
        let shown = Shown { at: line.occurred.at, position: line.position, placed: line.placed.into() };
        line.decided = directions::decide(snapshot, holder, &line.site, shown, &rules[&line.site])?.direction;
    }
    Ok(())
}

fn deliveries(snapshot: &dyn Session, portion: &Portion, lines: &mut [TapLine]) -> Result<(), StoreError> {
    let Some(last) = lines.last().map(|line| (line.occurred.at, line.position)) else { return Ok(()) };
    let places: BTreeMap<Position, usize> =
        lines.iter().enumerate().map(|(at, line)| (line.position, at)).collect();
    let destinations: Vec<(i64, String)> =
        all(snapshot, sql::DESTINATIONS, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (no, destination) in destinations {
        let within = (portion.after.0, portion.after.1, last.0, last.1, no);
        each(snapshot, sql::DELIVERIES_BY_TIME, within, |row| {
            let position: Position = row.get(0)?;
            // Of a stretch of time, other sites' taps are in between.
            if let Some(line) = places.get(&position).and_then(|at| lines.get_mut(*at)) {
                let state: DeliveryState = row.get(1)?;
                let (told, has_body): (Option<Direction>, bool) = (row.get(2)?, row.get(3)?);
                let told = told.or(has_body.then_some(line.placed));
                line.deliveries.push(LineDelivery { destination: destination.clone(), state, told });
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}
