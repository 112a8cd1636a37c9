//! Step 9 of 12: how our values stand in columns. Knows no statement.
//!
//! What is read back was written by this store: a value that makes no sense means that the file is damaged, and is an
//! error, never a panic.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use tap_protocol::badge::Token;

use rusqlite::Row;
use tap_protocol::time_repair::Witness;

use crate::event_store::boots::BootNo;
use crate::event_store::{
    DeliveryState, HeldFor, Occurred, OrderKey, PersonId, Position, StoreError, Timeless, UtcMs,
};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
            OperationInterrupted, OutOfMemory, SystemIoFailure,
        };
        match error.sqlite_error_code() {
            Some(
                CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OperationInterrupted
                | OutOfMemory
                | SystemIoFailure,
            ) => StoreError::Unavailable(error.into()),
            _ => StoreError::Broken(error.into()),
        }
    }
}

impl StoreError {
    /// The file, or we, broke a rule: said in a sentence.
    pub(super) fn broken(what: impl Into<String>) -> StoreError {
        StoreError::Broken(what.into().into())
    }
}

impl ToSql for UtcMs {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for UtcMs {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<UtcMs> {
        value.as_i64().map(UtcMs)
    }
}

impl ToSql for Position {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for Position {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Position> {
        u64::column_result(value).map(Position)
    }
}

impl ToSql for BootNo {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for BootNo {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<BootNo> {
        value.as_i64().map(BootNo)
    }
}

pub fn witness_name(witness: Witness) -> &'static str {
    match witness {
        Witness::Kernel => "kernel",
        Witness::Receipt => "receipt",
    }
}

pub fn witness_named(name: &str) -> rusqlite::Result<Witness> {
    match name {
        "kernel" => Ok(Witness::Kernel),
        "receipt" => Ok(Witness::Receipt),
        _ => Err(FromSqlError::InvalidType.into()),
    }
}

/// A tap's time in its six columns, `occurred_ms` to `not_after_ms`.
pub type TimeColumns =
    (Option<UtcMs>, Option<u64>, Option<bool>, Option<&'static str>, Option<UtcMs>, Option<UtcMs>);

/// A tap's time as columns.
pub fn time_columns(occurred: Result<Occurred, Timeless>) -> TimeColumns {
    match occurred {
        Ok(Occurred { at, uncertainty_ms, estimated }) => {
            (Some(at), Some(uncertainty_ms), Some(estimated), None, None, None)
        }
        Err(Timeless::Unknown) => (None, None, None, Some("unknown"), None, None),
        Err(Timeless::Disputed) => (None, None, None, Some("disputed"), None, None),
        Err(Timeless::Between { not_before, not_after }) => {
            (None, None, None, Some("between"), Some(not_before), Some(not_after))
        }
    }
}

/// Why a tap has no time, from its three columns on.
pub fn timeless(row: &Row<'_>, first: usize) -> rusqlite::Result<Timeless> {
    match row.get_ref(first)?.as_str()? {
        "unknown" => Ok(Timeless::Unknown),
        "disputed" => Ok(Timeless::Disputed),
        "between" => {
            Ok(Timeless::Between { not_before: row.get(first + 1)?, not_after: row.get(first + 2)? })
        }
        _ => Err(FromSqlError::InvalidType.into()),
    }
}

/// A tap's time, from its six columns on.
pub fn time(row: &Row<'_>, first: usize) -> rusqlite::Result<Result<Occurred, Timeless>> {
    match row.get::<_, Option<UtcMs>>(first)? {
        Some(at) => {
            Ok(Ok(Occurred { at, uncertainty_ms: row.get(first + 1)?, estimated: row.get(first + 2)? }))
        }
        None => timeless(row, first + 3).map(Err),
    }
}

impl ToSql for DeliveryState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for DeliveryState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<DeliveryState> {
        DeliveryState::from_name(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for HeldFor {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for HeldFor {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<HeldFor> {
        HeldFor::from_name(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for OrderKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            OrderKey::Person(person) => [b"p", person.0.as_bytes()].concat(),
            OrderKey::Token(token) => [b"t".as_slice(), &token.0].concat(),
        }
        .into())
    }
}

impl FromSql for OrderKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<OrderKey> {
        match value.as_blob()?.split_first() {
            Some((b'p', person)) => {
                let person = String::from_utf8(person.to_vec()).map_err(FromSqlError::other)?;
                Ok(OrderKey::Person(PersonId(person)))
            }
            Some((b't', token)) => Ok(OrderKey::Token(Token(token.try_into().map_err(FromSqlError::other)?))),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

/// A number from outside, where one beyond all that is stored means just that.
pub fn capped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
