//! `site-agent adopt`: a task out of a model that a run finetuned, for the verbs that measure and use finetuned networks.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use common::NamedTensors;
use model::BACKBONE;

use super::weights::read_weights;
use super::{Json, print, print_json, read_draft};
use crate::durable;
use crate::tasks::{Finetuned, FinetunedFolder};

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// The model of a run that finetuned.
    model: PathBuf,
    /// That run's plan (TOML).
    #[arg(long)]
    plan: PathBuf,
    /// Which of its tasks.
    #[arg(long)]
    task: String,
    /// The folder to make; `evaluate --finetuned` and `predict --finetuned` use it.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

pub(super) fn adopt(args: &AdoptArgs) -> anyhow::Result<()> {
    let plan = read_draft(&args.plan)?;
    let tasks = plan.finetuning.as_ref().map_or(&[][..], |finetuning| &finetuning.tasks);
    let Some(task) = tasks.iter().find(|task| task.name.as_str() == args.task) else {
        let known: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
        let told = if known.is_empty() { "it pretrains, and has no task".to_owned() } else { known.join(", ") };
        bail!("the run of {} has no task {:?}: {told}", args.plan.display(), args.task);
    };
    let head = task.name.head_prefix();
    let wanted = |name: &str| name.starts_with(BACKBONE) || name.starts_with(&head);
    let weights = read_weights(&args.model)?.filtered(wanted);
    let backbone = weights.under(BACKBONE);
    expected(&weights, &plan.model, task)?;
    let folder = FinetunedFolder::at(&args.out);
    let told = Finetuned {
        task: task.clone(),
        model: plan.model.clone(),
        images: plan.images.clone(),
        backbone: backbone.digest(),
        arm: format!("run {}", plan.run),
        frozen: plan.finetuning.as_ref().is_some_and(|finetuning| finetuning.frozen_backbone),
        seed: plan.seed,
        // Those of other sites are not known here.
        training_subjects: 0,
        validation_subjects: 0,
        examples: 0,
        learnt_from: None,
    };
    folder.begin(&told)?;
    durable::write(&folder.model(), &weights.to_safetensors())?;
    folder.end(&told)?;
    if args.json.json {
        return print_json(&serde_json::json!({ "task": told.task.name, "model": weights.digest(), "path": args.out }));
    }
    print(&format!("{}: measure it with `evaluate --finetuned {}`\n", told.task.name, args.out.display()))
}

/// Refuses tensors that are not this plan's network with this task's head.
fn expected(weights: &NamedTensors, plan: &common::plan::ModelPlan, task: &common::Task) -> anyhow::Result<()> {
    let backbone = model::initial_weights(plan, 0).under("teacher.backbone.");
    let first = model::Finetuner::first_weights(plan, std::slice::from_ref(task), &backbone, 0)?;
    Ok(first.signature().require(&weights.signature())?)
}
