//! Looks at the files of the state folder and at this machine. Thin: what it means is in [`super::verdicts`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use certs::probe::Shown;
use common::check::Check;
use common::{Digest, machine};

use super::verdicts::{self, Stored};
use crate::clock::Stamp;
use crate::config::Config;

/// Times that the disk is asked to have some bytes durable; the one in the middle counts.
const SYNCS: usize = 5;

/// The CA's certificate.
pub(super) struct Authority {
    pub(super) shown: Shown,
    pub(super) pem: String,
    pub(super) fingerprint: Digest,
}

/// Reads the CA's certificate.
pub(super) fn authority(state: &Path) -> Result<Authority, String> {
    let pem = fs::read_to_string(state.join("authority/ca.crt")).map_err(told)?;
    let fingerprint = certs::authority::fingerprint(&pem).map_err(told)?;
    Ok(Authority { shown: Shown::of_pem(&pem).map_err(told)?, fingerprint, pem })
}

pub(super) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The folder, its settings, its keys, its CA.
pub(super) fn files(
    state: &Path,
    wrong_settings: Option<&str>,
    authority: &Result<Authority, String>,
    now: Stamp,
) -> Vec<Check> {
    let mode = |path: &Path| fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777);
    let key = |name: &'static str| (name, mode(&state.join(name)));
    let until = authority.as_ref().map(|authority| authority.shown.not_after_s);
    vec![
        verdicts::folder(mode(state)),
        verdicts::settings(wrong_settings),
        verdicts::keys(&[key("authority/ca.key"), key("server.key"), key("signing.key")]),
        verdicts::authority(until.map_err(String::as_str), now),
    ]
}

/// Room, memory, open files, and how fast the disk is.
pub(super) fn machine(state: &Path, config: &Config, running: &[Stored]) -> Vec<Check> {
    let cohort = running.iter().map(|run| run.sites).max().unwrap_or(0);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine::available_memory(&text));
    let permitted = rlimit::Resource::NOFILE.get().ok().map(|(_, hard)| hard);
    vec![
        verdicts::disk(free_bytes(state), running, config.keep_updates_of_rounds),
        verdicts::sync(
            sync_time(state).as_ref().map(|took| *took).map_err(told).as_ref().map_err(String::as_str).copied(),
        ),
        verdicts::memory(memory),
        verdicts::open_files(permitted, config.max_connections, cohort),
    ]
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// How long it takes until a few bytes are durable.
fn sync_time(state: &Path) -> io::Result<Duration> {
    let path = state.join(format!("doctor-{}.tmp", std::process::id()));
    let measured = || -> io::Result<Duration> {
        let mut file = File::create_new(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let began = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_all()?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times[SYNCS / 2])
    };
    let took = measured();
    match fs::remove_file(&path) {
        // There was none to remove: what the measurement met says why.
        Err(error) if error.kind() != io::ErrorKind::NotFound => took.and(Err(error)),
        _ => took,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_measured_by_a_file_that_is_gone_again_and_a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(sync_time(folder.path()).unwrap() > Duration::ZERO);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(sync_time(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
