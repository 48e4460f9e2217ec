//! A zip for whoever helps: what the doctor found, the settings, versions, and how the jobs stand.
//!
//! It holds no patient data by what it is made of: checks without their own names ([`Check::to_send`]), settings without paths
//! and passwords, numbers. Logs are not in it, since an error of a parser or a disk names files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use common::bundle::{Bundle, BundleError};
use common::check::Check;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::config::Config;
use crate::home::Home;
use crate::job::JobFolder;

/// Writes the bundle to a new file; returns the names of what it holds.
pub fn write(path: &Path, checks: &[Check], config: &Config, home: &Home) -> Result<String, BundleError> {
    let bundle = contents(checks, config, home);
    bundle.write_to(path, zipped)?;
    Ok(bundle.names())
}

fn contents(checks: &[Check], config: &Config, home: &Home) -> Bundle {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    Bundle::of(checks)
        .with("settings.toml", toml::to_string(&to_send(config)).unwrap_or_default())
        .with("versions.json", pretty(&versions()))
        .with("jobs.json", pretty(&Value::Array(jobs(home))))
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
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "site-agent": env!("CARGO_PKG_VERSION"), "built for cuda": cfg!(feature = "cuda"), "system": system.trim(),
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

fn zipped(path: &Path, bundle: &Bundle) -> io::Result<()> {
    let mut zip = ZipWriter::new(File::create_new(path)?);
    for (name, text) in bundle.files() {
        zip.start_file(name, SimpleFileOptions::default())?;
        zip.write_all(text.as_bytes())?;
    }
    zip.finish()?.sync_all()
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
        let all: String = contents(&checks, &config, &home).files().map(|(_, text)| text).collect();
        assert!(
            !all.contains("CANARY") && all.contains("(set, not shown)") && all.contains("1 of 1 cannot be read"),
            "{all}"
        );
        assert!(all.contains("00001-abc"), "{all}");

        let path = folder.path().join("bundle.zip");
        assert_eq!(
            write(&path, &checks, &config, &home).unwrap(),
            "doctor.json, settings.toml, versions.json, jobs.json"
        );
        assert!(write(&path, &checks, &config, &home).unwrap_err().to_string().contains("not there yet"));
        assert!(matches!(write(Path::new("bundle.txt"), &checks, &config, &home), Err(BundleError::NotZip(_))));
    }
}
