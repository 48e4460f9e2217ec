//! Domain values as columns and back. Whatever does not read back is damage, and is told so.

use std::time::Duration;

use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::clock::Stamp;

/// A number as SQLite holds it. Numbers of this store are bytes, milliseconds and counts: far below 2^63.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Damaged(format!("a record cannot be written: {error}")))
}

pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Damaged(format!("{what}: {error}")))
}

pub(super) fn parsed<T>(what: &str, text: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| StoreError::Damaged(format!("{what}: {error}")))
}

pub(super) fn number(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

pub(super) fn small(row: &Row<'_>, column: &str) -> rusqlite::Result<u32> {
    number(row, column).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn stamp(row: &Row<'_>, column: &str) -> rusqlite::Result<Stamp> {
    number(row, column).map(Stamp)
}

pub(super) fn maybe_number(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(column).map(|number| number.and_then(|number| u64::try_from(number).ok()))
}
