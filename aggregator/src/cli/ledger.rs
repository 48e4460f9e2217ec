//! `aggregator ledger`: what happened in the federation, and whether the record of it still holds.

use std::path::{Path, PathBuf};
use std::{fs, io};

use certs::signing::verifies;
use clap::{Args, Subcommand};
use common::ledger::{self, Head};
use common::signed::{VerifyingKey, ledger_statement};
use serde::Serialize;

use super::acting::{Acting, Desk, State, store};
use super::{Failure, Json, print, print_json};
use crate::audit::{AggregatorLedger, Audited, SiteLedger, audit};
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
    ledger::verify(lines.iter().map(String::as_str), &[end], |entry, _| entries.push(entry.clone()))
        .map_err(|broken| Failure::Failed(format!("the aggregator's ledger does not hold: {broken}")))?;
    if json {
        return print_json(&entries);
    }
    entries.iter().try_for_each(|entry| print(&format!("{entry}\n")))
}

#[derive(Debug, Serialize)]
struct Verified {
    entries: u64,
    digest: common::Digest,
    heads_that_sites_knew: usize,
}

fn verify(arguments: Verify, acting: &Acting) -> Result<(), Failure> {
    let aggregator = match &arguments.file {
        Some(file) => exported(file, arguments.key)?,
        None => held_at(&mut acting.desk(arguments.state)?)?,
    };
    let sites: Vec<SiteLedger> = arguments.site_ledger.iter().map(|path| of_site(path)).collect::<Result<_, _>>()?;
    let Audited { head, told } = audit(&aggregator, &sites).map_err(|blamed| Failure::Failed(blamed.to_string()))?;
    if arguments.json.json {
        return print_json(&Verified { entries: head.entries, digest: head.digest, heads_that_sites_knew: told });
    }
    print(&format!(
        "{} entries hold, and with them {told} heads that sites knew; the last one is {}\n",
        head.entries, head.digest
    ))
}

/// The lines of a file. What is no text any more stays a line, which does not hold.
fn lines_in(path: &Path) -> Result<Vec<String>, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::failed(path.display(), error))?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// A site's ledger, with the note of its end that lies beside it.
fn of_site(path: &Path) -> Result<SiteLedger, Failure> {
    let note = path.with_added_extension("head");
    let end = match fs::read(&note) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| Failure::failed(note.display(), error))?),
        // A copy that was sent without it: then nobody can tell that its tail is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::failed(note.display(), error)),
    };
    Ok(SiteLedger { name: path.display().to_string(), lines: lines_in(path)?, end })
}

/// The ledger where this command works.
fn held_at(desk: &mut Desk) -> Result<AggregatorLedger, Failure> {
    Ok(match desk {
        Desk::Here(folder) => {
            let store = store(folder)?;
            let (lines, end) = desk::ledger(&store)?;
            let key = authority::signing_key(folder).map_err(|error| Failure::failed("the signing key", error))?;
            AggregatorLedger { federation: store.federation()?.name, key: key.verifying(), lines, end }
        }
        Desk::There(remote) => {
            let (lines, Colophon { federation, key, head, .. }) = remote.ledger().map_err(Failure::from)?;
            AggregatorLedger { federation, key, lines, end: head }
        }
    })
}

/// An exported ledger, whose end the aggregator signed.
fn exported(file: &Path, expected: Option<VerifyingKey>) -> Result<AggregatorLedger, Failure> {
    let named = |why: String| Failure::Failed(format!("{}: {why}", file.display()));
    let mut lines = lines_in(file)?;
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
    Ok(AggregatorLedger { federation, key, lines, end: head })
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
