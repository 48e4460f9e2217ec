//! What the database says. Whatever of it cannot be read is the finding, and nothing is said of it as if it were not there.

use std::path::Path;

use common::check::Check;
use common::{Digest, Holder, Plan, RunId, SiteId};

use super::local::told;
use super::verdicts::{self, Cohort, Stored, Unheld};
use crate::audit::{AggregatorLedger, audit};
use crate::authority;
use crate::clock::Stamp;
use crate::config::Config;
use crate::desk;
use crate::layout::Layout;
use crate::status::{self, EnrolledSite, RunPhase, RunStatus, Status};
use crate::store::{Blobs, MemberRecord, SqliteStore, Store, StoreError};

/// The database, read.
pub(super) struct Read {
    pub(super) status: Status,
    members: Vec<MemberRecord>,
    /// Entries of the ledger, and heads of it that sites signed.
    ledger: Result<(u64, usize), Unheld>,
    /// The newest time that stands in it.
    latest: Stamp,
    /// Members that do not know the next CA, if there is one.
    waiting: Result<Option<Vec<String>>, String>,
    /// Blobs that runs go on from.
    needed: Vec<Needed>,
    /// What running runs have on the disk.
    pub(super) stored: Vec<Stored>,
}

/// A blob that a run goes on from.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Needed {
    run: RunId,
    digest: Digest,
    bytes: u64,
    /// Held to its digest; an update is so when it is merged.
    is_model: bool,
}

/// The database, every row of it held to its seal, and the ledger to its chain.
pub(super) fn read(state: &Path, now: Stamp) -> Result<Read, StoreError> {
    // Opening holds the trees to SQLite's own check.
    let store = SqliteStore::open(state)?;
    let status = status::read(&store, now)?;
    store.uploads()?;
    if let Some(damaged) = status.damaged_runs.first() {
        return Err(StoreError::Damaged(damaged.clone()));
    }
    let heard = store.progress()?.iter().map(|said| said.heard_at).max();
    let (lines, end) = desk::lines(&store)?;
    let written = lines.last().and_then(|line| common::ledger::time_of(line)).map(Stamp);
    let latest = heard.max(written).max(Some(store.federation()?.created_at)).unwrap_or(now);
    let (members, needed) = (store.members()?, needed(&store, &status)?);
    let (ledger, waiting) = (ledger(state, &store, lines, end), waiting(state, &status, &members));
    let stored = stored(&store, &status)?;
    Ok(Read { status, members, ledger, latest, waiting, needed, stored })
}

fn stored(store: &SqliteStore, status: &Status) -> Result<Vec<Stored>, StoreError> {
    let records = store.runs(0)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let running = status.runs.iter().filter(|run| run.state == RunPhase::Running);
    let of_run = |run: &RunStatus| {
        let plan = &records.iter().find(|record| *record.plan.run() == run.run)?.plan;
        let merged = run.rounds.iter().filter(|round| round.merged).count();
        Some(Stored {
            model_bytes: run.model_bytes,
            update_bytes: update_bytes(plan).unwrap_or(run.model_bytes),
            sites: run.sites.len(),
            merged: u32::try_from(merged).unwrap_or(u32::MAX),
            planned: run.rounds_planned,
        })
    };
    Ok(running.filter_map(of_run).collect())
}

/// Length of the largest update of a plan: of one with every head.
fn update_bytes(plan: &Plan) -> Option<u64> {
    let signature = plan.update_signature(&plan.tasks().cloned().collect()).ok()?;
    Some(Layout::encoded(&signature, plan.draft.aggregation.encoding).ok()?.bytes())
}

fn ledger(
    state: &Path,
    store: &SqliteStore,
    lines: Vec<String>,
    end: common::ledger::Head,
) -> Result<(u64, usize), Unheld> {
    let key = authority::signing_key(state).map_err(|error| Unheld::NoKey(told(error)))?.verifying();
    let federation = store.federation().map_err(|error| Unheld::Broken(told(error)))?.name;
    let held = audit(&AggregatorLedger { federation, key, lines, end }, &[]);
    let held = held.map_err(|blamed| Unheld::Broken(told(blamed)))?;
    Ok((held.head.entries, held.told))
}

fn waiting(state: &Path, status: &Status, members: &[MemberRecord]) -> Result<Option<Vec<String>>, String> {
    let authority = authority::load(state, &status.federation).map_err(told)?;
    let is_alone = authority.anchors_pem() == authority.certificate_pem();
    let anchors = authority.anchors();
    let waiting = members.iter().filter(|member| !member.revoked && member.anchors != anchors);
    Ok((!is_alone).then(|| waiting.map(|member| member.holder.to_string()).collect()))
}

/// What it means.
pub(super) fn checks(state: &Path, config: &Config, read: Result<&Read, &StoreError>, now: Stamp) -> Vec<Check> {
    let wrong = read.err().map(ToString::to_string);
    let database = verdicts::database(wrong.as_deref());
    let Ok(Read { status, members, ledger, latest, waiting, needed, stored }) = read else {
        let first = |name| Check::not_yet(name, "the database cannot be read: see there");
        let names = [
            "next CA",
            "ledger",
            "sites",
            "persons",
            "connections",
            "blobs",
            "spool",
            "runs",
            "cohorts",
            "signatures",
            "silence",
            "clock",
        ];
        return [database].into_iter().chain(names.map(first)).collect();
    };
    let seconds = |end: Stamp| end.seconds().cast_signed() - now.seconds().cast_signed();
    let of = |is_site: bool| members.iter().filter(move |member| member.holder.site().is_some() == is_site);
    let name = |holder: &Holder| holder.person().map_or_else(|| holder.to_string(), common::Person::told);
    let left = |is_site: bool| -> Vec<(String, i64)> {
        let live = of(is_site).filter(|member| !member.revoked);
        live.map(|member| (name(&member.holder), seconds(member.expires_at))).collect()
    };
    let (sites, persons) = (left(true), left(false));
    let is_coordinator = |holder: &Holder| holder.person().is_some_and(common::Person::is_coordinator);
    let coordinators = members.iter().filter(|member| !member.revoked && is_coordinator(&member.holder)).count();
    let unsigned = status.runs.iter().filter(|run| run.state == RunPhase::AwaitingSignatures);
    let unsigned = unsigned.map(|run| {
        let have = run.signed_by.iter().filter(|signed| signed.counts).count();
        (run.run.clone(), have, run.signatures_needed)
    });
    let heard = status.sites.iter().filter_map(|site| site.last_word_ms).count();
    let running = || status.runs.iter().filter(|run| run.state == RunPhase::Running);
    let is_awaited = |site: &&EnrolledSite| !site.revoked && running().any(|run| run.sites.contains_key(&site.site));
    let is_let_in = |site: &SiteId| status.sites.iter().any(|enrolled| enrolled.site == *site && !enrolled.revoked);
    let cohorts = running().map(|run| Cohort {
        run: run.run.clone(),
        sites: run.sites.len(),
        quorum: run.quorum,
        outside: run.sites.keys().filter(|site| !is_let_in(site)).cloned().collect(),
    });
    let awaited = status.sites.iter().filter(is_awaited).map(|site| (&site.site, site.last_word_ms));
    vec![
        database,
        verdicts::next_authority(waiting.as_ref().map(Option::as_deref).map_err(String::as_str)),
        verdicts::ledger(ledger.as_ref().copied()),
        verdicts::sites(&sites, config.certificate_life_s.into(), of(true).count() - sites.len()),
        verdicts::persons(&persons, of(false).count() - persons.len()),
        verdicts::connections(sites.len() + persons.len(), config.max_connections),
        match lost(&Blobs::at(state), needed) {
            Ok(lost) => verdicts::blobs(&lost),
            Err(error) => verdicts::no_blobs(&error.to_string()),
        },
        verdicts::spool(stored, config.keep_updates_of_rounds, config.max_spool_bytes),
        verdicts::runs(status),
        verdicts::cohorts(&cohorts.collect::<Vec<_>>()),
        verdicts::signatures(coordinators, config.signatures, &unsigned.collect::<Vec<_>>()),
        verdicts::silence(&awaited.collect::<Vec<_>>()),
        verdicts::clock(latest.0.saturating_sub(now.0), heard),
    ]
}

/// The model that each running round starts from, and its stored updates; the last model of a run that is finished.
fn needed(store: &SqliteStore, status: &Status) -> Result<Vec<Needed>, StoreError> {
    let mut needed = Vec::new();
    for of_run in status.runs.iter().filter(|run| matches!(run.state, RunPhase::Running | RunPhase::Finished)) {
        let need = |digest, bytes, is_model| Needed { run: of_run.run.clone(), digest, bytes, is_model };
        needed.push(need(of_run.model, of_run.model_bytes, true));
        if let Some(open) = &of_run.open {
            needed.push(need(open.base, of_run.model_bytes, true));
            let updates = store.updates(&of_run.run, open.round)?;
            needed.extend(updates.values().map(|update| need(update.manifest.blob, update.manifest.bytes, false)));
        }
    }
    needed.sort();
    needed.dedup();
    Ok(needed)
}

/// Those that are not there, have another length, or are models with other bytes.
fn lost(blobs: &Blobs, needed: &[Needed]) -> std::io::Result<Vec<(RunId, Digest)>> {
    // A federation without a run has no folder of them yet.
    if !needed.is_empty() {
        blobs.look()?;
    }
    let is_lost = |blob: &&Needed| {
        blobs.length(blob.digest) != Some(blob.bytes)
            || (blob.is_model && blobs.what_is_wrong_with(blob.digest).is_some())
    };
    Ok(needed.iter().filter(is_lost).map(|blob| (blob.run.clone(), blob.digest)).collect())
}
