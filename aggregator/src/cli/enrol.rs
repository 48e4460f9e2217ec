//! `aggregator enrol`: a person joins a federation, on the person's own machine.

use std::path::Path;

use clap::Args;

use super::acting::Acting;
use super::{Failure, Json, print, print_json};
use crate::desk::remote::{self, Remote, Renewed};

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
    let Renewed { next_authority, unused } = remote.renew()?;
    let (person, until) = (remote.enrolled().person.clone(), remote.validity()?);
    if json.json {
        return print_json(&serde_json::json!({
            "person": person, "not_after_s": until.not_after_s, "next_authority": next_authority, "used": unused.is_none()
        }));
    }
    let mut told = format!("the certificate of {} is renewed, until {}\n", person.told(), until.end_text());
    if next_authority {
        told += "it is of the CA that takes the place of the federation's, which is known here now\n";
    }
    if let Some(why) = unused {
        told += &format!(
            "it counts when it is first used, and could not be just now ({why}): `aggregator status --as` your folder\n"
        );
    }
    print(&told)
}

fn own_folder(acting: &Acting) -> Result<&Path, Failure> {
    acting.0.as_deref().ok_or_else(|| {
        Failure::Usage("name a folder of your own with --as: your keys are made there, and never leave it".to_owned())
    })
}
