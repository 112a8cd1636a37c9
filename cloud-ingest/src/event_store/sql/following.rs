//! Step 11 of 12, as far as it is rows: where and when the taps of a destination's deliveries happened, for those that want to
//! know how far it was told, or want order across controllers. Others pay nothing for it.
//!
//! What a destination wants is in its settings, and a dispatcher's turn says it. When that changes, what is open is brought
//! into the new form in portions, and until that is done nothing is claimed. For order across controllers a delivery is
//! `held` until all others of its site are complete past its tap, or it has waited for long enough.

use std::collections::BTreeSet;

use tap_protocol::ids::ControllerId;

use super::completeness;
use super::delivery::Desk;
use super::reading::controller_id;
use super::session::{Params, Rows, all};
use super::statements as sql;
use super::values::{capped, time};
use super::writing::Lane;
use crate::delivery::complete::{NOT_KNOWN, others_through};
use crate::delivery::order::{self, LetGo};
use crate::event_store::{DeliveryState, HeldFor, Occurred, OrderKey, Position, StoreError, Timeless, UtcMs};

/// So many deliveries are brought into another form, or held no more, in one transaction.
const AT_ONCE: usize = 500;

/// What is known of a destination's deliveries beside their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follows {
    /// Nothing: lanes are in the order of positions.
    Nothing,
    /// Where and when their taps happened.
    Where,
    /// That too, and lanes are in the order of these times.
    Order,
}

impl Follows {
    /// As it stands in the destination's row.
    pub fn from_column(column: i64) -> Result<Follows, StoreError> {
        match column {
            0 => Ok(Follows::Nothing),
            1 => Ok(Follows::Where),
            2 => Ok(Follows::Order),
            _ => Err(StoreError::broken(format!("{column} says nothing of a destination"))),
        }
    }

    /// The same.
    pub fn column(self) -> i64 {
        match self {
            Follows::Nothing => 0,
            Follows::Where => 1,
            Follows::Order => 2,
        }
    }

    /// What a delivery waits for that waits for nothing by itself.
    pub fn waits(self, held_for: Option<HeldFor>) -> Option<HeldFor> {
        match (self, held_for) {
            (Follows::Order, None) => Some(HeldFor::Completeness),
            (_, held_for) => held_for,
        }
    }
}

/// Where a tap happened, and when at the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// At which controller.
    pub controller_no: i64,
    /// [`NOT_KNOWN`] if nothing is known.
    pub at: UtcMs,
}

impl Happened {
    pub fn new(controller_no: i64, occurred: Result<Occurred, Timeless>) -> Happened {
        Happened { controller_no, at: earliest(occurred) }
    }

    /// The columns `rank, controller_no, happened_ms`.
    pub fn columns(self, follows: Follows) -> (i64, Option<i64>, Option<UtcMs>) {
        match follows {
            Follows::Nothing => (0, None, None),
            Follows::Where => (0, Some(self.controller_no), Some(self.at)),
            Follows::Order => (order::rank(self.at), Some(self.controller_no), Some(self.at)),
        }
    }
}

/// When a tap happened at the earliest.
pub fn earliest(occurred: Result<Occurred, Timeless>) -> UtcMs {
    match occurred {
        Ok(occurred) => occurred.at,
        Err(Timeless::Between { not_before, .. }) => not_before,
        Err(Timeless::Unknown | Timeless::Disputed) => NOT_KNOWN,
    }
}

/// Brings what is open into the form that the settings want, some at a time. Whether there is more to do.
pub fn follow(desk: &mut Desk<'_, '_, '_>) -> Result<bool, StoreError> {
    if desk.row.version == desk.turn.version {
        let rules = desk.turn.rules;
        let wanted = match (rules.across_ms, rules.is_followed) {
            (Some(_), _) => Follows::Order,
            (None, true) => Follows::Where,
            // What is known already harms nobody.
            (None, false) => desk.row.follows.min(Follows::Where),
        };
        if wanted != desk.row.follows {
            let end = desk.writing.totals.last_position;
            (desk.row.follows, desk.row.follow_next, desk.row.follow_through) =
                (wanted, Position(1), Position(end));
            desk.writing.changed_follows(desk.no, wanted);
        }
    }
    if desk.row.follow_next > desk.row.follow_through {
        return Ok(false);
    }
    portion(desk)?;
    Ok(true)
}

fn portion(desk: &mut Desk<'_, '_, '_>) -> Result<(), StoreError> {
    const OPEN_OR_DEAD: [DeliveryState; 6] = [
        DeliveryState::Held,
        DeliveryState::Pending,
        DeliveryState::InFlight,
        DeliveryState::Unknown,
        DeliveryState::Parked,
        DeliveryState::Dead,
    ];
    let (next, through, follows) = (desk.row.follow_next, desk.row.follow_through, desk.row.follows);
    let mut end = through;
    let mut found = Vec::new();
    for state in OPEN_OR_DEAD {
        let limit = capped(AT_ONCE as u64);
        let some = desk.writing.all(sql::TO_FOLLOW, (desk.no, state, next, through, limit), |row| {
            let held_for: Option<HeldFor> = row.get(2)?;
            let happened = Happened::new(row.get(3)?, time(row, 4)?);
            Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?, held_for, happened))
        })?;
        if let Some((last, ..)) = some.last().filter(|_| some.len() == AT_ONCE) {
            end = end.min(*last);
        }
        found.extend(some);
    }
    let mut lanes = BTreeSet::new();
    for (position, key, held_for, happened) in found.into_iter().filter(|(position, ..)| *position <= end) {
        let (rank, controller_no, at) = happened.columns(follows);
        // What stands in line already waits for nobody else; and where order is not asked for any more, nothing does.
        let held_for =
            held_for.filter(|held_for| *held_for != HeldFor::Completeness || follows == Follows::Order);
        desk.writing.execute(sql::FOLLOW, (desk.no, position, rank, controller_no, at, held_for))?;
        lanes.insert((desk.no, key));
    }
    desk.writing.settle(&lanes)?;
    desk.row.follow_next = Position(end.0 + 1);
    Ok(())
}

/// Those whose sites are complete past their taps wait no more, nor do those that have waited for long enough; and whoever
/// stands before one of these in its lane goes with it. Whether there may be more.
pub fn release(desk: &mut Desk<'_, '_, '_>) -> Result<bool, StoreError> {
    let Some(longest_ms) = desk.turn.rules.across_ms.filter(|_| desk.row.follows == Follows::Order) else {
        return Ok(false);
    };
    let waiting = desk.writing.all(sql::INCOMPLETE, [desk.no], |row| {
        Ok((row.get::<String>(0)?, row.get::<i64>(1)?, row.get::<UtcMs>(2)?))
    })?;
    if waiting.is_empty() {
        return Ok(false);
    }
    let doors = all(desk.writing.snapshot()?, sql::DOORS, [desk.no], completeness::door)?;
    let mut lanes = BTreeSet::new();
    let mut more = false;
    for (controller, controller_no, first) in waiting {
        let controller: ControllerId = controller_id(&controller)?;
        let Some(through) = others_through(&doors, &controller).filter(|through| first < *through) else {
            continue;
        };
        let columns = (desk.no, controller_no, through, capped(AT_ONCE as u64));
        more |= let_go(desk, sql::INCOMPLETE_BEFORE, columns, LetGo::Complete, &mut lanes)?;
    }
    let since = UtcMs(desk.now.0.saturating_sub_unsigned(longest_ms));
    let columns = (desk.no, since, capped(AT_ONCE as u64));
    more |= let_go(desk, sql::INCOMPLETE_SINCE, columns, LetGo::Early, &mut lanes)?;
    desk.writing.settle(&lanes)?;
    Ok(more)
}

/// The deliveries that a statement finds wait no more. Whether there may be more of them.
fn let_go(
    desk: &mut Desk<'_, '_, '_>,
    found: &str,
    columns: impl Params,
    why: LetGo,
    lanes: &mut BTreeSet<Lane>,
) -> Result<bool, StoreError> {
    let found =
        desk.writing.all(found, columns, |row| Ok((row.get::<Position>(0)?, row.get::<OrderKey>(1)?)))?;
    let more = found.len() == AT_ONCE;
    let mut rows = Rows::default();
    for (position, key) in found {
        rows.push((desk.no, position, why == LetGo::Early));
        lanes.insert((desk.no, key));
    }
    desk.writing.change_each(&sql::LET_GO, &rows)?;
    Ok(more)
}
