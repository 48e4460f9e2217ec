//! `site-agent evaluate`: measures a model on this site's held-out subjects.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::weights::{OfPlan, fitted_backbone, read_weights};
use super::{Json, print, print_json, read_draft};
use crate::config::Config;
use crate::evaluate::{self, Question};
use crate::home::Home;
use crate::images;

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// A model of a run, or a backbone with the names of DINO, timm or Hugging Face (safetensors).
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    of: OfPlan,
    /// Draw sample frames and attention maps into this folder. They show images: keep them at the site.
    #[arg(long)]
    pictures: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn evaluate(home: &Home, config: &Config, args: &EvaluateArgs) -> anyhow::Result<()> {
    let plan = read_draft(&args.of.plan)?;
    let Some(cache) = images::cache_for(home, &plan.images)? else {
        bail!("no images on this plan's grid: `site-agent index <folder|zip> --plan {}` first", args.of.plan.display());
    };
    let device = config.device.parse()?;
    let backbone = fitted_backbone(&args.model, &read_weights(&args.model)?, &plan.model, args.of.network(&plan))?;
    let question =
        Question { plan: &plan, backbone: &backbone, cache: &cache, held_out: config.held_out, device: &device };
    let found = evaluate::evaluate(&question, args.pictures.as_deref())?;
    if args.json.json { print_json(&found) } else { print(&found) }
}
