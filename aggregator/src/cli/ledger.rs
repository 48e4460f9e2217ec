//! `aggregator ledger`: what happened in the federation, and whether the record of it still holds.

use std::fs;
use std::path::{Path, PathBuf};

use certs::signing::verifies;
use clap::{Args, Subcommand};
use common::ledger::{self, Entry, Head};
use common::signed::{VerifyingKey, ledger_statement};
use serde::{Deserialize, Serialize};

use super::acting::{Acting, Desk, State, store};
use super::{Failure, Json, print, print_json};
use crate::authority;
use crate::desk;
use crate::ledger::Colophon;
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub(super) enum LedgerVerb {
    /// List the entries, oldest first.
    Show(Show),
    /// Hold every entry to the digest of the one before, and all of them to what sites signed and wrote of them. Works offline,
    /// and names the first entry that does not hold, and whose ledger that is.
    Verify(Verify),
    /// Write the ledger into a file that anyone can check, with the aggregator's signature under its end.
    Export(Export),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// A ledger that `export` wrote, instead of the state folder's.
    #[arg(long, value_name = "FILE", conflicts_with = "folder")]
    file: Option<PathBuf>,
    /// What the aggregator signs with, as it stands in a site's `identity/federation.json`: then the file's signature must be its.
    #[arg(long, requires = "file")]
    key: Option<VerifyingKey>,
    /// Ledgers of sites (`<state>/ledger`): what they were told of this one must be in it.
    #[arg(long, value_name = "FILE")]
    site_ledger: Vec<PathBuf>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    state: State,
}

pub(super) fn ledger(verb: LedgerVerb, acting: &Acting) -> Result<(), Failure> {
    match verb {
        LedgerVerb::Show(Show { state, json }) => show(acting.desk(state)?, json.json),
        LedgerVerb::Verify(arguments) => verify(arguments, acting),
        LedgerVerb::Export(Export { out, state }) => export(acting.desk(state)?, &out),
    }
}

/// All lines of the ledger, and where it is noted, or signed, to end.
fn lines(desk: &mut Desk) -> Result<(Vec<String>, Head), Failure> {
    match desk {
        Desk::Here(folder) => Ok(desk::ledger(&store(folder)?)?),
        Desk::There(remote) => remote.ledger().map(|(lines, end)| (lines, end.head)).map_err(Failure::from),
    }
}

fn show(mut desk: Desk, json: bool) -> Result<(), Failure> {
    let (lines, end) = lines(&mut desk)?;
    let mut entries = Vec::new();
    held("the aggregator's ledger", &lines, &[end], |entry| entries.push(entry.clone()))?;
    if json {
        return print_json(&entries);
    }
    entries.iter().try_for_each(|entry| print(&format!("{entry}\n")))
}

fn held(whose: &str, lines: &[String], known: &[Head], mut each: impl FnMut(&Entry)) -> Result<Head, Failure> {
    let held = ledger::verify(lines.iter().map(String::as_str), known, |entry, _| each(entry));
    held.map_err(|broken| Failure::Failed(format!("{whose} does not hold: {broken}")))
}

/// What an entry of either kind says of the aggregator's ledger.
#[derive(Debug, Deserialize)]
struct Tells {
    ledger: Option<Head>,
    attestation: Option<Told>,
}

#[derive(Debug, Deserialize)]
struct Told {
    ledger: Option<Head>,
}

/// The heads that an entry tells. One that is chained well and tells a head which is none was not written by these programs.
fn heads(entry: &Entry) -> Result<Vec<Head>, String> {
    let tells: Tells = serde_json::from_value(entry.event.clone())
        .map_err(|error| format!("entry {}: what it tells of a ledger is not understood: {error}", entry.entry))?;
    Ok(tells.ledger.into_iter().chain(tells.attestation.and_then(|told| told.ledger)).collect())
}

/// All heads that the entries of a ledger tell.
fn heads_in(whose: &str, lines: &[String]) -> Result<Vec<Head>, Failure> {
    let (mut all, mut wrong) = (Vec::new(), None);
    held(whose, lines, &[], |entry| match heads(entry) {
        Ok(heads) => all.extend(heads),
        Err(why) => wrong = wrong.take().or(Some(why)),
    })?;
    match wrong {
        Some(why) => Err(Failure::Failed(format!("{whose} does not hold: {why}"))),
        None => Ok(all),
    }
}

#[derive(Debug, Serialize)]
struct Verified {
    entries: u64,
    digest: common::Digest,
    heads_that_sites_knew: usize,
}

fn verify(arguments: Verify, acting: &Acting) -> Result<(), Failure> {
    let (lines, end) = match &arguments.file {
        Some(file) => exported(file, arguments.key)?,
        None => lines(&mut acting.desk(arguments.state)?)?,
    };
    let mut known = vec![end];
    for path in &arguments.site_ledger {
        let text = fs::read_to_string(path).map_err(|error| Failure::failed(path.display(), error))?;
        let of_site: Vec<String> = text.lines().map(str::to_owned).collect();
        known.extend(heads_in(&format!("the site's ledger {}", path.display()), &of_site)?);
    }
    held("the aggregator's ledger", &lines, &known, |_| {})?;
    // What sites signed along with their updates, as it stands in the ledger itself.
    let signed = heads_in("the aggregator's ledger", &lines)?;
    let head = held("the aggregator's ledger, against what sites signed of it,", &lines, &signed, |_| {})?;
    known.extend(signed);
    known.retain(|head| head.entries > 0);
    if arguments.json.json {
        let heads_that_sites_knew = known.len() - 1;
        return print_json(&Verified { entries: head.entries, digest: head.digest, heads_that_sites_knew });
    }
    print(&format!(
        "{} entries hold, and with them {} heads that sites knew; the last one is {}\n",
        head.entries,
        known.len() - 1,
        head.digest
    ))
}

/// The lines of an exported ledger, and its head as the aggregator signed it.
fn exported(file: &Path, expected: Option<VerifyingKey>) -> Result<(Vec<String>, Head), Failure> {
    let named = |why: String| Failure::Failed(format!("{}: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let last = lines.pop().ok_or_else(|| named("it is empty".to_owned()))?;
    let colophon: Colophon = serde_json::from_str(&last)
        .map_err(|_| named("its last line is not the aggregator's signature: the end is missing".to_owned()))?;
    let Colophon { federation, head, key, signature } = colophon;
    if expected.is_some_and(|expected| expected != key) {
        return Err(named(format!("it is signed with {key}, which is not the aggregator's key")));
    }
    if !verifies(key, &ledger_statement(&federation, head), signature) {
        return Err(named("the signature under its end does not hold: the last line was changed".to_owned()));
    }
    Ok((lines, head))
}

fn export(desk: Desk, out: &Path) -> Result<(), Failure> {
    let (lines, colophon) = match desk {
        Desk::Here(folder) => {
            let store = store(&folder)?;
            let (lines, head) = desk::ledger(&store)?;
            let key = authority::signing_key(&folder).map_err(|error| Failure::failed("the signing key", error))?;
            (lines, Colophon::signed(&store.federation()?.name, head, &key))
        }
        Desk::There(mut remote) => remote.ledger()?,
    };
    let last = serde_json::to_string(&colophon).map_err(|error| Failure::failed("writing JSON", error))?;
    let text: String = lines.iter().chain([&last]).flat_map(|line| [line.as_str(), "\n"]).collect();
    let beside = out.with_added_extension("part");
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, out));
    written.map_err(|error| Failure::failed(out.display(), error))?;
    let (entries, key) = (colophon.head.entries, colophon.key);
    print(&format!("{entries} entries are in {}; its end is signed with {key}\n", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_none_is_named_and_not_passed_over() {
        let entry = |event: serde_json::Value| Entry { entry: 3, time_ms: 0, before: Head::EMPTY.digest, event };
        let head = serde_json::json!({ "entries": 2, "digest": "00".repeat(32) });
        assert_eq!(heads(&entry(serde_json::json!({ "kind": "round-accepted", "ledger": head }))).unwrap().len(), 1);
        assert_eq!(heads(&entry(serde_json::json!({ "kind": "joined" }))).unwrap(), []);
        let odd = serde_json::json!({ "kind": "update-stored", "attestation": { "ledger": { "entries": "two" } } });
        assert!(heads(&entry(odd)).unwrap_err().contains("entry 3"));
    }
}
