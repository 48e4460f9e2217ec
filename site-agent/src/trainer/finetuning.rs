//! A round of finetuning: the heads of the tasks that the site has labels for, and the backbone under them unless that is
//! frozen. The tasks take turns, a step each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::plan::{FinetuningPlan, ModelPlan};
use common::privacy::SUBJECTS_ROUNDED_TO;
use common::task::LabelSource;
use common::weights::WeightsError;
use common::{Meters, NamedTensors, Task};
use data::{FrameCache, Labels, SubjectKey};
use model::{BACKBONE, DeviceChoice, Finetuner, ModelError};

use super::progress::Progress;
use super::stopping::Stop;
use super::{TrainerError, base, enough_subjects, scoring, seeds, write_delta};
use crate::job::{Job, JobFolder, JobLabels, JobResult, StepLine};
use crate::tasks::{Batches, Cohort, CohortError, Examples, FewShot, MEASURED, TasksError};
use crate::{durable, images};

/// A task that this site takes part in.
pub(super) struct SiteTask {
    pub(super) task: Task,
    pub(super) examples: Examples,
    pub(super) cohort: Cohort,
}

/// Trains a round of a site's tasks, and measures the model that it starts from.
pub(super) fn train(
    folder: &JobFolder,
    job: &Job,
    plan: &FinetuningPlan,
    stop: &Stop,
) -> Result<JobResult, TrainerError> {
    let cache = FrameCache::open(&job.cache, &job.plan.images)?;
    let labels = labels(job, &cache)?;
    let tasks = site_tasks(job, plan, &cache, labels.as_ref())?;
    let base = of_tasks(base(job)?, &tasks);
    let device: DeviceChoice = job.device.parse()?;
    let model = &job.plan.model;
    if job.measures && folder.scores()?.is_none() {
        let network = Finetuner::new(model, &declared(&tasks), &device, base.clone(), true)?;
        folder.write_scores(&scoring::scores(model, &cache, &tasks, &network, stop)?)?;
    }
    if job.measure_only {
        return Ok(JobResult {
            steps: 0,
            subjects: 0,
            heads: BTreeMap::new(),
            images: 0,
            examples: 0,
            seconds: 0.0,
            meters: Meters::default(),
        });
    }

    if job.micro_batch > 0 {
        tracing::warn!("micro_batch counts where a run pretrains alone: a task's batch is computed whole");
    }
    let (tasks, subjects) = drawing_enough(job, &cache, tasks)?;
    let (base, declared) = (of_tasks(base, &tasks), declared(&tasks));
    let frozen = plan.frozen_backbone;
    let resumed = match durable::read_if_there(&folder.checkpoint())? {
        Some(checkpoint) => resumed(model, &declared, &device, &checkpoint, frozen)?,
        None => None,
    };
    let mut network = match resumed {
        Some(network) => network,
        None => {
            // One that is of other tasks, if there is one.
            durable::remove(&folder.checkpoint())?;
            let kept = job.kept.as_ref().map(|kept| durable::read(kept)).transpose()?;
            let network = Finetuner::new(model, &declared, &device, base.clone(), frozen)?;
            network.going_on(job.first_step, kept.as_deref())?
        }
    };
    network = network.held_to(&base, job.plan.training.proximal).in_precision(job.precision)?;
    let steps = job.plan.training.steps_per_round as u64;
    let done = network.step_count().saturating_sub(job.first_step).min(steps);
    let mut progress = Progress::from_step(folder, done)?;
    let batches = batches(job, &cache, &tasks);
    let turn = |clock: u64| turn(clock, &tasks);
    let seed = |clock: u64, purpose: &str| seed(job, clock, purpose, &tasks);
    let (began, mut kept) = (Instant::now(), done);
    for step in done..steps {
        stop.after(step, kept, folder, &mut progress, || network.checkpoint())?;
        let clock = job.first_step + step;
        let (images, answers) = batches[turn(clock)].at(seed(clock, "batch"))?;
        let loss = network.step(&tasks[turn(clock)].task, &images, &answers, seed(clock, "drop-path"))?;
        let taken = step + 1;
        progress.append(StepLine {
            step: taken,
            loss,
            teacher_entropy: 0.0,
            batch_entropy: 0.0,
            seconds_per_step: began.elapsed().as_secs_f64() / (taken - done) as f64,
        })?;
        if taken < steps && taken % job.plan.training.checkpoint_every_steps as u64 == 0 {
            progress.sync()?;
            durable::write(&folder.checkpoint(), &network.checkpoint())?;
            kept = taken;
        }
    }

    let travels = |name: &str| !(frozen && name.starts_with(BACKBONE));
    write_delta(folder, job, network.weights().clone(), &base, travels)?;
    durable::write(&folder.kept(), &network.kept())?;
    let shown: usize = (0..steps).map(|step| tasks[turn(job.first_step + step)].task.training.batch_size).sum();
    Ok(JobResult {
        steps: steps as u32,
        subjects: count(&subjects.iter().flatten().collect::<BTreeSet<_>>()),
        heads: tasks.iter().zip(&subjects).map(|(own, drawn)| (own.task.name.clone(), count(drawn))).collect(),
        images: shown as u64,
        // Of a run that finetunes, subjects count, head by head.
        examples: 0,
        seconds: progress.seconds(),
        meters: progress.meters(),
    })
}

fn declared(tasks: &[SiteTask]) -> Vec<Task> {
    tasks.iter().map(|own| own.task.clone()).collect()
}

/// The place of the task whose turn a step is.
fn turn(clock: u64, tasks: &[SiteTask]) -> usize {
    (clock % tasks.len() as u64) as usize
}

fn seed(job: &Job, clock: u64, purpose: &str, tasks: &[SiteTask]) -> u64 {
    seeds(job).seed(clock, &format!("{purpose} of {}", tasks[turn(clock, tasks)].task.name))
}

fn batches<'a>(job: &Job, cache: &'a FrameCache, tasks: &'a [SiteTask]) -> Vec<Batches<'a>> {
    let of = |SiteTask { task, examples, cohort }: &'a SiteTask| {
        let side = job.plan.model.image_size * task.input.scale;
        Batches::new(task, cache, examples, cohort.training(), side, job.plan.model.in_channels)
    };
    tasks.iter().map(of).collect()
}

/// The tasks whose steps in this round draw as many subjects as the site's policy asks for, each with those subjects. The one with the
/// fewest is left out as long as there is one with too few, and its turns go to the others; if none is left, the round is declined.
fn drawing_enough(
    job: &Job,
    cache: &FrameCache,
    mut tasks: Vec<SiteTask>,
) -> Result<(Vec<SiteTask>, Vec<BTreeSet<SubjectKey>>), TrainerError> {
    loop {
        let subjects = subjects_drawn(job, &batches(job, cache, &tasks), &tasks);
        let fewest = (0..tasks.len()).min_by_key(|place| subjects[*place].len());
        let Some(fewest) = fewest else { return Ok((tasks, subjects)) };
        let name = &tasks[fewest].task.name;
        match enough_subjects(subjects[fewest].len(), job, &format!("the head of {name}")) {
            Ok(()) => return Ok((tasks, subjects)),
            Err(error) if tasks.len() == 1 => return Err(error),
            Err(error) => {
                tracing::warn!(task = %name, %error, "this site does not take part in the task in this round")
            }
        }
        tasks.remove(fewest);
    }
}

/// The subjects whose images the round's batches hold, task by task.
fn subjects_drawn(job: &Job, batches: &[Batches<'_>], tasks: &[SiteTask]) -> Vec<BTreeSet<SubjectKey>> {
    let mut drawn = vec![BTreeSet::new(); tasks.len()];
    for step in 0..job.plan.training.steps_per_round as u64 {
        let clock = job.first_step + step;
        let place = turn(clock, tasks);
        drawn[place].extend(batches[place].subjects_at(seed(job, clock, "batch", tasks)));
    }
    drawn
}

/// A network from a checkpoint, unless that is of other tasks than these: labels may have come, or gone, while the round was interrupted.
fn resumed(
    model: &ModelPlan,
    tasks: &[Task],
    device: &DeviceChoice,
    checkpoint: &[u8],
    frozen: bool,
) -> Result<Option<Finetuner>, TrainerError> {
    match Finetuner::resume(model, tasks, device, checkpoint, frozen) {
        Err(ModelError::Weights(WeightsError::Differs { .. })) => {
            tracing::warn!("the checkpoint is of other tasks than there are labels for now: the round begins anew");
            Ok(None)
        }
        resumed => Ok(Some(resumed?)),
    }
}

fn count<T>(subjects: &BTreeSet<T>) -> u32 {
    u32::try_from(subjects.len()).unwrap_or(u32::MAX)
}

/// The backbone and the heads of these tasks.
fn of_tasks(model: NamedTensors, tasks: &[SiteTask]) -> NamedTensors {
    let prefixes: Vec<String> = tasks.iter().map(|own| own.task.name.head_prefix()).collect();
    model.filtered(|name| name.starts_with(BACKBONE) || prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

fn labels(job: &Job, cache: &FrameCache) -> Result<Option<Labels>, TrainerError> {
    let Some(labels) = &job.labels else { return Ok(None) };
    let unusable = |error: &dyn std::fmt::Display| refused(labels, error);
    let secret = images::read_secret(&labels.secret).map_err(|error| unusable(&error))?;
    let opened = Labels::open(&labels.folder, &secret).map_err(|error| unusable(&error))?;
    opened.check(cache).map_err(|error| unusable(&error))?;
    Ok(Some(opened))
}

/// The tasks of the run that this site has labels of enough subjects for. What is left out is said, be it for a table, or for a
/// structure that its readers do not draw; labels that are there and cannot be used are an error, never fewer labels.
fn site_tasks(
    job: &Job,
    plan: &FinetuningPlan,
    cache: &FrameCache,
    labels: Option<&Labels>,
) -> Result<Vec<SiteTask>, TrainerError> {
    let (mut own, mut without) = (Vec::new(), Vec::new());
    for declared in &plan.tasks {
        let mut task = declared.clone();
        task.training.steps = job.plan.total_steps();
        let name = &task.name;
        if let Some(missing) = missing(&task, labels) {
            tracing::info!(task = %name, missing, "this site does not take part in the task");
            without.push(format!("{name}: no {missing}"));
            continue;
        }
        let unusable = |error: TasksError| match &job.labels {
            Some(labels) => refused(labels, &format!("{name}: {error}")),
            None => TrainerError::NoLabels(format!("{name}: {error}")),
        };
        let examples = Examples::of(&task, cache, labels).map_err(unusable)?;
        if let Some(left_out) = examples.left_out {
            tracing::warn!(task = %name, %left_out, "not all that is here can be used");
        }
        let least = job.min_subjects as usize;
        match Cohort::new(cache, &examples.all, job.held_out, FewShot::All, &examples.classes, least) {
            Ok(cohort) => own.push(SiteTask { task, examples, cohort }),
            Err(CohortError::TooFew { what, found, least, subjects }) => {
                let remedy = match what {
                    MEASURED => ": raise `held_out` in site-agent.toml, or label or index more".to_owned(),
                    _ => format!(" (`policy.min_subjects`, never below {SUBJECTS_ROUNDED_TO}): label or index more"),
                };
                let why = format!("{found} of {subjects} labelled subjects {what}, but at least {least} must{remedy}");
                tracing::warn!(task = %name, %why, "this site does not take part in the task");
                without.push(format!("{name}: {why}"));
            }
            Err(error) => return Err(unusable(error.into())),
        }
    }
    // One network for all tasks: whoever picks a model by one of them must not train it by another.
    let picking: BTreeSet<SubjectKey> = own.iter().flat_map(|own| own.cohort.validation().to_vec()).collect();
    let mut all = Vec::new();
    for SiteTask { task, examples, cohort } in own {
        let cohort = cohort.without(&picking);
        let (training, least) = (cohort.training().len(), job.min_subjects as usize);
        if training < least {
            tracing::warn!(task = %task.name, training, least, "too few subjects to train on: this site does not take part in the task");
            without.push(format!("{}: {training} subjects to train on, but at least {least} must be there", task.name));
            continue;
        }
        let (validation, held_out) = (cohort.validation().len(), cohort.held_out().len());
        tracing::info!(task = %task.name, training, validation, held_out, "subjects with labels");
        all.push(SiteTask { task, examples, cohort });
    }
    let apart = Cohort::require_apart_together(all.iter().map(|own| &own.cohort), cache);
    apart.map_err(|error| match &job.labels {
        Some(labels) => refused(labels, &error),
        None => TrainerError::NoLabels(error.to_string()),
    })?;
    if all.is_empty() { Err(TrainerError::NoLabels(without.join("; "))) } else { Ok(all) }
}

/// Labels that cannot be used. What is wrong with them may name a file that is called what a patient is called: it is written
/// beside the images, for the site's own eyes, and the log says where.
fn refused(labels: &JobLabels, why: &dyn std::fmt::Display) -> TrainerError {
    let path = labels.secret.with_file_name("labels-refused.txt");
    match durable::write(&path, format!("{why}\n").as_bytes()) {
        Ok(()) => TrainerError::NoLabels(format!("its labels cannot be used: {} says why", path.display())),
        Err(error) => {
            TrainerError::NoLabels(format!("its labels cannot be used, and why could not be written: {error}"))
        }
    }
}

/// What a task learns from and this site lacks: a table, a column of it, or in it one of the task's own structures or landmarks.
fn missing(task: &Task, labels: Option<&Labels>) -> Option<String> {
    let with = |held: fn(&Labels) -> bool| labels.filter(|labels| held(labels));
    match &task.labels {
        LabelSource::Sequence | LabelSource::View => None,
        LabelSource::Masks => match with(Labels::has_masks) {
            None => Some("masks.csv".to_owned()),
            Some(labels) => {
                labels.without_code(&task.classes).map(|class| format!("code for {class:?} in labels.toml"))
            }
        },
        LabelSource::Landmarks => match with(Labels::has_landmarks) {
            None => Some("landmarks.csv".to_owned()),
            Some(labels) => labels.without_row(&task.classes).map(|name| format!("{name:?} in landmarks.csv")),
        },
        LabelSource::Column(column) => {
            let has = labels.is_some_and(|labels| labels.has_column(column));
            (!has).then(|| format!("column {column:?} in classes.csv"))
        }
        LabelSource::Series(column) => {
            let has = labels.is_some_and(|labels| labels.has_series_column(column));
            (!has).then(|| format!("column {column:?} in series.csv"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use data::SiteSecret;

    use super::*;

    /// What the built-in tasks lack in a folder with these codes and these landmarks, each of its tables being there.
    fn lacking(codes: &str, landmarks: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        let rows: String = landmarks.iter().map(|name| format!("P,1.2,0,{name},0,0,0\n")).collect();
        write("labels.toml", format!("[codes]\n{codes}"));
        write("classes.csv", "subject,disease\n".to_owned());
        write("series.csv", "subject,series,view\n".to_owned());
        write("masks.csv", "subject,series,phase,file\n".to_owned());
        write("landmarks.csv", format!("subject,series,phase,landmark,x_mm,y_mm,z_mm\n{rows}"));
        let labels = Labels::open(folder.path(), &SiteSecret::new([7; 32])).unwrap();
        let tasks = crate::tasks::built_in();
        let lacking = tasks.iter().filter_map(|task| Some(format!("{}: {}", task.name, missing(task, Some(&labels))?)));
        lacking.collect()
    }

    #[test]
    fn a_structure_without_a_code_and_a_landmark_without_a_row_are_missing_labels_and_no_mistake() {
        let hyperenhancement = "lge-hyperenhancement: column \"hyperenhancement\" in classes.csv";
        // As an import of ACDC leaves them: no atria, no scar, and of landmarks one.
        let found = lacking("LV = 3\nmyocardium = 2\nRV = 1\n", &["apex"]);
        let expected = [
            "cine-lax-segmentation: code for \"LA\" in labels.toml",
            "lge-sax-segmentation: code for \"scar\" in labels.toml",
            "landmarks: \"RV insertion anterior\" in landmarks.csv",
            hyperenhancement,
        ];
        assert_eq!(found, expected);
        let every =
            ["RV insertion anterior", "RV insertion inferior", "mitral annulus septal", "mitral annulus lateral"];
        let codes = "LV = 1\nmyocardium = 2\nRV = 3\nLA = 4\nRA = 5\nscar = 6\n";
        assert_eq!(lacking(codes, &[&every[..], &["apex"]].concat()), [hyperenhancement]);
    }
}
