//! `aggregator authority`: another CA takes the place of the federation's.
//!
//! `next` makes it; sites are told both, renew their certificates under it, and `show` says who did; `switch` ends the old one.

use clap::{Args, Subcommand};
use common::SiteId;
use serde::Serialize;

use super::{Failure, Json, State, print, print_json};
use crate::authority;
use crate::clock::wall;
use crate::store::{SqliteStore, Store};

#[derive(Debug, Subcommand)]
pub(super) enum AuthorityVerb {
    /// Make the CA that takes the place of the one there is. Sites take it over by themselves, with their next report.
    Next(Of),
    /// Show the federation's CA, the next one if there is one, and which sites do not know of it yet.
    Show(Of),
    /// End the old CA: its key is removed, and its certificates count no more.
    Switch(Switch),
}

#[derive(Debug, Args)]
pub(super) struct Of {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Switch {
    /// Although some sites do not know the next CA: they must be invited again.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Serialize)]
struct Shown {
    fingerprint: common::Digest,
    next: bool,
    waiting_for: Vec<SiteId>,
}

pub(super) fn authority(verb: AuthorityVerb) -> Result<(), Failure> {
    match verb {
        AuthorityVerb::Next(of) => {
            let store = SqliteStore::open(&of.state.folder)?;
            if shown(&of)?.next {
                return Err(Failure::refused("a next CA is there already: `aggregator authority show`, then `switch`"));
            }
            authority::begin_next(&of.state.folder, &store.federation()?.name, wall()).map_err(certificates)?;
            tell(&of)
        }
        AuthorityVerb::Show(of) => tell(&of),
        AuthorityVerb::Switch(Switch { force, of }) => {
            let Shown { next, waiting_for, .. } = shown(&of)?;
            if !next {
                return Err(Failure::refused("there is no next CA: make one with `aggregator authority next`"));
            }
            if !force && !waiting_for.is_empty() {
                let sites: Vec<_> = waiting_for.iter().map(SiteId::as_str).collect();
                return Err(Failure::refused(format!(
                    "{} would be shut out: start their agents, and wait until `aggregator authority show` names nobody; or \
                     revoke them; or `--force`, and invite them again",
                    sites.join(", ")
                )));
            }
            authority::switch(&of.state.folder).map_err(certificates)?;
            tell(&of)
        }
    }
}

fn certificates(error: certs::CertsError) -> Failure {
    Failure::failed("the certificate authority", error)
}

fn shown(of: &Of) -> Result<Shown, Failure> {
    let store = SqliteStore::open(&of.state.folder)?;
    let authority = authority::load(&of.state.folder, &store.federation()?.name).map_err(certificates)?;
    let anchors = authority.anchors();
    let waiting = store.sites()?.into_iter().filter(|site| !site.revoked && site.anchors != anchors);
    Ok(Shown {
        fingerprint: authority.fingerprint().map_err(certificates)?,
        next: authority.anchors_pem() != authority.certificate_pem(),
        waiting_for: waiting.map(|site| site.site).collect(),
    })
}

fn tell(of: &Of) -> Result<(), Failure> {
    let shown = shown(of)?;
    if of.json.json {
        return print_json(&shown);
    }
    let Shown { fingerprint, next, waiting_for } = shown;
    let sites: Vec<_> = waiting_for.iter().map(SiteId::as_str).collect();
    let mut told = format!("the federation's CA: {}\n", certs::fingerprint_words(fingerprint));
    if next {
        told += "another one takes its place: when every site knows it, `aggregator authority switch`\n";
    }
    if !sites.is_empty() {
        told += &format!("sites that have not taken this over yet: {}\n", sites.join(", "));
    }
    print(&told)
}
