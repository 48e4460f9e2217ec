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
use crate::store::{Blobs, SqliteStore, Store, StoreError};

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
    if let Ok((store, status)) = &stored {
        let enrolled = store.sites().unwrap_or_default();
        let live = enrolled.iter().filter(|site| !site.revoked);
        let left = |end: Stamp| (end.seconds().cast_signed() - now.seconds().cast_signed()) / 86_400;
        let days: Vec<(String, i64)> = live.map(|site| (site.site.to_string(), left(site.expires_at))).collect();
        checks.push(verdicts::sites(&days, enrolled.len() - days.len()));
        checks.push(verdicts::blobs(&missing(state, store, status)));
        checks.push(verdicts::runs(status));
        let newest = status.sites.iter().filter_map(|site| site.last_word_ms).count();
        let latest = store.progress().unwrap_or_default().iter().map(|said| said.heard_at).max();
        let latest = latest.max(store.federation().ok().map(|federation| federation.created_at));
        checks.push(verdicts::clock(latest.map(|latest| latest.0.saturating_sub(now.0)), newest));
    }
    let models =
        stored.as_ref().map_or(0, |(_, status)| status.runs.iter().map(|run| run.model_bytes).max().unwrap_or(0));
    checks.push(verdicts::disk(free_bytes(state), models));
    checks.push(server(&config, subject.as_deref(), now).await);
    if let Ok((_, status)) = &stored {
        checks.push(outside(&status.address).await);
    }
    checks
}

/// The database, every row of it held to its seal.
fn stored(state: &Path, now: Stamp) -> Result<(SqliteStore, Status), StoreError> {
    // Opening holds the trees to SQLite's own check.
    let store = SqliteStore::open(state)?;
    let status = status::read(&store, now)?;
    store.uploads()?;
    match status.damaged_runs.first() {
        Some(damaged) => Err(StoreError::Damaged(damaged.clone())),
        None => Ok((store, status)),
    }
}

/// Blobs of runs that go on which are not there, or are too short: the model that a round starts from, and stored updates.
fn missing(state: &Path, store: &SqliteStore, status: &Status) -> Vec<(RunId, Digest)> {
    let Ok(blobs) = Blobs::open(state) else { return Vec::new() };
    let mut lost = Vec::new();
    for run in status.runs.iter().filter(|run| run.state == RunPhase::Running) {
        let mut needed = vec![(run.model, Some(run.model_bytes))];
        if let Some(open) = &run.open {
            needed.push((open.base, Some(run.model_bytes)));
            let updates = store.updates(&run.run, open.round).unwrap_or_default();
            needed.extend(updates.values().map(|update| (update.manifest.blob, Some(update.manifest.bytes))));
        }
        let is_lost = |(digest, bytes): &(Digest, Option<u64>)| blobs.length(*digest) != *bytes;
        lost.extend(needed.into_iter().filter(is_lost).map(|(digest, _)| (run.run.clone(), digest)));
    }
    lost.sort();
    lost.dedup();
    lost
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
