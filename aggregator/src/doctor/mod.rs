//! `aggregator doctor`: looks at the state folder, the certificates, the sites and the server, and says what to do where
//! something is not well. It reads alone, whether a server runs or not. What the facts mean is in `verdicts`.

mod verdicts;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use certs::probe::{self, Shown};
use certs::proxy::Route;
use common::check::Check;
use common::{Digest, RunId};

use crate::clock::Stamp;
use crate::config::{Config, ConfigError};
use crate::status::{self, RunPhase, Status};
use crate::store::{Blobs, SiteRecord, SqliteStore, Store, StoreError};

/// Longest that the server's answer is waited for.
const WITHIN: Duration = Duration::from_secs(15);

/// Looks at everything, `now`.
pub async fn examine(state: &Path, config: Result<Config, ConfigError>, now: Stamp) -> Vec<Check> {
    let wrong = config.as_ref().err().map(ToString::to_string);
    let config = config.unwrap_or_default();
    let mode = |path: &Path| fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777);
    let key = |name: &'static str| (name, mode(&state.join(name)));
    let authority = fs::read_to_string(state.join("authority/ca.crt"));
    let authority = authority.map_err(|error| error.to_string());
    let authority = authority.and_then(|pem| Shown::of_pem(&pem).map_err(|error| error.to_string()));
    let mut checks = vec![
        verdicts::folder(mode(state)),
        verdicts::settings(wrong.as_deref()),
        verdicts::keys(&[key("authority/ca.key"), key("server.key"), key("signing.key")]),
        verdicts::authority(authority.as_ref().map(|shown| shown.not_after_s).map_err(String::as_str), now),
    ];
    let subject = authority.ok().map(|shown| shown.subject);
    let stored = stored(state, now);
    checks.push(verdicts::database(stored.as_ref().err().map(ToString::to_string).as_deref()));
    if let Ok(Read { sites: enrolled, latest, status, needed, .. }) = &stored {
        let live = enrolled.iter().filter(|site| !site.revoked);
        let left = |end: Stamp| (end.seconds().cast_signed() - now.seconds().cast_signed()) / 86_400;
        let days: Vec<(String, i64)> = live.map(|site| (site.site.to_string(), left(site.expires_at))).collect();
        checks.push(verdicts::sites(&days, enrolled.len() - days.len()));
        checks.push(match missing(state, needed) {
            Ok(lost) => verdicts::blobs(&lost),
            Err(error) => verdicts::no_blobs(&error.to_string()),
        });
        checks.push(verdicts::runs(status));
        let newest = status.sites.iter().filter_map(|site| site.last_word_ms).count();
        checks.push(verdicts::clock(latest.0.saturating_sub(now.0), newest));
    }
    let models = stored
        .as_ref()
        .map_or(0, |Read { status, .. }| status.runs.iter().map(|run| run.model_bytes).max().unwrap_or(0));
    checks.push(verdicts::disk(free_bytes(state), models));
    checks.push(server(&config, subject.as_deref(), now).await);
    if let Ok(Read { status, .. }) = &stored {
        checks.push(outside(&status.address).await);
    }
    checks
}

/// What the database says. Whatever of it cannot be read is the finding, and nothing is said of it as if it were not there.
struct Read {
    status: Status,
    sites: Vec<SiteRecord>,
    /// The newest time that stands in it.
    latest: Stamp,
    /// Blobs that runs go on from, with their lengths.
    needed: Vec<(RunId, Digest, u64)>,
}

/// The database, every row of it held to its seal, and the ledger to its chain.
fn stored(state: &Path, now: Stamp) -> Result<Read, StoreError> {
    // Opening holds the trees to SQLite's own check.
    let store = SqliteStore::open(state)?;
    let status = status::read(&store, now)?;
    store.uploads()?;
    if let Some(damaged) = status.damaged_runs.first() {
        return Err(StoreError::Damaged(damaged.clone()));
    }
    let lines = store.ledger(0, i64::MAX.unsigned_abs())?;
    common::ledger::verify(lines.iter().map(String::as_str), &[store.ledger_head()?], |_, _| {})
        .map_err(|broken| StoreError::Damaged(format!("the ledger does not hold: {broken}")))?;
    let heard = store.progress()?.iter().map(|said| said.heard_at).max();
    let latest = heard.max(Some(store.federation()?.created_at)).unwrap_or(now);
    Ok(Read { sites: store.sites()?, latest, needed: needed(&store, &status)?, status })
}

/// The model that each running round starts from, and its stored updates.
fn needed(store: &SqliteStore, status: &Status) -> Result<Vec<(RunId, Digest, u64)>, StoreError> {
    let mut needed = Vec::new();
    for run in status.runs.iter().filter(|run| run.state == RunPhase::Running) {
        let mut of_run = vec![(run.model, run.model_bytes)];
        if let Some(open) = &run.open {
            of_run.push((open.base, run.model_bytes));
            let updates = store.updates(&run.run, open.round)?;
            of_run.extend(updates.values().map(|update| (update.manifest.blob, update.manifest.bytes)));
        }
        needed.extend(of_run.into_iter().map(|(digest, bytes)| (run.run.clone(), digest, bytes)));
    }
    needed.sort();
    needed.dedup();
    Ok(needed)
}

/// Those that are not there, or are too short.
fn missing(state: &Path, needed: &[(RunId, Digest, u64)]) -> io::Result<Vec<(RunId, Digest)>> {
    let blobs = Blobs::open(state)?;
    let is_lost = |(_, digest, bytes): &&(RunId, Digest, u64)| blobs.length(*digest) != Some(*bytes);
    Ok(needed.iter().filter(is_lost).map(|(run, digest, _)| (run.clone(), *digest)).collect())
}

/// Who answers where this aggregator is to listen.
async fn server(config: &Config, authority: Option<&str>, now: Stamp) -> Check {
    let host = match config.listen.ip() {
        ip if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let shown = shown(&SocketAddr::new(host, config.listen.port()).to_string()).await;
    verdicts::server(shown.as_deref().map_err(String::as_str), authority, now)
}

/// Whether the address in invitations leads anywhere from here.
async fn outside(address: &str) -> Check {
    let shown = shown(address).await;
    verdicts::outside(address, shown.map(drop).as_ref().map_err(String::as_str).copied())
}

async fn shown(address: &str) -> Result<Vec<Shown>, String> {
    match tokio::time::timeout(WITHIN, probe::shown(address, &Route::Direct)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).to_string()),
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
