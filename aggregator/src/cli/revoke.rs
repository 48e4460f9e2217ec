//! `aggregator revoke`: ends the part of a site or a person in the federation, and takes back invitations.

use clap::Args;
use common::{Person, SiteId};
use serde::Serialize;

use super::acting::{Acting, Desk, State, asking, store};
use super::whom::{Whom, typed};
use super::{Failure, Json, print, print_json};
use crate::desk;
use crate::store::Revoked;

/// Whose certificate.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Ended<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a SiteId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<&'a Person>,
    revoked: bool,
    invitations_expired: usize,
}

pub(super) fn revoke(Revoke { whom, state, json }: Revoke, acting: &Acting) -> Result<(), Failure> {
    let holder = whom.holder()?;
    let Revoked { certificate, invitations } = match acting.desk(state)? {
        Desk::Here(folder) => desk::revoke(&store(&folder)?, &holder, &asking())?,
        Desk::There(mut remote) => remote.revoke(&holder)?,
    };
    if json.json {
        let (site, person) = (holder.site(), holder.person());
        return print_json(&Ended { site, person, revoked: certificate, invitations_expired: invitations });
    }
    let mut told = String::new();
    if certificate {
        let then = match &holder {
            common::Holder::Site(_) => "nothing of it counts in a round that is open",
            common::Holder::Person(_) => "a signature of theirs counts in no run that has not begun",
        };
        told += &format!(
            "the certificate of {holder} is revoked; a running server cuts its connections within a second, and {then}\n"
        );
    }
    if invitations > 0 {
        told += &format!("{invitations} unused invitation(s) of {holder} have expired\n");
    }
    print(&format!("{told}A new invitation lets {holder} back in: `aggregator invite {}`\n", typed(&holder)))
}
