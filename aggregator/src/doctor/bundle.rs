//! A zip for whoever helps: what the doctor found, the settings, versions, and how the runs stand.
//!
//! It holds no key, no invitation and no host by what it is made of: checks without their own names
//! ([`Check::to_send`](common::check::Check::to_send)), settings without addresses, numbers. Logs are not in it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use common::bundle::{Bundle, BundleError, NO_SETTINGS};
use common::check::Check;
use serde_json::{Value, json};

use crate::clock::Stamp;
use crate::config::Config;
use crate::status::{self, RunStatus};
use crate::store::{SqliteStore, StoreError};

/// Writes the bundle to a new file; returns the names of what it holds. Without `config` the settings cannot be read.
pub fn write(
    path: &Path,
    checks: &[Check],
    config: Option<&Config>,
    state: &Path,
    now: Stamp,
) -> Result<String, BundleError> {
    let bundle = contents(checks, config, &runs(state, now))?;
    bundle.write_to(path, |path, bytes| {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    Ok(bundle.names())
}

fn contents(checks: &[Check], config: Option<&Config>, runs: &Value) -> Result<Bundle, BundleError> {
    let settings = config.map_or(Ok(NO_SETTINGS.to_owned()), to_send);
    let settings = settings.map_err(|error| BundleError::Text { name: "settings.toml", why: error.to_string() })?;
    Bundle::of(checks)?
        .with("settings.toml", settings)
        .with_json("versions.json", &versions())?
        .with_json("runs.json", runs)
}

/// The settings, with the port alone of where it listens, and without hosts.
fn to_send(config: &Config) -> Result<String, toml::ser::Error> {
    let mut table = toml::Table::try_from(config)?;
    let listen = format!("(not shown):{}", config.listen.port());
    table.insert("listen".to_owned(), listen.into());
    table.insert("names".to_owned(), format!("({}, not shown)", config.names.len()).into());
    toml::to_string(&table)
}

fn versions() -> Value {
    // Null where the system does not tell.
    let system = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    json!({
        "aggregator": env!("CARGO_PKG_VERSION"), "system": system.as_deref().map(str::trim),
        "architecture": std::env::consts::ARCH,
        "cores": std::thread::available_parallelism().map_or(0, |count| count.get()),
    })
}

/// How the runs stand: numbers and the names of runs. Who is in them is in the checks, where that matters.
fn runs(state: &Path, now: Stamp) -> Value {
    let read = || -> Result<Value, StoreError> {
        let status = status::read(&SqliteStore::open(state)?, now)?;
        Ok(status.runs.iter().map(run).collect())
    };
    // That it cannot be read is a finding of the checks.
    read().unwrap_or(Value::Null)
}

fn run(run: &RunStatus) -> Value {
    let rounds = run.rounds.iter().map(|round| {
        json!({
            "round": round.round, "attempt": round.attempt, "merged": round.merged, "took ms": round.took_ms,
            "sites": round.sites.len(), "left out": round.left_out.len(), "alarms": round.alarms.len(),
        })
    });
    let open = run.open.as_ref().map(|open| {
        json!({
            "round": open.round, "attempt": open.attempt, "state": open.state, "time left ms": open.time_left_ms,
            "joined": open.joined.len(), "reported": open.reported.len(), "declined": open.declined.len(),
        })
    });
    json!({
        "run": run.run, "state": run.state, "paused": run.paused, "plan": run.plan, "model bytes": run.model_bytes,
        "sites": run.sites.len(), "quorum": run.quorum, "rounds planned": run.rounds_planned,
        "signatures needed": run.signatures_needed, "signatures": run.signed_by.len(), "open": open,
        "rounds": rounds.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_settings_full_of_hosts_shows_none_of_them_and_replaces_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let listen = "10.11.12.13:4433".parse().unwrap();
        let config = Config { listen, names: vec!["canary.example.org".to_owned()], ..Config::default() };
        let checks = [Check::failure("server", "nobody answers", "start it").here("10.11.12.13:4433: refused")];
        let bundle = contents(&checks, Some(&config), &Value::Null).unwrap();
        let all: String = bundle.files().map(|(_, text)| text).collect();
        assert!(!all.contains("10.11.12.13") && !all.contains("canary"), "{all}");
        assert!(
            all.contains("(not shown):4433") && all.contains("nobody answers") && all.contains("max_connections"),
            "{all}"
        );
        let path = folder.path().join("bundle.zip");
        let unread = contents(&checks, None, &Value::Null).unwrap();
        let settings = unread.files().find(|(name, _)| *name == "settings.toml").unwrap().1;
        assert!(settings.contains("cannot be read") && !settings.contains('='), "no defaults: {settings}");
        let written = || write(&path, &checks, Some(&config), folder.path(), Stamp(0));
        assert_eq!(written().unwrap(), "doctor.json, settings.toml, versions.json, runs.json");
        assert!(written().unwrap_err().to_string().contains("not there yet"));
    }
}
