//! Step 9 of 12: a PostgreSQL transaction as the store's statements want it. Knows no statement.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use postgres::{Statement, Transaction};

use crate::event_store::StoreError;
use crate::event_store::sql::session::{Bulk, Cells, Changes, Dialect, Row, Session, Value};

/// Statements that the server has parsed for this connection, by our text.
pub type Parsed = HashMap<String, Statement>;

/// A transaction under way.
pub struct InTransaction<'a, 'c> {
    inside: RefCell<(&'a mut Transaction<'c>, &'a mut Parsed)>,
}

impl<'a, 'c> InTransaction<'a, 'c> {
    /// Over a transaction that has begun.
    pub fn new(transaction: &'a mut Transaction<'c>, parsed: &'a mut Parsed) -> InTransaction<'a, 'c> {
        InTransaction { inside: RefCell::new((transaction, parsed)) }
    }

    fn with<T>(
        &self,
        sql: &str,
        run: impl FnOnce(&mut Transaction<'c>, &Statement) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let (transaction, parsed) = &mut *self.inside.borrow_mut();
        if !parsed.contains_key(sql) {
            parsed.insert(sql.to_owned(), transaction.prepare(&in_its_words(sql))?);
        }
        Ok(run(transaction, &parsed[sql])?)
    }
}

impl Session for InTransaction<'_, '_> {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn run(&self, sql: &str, params: &[Value<'_>]) -> Result<usize, StoreError> {
        let params: Vec<Bound<'_>> = params.iter().map(Bound).collect();
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|bound| bound as _).collect();
        let touched = self.with(sql, |transaction, statement| transaction.execute(statement, &params))?;
        Ok(usize::try_from(touched).unwrap_or(usize::MAX))
    }

    fn run_for_each(&self, bulk: &Bulk, rows: &[Value<'_>]) -> Result<(), StoreError> {
        let sql = format!("{} SELECT * FROM {}", bulk.into, unnest(bulk.types));
        let arrays = arrays(bulk.types, rows)?;
        let arrays: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| &**array as _).collect();
        self.with(&sql, |transaction, statement| transaction.execute(statement, &arrays))?;
        Ok(())
    }

    fn change_for_each(
        &self,
        changes: &Changes,
        rows: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sql = for_each(changes)?;
        let arrays = arrays(changes.types, rows)?;
        let arrays: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| &**array as _).collect();
        let changed = self.with(&sql, |transaction, statement| transaction.query(statement, &arrays))?;
        changed.iter().try_for_each(|row| each(&Row(row)))
    }

    fn rows_for_keys(
        &self,
        sql: &str,
        first: &Value<'_>,
        keys: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let for_one = sql.replace("?2", "k.key");
        let sql = format!("SELECT r.* FROM unnest(?2::bytea[]) AS k (key) CROSS JOIN LATERAL ({for_one}) r");
        let (first, keys) = (Bound(first), array("bytea", keys.iter())?);
        let params: [&(dyn ToSql + Sync); 2] = [&first, &*keys];
        let rows = self.with(&sql, |transaction, statement| transaction.query(statement, &params))?;
        rows.iter().try_for_each(|row| each(&Row(row)))
    }

    fn rows(
        &self,
        sql: &str,
        params: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        // All rows are taken before the first is handed out, because whoever gets one may ask the next question. Statements
        // that could answer with very many have a LIMIT.
        let rows = self.with(sql, |transaction, statement| {
            transaction.query_raw(statement, params.iter().map(Bound))?.collect::<Vec<_>>()
        })?;
        for row in &rows {
            if each(&Row(row))?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// `?1` is `$1` here, and the server chooses its indexes by itself.
pub(super) fn in_its_words(sql: &str) -> String {
    let mut words = Vec::new();
    let mut all = sql.split(' ');
    while let Some(word) = all.next() {
        match word {
            "INDEXED" => drop((all.next(), all.next())),
            word => words.push(word),
        }
    }
    words.join(" ").replace('?', "$")
}

/// A table of as many columns as there are arrays.
fn unnest(types: &[&str]) -> String {
    let holders: Vec<String> =
        types.iter().zip(1..).map(|(name, number)| format!("?{number}::{name}[]")).collect();
    format!("unnest({})", holders.join(", "))
}

/// The same change of many rows: its values are columns of a table beside.
pub(super) fn for_each(changes: &Changes) -> Result<String, StoreError> {
    let broken = || StoreError::broken(format!("{:?} has no WHERE", changes.update));
    let (change, which) = changes.update.split_once(" WHERE ").ok_or_else(broken)?;
    let columns: Vec<String> = (1..=changes.types.len()).map(|number| format!("v{number}")).collect();
    let [change, which] = [change, which].map(|part| part.replace('?', "v.v"));
    Ok(format!("{change} FROM {} AS v ({}) WHERE {which}", unnest(changes.types), columns.join(", ")))
}

fn arrays<'v>(types: &[&str], rows: &'v [Value<'v>]) -> Result<Vec<Box<dyn ToSql + Sync + 'v>>, StoreError> {
    let columns = types.iter().enumerate();
    columns.map(|(column, name)| array(name, rows.iter().skip(column).step_by(types.len()))).collect()
}

/// A column of many rows.
fn array<'v>(
    name: &str,
    values: impl Iterator<Item = &'v Value<'v>>,
) -> Result<Box<dyn ToSql + Sync + 'v>, StoreError> {
    fn all<'v, T: ToSql + Sync + 'v>(
        values: impl Iterator<Item = &'v Value<'v>>,
        read: impl Fn(&'v Value<'v>) -> Option<T>,
    ) -> Result<Box<dyn ToSql + Sync + 'v>, StoreError>
    where
        Vec<Option<T>>: ToSql,
    {
        let column = values.map(|value| match value {
            Value::Null => Ok(None),
            value => read(value)
                .map(Some)
                .ok_or_else(|| StoreError::broken(format!("{value:?} does not fit into its column"))),
        });
        Ok(Box::new(column.collect::<Result<Vec<Option<T>>, _>>()?))
    }
    match name {
        "bigint" => all(values, |value| match value {
            Value::Int(number) => Some(*number),
            _ => None,
        }),
        "boolean" => all(values, |value| match value {
            Value::Bool(is) => Some(*is),
            _ => None,
        }),
        "text" => all(values, |value| match value {
            Value::Text(text) => Some(without_nul(text)),
            _ => None,
        }),
        "bytea" => all(values, |value| match value {
            Value::Blob(bytes) => Some(bytes.as_ref()),
            _ => None,
        }),
        name => Err(StoreError::broken(format!("there are no arrays of {name} here"))),
    }
}

/// PostgreSQL's text holds every character but this one.
fn without_nul(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// A value on its way to the server.
#[derive(Debug)]
struct Bound<'a>(&'a Value<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (self.0, ty) {
            (Value::Null, _) => Ok(IsNull::Yes),
            (Value::Int(number), &Type::INT8) => number.to_sql(ty, out),
            (Value::Int(number), &Type::INT4) => i32::try_from(*number)?.to_sql(ty, out),
            (Value::Bool(is), &Type::BOOL) => is.to_sql(ty, out),
            (Value::Text(text), &Type::TEXT) => without_nul(text).to_sql(ty, out),
            (Value::Blob(bytes), &Type::BYTEA) => bytes.as_ref().to_sql(ty, out),
            (Value::Beyond(number), _) => Err(format!("{number} is beyond what a column can hold").into()),
            (value, ty) => Err(format!("{value:?} is no {ty}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl Cells for postgres::Row {
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError> {
        let ty = self.columns().get(column).map(postgres::Column::type_);
        Ok(match ty {
            Some(&Type::INT8) => self.try_get::<_, Option<i64>>(column)?.map_or(Value::Null, Value::Int),
            Some(&Type::INT4) => self
                .try_get::<_, Option<i32>>(column)?
                .map_or(Value::Null, |number| Value::Int(number.into())),
            Some(&Type::BOOL) => self.try_get::<_, Option<bool>>(column)?.map_or(Value::Null, Value::Bool),
            Some(&Type::TEXT) => {
                self.try_get::<_, Option<&str>>(column)?.map_or(Value::Null, |text| Value::Text(text.into()))
            }
            Some(&Type::BYTEA) => self
                .try_get::<_, Option<&[u8]>>(column)?
                .map_or(Value::Null, |bytes| Value::Blob(bytes.into())),
            other => return Err(StoreError::broken(format!("column {column} of a row is a {other:?}"))),
        })
    }
}

impl From<postgres::Error> for StoreError {
    /// What the same call may survive later, by the classes of SQLSTATE (PostgreSQL's appendix A): 08 connection, 40 rolled
    /// back in favour of another, 53 out of resources, 55 not in the state for it (a lock), 57 stopped by somebody, 58 the
    /// system's trouble. Without a code the connection is at fault.
    fn from(error: postgres::Error) -> StoreError {
        match error.code().map(|code| &code.code()[..2]) {
            Some("08" | "40" | "53" | "55" | "57" | "58") => StoreError::Unavailable(error.into()),
            // Room is made when this is seen: the same works then.
            Some("23") if is_without_partition(&error) => StoreError::Unavailable(error.into()),
            Some("25") if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                StoreError::Broken(error.into())
            }
            Some(_) => StoreError::Broken(error.into()),
            None if error.is_closed()
                || error.source().is_some_and(|source| source.is::<std::io::Error>()) =>
            {
                StoreError::Unavailable(error.into())
            }
            None => StoreError::Broken(error.into()),
        }
    }
}

/// A row had no partition to go to: the one violation of a check that names no constraint.
fn is_without_partition(error: &postgres::Error) -> bool {
    let found = error.as_db_error();
    found.is_some_and(|found| *found.code() == SqlState::CHECK_VIOLATION && found.constraint().is_none())
}

/// Whether positions came to the end of the last partition.
pub fn lacks_room(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(source) => source.downcast_ref().is_some_and(is_without_partition),
        StoreError::Broken(_) | StoreError::NotFound { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_many_rows_takes_its_values_from_beside() {
        let changes = Changes {
            update: "UPDATE t SET a = ?2, b = coalesce(?3, b) WHERE no = ?1 RETURNING no",
            types: &["bigint", "text", "bigint"],
        };
        let sql = "UPDATE t SET a = v.v2, b = coalesce(v.v3, b) FROM unnest(?1::bigint[], ?2::text[], ?3::bigint[]) \
                   AS v (v1, v2, v3) WHERE no = v.v1 RETURNING no";
        assert_eq!(for_each(&changes).unwrap(), sql);
    }

    #[test]
    fn statements_are_said_in_the_servers_words() {
        let sql = "SELECT a FROM t INDEXED BY t_by_b WHERE b = ?1 AND (?2 IS NULL OR c = ?12)";
        assert_eq!(in_its_words(sql), "SELECT a FROM t WHERE b = $1 AND ($2 IS NULL OR c = $12)");
    }
}
