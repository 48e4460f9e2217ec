//! `site-agent index`: reads a source of images onto a plan's grid.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use common::plan::ImagePlan;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Json, print, read_draft};
use crate::config::Config;
use crate::home::Home;
use crate::images;

#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    /// A folder of hospital exports, a folder of UK Biobank zips, or one zip.
    source: PathBuf,
    /// Read onto the grid of this plan (TOML); without it, onto the default grid (256 pixels of 1 mm).
    #[arg(long)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn index(home: &Home, config: &Config, args: &IndexArgs) -> anyhow::Result<()> {
    let source = args.source.canonicalize().with_context(|| {
        format!("{} cannot be read: name a folder of DICOM files, or a UK Biobank zip", args.source.display())
    })?;
    let grid = args.plan.as_deref().map(read_draft).transpose()?.map_or_else(ImagePlan::default, |draft| draft.images);
    let bar = progress_bar(args.json.json);
    let program = std::env::current_exe().context("finding this program")?;
    let indexed = images::index_all(home, &source, &grid, &config.intake, &program, &mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(format!("{} frames", progress.frames));
    });
    bar.finish_and_clear();
    let indexed = indexed?;
    // By number: a folder may be called what a patient is called, and what is shown here is pasted elsewhere.
    for (number, (_, report)) in indexed.reports.iter().enumerate() {
        if args.json.json {
            print(&format!("{}\n", serde_json::to_string(report)?))?;
        } else {
            print(&format!("source {} of {}\n{report}\n", number + 1, home.images().join("sources.json").display()))?;
        }
    }
    Ok(())
}

pub(super) fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {msg}, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
