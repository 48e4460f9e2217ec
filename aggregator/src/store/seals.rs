//! Seals: what every row holds is held to a digest of it, so that a byte that the disk changed is damage with a name, and
//! never another number of subjects.
//!
//! SQLite has no checksums of its own in the database file. Each table has a column `seal`; triggers fill it in and hold a row
//! to it before it is changed, whatever statement does so, and every row that is read is held to it. A row that is missing, or
//! found under another key, shows in SQLite's own check of its trees against its indexes, which is made when the store is
//! opened, together with that of the schema's text.

use std::sync::OnceLock;

use common::ids::DigestBuilder;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// The column.
const SEAL: &str = "seal";
/// Columns that tell a person which row is meant, where a table has them.
const TELLING: [&str; 8] = ["run", "round", "attempt", "site", "model", "name", "holder", "coordinator"];

/// Teaches a connection to seal.
pub(super) fn teach(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("seal_of", -1, flags, |arguments| {
        Ok(seal((0..arguments.len()).map(|place| arguments.get_raw(place))))
    })?;
    Ok(())
}

/// Gives every table of a new database its triggers.
pub(super) fn install(connection: &Connection) -> Result<()> {
    for table in texts(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?
    {
        let columns =
            texts(connection, &format!("SELECT name FROM pragma_table_info('{table}') WHERE name <> '{SEAL}'"))?;
        let of = |row: &str| {
            let values: Vec<_> = columns.iter().map(|column| format!("{row}.{column}")).collect();
            format!("seal_of('{table}', {})", values.join(", "))
        };
        let sealed = format!("UPDATE {table} SET {SEAL} = {} WHERE rowid = new.rowid", of("new"));
        let (all, old) = (columns.join(", "), of("old"));
        connection.execute_batch(&format!(
            "CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {sealed}; END;\n\
             CREATE TRIGGER {table}_held BEFORE UPDATE OF {all} ON {table} WHEN old.{SEAL} <> {old} \
             BEGIN SELECT RAISE(ABORT, 'a row of {table} does not hold what was written'); END;\n\
             CREATE TRIGGER {table}_changed AFTER UPDATE OF {all} ON {table} BEGIN {sealed}; END;"
        ))?;
    }
    Ok(())
}

/// Holds a row, read with all columns of its table, to its seal.
pub(super) fn hold(table: &str, row: &Row<'_>) -> Result<()> {
    let (mut values, mut found) = (vec![ValueRef::Text(table.as_bytes())], ValueRef::Null);
    let mut told = Vec::new();
    for (place, column) in row.as_ref().column_names().enumerate() {
        let value = row.get_ref(place)?;
        match (column, value) {
            (SEAL, _) => {
                found = value;
                continue;
            }
            (_, ValueRef::Text(text)) if TELLING.contains(&column) => {
                told.push(format!("{column} {}", String::from_utf8_lossy(text).escape_debug()));
            }
            (_, ValueRef::Integer(number)) if TELLING.contains(&column) => told.push(format!("{column} {number}")),
            _ => {}
        }
        values.push(value);
    }
    if found == ValueRef::Text(seal(values.into_iter()).as_bytes()) {
        return Ok(());
    }
    let which = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
    Err(StoreError::Damaged(format!("a row of {table}{which} does not hold what was written")))
}

/// Holds a database's structure to SQLite's own check, and its schema to the text of this version.
pub(super) fn hold_structure(connection: &Connection, schema: &str) -> Result<()> {
    static EXPECTED: OnceLock<Vec<String>> = OnceLock::new();
    let check = texts(connection, "PRAGMA integrity_check(1)")?;
    if check != ["ok"] {
        return Err(StoreError::Damaged(format!("state.db: {}", check.join("; "))));
    }
    let expected = match EXPECTED.get() {
        Some(expected) => expected,
        None => {
            let fresh = Connection::open_in_memory()?;
            fresh.execute_batch(schema)?;
            install(&fresh)?;
            let found = statements(&fresh)?;
            EXPECTED.get_or_init(|| found)
        }
    };
    if statements(connection)? == *expected {
        return Ok(());
    }
    Err(StoreError::Damaged("state.db: its tables are not those of this version".to_owned()))
}

fn statements(connection: &Connection) -> Result<Vec<String>> {
    texts(
        connection,
        "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || COALESCE(sql, '') FROM sqlite_schema ORDER BY 1",
    )
}

fn texts(connection: &Connection, sql: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

/// The first 64 bits of the SHA-256 of some values, each with its type and length.
fn seal<'a>(values: impl Iterator<Item = ValueRef<'a>>) -> String {
    let mut digest = DigestBuilder::default();
    for value in values {
        let number;
        let (kind, bytes): (u8, &[u8]) = match value {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(integer) => {
                number = integer.to_le_bytes();
                (1, &number)
            }
            ValueRef::Real(real) => {
                number = real.to_le_bytes();
                (2, &number)
            }
            ValueRef::Text(text) => (3, text),
            ValueRef::Blob(blob) => (4, blob),
        };
        digest.update(&[kind]);
        digest.update(&(bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    digest.finish().to_string()[..16].to_owned()
}
