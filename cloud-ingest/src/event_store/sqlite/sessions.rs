//! Step 9 of 12: an SQLite transaction as the store's statements want it. Knows no statement.

use std::ops::ControlFlow;

use rusqlite::Transaction;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::event_store::StoreError;
use crate::event_store::sql::session::{Bulk, Cells, Changes, Dialect, Row, Session, Value};

/// A transaction under way.
pub struct InTransaction<'a>(pub &'a Transaction<'a>);

impl Session for InTransaction<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn run(&self, sql: &str, params: &[Value<'_>]) -> Result<usize, StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        bind(&mut statement, params)?;
        Ok(statement.raw_execute()?)
    }

    fn run_for_each(&self, bulk: &Bulk, rows: &[Value<'_>]) -> Result<(), StoreError> {
        let holders: Vec<String> = (1..=bulk.types.len()).map(|number| format!("?{number}")).collect();
        let sql = format!("{} VALUES ({})", bulk.into, holders.join(", "));
        let mut statement = self.0.prepare_cached(&sql)?;
        for row in rows.chunks(bulk.types.len()) {
            bind(&mut statement, row)?;
            statement.raw_execute()?;
        }
        Ok(())
    }

    fn change_for_each(
        &self,
        changes: &Changes,
        rows: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(changes.update)?;
        for row in rows.chunks(changes.types.len()) {
            bind(&mut statement, row)?;
            let mut changed = statement.raw_query();
            while let Some(row) = changed.next()? {
                each(&Row(row))?;
            }
        }
        Ok(())
    }

    fn rows_for_keys(
        &self,
        sql: &str,
        first: &Value<'_>,
        keys: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        for key in keys {
            bind(&mut statement, &[first.clone(), key.clone()])?;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                each(&Row(row))?;
            }
        }
        Ok(())
    }

    fn rows(
        &self,
        sql: &str,
        params: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        bind(&mut statement, params)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if each(&Row(row))?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn bind(statement: &mut rusqlite::Statement<'_>, params: &[Value<'_>]) -> Result<(), StoreError> {
    for (at, value) in params.iter().enumerate() {
        let value = match value {
            Value::Null => ValueRef::Null,
            Value::Bool(is) => ValueRef::Integer(i64::from(*is)),
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Beyond(number) => {
                return Err(StoreError::broken(format!("{number} is beyond what a column can hold")));
            }
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        };
        statement.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(value))?;
    }
    Ok(())
}

impl Cells for rusqlite::Row<'_> {
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError> {
        Ok(match self.get_ref(column)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Int(number),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text)),
            ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
            ValueRef::Real(_) => return Err(StoreError::broken(format!("column {column} holds a fraction"))),
        })
    }
}

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
