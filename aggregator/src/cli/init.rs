//! `aggregator init`: makes a federation.

use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

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
    /// Where the aggregator listens; `serve --listen` overrides it.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:4433")]
    listen: SocketAddr,
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
    let folder = state.folder;
    if folder.join("state.db").exists() || folder.join("authority").exists() {
        return Err(StoreError::AlreadyThere(folder).into());
    }
    let disk = |error| Failure::failed(folder.display(), error);
    // Keys lie below: for the operator alone.
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(disk)?;
    let now = wall();
    let made = authority::create(&folder, &federation, now);
    let made = made.map_err(|error| Failure::failed("the certificate authority", error))?;
    let fingerprint = made.fingerprint().map_err(|error| Failure::failed("the certificate authority", error))?;
    Blobs::open(&folder).map_err(disk)?;
    fs::write(Config::path(&folder), example_listening_on(listen)).map_err(disk)?;
    // Last: a folder with a database is a federation.
    let record = FederationRecord { name: federation.clone(), address: address.clone(), created_at: now };
    SqliteStore::create(&folder, &record)?;
    if json.json {
        return print_json(&Made { federation, address, state: folder, authority_fingerprint: fingerprint });
    }
    print(&format!(
        "federation {federation} is made in {}\nCA fingerprint, for sites to compare:\n  {}\nnext:\n  aggregator serve \
         --state {}\n  aggregator invite <site> --state {}\n",
        folder.display(),
        certs::fingerprint_text(fingerprint),
        folder.display(),
        folder.display(),
    ))
}
