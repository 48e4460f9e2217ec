//! `aggregator revoke`: ends a site's part in the federation, and takes back its invitations.

use clap::Args;
use common::SiteId;
use serde::Serialize;

use super::{Failure, Json, State, print, print_json};
use crate::clock::wall;
use crate::store::{Revoked, SqliteStore, Store};

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
struct Ended {
    site: SiteId,
    revoked: bool,
    invitations_expired: usize,
}

pub(super) fn revoke(Revoke { site, state, json }: Revoke) -> Result<(), Failure> {
    let store = SqliteStore::open(&state.folder)?;
    let Revoked { certificate, invitations } = store.revoke(&site, wall())?;
    if !certificate && invitations == 0 {
        return Err(Failure::refused(format!(
            "{site} has no certificate that counts and no open invitation: `aggregator status` lists the sites"
        )));
    }
    if json.json {
        return print_json(&Ended { site, revoked: certificate, invitations_expired: invitations });
    }
    let mut told = String::new();
    if certificate {
        told += &format!(
            "the certificate of {site} is revoked; a running server cuts its connections within a second, and nothing of it counts \
                 in a round that is open\n"
        );
    }
    if invitations > 0 {
        told += &format!("{invitations} unused invitation(s) of {site} have expired\n");
    }
    print(&format!("{told}A new invitation lets {site} back in: `aggregator invite {site}`\n"))
}
