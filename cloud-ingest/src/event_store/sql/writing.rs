//! Step 9 of 12: a transaction that writes. Knows no batches and no answers; it keeps what must hold after every
//! change: counters that equal a scan, lanes that are settled.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::following::{Follows, Happened, earliest};
use super::session::{
    Bulk, Changes, Dialect, Params, Row, Rows, Session, ToValue, Value, all, all_of, execute, one,
};
use super::statements as sql;
use crate::delivery::order::{self, Change, LetGo, Standing};
use crate::event_store::migrations::{self, WrongVersion};
use crate::event_store::{
    DeliveryState, HeldFor, Occurred, OrderKey, Position, StoreError, Timeless, Totals, UtcMs,
};

/// A lane: one order key at one destination.
pub type Lane = (i64, OrderKey);

/// One writing transaction, between BEGIN and COMMIT. There is one at a time, on either database: what it reads stays so
/// until it ends.
///
/// New events, taps, deliveries and signatures are collected and inserted many at once, because a server answers one long statement
/// much sooner than a thousand short ones. Whatever else is asked or written sends them off first, so that nobody reads
/// past them; only statements that have nothing to do with those tables go [aside](Writing::aside).
pub struct Writing<'a> {
    session: &'a dyn Session,
    /// Every number that is never counted by a scan.
    pub totals: Totals,
    /// The last lease given.
    pub last_lease: u64,
    before: (Totals, u64),
    /// What time it was when this transaction's turn came, by the clock of a server.
    server_time: Option<UtcMs>,
    /// How many more (or fewer) deliveries are in a state.
    moved: BTreeMap<(i64, DeliveryState), i64>,
    /// How many more (or fewer) deliveries wait for a person, by reason.
    letters: BTreeMap<(i64, String), i64>,
    /// Rows of [`COLLECTED`] that are not inserted yet, one after the other.
    collected: RefCell<[Rows; 4]>,
    /// The numbers of the record keys that signed, as far as they were asked for.
    signers: RefCell<BTreeMap<[u8; 32], i64>>,
    /// Lanes of which it is known whether something stands in them, and whether.
    occupied: RefCell<BTreeMap<Lane, bool>>,
    /// What is followed of each destination's deliveries, as far as that was asked for.
    follows: BTreeMap<i64, Follows>,
    /// Lanes in the order of time that something was put into, in whatever place.
    late: BTreeSet<Lane>,
}

/// What is collected, in the order in which it must be inserted.
const COLLECTED: [&Bulk; 4] = [&sql::EVENTS, &sql::TAPS, &sql::DELIVERIES, &sql::BATCHES];
const EVENTS: usize = 0;
const TAPS: usize = 1;
const DELIVERIES: usize = 2;
const BATCHES: usize = 3;

impl<'a> Writing<'a> {
    /// Reads the counters, and keeps every other writer away.
    pub fn begin(session: &'a dyn Session) -> Result<Writing<'a>, StoreError> {
        let Counters { totals, last_lease, server_time } = counters(session, true)?;
        Ok(Writing {
            session,
            totals,
            last_lease,
            before: (totals, last_lease),
            server_time,
            moved: BTreeMap::new(),
            letters: BTreeMap::new(),
            collected: RefCell::default(),
            signers: RefCell::default(),
            occupied: RefCell::default(),
            follows: BTreeMap::new(),
            late: BTreeSet::new(),
        })
    }

    /// What time it is, for whatever one process writes and another compares with its own: by the server's clock, which all
    /// of them share; in a file, which has one process, as that one says.
    pub fn now(&self, said: UtcMs) -> UtcMs {
        self.server_time.unwrap_or(said)
    }

    /// The last statements before COMMIT: counts by state, then the one row that gives positions.
    pub fn put_counters(&self) -> Result<(), StoreError> {
        self.send_off()?;
        let mut counts = Rows::default();
        for ((destination, state), more) in self.moved.iter().filter(|(_, more)| **more != 0) {
            counts.push((destination, state, more));
        }
        for ((destination, reason), more) in self.letters.iter().filter(|(_, more)| **more != 0) {
            if self.execute(sql::ADD_TO_DEAD, (destination, reason, more))? == 0 {
                self.execute(sql::NEW_DEAD, (destination, reason, more))?;
            }
        }
        self.change_each(&sql::ADD_TO_COUNT, &counts)?;
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

    /// The last position, if this transaction gave any.
    pub fn last_given(&self) -> Option<Position> {
        let last = self.totals.last_position;
        (last != self.before.0.last_position).then_some(Position(last))
    }

    /// For what reads, within this transaction.
    pub fn snapshot(&self) -> Result<&'a dyn Session, StoreError> {
        self.send_off()?;
        Ok(self.session)
    }

    /// For statements that neither read nor write events, taps, deliveries or batches: what is collected stays collected.
    pub fn aside(&self) -> &'a dyn Session {
        self.session
    }

    /// Runs a statement; returns how many rows it touched.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        execute(self.snapshot()?, sql, params)
    }

    /// Changes a row for each of `rows`.
    pub fn change_each(&self, changes: &Changes, rows: &Rows) -> Result<(), StoreError> {
        match rows.values() {
            [] => Ok(()),
            rows => self.snapshot()?.change_for_each(changes, rows, &mut |_| Ok(())),
        }
    }

    /// Changes a row for each of `rows`, and reads what comes of it: in any order.
    pub fn changed_each<T>(
        &self,
        changes: &Changes,
        rows: &Rows,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut changed = Vec::new();
        if !rows.values().is_empty() {
            self.snapshot()?.change_for_each(changes, rows.values(), &mut |row| {
                changed.push(read(row)?);
                Ok(())
            })?;
        }
        Ok(changed)
    }

    /// Runs a statement that inserts a row and returns its number.
    pub fn insert(&self, sql: &str, params: impl Params) -> Result<i64, StoreError> {
        let no = one(self.session, sql, params, |row| row.get(0))?;
        no.ok_or_else(|| StoreError::broken("a row was inserted and has no number"))
    }

    /// The first row, if there is one.
    pub fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        one(self.snapshot()?, sql, params, read)
    }

    /// All rows.
    pub fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        all(self.snapshot()?, sql, params, read)
    }

    /// Collects a row of `events`.
    pub fn new_event(&self, columns: impl Params) {
        self.collect(EVENTS, columns);
    }

    /// Collects a row of `taps`.
    pub fn new_tap(&self, columns: impl Params) {
        self.collect(TAPS, columns);
    }

    /// Collects a row of `batches`.
    pub fn new_batch(&self, columns: impl Params) {
        self.collect(BATCHES, columns);
    }

    /// The number of a record key that signs.
    pub fn signer_no(&self, key: [u8; 32]) -> Result<i64, StoreError> {
        if let Some(no) = self.signers.borrow().get(&key) {
            return Ok(*no);
        }
        let no = match one(self.session, sql::SIGNER, [key], |row| row.get(0))? {
            Some(no) => no,
            None => self.insert(sql::NEW_SIGNER, [key])?,
        };
        self.signers.borrow_mut().insert(key, no);
        Ok(no)
    }

    fn collect(&self, what: usize, columns: impl Params) {
        self.collected.borrow_mut()[what].push(columns);
    }

    /// Finds out at once which of these lanes are occupied, before much is collected for them.
    pub fn look_at_lanes(&self, destination: i64, keys: &BTreeSet<OrderKey>) -> Result<(), StoreError> {
        let values: Vec<Value<'_>> = keys.iter().map(ToValue::to_value).collect();
        let occupied =
            all_of(self.snapshot()?, sql::OCCUPIED_LANE, destination, &values, |row| row.get::<OrderKey>(0))?;
        let mut known = self.occupied.borrow_mut();
        known.extend(keys.iter().map(|key| ((destination, key.clone()), false)));
        known.extend(occupied.into_iter().map(|key| ((destination, key), true)));
        Ok(())
    }

    /// Inserts what is collected.
    fn send_off(&self) -> Result<(), StoreError> {
        let collected = std::mem::take(&mut *self.collected.borrow_mut());
        for (bulk, rows) in
            COLLECTED.into_iter().zip(&collected).filter(|(_, rows)| !rows.values().is_empty())
        {
            self.session.run_for_each(bulk, rows.values())?;
        }
        // Whatever comes now may empty a lane.
        self.occupied.borrow_mut().clear();
        Ok(())
    }

    /// All destinations by number, after which it is known what is followed of their deliveries.
    pub fn destinations(&mut self) -> Result<Vec<i64>, StoreError> {
        let known = all(self.session, sql::DESTINATIONS, [], |row| {
            Ok((row.get::<i64>(0)?, Follows::from_column(row.get(2)?)?))
        })?;
        self.follows.extend(known.iter().copied());
        Ok(known.into_iter().map(|(no, _)| no).collect())
    }

    /// What is followed of a destination's deliveries.
    pub fn follows(&self, destination: i64) -> Follows {
        self.follows.get(&destination).copied().unwrap_or(Follows::Nothing)
    }

    /// From here on that is another.
    pub fn changed_follows(&mut self, destination: i64, follows: Follows) {
        self.follows.insert(destination, follows);
    }

    /// More is known of when the tap of a delivery happened.
    pub fn happened(
        &self,
        destination: i64,
        position: Position,
        occurred: Result<Occurred, Timeless>,
    ) -> Result<(), StoreError> {
        let at = earliest(occurred);
        let rank = match self.follows(destination) {
            Follows::Nothing => return Ok(()),
            Follows::Where => 0,
            Follows::Order => order::rank(at),
        };
        self.execute(sql::HAPPENED, (destination, position, rank, at))?;
        Ok(())
    }

    /// Stores a delivery, at the end of its lane, or where its time puts it.
    pub fn new_delivery(
        &mut self,
        (destination, key): &Lane,
        position: Position,
        happened: Happened,
        held_for: Option<HeldFor>,
        due: UtcMs,
    ) -> Result<(), StoreError> {
        let lane = (*destination, key.clone());
        let follows = self.follows(*destination);
        let (held_for, (rank, controller_no, at)) = (follows.waits(held_for), happened.columns(follows));
        // A lane that was collected for is occupied: there is no need to look, and so no need to insert yet.
        let known = self.occupied.borrow().get(&lane).copied();
        let is_occupied = match known {
            Some(is_occupied) => is_occupied,
            None => lane_first(self.session, *destination, key)?.is_some(),
        };
        let state = order::stored(held_for, !is_occupied);
        self.collect(
            DELIVERIES,
            (destination, position, key, state, held_for, due, 0i64, rank, controller_no, at),
        );
        if follows == Follows::Order && is_occupied {
            self.late.insert(lane.clone());
        }
        self.occupied.borrow_mut().insert(lane, true);
        self.count_new(*destination, state);
        Ok(())
    }

    /// Notes that there is a delivery more; the statement that made it was the caller's.
    pub fn count_new(&mut self, destination: i64, state: DeliveryState) {
        *self.moved.entry((destination, state)).or_default() += 1;
        self.totals.deliveries += 1;
    }

    /// Notes that a delivery moved; the statement that moved it was the caller's.
    pub fn count_move(&mut self, destination: i64, from: DeliveryState, to: DeliveryState) {
        *self.moved.entry((destination, from)).or_default() -= 1;
        *self.moved.entry((destination, to)).or_default() += 1;
    }

    /// Notes that so many more (or fewer) deliveries wait for a person; the statement that says so was the caller's.
    pub fn count_letters(&mut self, destination: i64, reason: &str, more: i64) {
        *self.letters.entry((destination, reason.to_owned())).or_default() += more;
    }

    /// Carries out what the order of a lane asks for.
    pub fn change(&mut self, destination: i64, changes: &[Change]) -> Result<(), StoreError> {
        let (mut rows, mut let_go) = (Rows::default(), Rows::default());
        for change in changes {
            rows.push((destination, change.position, change.to));
            self.count_move(destination, change.from, change.to);
            let is_early = change.let_go.map(|let_go| let_go == LetGo::Early);
            is_early.iter().for_each(|is_early| let_go.push((destination, change.position, *is_early)));
        }
        self.change_each(&sql::LET_GO, &let_go)?;
        self.change_each(&sql::STATE, &rows)
    }

    /// Who is first of a lane's open deliveries.
    pub fn first_in_lane(&self, destination: i64, key: &OrderKey) -> Result<Option<Standing>, StoreError> {
        lane_first(self.snapshot()?, destination, key)
    }

    /// Who is first of each of several lanes' open deliveries; none of those in which somebody dead is in the way.
    pub fn first_in_lanes(
        &self,
        destination: i64,
        keys: &BTreeSet<OrderKey>,
    ) -> Result<BTreeMap<OrderKey, Standing>, StoreError> {
        let values: Vec<Value<'_>> = keys.iter().map(ToValue::to_value).collect();
        let snapshot = self.snapshot()?;
        let blocked =
            all_of(snapshot, sql::LANE_BLOCKED, destination, &values, |row| row.get::<OrderKey>(0))?;
        let firsts = all_of(snapshot, sql::LANE_FIRST, destination, &values, |row| {
            Ok((row.get::<OrderKey>(5)?, standing(row)?))
        })?;
        let mut firsts: BTreeMap<_, _> = firsts.into_iter().collect();
        firsts.retain(|key, _| !blocked.contains(key));
        Ok(firsts)
    }

    /// Brings lanes into order that something was put into that is maybe not the last.
    pub fn settle_late(&mut self) -> Result<(), StoreError> {
        let late = std::mem::take(&mut self.late);
        self.settle(&late)
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

fn lane_first(
    session: &dyn Session,
    destination: i64,
    key: &OrderKey,
) -> Result<Option<Standing>, StoreError> {
    one(session, sql::LANE_FIRST, (destination, key), standing)
}

/// `position, state, held_for, rank, is_early`.
pub fn standing(row: &Row<'_>) -> Result<Standing, StoreError> {
    Ok(Standing {
        position: row.get(0)?,
        state: row.get(1)?,
        held_for: row.get(2)?,
        rank: row.get(3)?,
        is_early: row.get(4)?,
    })
}

/// The store's one row.
pub struct Counters {
    pub totals: Totals,
    pub last_lease: u64,
    /// Of a server, for whoever writes.
    pub server_time: Option<UtcMs>,
}

/// The store's one row; `to_write` keeps every other writer away until the end of the transaction.
pub fn counters(session: &dyn Session, to_write: bool) -> Result<Counters, StoreError> {
    let (sql, tells_time) = match (to_write, session.dialect()) {
        (true, Dialect::Postgres) => (sql::COUNTERS_TO_WRITE, true),
        // BEGIN IMMEDIATE has seen to that.
        (true, Dialect::Sqlite) | (false, _) => (sql::COUNTERS, false),
    };
    let counters = one(session, sql, [], |row| {
        let oldest_program: usize = row.get(10)?;
        if to_write && oldest_program > migrations::VERSION {
            // Worth another try, so that nothing is acknowledged, or put aside, that this program cannot store.
            return Err(StoreError::Unavailable(WrongVersion::Ahead { is: oldest_program }.into()));
        }
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
        let server_time = if tells_time { Some(row.get(11)?) } else { None };
        Ok(Counters { totals, last_lease: row.get(1)?, server_time })
    })?;
    counters.ok_or_else(|| StoreError::broken("the store's counter row is gone"))
}
