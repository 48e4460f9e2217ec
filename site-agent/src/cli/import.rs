//! `site-agent import`: reads a public data set onto a plan's grid, and writes its labels.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use common::plan::ImagePlan;
use data::{DataSet, ImportedLabels, LabelsOut};

use super::index::progress_bar;
use super::{Json, print, print_json, read_draft};
use crate::config::Config;
use crate::home::Home;
use crate::images;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The folder that the data set's archive was unpacked to.
    folder: PathBuf,
    /// Which one it is: acdc, mnms, mnms2 or emidec.
    #[arg(long)]
    dataset: DataSet,
    /// Read onto the grid of this plan (TOML); without it, onto the default grid (256 pixels of 1 mm).
    #[arg(long)]
    plan: Option<PathBuf>,
    /// The folder of labels to be written; without it, one in the state folder.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Another map of codes than the data set's own (TOML, [codes] and [within]), for a copy that was recoded.
    #[arg(long)]
    codes: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn import(home: &Home, config: &Config, args: &ImportArgs) -> anyhow::Result<()> {
    let dataset = args.dataset;
    let folder = args.folder.canonicalize().with_context(|| {
        format!("{} cannot be read: name the folder that {dataset} was unpacked to", args.folder.display())
    })?;
    let grid = args.plan.as_deref().map(read_draft).transpose()?.map_or_else(ImagePlan::default, |draft| draft.images);
    let out = LabelsOut {
        // Whole, as the settings take it from wherever it is typed.
        folder: std::path::absolute(args.labels.clone().unwrap_or_else(|| home.labels(dataset.name())))?,
        codes: args.codes.clone(),
    };
    let bar = progress_bar(args.json.json);
    let program = std::env::current_exe().context("finding this program")?;
    let new = (dataset, folder.as_path());
    let imported = images::import(home, new, &out, &grid, &config.intake, &program, &mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(format!("{} frames", progress.frames));
    });
    bar.finish_and_clear();
    let imported = imported?;
    let labels = imported.labels.as_ref();
    if args.json.json {
        return print_json(&serde_json::json!({
            "report": imported.report,
            "absent": imported.absent,
            "labels": labels.map(|labels| serde_json::json!({
                "folder": labels.folder, "masks": labels.masks, "masked": labels.masked,
                "column": labels.column, "classed": labels.classed, "other": labels.other,
            })),
        }));
    }
    print(&format!("{}\n{}\n", folder.display(), imported.report))?;
    if imported.absent > 0 {
        print(&format!("{} subjects of its table have no images here\n", imported.absent))?;
    }
    match labels {
        None => print(&"no labels: none of its subjects has a mask or a class\n"),
        Some(labels) => print(&told(labels)),
    }
}

fn told(labels: &ImportedLabels) -> String {
    let ImportedLabels { folder, masks, masked, column, classed, other } = labels;
    let mut told = format!("{masks} masks of {masked} subjects, {column} of {classed}");
    if !other.is_empty() {
        let names: Vec<String> = other.iter().map(|(name, count)| format!("{name} {count}")).collect();
        told += &format!("; without a class: {}", names.join(", "));
    }
    format!("{told}\nlabels: {}\n", folder.display())
}
