//! Decisions as rows: what [`crate::run`] said is to be done, written down inside a transaction.

use common::{Digest, RunId, UpdateManifest};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::rows::{int, json, milliseconds, parsed};
use super::{Details, Moment, StoreError, UpdateKey, ledger, signatures};
use crate::ledger::Event;
use crate::round::{Heard, Word};
use crate::round_time::carried_over;
use crate::run::{Attempt, RunAction};

type Result<T> = std::result::Result<T, StoreError>;

/// Writes down one decision. What is written a second time must change nothing: a row that should be new or open and is
/// not means that memory and disk disagree, and the transaction is given up.
pub(super) fn write_action(
    transaction: &Transaction<'_>,
    run: &RunId,
    action: &RunAction,
    details: Details<'_>,
    moment: Moment,
) -> Result<()> {
    let now = moment.wall;
    if let Some(event) = Event::of(run, action, details) {
        ledger::append(transaction, &event, now)?;
    }
    let changed = match (action, details) {
        (RunAction::Record(heard), details) => return write_word(transaction, run, heard, details, moment),
        (RunAction::Release { by }, _) => {
            signatures::count(transaction, run, by)?;
            transaction
                .execute("UPDATE runs SET state = 'running' WHERE run = ?1 AND state = 'awaiting'", [run.as_str()])?
        }
        (RunAction::Begin(Attempt { round, attempt, base }), _) => transaction.execute(
            "INSERT INTO rounds (run, round, attempt, state, base, began_at_ms, spent_ms) \
             VALUES (?1, ?2, ?3, 'gathering', ?4, ?5, ?6)",
            params![
                run.as_str(),
                round.0,
                attempt,
                base.to_string(),
                int(now.0),
                milliseconds(carried_over(*attempt, moment.of_round))
            ],
        )?,
        (RunAction::ArmDeadline(Attempt { round, attempt, .. }), _) => transaction.execute(
            "UPDATE rounds SET state = 'training' WHERE run = ?1 AND round = ?2 AND attempt = ?3 AND state = 'gathering'",
            params![run.as_str(), round.0, attempt],
        )?,
        // A set that is frozen already may lose what is damaged.
        (RunAction::Freeze(Attempt { round, attempt, .. }, outcome), _) => transaction.execute(
            "UPDATE rounds SET state = 'merging', outcome = ?4, remaining_ms = NULL, ended_at_ms = ?5, spent_ms = ?6 \
             WHERE run = ?1 AND round = ?2 AND attempt = ?3 AND state IN ('gathering', 'training', 'merging')",
            params![run.as_str(), round.0, attempt, json(outcome)?, int(now.0), milliseconds(moment.of_round)],
        )?,
        (RunAction::Discard(Attempt { round, .. }, site), _) => transaction.execute(
            "UPDATE updates SET retired = 1 WHERE run = ?1 AND round = ?2 AND site = ?3 AND retired = 0",
            params![run.as_str(), round.0, site.as_str()],
        )?,
        (RunAction::Abandon(Attempt { round, attempt, .. }, outcome), _) => transaction.execute(
            "UPDATE rounds SET state = 'abandoned', outcome = ?4, remaining_ms = NULL, ended_at_ms = ?5, spent_ms = ?6 \
             WHERE run = ?1 AND round = ?2 AND attempt = ?3 AND state IN ('gathering', 'training', 'merging')",
            params![run.as_str(), round.0, attempt, json(outcome)?, int(now.0), milliseconds(moment.of_round)],
        )?,
        (RunAction::Publish(Attempt { round, attempt, .. }, model), Details::Merge(merged)) => transaction.execute(
            "UPDATE rounds SET state = 'closed', model = ?4, merged = ?5, ended_at_ms = ?6 \
             WHERE run = ?1 AND round = ?2 AND attempt = ?3 AND state = 'merging'",
            params![run.as_str(), round.0, attempt, model.to_string(), json(merged)?, int(now.0)],
        )?,
        (RunAction::Finish { .. }, _) => transaction.execute(
            "UPDATE runs SET state = 'finished', trouble = NULL WHERE run = ?1 AND state = 'running'",
            [run.as_str()],
        )?,
        (RunAction::Fail { because }, _) => transaction.execute(
            "UPDATE runs SET state = 'failed', because = ?2, trouble = NULL WHERE run = ?1 AND state IN ('awaiting', 'running')",
            params![run.as_str(), because],
        )?,
        (RunAction::Publish(..), _) => 0,
        (RunAction::Refuse(_), _) => return Ok(()),
    };
    if changed == 1 {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("run {run} is not in the state that this decision was made in: {action:?}")))
}

fn write_word(
    transaction: &Transaction<'_>,
    run: &RunId,
    heard: &Heard,
    details: Details<'_>,
    moment: Moment,
) -> Result<()> {
    let decline = match (heard.word, details) {
        (Word::Joined | Word::Revoked, _) => None,
        (Word::Declined(reason), _) => Some(json(&reason)?),
        (Word::Reported(_), Details::Update(manifest)) => return write_update(transaction, manifest, moment),
        (Word::Reported(_) | Word::Lost, _) => {
            return Err(StoreError::Damaged(format!("a report of {} without its update", heard.site)));
        }
    };
    // It is at work in none of them any more, also if it comes back.
    if heard.word != Word::Joined {
        transaction.execute(
            "DELETE FROM words WHERE run = ?1 AND round = ?2 AND site = ?3",
            params![run.as_str(), heard.round.0, heard.site.as_str()],
        )?;
    }
    // The open attempt is the last one.
    transaction.execute(
        "INSERT OR REPLACE INTO words (run, round, attempt, site, decline, revoked, spent_ms) \
         SELECT ?1, ?2, MAX(attempt), ?3, ?4, ?5, ?6 FROM rounds WHERE run = ?1 AND round = ?2",
        params![
            run.as_str(),
            heard.round.0,
            heard.site.as_str(),
            decline,
            heard.word == Word::Revoked,
            milliseconds(moment.of_round)
        ],
    )?;
    Ok(())
}

/// The row that makes an update count, if there is none yet; its upload is over.
fn write_update(transaction: &Transaction<'_>, manifest: &UpdateManifest, moment: Moment) -> Result<()> {
    let UpdateManifest { run, round, site, blob, bytes, .. } = manifest;
    let added = transaction.execute(
        "INSERT INTO updates (run, round, site, blob, bytes, manifest, received_at_ms, spent_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![
            run.as_str(),
            round.0,
            site.as_str(),
            blob.to_string(),
            int(*bytes),
            json(manifest)?,
            int(moment.wall.0),
            milliseconds(moment.of_round)
        ],
    )?;
    if added == 0 {
        return Err(StoreError::Damaged(format!("{site} has an update for round {round} of {run} already")));
    }
    forget_upload(transaction, &UpdateKey::of(manifest))
}

/// Whether an upload, a stored update, a round, a run that has no round yet, or the server's state in a run that goes on names a blob: the last one, and as long as the
/// last model's updates are kept the one before, so that this model can be made again. With one site in a round, the server's first
/// momentum has the very bytes of its update.
pub(super) fn names(connection: &Connection, blob: Digest) -> Result<bool> {
    Ok(connection.query_row(
        "WITH last AS (SELECT run, MAX(round) AS round FROM rounds WHERE state = 'closed' GROUP BY run) \
         SELECT EXISTS (SELECT 1 FROM uploads WHERE blob = ?1) \
         OR EXISTS (SELECT 1 FROM updates WHERE blob = ?1 AND retired = 0) \
         OR EXISTS (SELECT 1 FROM rounds WHERE base = ?1 OR model = ?1) \
         OR EXISTS (SELECT 1 FROM runs WHERE state = 'awaiting' \
                    AND instr(CAST(plan AS TEXT), ?1) > 0) \
         OR EXISTS (SELECT 1 FROM runs JOIN rounds USING (run) JOIN last USING (run), \
                                  json_each(rounds.merged, '$.states') AS state \
                    WHERE runs.state = 'running' AND state.value = ?1 \
                    AND (rounds.round = last.round OR rounds.round = last.round - 1 AND EXISTS \
                         (SELECT 1 FROM updates AS kept \
                          WHERE kept.run = last.run AND kept.round = last.round AND kept.retired = 0)))",
        [blob.to_string()],
        |row| row.get(0),
    )?)
}

/// The blob of an upload that is on its way.
pub(super) fn upload_blob(transaction: &Transaction<'_>, key: &UpdateKey) -> Result<Option<Digest>> {
    let found = transaction.query_row(
        "SELECT blob FROM uploads WHERE run = ?1 AND round = ?2 AND site = ?3",
        params![key.run.as_str(), key.round.0, key.site.as_str()],
        |row| row.get::<_, String>(0),
    );
    found.optional()?.map(|blob| parsed("uploads.blob", &blob)).transpose()
}

/// Forgets an upload.
pub(super) fn forget_upload(transaction: &Transaction<'_>, key: &UpdateKey) -> Result<()> {
    transaction.execute(
        "DELETE FROM uploads WHERE run = ?1 AND round = ?2 AND site = ?3",
        params![key.run.as_str(), key.round.0, key.site.as_str()],
    )?;
    Ok(())
}
