//! `aggregator model`: takes a round's model out of the state folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use common::ids::DigestBuilder;
use common::{Digest, RoundNumber, RunId};
use serde::Serialize;

use super::{Failure, Json, State, print, print_json, wait};
use crate::clock::wall;
use crate::status;
use crate::store::{Blobs, SqliteStore};

/// Which model, and where to.
#[derive(Debug, Args)]
pub(super) struct Model {
    /// The run.
    #[arg(long)]
    run: RunId,
    /// The round whose model is wanted; 0 is the first model. The newest if not given.
    #[arg(long)]
    round: Option<u32>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Serialize)]
struct Exported {
    run: RunId,
    model: Digest,
    bytes: u64,
    out: PathBuf,
}

pub(super) fn model(arguments: Model) -> Result<(), Failure> {
    let Model { run, round, out, state, json } = arguments;
    let folder = state.folder()?;
    let store = SqliteStore::open(&folder)?;
    let blobs = Blobs::open(&folder).map_err(|error| Failure::failed("the state folder", error))?;
    let found = wait::find(status::read(&store, wall())?, &run)?;
    let digest = match round {
        None => found.model,
        Some(0) => found.first_model,
        Some(round) => {
            let model = found.rounds.iter().filter(|ended| ended.round == RoundNumber(round)).find_map(|it| it.model);
            model.ok_or_else(|| Failure::refused(format!("run {run} has no model of round {round} (yet)")))?
        }
    };
    let bytes = copy(&blobs, digest, &out)?;
    if json.json {
        return print_json(&Exported { run, model: digest, bytes, out });
    }
    print(&format!("{}: model {digest} of run {run}, {bytes} bytes\n", out.display()))
}

/// Copies beside the target and renames, so that the file is whole when it is there, and has the digest that it is told with.
fn copy(blobs: &Blobs, digest: Digest, out: &Path) -> Result<u64, Failure> {
    let mut model = blobs.open_blob(digest).map_err(|error| {
        let path = blobs.path(digest);
        Failure::failed(path.display(), format!("{error}; restore this file of the state folder from a backup"))
    })?;
    let beside = out.with_added_extension("part");
    let mut write = || {
        let mut file = Digested { file: fs::File::create(&beside)?, digest: DigestBuilder::default() };
        let bytes = io::copy(&mut model, &mut file)?;
        file.file.sync_all()?;
        Ok((bytes, file.digest.finish()))
    };
    let failed = |error: io::Error| {
        let remedy = "give `--out` a file in a folder that exists, may be written and has room";
        Failure::failed(out.display(), format!("{error}; {remedy}"))
    };
    let written: io::Result<(u64, Digest)> = write();
    let (bytes, found) = written.map_err(failed)?;
    if found != digest {
        let path = blobs.path(digest);
        drop(fs::remove_file(&beside));
        let told = format!(
            "it is damaged: its bytes have digest {found}; restore this file of the state folder from a backup"
        );
        return Err(Failure::failed(path.display(), told));
    }
    fs::rename(&beside, out).map_err(failed)?;
    Ok(bytes)
}

/// A file, and the digest of what was written to it.
struct Digested {
    file: fs::File,
    digest: DigestBuilder,
}

impl io::Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
