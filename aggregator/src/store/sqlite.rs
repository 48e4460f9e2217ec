//! The embedded store: one SQLite file, write-ahead log, synced at every commit.
//!
//! The server and the operator's commands open the same file; every write takes the write lock first, so that neither
//! reads what the other is about to change.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::ledger::Head;
use common::{Digest, Holder, Plan, Progress, RoundNumber, RunId, Score, SiteId, UpdateManifest};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::database::{connect, path};
use super::decisions::{forget_upload, names, upload_blob, write_action};
use super::rows::{from_json, int, json, maybe_number, milliseconds, number, parsed, small, stamp};
use super::{
    Details, FederationRecord, Issued, MemberRecord, Moment, ProgressRecord, Revoked, RoundRecord, RoundState,
    RunRecord, RunState, ScoresRecord, SignatureRecord, Store, StoreError, UpdateKey, UpdateRecord, UploadRecord, Wish,
    durable, ledger, members, seals, signatures,
};
use crate::clock::Stamp;
use crate::ledger::{Actor, Event};
use crate::round::{Roll, Word};
use crate::round_time::Noted;
use crate::run::{Attempt, Run, RunAction};

/// Raised with every change of the tables.
const VERSION: i64 = 7;
const SCHEMA: &str = include_str!("schema.sql");

/// The store in a state folder.
#[derive(Debug)]
pub struct SqliteStore {
    /// Synced at every commit.
    main: Mutex<Connection>,
    /// Synced with the next commit of the other: progress is said every second and may be lost.
    relaxed: Mutex<Connection>,
}

type Result<T> = std::result::Result<T, StoreError>;

impl SqliteStore {
    /// Makes the store of a new federation.
    pub fn create(state: &Path, federation: &FederationRecord) -> Result<Self> {
        let path = path(state);
        if path.exists() {
            return Err(StoreError::AlreadyThere(state.to_owned()));
        }
        let mut connection = connect(&path, "FULL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        transaction.execute_batch(SCHEMA)?;
        seals::install(&transaction)?;
        let FederationRecord { name, address, created_at } = federation;
        transaction.execute(
            "INSERT INTO federation (name, address, created_at_ms) VALUES (?1, ?2, ?3)",
            params![name.as_str(), address, int(created_at.0)],
        )?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        Self::open(state)
    }

    /// Opens the store of a state folder.
    pub fn open(state: &Path) -> Result<Self> {
        let path = path(state);
        let unreadable = |source: std::io::Error| StoreError::Unreadable { folder: state.to_owned(), source };
        if !path.try_exists().map_err(unreadable)? {
            return Err(StoreError::NoFederation(state.to_owned()));
        }
        // Asked, and not opened: closing a file gives SQLite's locks on it back, those of the whole process.
        rustix::fs::access(&path, rustix::fs::Access::READ_OK).map_err(|error| unreadable(error.into()))?;
        let main = connect(&path, "FULL")?;
        let found = main.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found == 0 {
            return Err(StoreError::HalfMade { folder: state.to_owned(), leftovers: "state.db".to_owned() });
        }
        if found != VERSION {
            return Err(StoreError::Version { path: state.to_owned(), found, expected: VERSION });
        }
        seals::hold_structure(&main, SCHEMA)?;
        // The log has its name now. SQLite syncs that as well, and passes over an error.
        durable::sync_folder(state).map_err(|error| StoreError::io("syncing the state folder", error))?;
        let relaxed = connect(&path, "NORMAL")?;
        Ok(Self { main: Mutex::new(main), relaxed: Mutex::new(relaxed) })
    }

    /// This store, unless it can only be read: SQLite opens a file so that it may not or, just then, cannot write, and the
    /// server would refuse every site for as long as it lives.
    pub fn for_writing(self) -> Result<Self> {
        let [main, relaxed] = [&self.main, &self.relaxed]
            .map(|connection| connection.lock().unwrap_or_else(PoisonError::into_inner).is_readonly(rusqlite::MAIN_DB));
        if main? || relaxed? {
            return Err(StoreError::io("opening state.db to write", std::io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        Ok(self)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread rolled its transaction back; the connection itself is sound.
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in one transaction that has the write lock from its beginning.
    fn write<T>(&self, body: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = body(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Rows of a table, those that `which` says, each held to its seal and read by `read`, which may find damage as well.
    fn each<T>(
        &self,
        table: &str,
        which: &str,
        parameters: impl rusqlite::Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<Result<T>>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!("SELECT * FROM {table} {which}"))?;
        let mut rows = statement.query(parameters)?;
        let mut each = Vec::new();
        while let Some(row) = rows.next()? {
            each.push(seals::hold(table, row).and_then(|()| read(row)));
        }
        Ok(each)
    }

    /// The same, where one row that is damaged spoils all.
    fn all<T>(
        &self,
        table: &str,
        which: &str,
        parameters: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.each(table, which, parameters, read)?.into_iter().collect()
    }
}

fn update_record(row: &Row<'_>) -> Result<UpdateRecord> {
    let manifest = from_json("updates.manifest", &row.get::<_, String>("manifest")?)?;
    let spent = Duration::from_millis(number(row, "spent_ms")?);
    Ok(UpdateRecord { manifest, received_at: stamp(row, "received_at_ms")?, spent, retired: row.get("retired")? })
}

impl Store for SqliteStore {
    fn federation(&self) -> Result<FederationRecord> {
        let found = self.all("federation", "", [], |row| {
            Ok(FederationRecord {
                name: parsed("federation.name", &row.get::<_, String>("name")?)?,
                address: row.get("address")?,
                created_at: stamp(row, "created_at_ms")?,
            })
        })?;
        found.into_iter().next().ok_or_else(|| StoreError::Damaged("the federation's row is gone".to_owned()))
    }

    fn invite(&self, token: Digest, holder: &Holder, by: &Actor, now: Stamp, expires_at: Stamp) -> Result<usize> {
        self.write(|transaction| members::invite(transaction, token, holder, by, now, expires_at))
    }

    fn redeem(
        &self,
        token: Digest,
        holder: &Holder,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued>,
    ) -> Result<Issued> {
        self.write(|transaction| members::redeem(transaction, token, holder, request, now, issue))
    }

    fn renew(
        &self,
        holder: &Holder,
        serial: &str,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued>,
    ) -> Result<Option<Issued>> {
        self.write(|transaction| members::renew(transaction, holder, serial, request, now, issue))
    }

    fn note_used(&self, holder: &Holder, serial: &str) -> Result<()> {
        self.write(|transaction| members::note_used(transaction, holder, serial))
    }

    fn members(&self) -> Result<Vec<MemberRecord>> {
        self.all("members", "ORDER BY holder", [], members::member)
    }

    fn revoke(&self, holder: &Holder, by: &Actor, now: Stamp) -> Result<Revoked> {
        self.write(|transaction| members::revoke(transaction, holder, by, now))
    }

    fn start_run(
        &self,
        plan: &Plan,
        hand: Option<&SignatureRecord>,
        by: &Actor,
        now: Stamp,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.write(|transaction| {
            let run = plan.run();
            let exists =
                transaction.query_row("SELECT 1 FROM runs WHERE run = ?1", [run.as_str()], |_| Ok(())).optional()?;
            if exists.is_some() {
                return Err(StoreError::RunExists(run.clone()));
            }
            check()?;
            let (begun, actions) = Run::of(plan);
            let state = if matches!(begun, Run::Awaiting { .. }) { "awaiting" } else { "running" };
            transaction.execute(
                "INSERT INTO runs (run, plan, plan_digest, started_at_ms, state) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![run.as_str(), plan.canonical_bytes(), plan.digest().to_string(), int(now.0), state],
            )?;
            let (first_model, digest) = (plan.first_model, plan.digest());
            ledger::append(transaction, &Event::RunStarted { run, plan: digest, first_model, by }, now)?;
            let moment = Moment { wall: now, of_round: Duration::ZERO };
            actions.iter().try_for_each(|action| write_action(transaction, run, action, Details::None, moment))?;
            hand.map_or(Ok(()), |hand| signatures::sign(transaction, run, digest, hand))
        })
    }

    fn runs(&self, skip: usize) -> Result<Vec<Result<RunRecord>>> {
        self.each("runs", "ORDER BY ordinal LIMIT -1 OFFSET ?1", [int(skip as u64)], run_record)
    }

    fn wish(&self, run: &RunId, before: &Wish, wish: &Wish, by: &Actor, now: Stamp) -> Result<bool> {
        self.write(|transaction| {
            let stands = transaction
                .query_row("SELECT paused, abort FROM wishes WHERE run = ?1", [run.as_str()], |row| {
                    Ok(Wish { paused: row.get(0)?, abort: row.get(1)? })
                })
                .optional()?;
            if stands.unwrap_or_default() != *before {
                return Ok(false);
            }
            transaction.execute(
                "INSERT OR REPLACE INTO wishes (run, paused, abort) VALUES (?1, ?2, ?3)",
                params![run.as_str(), wish.paused, wish.abort],
            )?;
            let asked = Event::Asked { run, paused: wish.paused, abort: wish.abort.as_deref(), by };
            ledger::append(transaction, &asked, now)?;
            Ok(true)
        })
    }

    fn sign(&self, run: &RunId, plan: Digest, signature: &SignatureRecord) -> Result<()> {
        self.write(|transaction| signatures::sign(transaction, run, plan, signature))
    }

    fn signatures(&self, run: &RunId) -> Result<Vec<SignatureRecord>> {
        self.all(
            "signatures",
            "WHERE run = ?1 ORDER BY signed_at_ms, coordinator",
            [run.as_str()],
            signatures::signature,
        )
    }

    fn wishes(&self) -> Result<BTreeMap<RunId, Wish>> {
        let all = self.all("wishes", "", [], |row| {
            let run = parsed("wishes.run", &row.get::<_, String>("run")?)?;
            Ok((run, Wish { paused: row.get("paused")?, abort: row.get("abort")? }))
        })?;
        Ok(all.into_iter().collect())
    }

    fn rounds(&self, run: &RunId) -> Result<Vec<RoundRecord>> {
        self.all("rounds", "WHERE run = ?1 ORDER BY round, attempt", [run.as_str()], |row| {
            let outcome = || -> Result<_> {
                let text: Option<String> = row.get("outcome")?;
                from_json("rounds.outcome", &text.unwrap_or_default())
            };
            let state = match row.get::<_, String>("state")?.as_str() {
                "gathering" => RoundState::Gathering,
                "training" => RoundState::Training,
                "merging" => RoundState::Merging(outcome()?),
                "abandoned" => RoundState::Abandoned(outcome()?),
                _ => {
                    let merged: Option<String> = row.get("merged")?;
                    RoundState::Closed(outcome()?, from_json("rounds.merged", &merged.unwrap_or_default())?)
                }
            };
            Ok(RoundRecord {
                attempt: Attempt {
                    round: RoundNumber(small(row, "round")?),
                    attempt: small(row, "attempt")?,
                    base: parsed("rounds.base", &row.get::<_, String>("base")?)?,
                },
                state,
                began_at: stamp(row, "began_at_ms")?,
                ended_at: maybe_number(row, "ended_at_ms")?.map(Stamp),
                time: Noted {
                    spent: Duration::from_millis(number(row, "spent_ms")?),
                    left: maybe_number(row, "remaining_ms")?.map(Duration::from_millis),
                },
            })
        })
    }

    fn roll(&self, run: &RunId, attempt: Attempt) -> Result<Roll> {
        let said = self.all(
            "words",
            "WHERE run = ?1 AND round = ?2 AND attempt = ?3",
            params![run.as_str(), attempt.round.0, attempt.attempt],
            |row| {
                let site = parsed("words.site", &row.get::<_, String>("site")?)?;
                let word = match row.get::<_, Option<String>>("decline")? {
                    _ if row.get("revoked")? => Word::Revoked,
                    None => Word::Joined,
                    Some(reason) => Word::Declined(from_json("words.decline", &reason)?),
                };
                Ok((site, word))
            },
        )?;
        let mut roll: Roll = said.into_iter().collect();
        let revoked: Vec<SiteId> =
            roll.iter().filter(|(_, word)| **word == Word::Revoked).map(|(site, _)| site.clone()).collect();
        // In a round that is open, only damage retires an update.
        let word =
            |update: UpdateRecord| if update.retired { Word::Lost } else { Word::Reported(update.manifest.blob) };
        let mut updates = self.updates(run, attempt.round)?;
        // The update of a site that was revoked since does not count.
        updates.retain(|site, _| !revoked.contains(site));
        roll.extend(updates.into_iter().map(|(site, update)| (site, word(update))));
        Ok(roll)
    }

    fn updates(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, UpdateRecord>> {
        let all =
            self.all("updates", "WHERE run = ?1 AND round = ?2", params![run.as_str(), round.0], update_record)?;
        Ok(all.into_iter().map(|update| (update.manifest.site.clone(), update)).collect())
    }

    fn update(&self, key: &UpdateKey) -> Result<Option<UpdateRecord>> {
        let UpdateKey { run, round, site } = key;
        let which = "WHERE run = ?1 AND round = ?2 AND site = ?3";
        let found = self.all("updates", which, params![run.as_str(), round.0, site.as_str()], update_record)?;
        Ok(found.into_iter().next())
    }

    fn joined(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, Duration>> {
        let which = "WHERE run = ?1 AND round = ?2 AND decline IS NULL AND revoked = 0 ORDER BY attempt DESC";
        let all = self.all("words", which, params![run.as_str(), round.0], |row| {
            let site = parsed("words.site", &row.get::<_, String>("site")?)?;
            Ok((site, Duration::from_millis(number(row, "spent_ms")?)))
        })?;
        // Of several, the first attempt's is collected last.
        Ok(all.into_iter().collect())
    }

    fn record(&self, run: &RunId, actions: &[RunAction], details: Details<'_>, moment: Moment) -> Result<()> {
        self.write(|transaction| {
            actions.iter().try_for_each(|action| write_action(transaction, run, action, details, moment))
        })
    }

    fn note_time(&self, run: &RunId, attempt: Attempt, time: Noted) -> Result<()> {
        let connection = self.relaxed.lock().unwrap_or_else(PoisonError::into_inner);
        connection.execute(
            "UPDATE rounds SET spent_ms = ?4, remaining_ms = ?5 WHERE run = ?1 AND round = ?2 AND attempt = ?3",
            params![
                run.as_str(),
                attempt.round.0,
                attempt.attempt,
                milliseconds(time.spent),
                time.left.map(milliseconds)
            ],
        )?;
        Ok(())
    }

    fn note_trouble(&self, run: &RunId, trouble: Option<&str>) -> Result<()> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE runs SET trouble = ?2 WHERE run = ?1 AND trouble IS NOT ?2",
                params![run.as_str(), trouble],
            )?;
            Ok(())
        })
    }

    fn begin_upload(&self, manifest: &UpdateManifest, room: u64) -> Result<bool> {
        let UpdateManifest { run, round, site, blob, bytes, .. } = manifest;
        self.write(|transaction| {
            let taken: i64 = transaction.query_row(
                "SELECT (SELECT COALESCE(SUM(bytes), 0) FROM uploads WHERE (run, round, site) <> (?1, ?2, ?3)) \
                 + (SELECT COALESCE(SUM(bytes), 0) FROM updates WHERE retired = 0)",
                params![run.as_str(), round.0, site.as_str()],
                |row| row.get(0),
            )?;
            if taken.saturating_add(int(*bytes)) > int(room) {
                return Ok(false);
            }
            transaction.execute(
                "INSERT OR REPLACE INTO uploads (run, round, site, blob, bytes, manifest, durable_bytes) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
                params![run.as_str(), round.0, site.as_str(), blob.to_string(), int(*bytes), json(manifest)?],
            )?;
            Ok(true)
        })
    }

    fn uploads(&self) -> Result<Vec<UploadRecord>> {
        self.all("uploads", "ORDER BY run, round, site", [], |row| {
            let manifest = from_json("uploads.manifest", &row.get::<_, String>("manifest")?)?;
            Ok(UploadRecord { manifest, durable: number(row, "durable_bytes")? })
        })
    }

    fn note_durable(&self, key: &UpdateKey, bytes: u64) -> Result<()> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE uploads SET durable_bytes = ?4 WHERE run = ?1 AND round = ?2 AND site = ?3",
                params![key.run.as_str(), key.round.0, key.site.as_str(), int(bytes)],
            )?;
            Ok(())
        })
    }

    fn forget_upload(&self, key: &UpdateKey, remove: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        self.write(|transaction| {
            let blob = upload_blob(transaction, key)?;
            forget_upload(transaction, key)?;
            match blob {
                Some(blob) if !names(transaction, blob)? => remove(blob),
                _ => Ok(()),
            }
        })
    }

    fn retire(&self, run: &RunId, keep: Option<u32>, remove: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        self.write(|transaction| {
            let last: Option<u32> = transaction.query_row(
                "SELECT MAX(round) FROM rounds WHERE run = ?1 AND state = 'closed'",
                [run.as_str()],
                |row| row.get(0),
            )?;
            let up_to = match keep {
                Some(keep) => last.and_then(|last| last.checked_sub(keep)),
                None => Some(u32::MAX),
            };
            // Rounds count from 1: none is up to 0.
            let up_to = up_to.unwrap_or(0);
            let mut statement =
                transaction.prepare("SELECT blob FROM updates WHERE run = ?1 AND round <= ?2 AND retired = 0")?;
            let mut blobs: Vec<String> = statement
                .query_map(params![run.as_str(), up_to], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            transaction.execute(
                "UPDATE updates SET retired = 1 WHERE run = ?1 AND round <= ?2 AND retired = 0",
                params![run.as_str(), up_to],
            )?;
            let mut statement = transaction.prepare(
                "SELECT state.value FROM rounds, json_each(rounds.merged, '$.states') AS state WHERE rounds.run = ?1",
            )?;
            for state in statement.query_map([run.as_str()], |row| row.get(0))? {
                blobs.push(state?);
            }
            for blob in blobs {
                let blob = parsed("a blob that is no longer needed", &blob)?;
                if !names(transaction, blob)? {
                    remove(blob)?;
                }
            }
            Ok(())
        })
    }

    fn remove_unnamed(&self, blobs: &[Digest], remove: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        self.write(|transaction| {
            for &blob in blobs {
                if !names(transaction, blob)? {
                    remove(blob)?;
                }
            }
            Ok(())
        })
    }

    fn note_progress(&self, site: &SiteId, progress: &Progress, now: Stamp) -> Result<()> {
        let run = progress.work.as_ref().map(|(run, _)| run.as_str()).unwrap_or_default();
        let connection = self.relaxed.lock().unwrap_or_else(PoisonError::into_inner);
        connection.execute(
            "INSERT OR REPLACE INTO progress (site, run, progress, heard_at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![site.as_str(), run, json(progress)?, int(now.0)],
        )?;
        Ok(())
    }

    fn note_scores(&self, run: &RunId, model: Digest, site: &SiteId, scores: &[Score], now: Stamp) -> Result<()> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO scores (run, model, site, scores, received_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![run.as_str(), model.to_string(), site.as_str(), json(&scores)?, int(now.0)],
            )?;
            Ok(())
        })
    }

    fn scores(&self, run: &RunId) -> Result<Vec<ScoresRecord>> {
        self.all("scores", "WHERE run = ?1 ORDER BY model, site", [run.as_str()], |row| {
            Ok(ScoresRecord {
                model: parsed("scores.model", &row.get::<_, String>("model")?)?,
                site: parsed("scores.site", &row.get::<_, String>("site")?)?,
                scores: from_json("scores.scores", &row.get::<_, String>("scores")?)?,
            })
        })
    }

    fn enter(&self, event: &Event<'_>, now: Stamp) -> Result<()> {
        self.write(|transaction| ledger::append(transaction, event, now))
    }

    fn ledger_head(&self) -> Result<Head> {
        ledger::head(&self.lock())
    }

    fn ledger(&self, skip: u64, most: u64) -> Result<Vec<String>> {
        let which = "WHERE entry > ?1 ORDER BY entry LIMIT ?2";
        self.all("ledger", which, params![int(skip), int(most)], |row| Ok(row.get("line")?))
    }

    fn progress(&self) -> Result<Vec<ProgressRecord>> {
        self.all("progress", "ORDER BY site, run", [], |row| {
            Ok(ProgressRecord {
                site: parsed("progress.site", &row.get::<_, String>("site")?)?,
                progress: from_json("progress.progress", &row.get::<_, String>("progress")?)?,
                heard_at: stamp(row, "heard_at_ms")?,
            })
        })
    }
}

fn run_record(row: &Row<'_>) -> Result<RunRecord> {
    let plan_bytes: Vec<u8> = row.get("plan")?;
    let plan_digest = parsed("runs.plan_digest", &row.get::<_, String>("plan_digest")?)?;
    let plan =
        Plan::from_kept_bytes(&plan_bytes, plan_digest).map_err(|error| StoreError::Damaged(error.to_string()))?;
    let because: Option<String> = row.get("because")?;
    let damaged = |what: &str| StoreError::Damaged(what.to_owned());
    let state = match row.get::<_, String>("state")?.as_str() {
        "awaiting" => RunState::Awaiting,
        "running" => RunState::Running,
        "finished" => RunState::Finished,
        "failed" => RunState::Failed { because: because.ok_or_else(|| damaged("runs.because is missing"))? },
        other => return Err(damaged(&format!("runs.state is {other:?}"))),
    };
    Ok(RunRecord {
        ordinal: row.get("ordinal")?,
        plan,
        plan_bytes,
        plan_digest,
        started_at: stamp(row, "started_at_ms")?,
        state,
        trouble: row.get("trouble")?,
    })
}
