//! The ledger's rows: appended inside the transaction of what they tell. Where it ends is written in the federation's row as well,
//! so that a tail that is missing is missed.

use common::Digest;
use common::ledger::{self, Head};
use rusqlite::{Connection, Row, Transaction, params};

use super::rows::{int, parsed};
use super::{StoreError, seals};
use crate::clock::Stamp;
use crate::ledger::Event;

type Result<T> = std::result::Result<T, StoreError>;

/// Appends an event.
pub(super) fn append(transaction: &Transaction<'_>, event: &Event<'_>, now: Stamp) -> Result<()> {
    let (line, head) = ledger::line(head(transaction)?, now.0, event);
    transaction.execute("INSERT INTO ledger (entry, line) VALUES (?1, ?2)", params![int(head.entries), line])?;
    transaction.execute(
        "UPDATE federation SET ledger_entries = ?1, ledger_digest = ?2",
        params![int(head.entries), head.digest.to_string()],
    )?;
    Ok(())
}

/// Where it ends.
pub(super) fn head(connection: &Connection) -> Result<Head> {
    let read = |row: &Row<'_>| Ok(seals::hold("federation", row).and_then(|()| head_of(row)));
    connection.prepare_cached("SELECT * FROM federation")?.query_row([], read)?
}

fn head_of(row: &Row<'_>) -> Result<Head> {
    let digest: Digest = parsed("federation.ledger_digest", &row.get::<_, String>("ledger_digest")?)?;
    let entries: i64 = row.get("ledger_entries")?;
    Ok(Head { entries: entries.unsigned_abs(), digest })
}
