//! `site-agent ledger`: what happened at this site, and whether the record of it still holds.

use anyhow::Context;
use clap::Subcommand;
use common::ledger::Head;

use super::{Json, print, print_json};
use crate::home::Home;
use crate::ledger::Ledger;

#[derive(Debug, Subcommand)]
pub(super) enum LedgerVerb {
    /// List the entries, oldest first.
    Show(Json),
    /// Hold every entry to the digest of the one before, and the end to where it was noted: works offline, and names the first
    /// entry that does not hold.
    Verify(Json),
}

pub(super) fn ledger(home: &Home, verb: &LedgerVerb) -> anyhow::Result<()> {
    let ledger = Ledger::at(home.ledger());
    match verb {
        LedgerVerb::Show(json) => {
            let mut entries = Vec::new();
            ledger.verify(|entry, _| entries.push(entry.clone()))?;
            if json.json {
                return print_json(&entries);
            }
            entries.iter().try_for_each(|entry| print(&format!("{entry}\n")))
        }
        LedgerVerb::Verify(json) => {
            let head: Head = ledger.verify(|_, _| {})?;
            if json.json {
                return print_json(&head);
            }
            print(&format!("{} entries hold; the last one is {}\n", head.entries, head.digest))
        }
    }
    .context("this site's ledger")
}
