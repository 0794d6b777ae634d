//! Between columns and our types. A value that our own statements cannot have written is an error of that
//! column, which the caller sees as an unavailable store.

use std::error::Error;

use rusqlite::Row;
use rusqlite::types::Type;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::SessionId;

pub fn timestamp(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp)
}

pub fn session_id(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<SessionId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Uuid::from_bytes))
}

/// A list of strings, kept as JSON.
pub fn strings(row: &Row<'_>, column: &str) -> rusqlite::Result<Vec<String>> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| damaged(row, column, error))
}

pub fn json(strings: &[String]) -> String {
    serde_json::Value::from(strings).to_string()
}

pub fn damaged(
    row: &Row<'_>,
    column: &str,
    cause: impl Into<Box<dyn Error + Send + Sync>>,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or(usize::MAX);
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, cause.into())
}
