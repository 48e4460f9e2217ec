//! `site-agent adopt`: a task out of a model that a run finetuned, for the verbs that measure and use finetuned networks.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use common::NamedTensors;
use model::BACKBONE;

use super::weights::read_weights;
use super::{Json, print, print_json, read_draft};
use crate::durable;
use crate::tasks::{Finetuned, FinetunedFolder, TasksError};

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
    let bytes = weights.to_safetensors();
    // Of a frozen backbone every round has the same one: what was measured of another's head is beside that head.
    if durable::read_if_there(&folder.model())?.is_some_and(|held| held != bytes) {
        let held = format!("the task {} out of another model of this run", told.task.name);
        return Err(TasksError::OtherFinetuning { folder: args.out.display().to_string(), held }.into());
    }
    durable::write(&folder.model(), &bytes)?;
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

#[cfg(test)]
mod tests {
    use common::PlanDraft;
    use common::plan::FinetuningPlan;
    use model::{Finetuner, initial_weights};

    use super::*;
    use crate::tasks::built_in;

    #[test]
    fn a_folder_keeps_the_head_of_one_round_although_a_frozen_backbone_is_that_of_every_round() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut plan: PlanDraft = toml::from_str(include_str!("../../../tests/plans/story.toml")).unwrap();
        let tasks = vec![built_in().remove(0)];
        let backbone = initial_weights(&plan.model, 1).under("teacher.backbone.");
        for round in 1..=2 {
            let weights = Finetuner::first_weights(&plan.model, &tasks, &backbone, round).unwrap();
            std::fs::write(path(&format!("{round}.safetensors")), weights.to_safetensors()).unwrap();
        }
        let task = tasks[0].name.to_string();
        plan.finetuning = Some(FinetuningPlan { frozen_backbone: true, tasks });
        std::fs::write(path("plan.toml"), toml::to_string(&plan).unwrap()).unwrap();
        let adopted = |round: u64, out: &str| {
            adopt(&AdoptArgs {
                model: path(&format!("{round}.safetensors")),
                plan: path("plan.toml"),
                task: task.clone(),
                out: path(out),
                json: Json { json: false },
            })
        };
        adopted(1, "one").unwrap();
        let held = std::fs::read(path("one/model.safetensors")).unwrap();
        let refused = adopted(2, "one").unwrap_err().to_string();
        assert!(refused.contains("out of another model of this run") && refused.contains("--out"), "{refused}");
        assert_eq!(std::fs::read(path("one/model.safetensors")).unwrap(), held);
        // Typed once more it is the same one.
        adopted(1, "one").unwrap();
        adopted(2, "two").unwrap();
    }
}
