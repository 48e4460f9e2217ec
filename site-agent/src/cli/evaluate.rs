//! `site-agent evaluate`: measures a model on this site's held-out subjects.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args};

use super::weights::{OfPlan, Which, fitted_backbone, read_weights};
use super::{Json, finetuned, print, print_json, read_draft};
use crate::config::Config;
use crate::evaluate::{self, Question};
use crate::home::Home;
use crate::images;
use crate::tasks::{self, FinetunedFolder};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("measured").required(true).args(["finetuned", "model"])))]
pub(super) struct EvaluateArgs {
    /// The folder of a finetuning: its task is measured, in clinical units.
    #[arg(long)]
    finetuned: Option<PathBuf>,
    /// The folder of this site's labels, for a finetuned task.
    #[arg(long, requires = "finetuned", conflicts_with = "model")]
    labels: Option<PathBuf>,
    /// A model of a run, or a backbone with the names of DINO, timm or Hugging Face (safetensors); its plan is named too.
    #[arg(long, requires = "plan")]
    model: Option<PathBuf>,
    /// The run's plan (TOML), for a model.
    #[arg(long, requires = "model", conflicts_with = "finetuned")]
    plan: Option<PathBuf>,
    /// Whose backbone, if the model holds both; the teacher's without, or the student's if the plan exchanges nothing else.
    #[arg(long, value_enum, requires = "model", conflicts_with = "finetuned")]
    network: Option<Which>,
    /// Draw sample frames and attention maps into this folder. They show images: keep them at the site.
    #[arg(long)]
    pictures: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn evaluate(home: &Home, config: &Config, args: &EvaluateArgs) -> anyhow::Result<()> {
    if let Some(folder) = &args.finetuned {
        return evaluate_task(home, config, folder, args);
    }
    let (Some(model), Some(path)) = (&args.model, &args.plan) else {
        bail!("name a model with --model and its --plan")
    };
    let of = OfPlan { plan: path.clone(), network: args.network };
    let plan = read_draft(&of.plan)?;
    let Some(cache) = images::cache_for(home, &plan.images, &config.intake)? else {
        bail!("no images on this plan's grid: `site-agent index <folder|zip> --plan {}` first", of.plan.display());
    };
    let device = config.device.parse()?;
    let backbone = fitted_backbone(model, &read_weights(model)?, &plan.model, of.network(&plan))?;
    let question =
        Question { plan: &plan, backbone: &backbone, cache: &cache, held_out: config.held_out, device: &device };
    let found = evaluate::evaluate(&question, args.pictures.as_deref())?;
    if args.json.json { print_json(&found) } else { print(&found) }
}

/// The bootstrap's seed: intervals are the same whoever computes them.
const BOOTSTRAP_SEED: u64 = 1;

/// Measures a finetuned task on the held-out subjects, and keeps the result in its folder.
fn evaluate_task(home: &Home, config: &Config, folder: &std::path::Path, args: &EvaluateArgs) -> anyhow::Result<()> {
    let (told, cache, network) = finetuned::open(home, config, folder)?;
    let labels = finetuned::open_labels(home, &cache, args.labels.as_deref())?;
    let examples = finetuned::examples(&told.task, &cache, labels.as_ref())?;
    finetuned::require_held_out(home, config, &cache, (&told.task, &examples))?;
    let folder = FinetunedFolder::at(folder);
    let learnt = finetuned::learnt(&folder, &told)?;
    let whose = (&folder, &told, learnt.as_ref());
    let measured = tasks::evaluate(whose, &cache, &examples, config.held_out, &network, BOOTSTRAP_SEED)?;
    folder.write("evaluation.json", &measured)?;
    if args.json.json { print_json(&measured) } else { print(&measured) }
}
