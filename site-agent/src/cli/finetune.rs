//! `site-agent tasks` and `site-agent finetune`: clinical tasks, and training one here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure};
use clap::Args;
use common::plan::FinetuningPlan;
use common::task::LabelSource;
use common::{NamedTensors, PlanDraft, Task};
use model::initial_weights;

use super::spent::Spent;
use super::weights::{OfPlan, Which, fitted_backbone, read_weights};
use super::{Json, finetuned, print, print_json, read_draft};
use crate::approvals::announced;
use crate::config::Config;
use crate::home::Home;
use crate::tasks::{
    self, Cohort, CohortError, FewShot, Finetuned, FinetunedFolder, Finetuning, Heard, Learnt, TasksError, built_in,
    read_task,
};
use crate::trainer::stopping::Stop;

#[derive(Debug, Args)]
pub(super) struct FinetuneArgs {
    /// The task: a name of `site-agent tasks`, or a file that declares one (.toml).
    #[arg(long)]
    task: String,
    /// What the backbone begins from: `random`, a model of a run, or a backbone with the names of DINO, timm or Hugging Face.
    #[arg(long)]
    init: String,
    /// The plan whose network and grid of images these are (TOML); without, that of the plans announced to this site, if they
    /// agree on both.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Whose backbone, if the file holds both; the teacher's without, or the student's if the plan exchanges nothing else.
    #[arg(long, value_enum)]
    network: Option<Which>,
    /// The folder of this site's labels: labels.toml, and classes.csv, series.csv, masks.csv or landmarks.csv.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// The folder to train in; a training that was stopped there goes on. Without, one below the state folder, named by task,
    /// arm and seed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Hold the backbone as it is, and train the head alone.
    #[arg(long)]
    freeze: bool,
    /// Train on this fraction of the training subjects.
    #[arg(long, conflicts_with = "subjects")]
    fraction: Option<f64>,
    /// Train on so many of the training subjects: the same ones whatever the backbone and the seed.
    #[arg(long)]
    subjects: Option<usize>,
    /// Draws the head and every batch.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most optimizer steps, instead of the task's.
    #[arg(long)]
    steps: Option<usize>,
    /// Frames (subjects, for detection) in a step, instead of the task's.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Peak learning rate, instead of the task's.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Fewest subjects that may train; with fewer, nothing starts. 3 if not given, and 1 with --subjects or --fraction.
    #[arg(long)]
    min_subjects: Option<usize>,
    /// What tables call the backbone; the name of its file without.
    #[arg(long)]
    arm: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    /// Print the declarations of these tasks as a plan takes them up, to be put at its end: the run then finetunes.
    #[arg(long, value_name = "TASK", num_args = 1..)]
    declare: Vec<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn tasks(args: &TasksArgs) -> anyhow::Result<()> {
    let tasks = built_in();
    if !args.declare.is_empty() {
        let tasks = args.declare.iter().map(|task| read_task(task)).collect::<Result<_, _>>()?;
        let finetuning = FinetuningPlan { frozen_backbone: false, tasks };
        return print(&toml::to_string(&BTreeMap::from([("finetuning", finetuning)]))?);
    }
    if args.json.json {
        return print_json(&tasks);
    }
    for Task { name, about, kind, labels, classes, .. } in &tasks {
        let labels = match labels {
            LabelSource::Sequence | LabelSource::View => "DICOM tags".to_owned(),
            LabelSource::Masks => "masks.csv".to_owned(),
            LabelSource::Landmarks => "landmarks.csv".to_owned(),
            LabelSource::Column(column) => format!("classes.csv, {column}"),
            LabelSource::Series(column) => format!("series.csv, {column}"),
        };
        print(&format!("{name}\n    {about}\n    {kind} of {}; labels: {labels}\n", classes.join(", ")))?;
    }
    Ok(())
}

pub(super) fn finetune(home: &Home, config: &Config, args: &FinetuneArgs) -> anyhow::Result<()> {
    let spent = Spent::begin();
    let (plan, of_plan) = plan_of(home, args.plan.as_deref())?;
    let mut task = read_task(&args.task)?;
    task.training.steps = args.steps.unwrap_or(task.training.steps);
    task.training.batch_size = args.batch_size.unwrap_or(task.training.batch_size);
    task.training.learning_rate = args.learning_rate.unwrap_or(task.training.learning_rate);
    task.check()?;
    let few = match (args.fraction, args.subjects) {
        (Some(fraction), _) => {
            ensure!(fraction > 0.0 && fraction <= 1.0, "--fraction is {fraction}, but must be above 0 and at most 1");
            FewShot::Fraction(fraction)
        }
        (_, Some(0)) => bail!("--subjects is 0, but must be at least 1"),
        (_, Some(subjects)) => FewShot::Subjects(subjects),
        _ => FewShot::All,
    };
    ensure!(args.min_subjects != Some(0), "--min-subjects is 0, but must be at least 1");
    let cache = finetuned::open_cache(home, config, &plan.images, &of_plan)?;
    let labels = finetuned::open_labels(home, &cache, args.labels.as_deref())?;
    let examples = finetuned::examples(&task, &cache, labels.as_ref())?;
    let least = args.min_subjects.unwrap_or(if few == FewShot::All { 3 } else { 1 });
    finetuned::require_held_out(home, config, &cache, (&task, &examples))?;
    let cohort = Cohort::new(&cache, &examples.all, config.held_out, few, &examples.classes, least);
    let cohort = cohort.map_err(|error| refused(error, few))?;
    cohort.require_classes(&examples, &task.classes).map_err(TasksError::from)?;
    let backbone = backbone(args, &plan)?;
    let training = cohort.training();
    let told = Finetuned {
        task,
        model: plan.model.clone(),
        images: plan.images.clone(),
        backbone: backbone.digest(),
        arm: args.arm.clone().unwrap_or_else(|| arm_of(&args.init)),
        frozen: args.freeze,
        seed: args.seed,
        training_subjects: training.len(),
        validation_subjects: cohort.validation().len(),
        examples: examples.all.iter().filter(|example| training.binary_search(&example.subject).is_ok()).count(),
        learnt_from: Some(cohort.learnt_from(&examples)),
    };
    tracing::info!(
        task = %told.task.name,
        training = told.training_subjects,
        validation = told.validation_subjects,
        held_out = cohort.held_out().len(),
        examples = told.examples,
        "subjects with labels"
    );
    let device = config.device.parse()?;
    let arm: String = told.arm.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let own = || home.finetuned().join(format!("{}-{arm}-{}", told.task.name, told.seed));
    let folder = FinetunedFolder::at(args.out.clone().unwrap_or_else(own));
    let steps = told.task.training.steps as u64;
    let precision = config.precision;
    let finetuning =
        Finetuning { told: &told, cache: &cache, examples: &examples, cohort: &cohort, device: &device, precision };
    let metric = told.task.best.metric;
    folder.begin(&told)?;
    folder.write_learnt(&Learnt::from(&cohort, &cache, config.held_out))?;
    let left = |step: u64, seconds_per_step: f64| (steps.saturating_sub(step) as f64 * seconds_per_step).round();
    let mut told_of = |heard: Heard<'_>| match heard {
        Heard::Look(look) => {
            let (loss, value) = (format!("{:.3}", look.loss), told_value(look.value));
            let (step, best, left_s) = (look.step, look.better, left(look.step, look.seconds_per_step));
            tracing::info!(step, of = steps, %loss, %metric, %value, best, left_s, "on the validation subjects");
        }
        Heard::Step { step, seconds_per_step } => {
            tracing::info!(step, of = steps, left_s = left(step, seconds_per_step), "training");
        }
    };
    let course = tasks::finetune(&folder, &finetuning, &backbone, &Stop::heard(false), &mut told_of)?;
    if args.json.json {
        return print_json(&serde_json::json!({
            "steps": course.steps, "best_step": course.best_step, "best": course.best,
            "training_subjects": told.training_subjects, "validation_subjects": told.validation_subjects,
            "seconds": spent.seconds(), "peak_mib": Spent::peak_mib(),
        }));
    }
    print(&format!(
        "{}: {} steps on {} subjects; best {metric} on {} validation subjects {} at step {}. Weights: {}\n",
        told.task.name,
        course.steps,
        told.training_subjects,
        told.validation_subjects,
        told_value(course.best),
        course.best_step,
        folder.model().display()
    ))
}

/// Why nobody trains, with the option that asks for more than there is.
fn refused(error: CohortError, few: FewShot) -> anyhow::Error {
    match error {
        CohortError::TooFew { found, least, subjects, .. } if few == FewShot::Subjects(least) => anyhow!(
            "only {found} of this site's {subjects} labelled subjects can be trained on, but --subjects asks for at least \
             {least}: lower --subjects, or label or index more subjects"
        ),
        error => TasksError::from(error).into(),
    }
}

fn backbone(args: &FinetuneArgs, plan: &PlanDraft) -> anyhow::Result<NamedTensors> {
    if args.init == "random" {
        // What a run of this plan and seed would begin from.
        return Ok(initial_weights(&plan.model, args.seed).under("teacher.backbone."));
    }
    let path = Path::new(&args.init);
    let of = OfPlan { plan: PathBuf::new(), network: args.network };
    fitted_backbone(path, &read_weights(path)?, &plan.model, of.network(plan))
}

/// The plan that was named, or the one network and grid that was announced to this site; and how a person names it.
fn plan_of(home: &Home, named: Option<&Path>) -> anyhow::Result<(PlanDraft, String)> {
    if let Some(path) = named {
        return Ok((read_draft(path)?, path.display().to_string()));
    }
    let mut drafts: Vec<PlanDraft> = announced(home)?.into_iter().map(|(_, plan)| plan.draft).collect();
    drafts.dedup_by(|a, b| a.model == b.model && a.images == b.images);
    let Some(first) = drafts.pop() else { bail!("no plan was announced to this site yet: name one with --plan") };
    let others = drafts.iter().filter(|other| other.model != first.model || other.images != first.images).count();
    ensure!(others == 0, "the plans announced to this site are of different networks or grids: name one with --plan");
    Ok((first, "<that plan>".to_owned()))
}

fn told_value(value: Option<f64>) -> String {
    value.map_or_else(|| "not to be told".to_owned(), |value| format!("{value:.3}"))
}

fn arm_of(init: &str) -> String {
    Path::new(init).file_stem().map_or_else(|| init.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_more_subjects_than_there_are_is_told_to_lower_that_option_and_no_other() {
        let too_few = |found, least| CohortError::TooFew { what: "can be trained on", found, least, subjects: 9 };
        let told = refused(too_few(5, 100), FewShot::Subjects(100)).to_string();
        assert!(told.contains("at least 100: lower --subjects") && !told.contains("--min-subjects"), "{told}");
        for few in [FewShot::All, FewShot::Subjects(2), FewShot::Fraction(0.1)] {
            assert!(refused(too_few(2, 3), few).to_string().contains("lower --min-subjects"));
        }
    }
}
