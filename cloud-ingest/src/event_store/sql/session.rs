//! Step 9 of 12: what the store's code wants of a database: statements with values in and rows out, within a transaction
//! that somebody else began and will end. Knows no statement and neither database.
//!
//! Both databases run the same statements ([`super::statements`]) through this, so that what the store does is written
//! once. It is small on purpose: five kinds of values, no types to declare, no queries to build.

use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::event_store::StoreError;

/// A value on its way into a statement or out of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// Yes or no; a database without such a type has 1 and 0.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A number that no column can hold: refused where it arrives.
    Beyond(u64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Blob(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// The same without a lender.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(is) => Value::Bool(is),
            Value::Int(number) => Value::Int(number),
            Value::Beyond(number) => Value::Beyond(number),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Blob(bytes) => Value::Blob(Cow::Owned(bytes.into_owned())),
        }
    }
}

/// Where the databases differ so much that the caller must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One file, one writer.
    Sqlite,
    /// A server.
    Postgres,
}

/// A transaction, or a snapshot that only reads.
pub trait Session {
    /// Which database this is.
    fn dialect(&self) -> Dialect;

    /// Runs a statement; returns how many rows it touched.
    fn run(&self, sql: &str, params: &[Value<'_>]) -> Result<usize, StoreError>;

    /// Runs a statement for each of several rows of values, as fast as the database can: nothing may depend on the order.
    fn run_for_each(&self, bulk: &Bulk, rows: &[Value<'_>]) -> Result<(), StoreError>;

    /// Runs a statement that changes a row for each of several rows of values, no two of which may mean the same row, and
    /// hands on what it returns: in any order.
    fn change_for_each(
        &self,
        changes: &Changes,
        rows: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Runs a statement that reads for each of `keys`, which are bytes: `?2` in it. `?1` is the same for all.
    fn rows_for_keys(
        &self,
        sql: &str,
        first: &Value<'_>,
        keys: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Hands the rows to `each` in their order, until it wants no more.
    fn rows(
        &self,
        sql: &str,
        params: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError>;
}

/// A statement that inserts rows one like the other.
#[derive(Debug)]
pub struct Bulk {
    /// `INSERT INTO table (columns)`.
    pub into: &'static str,
    /// The type of each column, as PostgreSQL names it.
    pub types: &'static [&'static str],
}

/// A statement that changes rows one like the other.
#[derive(Debug)]
pub struct Changes {
    /// `UPDATE table SET … WHERE …`, and maybe `RETURNING …`, with `?1`, `?2` … for the values of one row.
    pub update: &'static str,
    /// The type of each value, as PostgreSQL names it.
    pub types: &'static [&'static str],
}

/// One row of an answer.
pub struct Row<'r>(pub &'r dyn Cells);

/// The values of one row.
pub trait Cells {
    /// The value of that column.
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError>;
}

impl Row<'_> {
    /// The value of that column as one of ours.
    pub fn get<T: FromCell>(&self, column: usize) -> Result<T, StoreError> {
        T::from_cell(self.0.cell(column)?).ok_or_else(|| {
            StoreError::broken(format!("column {column} of a row holds no {}", std::any::type_name::<T>()))
        })
    }
}

/// What can be given to a statement.
pub trait ToValue {
    /// As a database takes it.
    fn to_value(&self) -> Value<'_>;
}

/// What can be read out of a row.
pub trait FromCell: Sized {
    /// `None` if the value is no such thing.
    fn from_cell(value: Value<'_>) -> Option<Self>;
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(value: Value<'_>) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            value => T::from_cell(value).map(Some),
        }
    }
}

impl ToValue for bool {
    fn to_value(&self) -> Value<'_> {
        Value::Bool(*self)
    }
}

impl FromCell for bool {
    fn from_cell(value: Value<'_>) -> Option<bool> {
        match value {
            Value::Bool(is) => Some(is),
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            _ => None,
        }
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl ToValue for $number {
            fn to_value(&self) -> Value<'_> {
                i64::try_from(*self).map_or(Value::Beyond(*self as u64), Value::Int)
            }
        }

        impl FromCell for $number {
            fn from_cell(value: Value<'_>) -> Option<$number> {
                match value {
                    Value::Int(number) => number.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

numbers!(i32, i64, u16, u32, u64, usize);

impl ToValue for str {
    fn to_value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
}

impl ToValue for String {
    fn to_value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
}

impl FromCell for String {
    fn from_cell(value: Value<'_>) -> Option<String> {
        match value {
            Value::Text(text) => Some(text.into_owned()),
            _ => None,
        }
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(Cow::Borrowed(self))
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(Cow::Borrowed(self))
    }
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(Cow::Borrowed(self))
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(value: Value<'_>) -> Option<Vec<u8>> {
        match value {
            Value::Blob(bytes) => Some(bytes.into_owned()),
            _ => None,
        }
    }
}

impl<const N: usize> FromCell for [u8; N] {
    fn from_cell(value: Value<'_>) -> Option<[u8; N]> {
        match value {
            Value::Blob(bytes) => bytes.as_ref().try_into().ok(),
            _ => None,
        }
    }
}

/// The values of a statement: a tuple, an array, or a slice of values.
pub trait Params {
    /// Hands them on as a slice.
    fn with<T>(&self, take: impl FnOnce(&[Value<'_>]) -> T) -> T;
}

impl Params for &[Value<'_>] {
    fn with<T>(&self, take: impl FnOnce(&[Value<'_>]) -> T) -> T {
        take(self)
    }
}

impl Params for [(); 0] {
    fn with<T>(&self, take: impl FnOnce(&[Value<'_>]) -> T) -> T {
        take(&[])
    }
}

impl<V: ToValue> Params for [V; 1] {
    fn with<T>(&self, take: impl FnOnce(&[Value<'_>]) -> T) -> T {
        take(&[self[0].to_value()])
    }
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: ToValue),*> Params for ($($name,)*) {
            fn with<Answer>(&self, take: impl FnOnce(&[Value<'_>]) -> Answer) -> Answer {
                #[allow(non_snake_case, reason = "one name for the type and the value of each place")]
                let ($($name,)*) = self;
                take(&[$($name.to_value()),*])
            }
        }
    };
}

tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);
tuples!(A B C D E F G H I J K L M);

/// Rows of values for [`Session::run_for_each`] and [`Session::change_for_each`].
#[derive(Debug, Default)]
pub struct Rows(Vec<Value<'static>>);

impl Rows {
    /// One more.
    pub fn push(&mut self, values: impl Params) {
        values.with(|values| self.0.extend(values.iter().cloned().map(Value::into_owned)));
    }

    /// All, one after the other.
    pub fn values(&self) -> &[Value<'static>] {
        &self.0
    }
}

/// Runs a statement; returns how many rows it touched.
pub fn execute(session: &dyn Session, sql: &str, params: impl Params) -> Result<usize, StoreError> {
    params.with(|params| session.run(sql, params))
}

/// The first row, if there is one.
pub fn one<T>(
    session: &dyn Session,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let (mut read, mut found) = (Some(read), None);
    params.with(|params| {
        session.rows(sql, params, &mut |row| {
            found = read.take().map(|read| read(row)).transpose()?;
            Ok(ControlFlow::Break(()))
        })
    })?;
    Ok(found)
}

/// All rows.
pub fn all<T>(
    session: &dyn Session,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    each(session, sql, params, |row| {
        found.push(read(row)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// All rows of a statement that is run for each of `keys`, which are bytes: `?2` in it, behind one parameter that is the same
/// for all. A server is asked once.
pub fn all_of<T>(
    session: &dyn Session,
    sql: &str,
    first: impl ToValue,
    keys: &[Value<'_>],
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    if !keys.is_empty() {
        session.rows_for_keys(sql, &first.to_value(), keys, &mut |row| {
            found.push(read(row)?);
            Ok(())
        })?;
    }
    Ok(found)
}

/// Row by row, until `take` wants no more.
pub fn each(
    session: &dyn Session,
    sql: &str,
    params: impl Params,
    mut take: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    params.with(|params| session.rows(sql, params, &mut take))
}
