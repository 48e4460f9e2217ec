//! `site-agent enrol`: joins a federation with an invitation.

use clap::Args;

use super::{Json, print, print_json, runtime};
use crate::config::Config;
use crate::enrol;
use crate::home::Home;

#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    /// The invitation, as the coordinator handed it over (`aggregator invite <site>`).
    invitation: String,
    #[command(flatten)]
    json: Json,
}

pub(super) fn enrol(home: &Home, config: &Config, args: &EnrolArgs) -> anyhow::Result<()> {
    let enrolled = runtime()?.block_on(enrol::enrol(home, &config.network, &args.invitation))?;
    if args.json.json {
        return print_json(&enrolled);
    }
    print(&format!(
        "{} is enrolled in {} at {}\nCA fingerprint, to compare with the coordinator's by phone:\n  {}\n  {}\n\
         next: site-agent index <folder|zip>\n",
        enrolled.site, enrolled.federation, enrolled.address, enrolled.fingerprint_words, enrolled.fingerprint
    ))
}
