//! Step 9 of 12: how our values stand in columns. Knows no statement.
//!
//! What is read back was written by this store: a value that makes no sense means that the file is damaged, and is an
//! error, never a panic.

use std::borrow::Cow;

use tap_protocol::badge::Token;
use tap_protocol::tap::Direction;
use tap_protocol::time_repair::Witness;

use super::session::{FromCell, Row, ToValue, Value};
use crate::delivery::class::Class;
use crate::delivery::ticks::Ticks;
use crate::directory::direction::Policy;
use crate::event_store::boots::BootNo;
use crate::event_store::people::What;
use crate::event_store::replays::{Doing, ReplayStanding, RowOutcome};
use crate::event_store::{
    DeliveryState, HeldFor, Occurred, OrderKey, PersonId, Position, StoreError, Timeless, UtcMs,
};

/// A type that stands in a column as the one inside it does.
macro_rules! as_inside {
    ($($outer:ident),*) => {$(
        impl ToValue for $outer {
            fn to_value(&self) -> Value<'_> {
                self.0.to_value()
            }
        }

        impl FromCell for $outer {
            fn from_cell(value: Value<'_>) -> Option<$outer> {
                FromCell::from_cell(value).map($outer)
            }
        }
    )*};
}

as_inside!(UtcMs, Position, BootNo, Ticks);

/// A closed list that stands in a column by its names.
macro_rules! by_name {
    ($($list:ident),*) => {$(
        impl ToValue for $list {
            fn to_value(&self) -> Value<'_> {
                Value::Text(Cow::Borrowed(self.name()))
            }
        }

        impl FromCell for $list {
            fn from_cell(value: Value<'_>) -> Option<$list> {
                match value {
                    Value::Text(name) => $list::from_name(&name),
                    _ => None,
                }
            }
        }
    )*};
}

by_name!(Class, DeliveryState, Doing, HeldFor, Policy, ReplayStanding, RowOutcome, What);

impl ToValue for Direction {
    fn to_value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self.name()))
    }
}

impl FromCell for Direction {
    fn from_cell(value: Value<'_>) -> Option<Direction> {
        let Value::Text(name) = value else { return None };
        let all = [Direction::In, Direction::Out, Direction::Unspecified];
        all.into_iter().find(|direction| direction.name() == name)
    }
}

pub fn witness_name(witness: Witness) -> &'static str {
    match witness {
        Witness::Kernel => "kernel",
        Witness::Receipt => "receipt",
    }
}

pub fn witness_named(name: &str) -> Result<Witness, StoreError> {
    match name {
        "kernel" => Ok(Witness::Kernel),
        "receipt" => Ok(Witness::Receipt),
        _ => Err(StoreError::broken(format!("{name:?} is no witness of the time"))),
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
pub fn timeless(row: &Row<'_>, first: usize) -> Result<Timeless, StoreError> {
    match row.get::<String>(first)?.as_str() {
        "unknown" => Ok(Timeless::Unknown),
        "disputed" => Ok(Timeless::Disputed),
        "between" => {
            Ok(Timeless::Between { not_before: row.get(first + 1)?, not_after: row.get(first + 2)? })
        }
        other => Err(StoreError::broken(format!("{other:?} is no reason to have no time"))),
    }
}

/// A tap's time, from its six columns on.
pub fn time(row: &Row<'_>, first: usize) -> Result<Result<Occurred, Timeless>, StoreError> {
    match row.get::<Option<UtcMs>>(first)? {
        Some(at) => {
            Ok(Ok(Occurred { at, uncertainty_ms: row.get(first + 1)?, estimated: row.get(first + 2)? }))
        }
        None => timeless(row, first + 3).map(Err),
    }
}

/// `p` and the person's id, or `t` and the 16 bytes of the token.
impl ToValue for OrderKey {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(Cow::Owned(match self {
            OrderKey::Person(person) => [b"p", person.0.as_bytes()].concat(),
            OrderKey::Token(token) => [b"t".as_slice(), &token.0].concat(),
        }))
    }
}

impl FromCell for OrderKey {
    fn from_cell(value: Value<'_>) -> Option<OrderKey> {
        let Value::Blob(bytes) = value else { return None };
        match bytes.split_first()? {
            (b'p', person) => {
                String::from_utf8(person.to_vec()).ok().map(|id| OrderKey::Person(PersonId(id)))
            }
            (b't', token) => token.try_into().ok().map(|token| OrderKey::Token(Token(token))),
            _ => None,
        }
    }
}

/// A number from outside, where one beyond all that is stored means just that.
pub fn capped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
