//! `aggregator invite`: one line that lets one site or person enrol, once.

use clap::Args;
use common::Holder;

use super::acting::{Acting, Desk, State, asking, store};
use super::whom::{Whom, typed};
use super::{Failure, Json, print, print_json};
use crate::authority;
use crate::config::Config;
use crate::desk::{self, Invited};
use crate::store::Store;

/// Whom, and where the aggregator is found. Who is enrolled and is invited again gets a new certificate, and the old one no longer
/// counts. Earlier invitations of the same one that are unused expire: the newest counts.
#[derive(Debug, Args)]
pub(super) struct Invite {
    #[command(flatten)]
    whom: Whom,
    /// Where the aggregator is reached from there, if not where it is from elsewhere; its host must be among `names` in the
    /// settings.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

pub(super) fn invite(Invite { whom, address, state, json }: Invite, acting: &Acting) -> Result<(), Failure> {
    let holder = whom.holder()?;
    let invited = match acting.desk(state)? {
        Desk::Here(folder) => {
            let store = store(&folder)?;
            let federation = store.federation()?;
            let names = Config::of_state(&folder)?.names(&federation);
            let certificates = |error| Failure::failed("the certificate authority", error);
            let authority = authority::load(&folder, &federation.name).map_err(certificates)?;
            desk::invite(&store, &authority, &names, holder.clone(), address, &asking())?
        }
        Desk::There(mut remote) => remote.invite(&holder, address)?,
    };
    if json.json { print_json(&invited) } else { print(&told(&holder, &invited)) }
}

fn told(holder: &Holder, invited: &Invited) -> String {
    let earlier = match invited.earlier_expired {
        0 => String::new(),
        some => format!("{some} earlier unused invitation(s) of {holder} have expired: this one counts\n"),
    };
    let there = match holder {
        Holder::Site(_) => "at the site:\n  site-agent enrol <invitation>",
        Holder::Person(_) => "on that person's own machine:\n  aggregator enrol <invitation> --as <a folder there>",
    };
    format!(
        "{earlier}invitation for {}, to be used once, within 24 hours:\n\n  {}\n\n{there}\nCA fingerprint, to be compared by \
         telephone:\n  {}\n  {}\nto take it back:\n  aggregator revoke {}\n",
        holder.told(),
        invited.invitation,
        certs::fingerprint_words(invited.authority_fingerprint),
        certs::fingerprint_text(invited.authority_fingerprint),
        typed(holder),
    )
}
