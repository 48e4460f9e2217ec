//! `aggregator authority`: another CA takes the place of the federation's.
//!
//! `next` makes it; sites are told both, renew their certificates under it, and `show` says who did not; `switch` ends the old one.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use common::Holder;
use serde::Serialize;

use super::acting::{asking, store};
use super::{Failure, Json, State, print, print_json};
use crate::store::{SqliteStore, Store};
use crate::{authority, desk};

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

impl Of {
    fn folder(&self) -> Result<PathBuf, Failure> {
        self.state.clone().folder()
    }
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
    waiting_for: Vec<Holder>,
}

pub(super) fn authority(verb: AuthorityVerb) -> Result<(), Failure> {
    match verb {
        AuthorityVerb::Next(of) => {
            desk::announce_authority(&store(&of.folder()?)?, &of.folder()?, &asking())?;
            tell(&of)
        }
        AuthorityVerb::Show(of) => tell(&of),
        AuthorityVerb::Switch(Switch { force, of }) => {
            let Shown { next, waiting_for, .. } = shown(&of)?;
            // Without a next CA nobody waits for one, and there is nothing to force.
            if next && !force && !waiting_for.is_empty() {
                let sites: Vec<_> = waiting_for.iter().map(Holder::to_string).collect();
                return Err(Failure::refused(format!(
                    "{} would be shut out: start the agents of sites, let persons type `aggregator renew --as <folder>`, and wait until `aggregator authority \
                     show` names nobody; or revoke them; or `--force`, and invite them again",
                    sites.join(", ")
                )));
            }
            desk::switch_authority(&store(&of.folder()?)?, &of.folder()?, &waiting_for, &asking())?;
            tell(&of)
        }
    }
}

fn certificates(error: certs::CertsError) -> Failure {
    Failure::failed("the certificate authority", error)
}

fn shown(of: &Of) -> Result<Shown, Failure> {
    let store = SqliteStore::open(&of.folder()?)?;
    let authority = authority::load(&of.folder()?, &store.federation()?.name).map_err(certificates)?;
    let anchors = authority.anchors();
    let waiting = store.members()?.into_iter().filter(|member| !member.revoked && member.anchors != anchors);
    Ok(Shown {
        fingerprint: authority.fingerprint().map_err(certificates)?,
        next: authority.anchors_pem() != authority.certificate_pem(),
        waiting_for: waiting.map(|member| member.holder).collect(),
    })
}

fn tell(of: &Of) -> Result<(), Failure> {
    let shown = shown(of)?;
    if of.json.json {
        return print_json(&shown);
    }
    let Shown { fingerprint, next, waiting_for } = shown;
    let sites: Vec<_> = waiting_for.iter().map(Holder::to_string).collect();
    let mut told = format!("the federation's CA: {}\n", certs::fingerprint_words(fingerprint));
    if next {
        told += "another one takes its place: when every site knows it, `aggregator authority switch`\n";
    }
    if !sites.is_empty() {
        told += &format!("who has not taken this over yet: {}\n", sites.join(", "));
    }
    print(&told)
}
