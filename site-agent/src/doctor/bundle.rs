//! A zip for whoever helps: what the doctor found, the settings, versions, and how the jobs stand.
//!
//! It holds no patient data by what it is made of: checks without their own names ([`Check::to_send`]), settings without paths
//! and passwords, numbers. Logs are not in it, since an error of a parser or a disk names files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::bundle::{Bundle, BundleError, NO_SETTINGS};
use common::check::Check;
use serde_json::{Value, json};

use crate::config::Config;
use crate::home::Home;
use crate::job::JobFolder;

/// Writes the bundle to a new file; returns the names of what it holds. Without `config` the settings cannot be read.
pub fn write(path: &Path, checks: &[Check], config: Option<&Config>, home: &Home) -> Result<String, BundleError> {
    let bundle = contents(checks, config, home)?;
    bundle.write_to(path, |path, bytes| {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    Ok(bundle.names())
}

fn contents(checks: &[Check], config: Option<&Config>, home: &Home) -> Result<Bundle, BundleError> {
    let settings = config.map_or(Ok(NO_SETTINGS.to_owned()), |config| toml::to_string(&to_send(config)));
    let settings = settings.map_err(|error| BundleError::Text { name: "settings.toml", why: error.to_string() })?;
    Bundle::of(checks)?
        .with("settings.toml", settings)
        .with_json("versions.json", &versions())?
        .with_json("jobs.json", &jobs(home))
}

/// The settings without paths, addresses and passwords.
fn to_send(config: &Config) -> Config {
    let mut config = config.clone();
    let shown = |path: &mut Option<PathBuf>| {
        if let Some(path) = path {
            *path = "(set, not shown)".into();
        }
    };
    shown(&mut config.labels);
    config.network = config.network.without_names();
    config
}

fn versions() -> Value {
    // Null where the system does not tell.
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    json!({
        "site-agent": env!("CARGO_PKG_VERSION"), "built for cuda": cfg!(feature = "cuda"),
        "system": system.as_deref().map(str::trim),
        "architecture": std::env::consts::ARCH, "cores": std::thread::available_parallelism().map_or(0, |count| count.get()),
    })
}

/// How each round's job stands: numbers alone. Its folder is named by run and round, which the coordinator knows.
fn jobs(home: &Home) -> Vec<Value> {
    let below = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> =
        below(&home.root().join("jobs")).flat_map(|run| below(&run).collect::<Vec<_>>()).collect();
    folders.sort();
    let job = |folder: PathBuf| {
        let job = JobFolder::at(&folder);
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::metadata(job.log()).map_or(0, |log| log.len());
        json!({
            "run": name(folder.parent().unwrap_or(&folder)), "round": name(&folder),
            "last step": job.last_step().ok().flatten().map(|line| line.step),
            "has checkpoint": job.checkpoint().exists(), "has result": job.result().is_ok_and(|result| result.is_some()),
            "is sealed": job.sealed().exists(), "bytes of the trainer's log": log,
        })
    };
    folders.into_iter().map(job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_settings_full_of_names_and_passwords_shows_none_of_them_and_replaces_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("CANARY-state"));
        let written = "labels = '/data/CANARY/labels'\n[network]\nproxy = 'http://user:CANARY@CANARY.example.org:1'\n\
                       proxy_roots = '/etc/CANARY.pem'";
        let config: Config = toml::from_str(written).unwrap();
        assert!(!format!("{config:?}").contains("user:CANARY"), "{config:?}");
        let checks = [Check::failure("image folders", "1 of 1 cannot be read", "mount it").here("/mnt/CANARY")];
        let log = home.root().join("jobs/run/00001-abc/trainer.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(log, "error: cannot read /data/CANARY").unwrap();
        let all: String = contents(&checks, Some(&config), &home).unwrap().files().map(|(_, text)| text).collect();
        let unread = contents(&checks, None, &home).unwrap();
        let settings = unread.files().find(|(name, _)| *name == "settings.toml").unwrap().1;
        assert!(settings.contains("cannot be read") && !settings.contains('='), "no defaults: {settings}");
        assert!(
            !all.contains("CANARY") && all.contains("(set, not shown)") && all.contains("1 of 1 cannot be read"),
            "{all}"
        );
        assert!(all.contains("00001-abc"), "{all}");

        let path = folder.path().join("bundle.zip");
        assert_eq!(
            write(&path, &checks, Some(&config), &home).unwrap(),
            "doctor.json, settings.toml, versions.json, jobs.json"
        );
        assert!(write(&path, &checks, Some(&config), &home).unwrap_err().to_string().contains("not there yet"));
        assert!(matches!(write(Path::new("bundle.txt"), &checks, Some(&config), &home), Err(BundleError::NotZip(_))));
    }
}
