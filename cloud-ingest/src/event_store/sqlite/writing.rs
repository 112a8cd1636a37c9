//! Step 9 of 12: a transaction that writes. Knows no batches and no answers; it keeps what must hold after every
//! change: counters that equal a scan, lanes that are settled.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction};

use super::sql;
use crate::delivery::order::{self, Change, Standing};
use crate::event_store::{DeliveryState, HeldFor, OrderKey, Position, StoreError, Totals, UtcMs};

/// A lane: one order key at one destination.
pub type Lane = (i64, OrderKey);

/// One writing transaction, between BEGIN and COMMIT.
pub struct Writing<'a> {
    transaction: &'a Transaction<'a>,
    /// Every number that is never counted by a scan.
    pub totals: Totals,
    /// The last lease given.
    pub last_lease: u64,
    before: (Totals, u64),
    /// How many more (or fewer) deliveries are in a state.
    moved: BTreeMap<(i64, DeliveryState), i64>,
}

impl<'a> Writing<'a> {
    /// Reads the counters.
    pub fn begin(transaction: &'a Transaction<'a>) -> Result<Writing<'a>, StoreError> {
        let (totals, last_lease) = counters(transaction)?;
        let before = (totals, last_lease);
        Ok(Writing { transaction, totals, last_lease, before, moved: BTreeMap::new() })
    }

    /// The last statements before COMMIT: counts by state, then the one row that gives positions.
    pub fn put_counters(&self) -> Result<(), StoreError> {
        for ((destination, state), more) in self.moved.iter().filter(|(_, more)| **more != 0) {
            self.execute(sql::ADD_TO_COUNT, (destination, state, more))?;
        }
        if self.before == (self.totals, self.last_lease) {
            return Ok(());
        }
        let Totals {
            records,
            taps,
            deliveries,
            last_position,
            attempts,
            quarantined,
            badges,
            disputed,
            unresolved,
        } = self.totals;
        let last_lease = self.last_lease;
        self.execute(
            sql::PUT_COUNTERS,
            (
                last_position,
                last_lease,
                records,
                taps,
                deliveries,
                attempts,
                quarantined,
                badges,
                disputed,
                unresolved,
            ),
        )?;
        Ok(())
    }

    /// What reads, within this transaction.
    pub fn snapshot(&self) -> &'a Transaction<'a> {
        self.transaction
    }

    /// Runs a statement; returns how many rows it touched.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.transaction.prepare_cached(sql)?.execute(params)?)
    }

    /// The last row that was inserted into a table keyed by number.
    pub fn inserted(&self) -> i64 {
        self.transaction.last_insert_rowid()
    }

    /// The first row, if there is one.
    pub fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        one(self.transaction, sql, params, read)
    }

    /// All rows.
    pub fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        all(self.transaction, sql, params, read)
    }

    /// Stores a delivery at the end of its lane.
    pub fn new_delivery(
        &mut self,
        (destination, key): &Lane,
        position: Position,
        held_for: Option<HeldFor>,
        due: UtcMs,
    ) -> Result<(), StoreError> {
        let lane_is_empty = self.first_in_lane(*destination, key)?.is_none();
        let state = order::stored(held_for, lane_is_empty);
        self.execute(sql::NEW_DELIVERY, (destination, position, key, state, held_for, due))?;
        *self.moved.entry((*destination, state)).or_default() += 1;
        self.totals.deliveries += 1;
        Ok(())
    }

    /// Notes that a delivery moved; the statement that moved it was the caller's.
    pub fn count_move(&mut self, destination: i64, from: DeliveryState, to: DeliveryState) {
        *self.moved.entry((destination, from)).or_default() -= 1;
        *self.moved.entry((destination, to)).or_default() += 1;
    }

    /// Carries out what the order of a lane asks for.
    pub fn change(&mut self, destination: i64, changes: &[Change]) -> Result<(), StoreError> {
        for Change { position, from, to } in changes {
            self.execute(sql::STATE, (destination, position, to))?;
            self.count_move(destination, *from, *to);
        }
        Ok(())
    }

    /// Who is first of a lane's open deliveries.
    pub fn first_in_lane(&self, destination: i64, key: &OrderKey) -> Result<Option<Standing>, StoreError> {
        self.one(sql::LANE_FIRST, (destination, key), standing)
    }

    /// Brings whole lanes into order.
    pub fn settle(&mut self, lanes: &BTreeSet<Lane>) -> Result<(), StoreError> {
        for (destination, key) in lanes {
            let lane = self.all(sql::LANE, (destination, key), standing)?;
            self.change(*destination, &order::settle(&lane))?;
        }
        Ok(())
    }
}

/// `position, state, held_for`.
pub fn standing(row: &Row<'_>) -> rusqlite::Result<Standing> {
    Ok(Standing { position: row.get(0)?, state: row.get(1)?, held_for: row.get(2)? })
}

/// The totals and the last lease.
pub fn counters(conn: &Connection) -> Result<(Totals, u64), StoreError> {
    let counters = one(conn, sql::COUNTERS, [], |row| {
        let totals = Totals {
            last_position: row.get(0)?,
            records: row.get(2)?,
            taps: row.get(3)?,
            deliveries: row.get(4)?,
            attempts: row.get(5)?,
            quarantined: row.get(6)?,
            badges: row.get(7)?,
            disputed: row.get(8)?,
            unresolved: row.get(9)?,
        };
        Ok((totals, row.get(1)?))
    })?;
    counters.ok_or_else(|| StoreError::broken("the store's counter row is gone"))
}

/// The first row, if there is one.
pub fn one<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    Ok(conn.prepare_cached(sql)?.query_row(params, read).optional()?)
}

/// All rows.
pub fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params, read)?.collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}
