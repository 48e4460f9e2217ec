//! SQLite's file in the state folder: how it is opened, and what its failures mean. A commit that could not be synced ends the process,
//! and so does a log that could not be synced into the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, ffi};

use super::{StoreError, durable, seals};

type Result<T> = std::result::Result<T, StoreError>;

/// Longest wait for another program's write.
const BUSY: Duration = Duration::from_secs(10);

/// Pages of the log that are moved into the database: SQLite's own number.
const LONG_LOG: i32 = 1000;

pub(super) fn path(state: &Path) -> PathBuf {
    state.join("state.db")
}

pub(super) fn connect(path: &Path, synchronous: &str) -> Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    seals::teach(&connection)?;
    connection.wal_hook(Some(checkpoint))?;
    Ok(connection)
}

/// Moves a long log into the database after a commit, as SQLite does by itself; but SQLite passes over what fails in it. A log
/// that could not be synced then is not synced by the next commit either, whatever the system says: later commits would be
/// acknowledged, and lost behind the gap at a power cut.
fn checkpoint(log: &mut rusqlite::hooks::Wal, pages: i32) -> rusqlite::Result<()> {
    if pages >= LONG_LOG
        && let Err(error) = log.checkpoint()
    {
        if is_failed_sync(&error) {
            durable::abort("fsync of the database", &error);
        }
        // The commit is durable all the same; the next one tries again.
        tracing::debug!(%error, "the log was not moved into the database");
    }
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            _ if is_failed_sync(&error) => durable::abort("fsync of the database", &error),
            rusqlite::Error::SqliteFailure(failure, _) if failure.code == ErrorCode::DiskFull => Self::Full,
            rusqlite::Error::SqliteFailure(failure, _)
                if matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) =>
            {
                Self::Damaged(error.to_string())
            }
            // A row that was to be changed does not have its seal.
            rusqlite::Error::SqliteFailure(failure, Some(told))
                if failure.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER =>
            {
                Self::Damaged(told.clone())
            }
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => Self::Damaged(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

fn is_failed_sync(error: &rusqlite::Error) -> bool {
    let failed = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC];
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failed.contains(&failure.extended_code))
}
