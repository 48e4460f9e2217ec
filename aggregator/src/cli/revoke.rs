//! `aggregator revoke`: ends a site's part in the federation.

use clap::Args;
use common::SiteId;
use serde::Serialize;

use super::{Failure, Json, State, print, print_json};
use crate::clock::wall;
use crate::store::{SqliteStore, Store};

/// Whose certificate.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The site.
    site: SiteId,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Revoked {
    site: SiteId,
    revoked: bool,
}

pub(super) fn revoke(Revoke { site, state, json }: Revoke) -> Result<(), Failure> {
    let store = SqliteStore::open(&state.folder)?;
    if !store.revoke(&site, wall())? {
        return Err(Failure::refused(format!(
            "{site} has no certificate that counts: `aggregator status` lists the sites"
        )));
    }
    if json.json {
        return print_json(&Revoked { site, revoked: true });
    }
    print(&format!(
        "the certificate of {site} is revoked; a running server refuses it within a second. A new invitation lets it back in.\n"
    ))
}
