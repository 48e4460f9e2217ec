//! `aggregator enrol`: a person joins a federation, on the person's own machine.

use std::path::Path;

use clap::Args;

use super::acting::Acting;
use super::{Failure, Json, print, print_json};
use crate::desk::remote::{self, Remote};

/// With which invitation.
#[derive(Debug, Args)]
pub(super) struct Enrol {
    /// The line that begins with `cmrfed1.`, from whoever invited you.
    invitation: String,
    #[command(flatten)]
    json: Json,
}

pub(super) fn enrol(Enrol { invitation, json }: Enrol, acting: &Acting) -> Result<(), Failure> {
    let folder = own_folder(acting)?;
    let enrolled = remote::enrol(&invitation, folder)?;
    if json.json {
        return print_json(&enrolled);
    }
    print(&format!(
        "you are {} of federation {}; your keys are in {}, for you alone\nthe federation's CA, to be compared by telephone:\n  {}\n  \
         {}\nyour signing key, for sites that ask for it: {}\nnext:\n  aggregator status --as {}\n",
        enrolled.person.told(),
        enrolled.federation,
        folder.display(),
        enrolled.fingerprint_words,
        enrolled.fingerprint,
        enrolled.signing_key,
        folder.display(),
    ))
}

pub(super) fn renew(json: &Json, acting: &Acting) -> Result<(), Failure> {
    let mut remote = Remote::open(own_folder(acting)?)?;
    remote.renew()?;
    let (person, until) = (remote.enrolled().person.clone(), remote.validity()?);
    match json.json {
        true => print_json(&serde_json::json!({ "person": person, "not_after_s": until.not_after_s })),
        false => print(&format!("the certificate of {} is renewed, until {}\n", person.told(), until.end_text())),
    }
}

fn own_folder(acting: &Acting) -> Result<&Path, Failure> {
    acting.0.as_deref().ok_or_else(|| {
        Failure::Usage("name a folder of your own with --as: your keys are made there, and never leave it".to_owned())
    })
}
