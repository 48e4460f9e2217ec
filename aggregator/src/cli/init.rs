//! `aggregator init`: makes a federation.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use common::FederationName;
use serde::Serialize;

use super::{Failure, Json, State, print, print_json};
use crate::authority;
use crate::clock::wall;
use crate::config::{Config, example_listening_on};
use crate::store::{Blobs, FederationRecord, SqliteStore, StoreError};

/// What to call it and where it is reached.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The federation's name: 1 to 32 of a-z, 0-9 and '-'.
    #[arg(long)]
    federation: FederationName,
    /// Where sites reach the aggregator; it stands in invitations and in the server's certificate.
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Where the aggregator listens, 0.0.0.0:4433 if it is not said; `serve --listen` overrides it.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Made {
    federation: FederationName,
    address: String,
    state: PathBuf,
    authority_fingerprint: common::Digest,
}

pub(super) fn init(Init { federation, address, listen, state, json }: Init) -> Result<(), Failure> {
    if authority::host(&address).is_none() {
        return Err(Failure::refused(format!("{address:?} is not an address: host:port is expected")));
    }
    let folder = state.folder()?;
    require_vacant(&folder)?;
    let disk = |error| Failure::failed(folder.display(), error);
    // Keys lie below: for the operator alone.
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(disk)?;
    require_own(fs::metadata(&folder).map_err(disk)?.permissions().mode(), &folder)?;
    let settings = settings(&folder, listen)?;
    let now = wall();
    let made = authority::create(&folder, &federation, now);
    let made = made.map_err(|error| Failure::failed("the certificate authority", error))?;
    let fingerprint = made.fingerprint().map_err(|error| Failure::failed("the certificate authority", error))?;
    Blobs::open(&folder).map_err(disk)?;
    // Last: a folder with a database is a federation.
    let record = FederationRecord { name: federation.clone(), address: address.clone(), created_at: now };
    SqliteStore::create(&folder, &record)?;
    if json.json {
        return print_json(&Made { federation, address, state: folder, authority_fingerprint: fingerprint });
    }
    print(&format!(
        "federation {federation} is made in {}{settings}\nCA fingerprint, for sites to compare by phone:\n  {}\n  {}\nnext:\n  aggregator serve \
         --state {}\n  aggregator invite <site> --state {}\n",
        folder.display(),
        certs::fingerprint_words(fingerprint),
        certs::fingerprint_text(fingerprint),
        folder.display(),
        folder.display(),
    ))
}

/// What `init` makes beside the settings, in its order.
const MADE: [&str; 6] = ["authority", "server.key", "signing.key", "state.db", "state.db-wal", "state.db-shm"];

/// Refuses a folder with a federation, whole or half made: no key is ever replaced.
fn require_vacant(folder: &Path) -> Result<(), Failure> {
    let leftovers: Vec<_> = MADE.into_iter().filter(|name| folder.join(name).exists()).collect();
    if leftovers.is_empty() {
        return Ok(());
    }
    Err(match SqliteStore::open(folder) {
        Ok(_) => StoreError::AlreadyThere(folder.to_owned()),
        Err(StoreError::NoFederation(_) | StoreError::HalfMade { .. }) => {
            StoreError::HalfMade { folder: folder.to_owned(), leftovers: leftovers.join(", ") }
        }
        Err(error) => error,
    }
    .into())
}

/// Refuses a folder that others may write to: who may write there may coordinate.
fn require_own(mode: u32, folder: &Path) -> Result<(), Failure> {
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let (folder, mode) = (folder.display(), mode & 0o777);
    Err(Failure::refused(format!("{folder} has mode {mode:o}, so others may write there: `chmod go-w {folder}` first")))
}

/// Writes the settings, or keeps those that are there and say the same; says so.
fn settings(folder: &Path, listen: Option<SocketAddr>) -> Result<String, Failure> {
    let path = Config::path(folder);
    let failed = |error: io::Error| Failure::failed(path.display(), error);
    if !path.try_exists().map_err(failed)? {
        let text = example_listening_on(listen.unwrap_or_else(|| Config::default().listen));
        return write_whole(&path, text.as_bytes()).map_err(failed).map(|()| String::new());
    }
    let (path, kept) = (path.display(), Config::read(&path)?.listen);
    match listen.filter(|asked| *asked != kept) {
        None => Ok(format!("\n{path} was there already and is kept: the aggregator listens on {kept}")),
        Some(asked) => Err(Failure::refused(format!(
            "{path} is there already, and by it the aggregator listens on {kept}, not on {asked}: write `listen = \"{asked}\"` there, \
             or remove that file, or leave out --listen"
        ))),
    }
}

/// Writes a file that is there whole, and durable, or not at all: half of the settings would be other settings.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("part");
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: Result<(), Failure>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn what_an_interrupted_init_left_is_named_with_what_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        require_vacant(folder.path()).unwrap();
        fs::create_dir(folder.path().join("authority")).unwrap();
        let half = told(require_vacant(folder.path()));
        assert!(half.contains("did not finish") && half.contains("remove authority there"), "{half}");
        // Killed after the database's file was made, and before anything was in it.
        fs::write(folder.path().join("state.db"), b"").unwrap();
        let half = told(require_vacant(folder.path()));
        assert!(half.contains("remove authority, state.db"), "{half}");
    }

    #[test]
    fn settings_that_are_there_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = Config::path(folder.path());
        fs::write(&path, "max_connections = 7").unwrap();
        let kept = settings(folder.path(), None).unwrap();
        assert!(kept.contains("is kept: the aggregator listens on 0.0.0.0:4433"), "{kept}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "max_connections = 7");
    }

    #[test]
    fn settings_that_are_there_and_listen_elsewhere_than_is_asked_are_refused_with_both_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let asked = "127.0.0.1:7".parse().unwrap();
        // What a full disk left of the settings, before they were written beside.
        fs::write(Config::path(folder.path()), "").unwrap();
        let refused = settings(folder.path(), Some(asked)).unwrap_err().to_string();
        assert!(refused.contains("listens on 0.0.0.0:4433, not on 127.0.0.1:7"), "{refused}");
        assert!(refused.contains("write `listen = \"127.0.0.1:7\"` there"), "{refused}");
        fs::write(Config::path(folder.path()), "listen = \"127.0.0.1:7\"").unwrap();
        assert!(settings(folder.path(), Some(asked)).unwrap().contains("is kept"));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_the_remedy() {
        require_own(0o40_755, Path::new("fed")).unwrap();
        for mode in [0o40_775, 0o40_757] {
            assert!(told(require_own(mode, Path::new("fed"))).contains("`chmod go-w fed`"));
        }
    }
}
