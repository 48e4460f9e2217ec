//! `cargo demo`: three hospitals, one foundation model, from DICOM files to weights.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tests::demo::{self, Options};
use tests::programs;

/// Watch three phantom hospitals train one CMR foundation model without sharing an image.
///
/// Makes DICOM files, starts the real aggregator and three real site agents over mutual TLS on loopback, runs federated
/// DINO pretraining, and ends with a table, a report page, and weights with the published DINO key names.
#[derive(Debug, Parser)]
#[command(name = "demo", bin_name = "cargo demo", version)]
struct Cli {
    /// Folder for images, state, model and report.
    #[arg(long, default_value = "demo")]
    out: PathBuf,
    /// Go on with the demo in that folder.
    #[arg(long)]
    resume: bool,
    /// Seed of the phantom.
    #[arg(long, default_value_t = 1, conflicts_with = "resume")]
    seed: u64,
    /// Another plan (TOML) than the demo's own.
    #[arg(long, conflicts_with = "resume")]
    plan: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Cli { out, resume, seed, plan } = Cli::parse();
    let ran = programs::end_with_their_owner().map_err(anyhow::Error::from);
    match ran.and_then(|()| demo::run(&Options { out, resume, seed, plan })) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
