//! `aggregator invite`: one line that lets one site enrol, once.

use std::time::Duration;

use certs::invitation::Invitation;
use clap::Args;
use common::{Digest, SiteId};
use serde::Serialize;

use super::{Failure, Json, State, print, print_json};
use crate::authority;
use crate::clock::{Stamp, wall};
use crate::config::Config;
use crate::store::{SqliteStore, Store};

/// Time within which an invitation must be used.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// Whom, and where it finds the aggregator.
#[derive(Debug, Args)]
pub(super) struct Invite {
    /// The site's name: 1 to 32 of a-z, 0-9 and '-'. An enrolled site that is invited again gets a new certificate, and
    /// its old one no longer counts. Earlier invitations of the site that are unused expire: the newest counts.
    site: SiteId,
    /// Where this site reaches the aggregator, if not where the others do; its host must be among `names` in the settings.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Invited {
    site: SiteId,
    invitation: String,
    address: String,
    authority_fingerprint: Digest,
    expires_at: Stamp,
    earlier_expired: usize,
}

pub(super) fn invite(Invite { site, address, state, json }: Invite) -> Result<(), Failure> {
    let store = SqliteStore::open(&state.folder)?;
    let federation = store.federation()?;
    let config = Config::of_state(&state.folder)?;
    let address = address.unwrap_or_else(|| federation.address.clone());
    let host = authority::host(&address);
    let host = host.ok_or_else(|| Failure::refused(format!("{address:?} is not an address: host:port is expected")))?;
    if !config.names(&federation).iter().any(|name| name == host) {
        return Err(Failure::refused(format!(
            "the server's certificate does not name {host}: add it to `names` in {} and restart the server",
            Config::path(&state.folder).display()
        )));
    }
    let certificates = |error| Failure::failed("the certificate authority", error);
    let authority = authority::load(&state.folder, &federation.name).map_err(certificates)?;
    let fingerprint = authority.fingerprint().map_err(certificates)?;
    let invitation = Invitation::new(federation.name, address.clone(), site.clone(), fingerprint);
    let invitation = invitation.map_err(certificates)?;
    let now = wall();
    let expires_at = now.after(VALID);
    let earlier_expired = store.invite(invitation.token.digest().map_err(certificates)?, &site, now, expires_at)?;
    let invitation = invitation.to_string();
    if json.json {
        let authority_fingerprint = fingerprint;
        return print_json(&Invited { site, invitation, address, authority_fingerprint, expires_at, earlier_expired });
    }
    let earlier = match earlier_expired {
        0 => String::new(),
        some => format!("{some} earlier unused invitation(s) of {site} have expired: this one counts\n"),
    };
    print(&format!(
        "{earlier}invitation for {site}, to be used once, within 24 hours:\n\n  {invitation}\n\nat the site:\n  site-agent enrol \
         <invitation>\nCA fingerprint, to be compared by telephone:\n  {}\n  {}\n",
        certs::fingerprint_words(fingerprint),
        certs::fingerprint_text(fingerprint)
    ))
}
