//! A round of finetuning: the heads of the tasks that the site has labels for, and the backbone under them unless that is
//! frozen. The tasks take turns, a step each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::plan::FinetuningPlan;
use common::privacy::SUBJECTS_ROUNDED_TO;
use common::task::LabelSource;
use common::{Meters, NamedTensors, Task, TaskName};
use data::{FrameCache, Labels, SubjectKey};
use model::{BACKBONE, DeviceChoice, Finetuner};

use super::progress::Progress;
use super::stopping::Stop;
use super::{TrainerError, base, enough_subjects, scoring, seeds, write_delta};
use crate::job::{Job, JobFolder, JobLabels, JobResult, StepLine};
use crate::tasks::{Batches, Cohort, CohortError, Examples, FewShot, TasksError};
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
    let (model, declared) = (&job.plan.model, tasks.iter().map(|own| own.task.clone()).collect::<Vec<_>>());
    if job.measures && folder.scores()?.is_none() {
        let network = Finetuner::new(model, &declared, &device, base.clone(), true)?;
        folder.write_scores(&scoring::scores(model, &cache, &tasks, &network)?)?;
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

    let frozen = plan.frozen_backbone;
    let mut network = match durable::read_if_there(&folder.checkpoint())? {
        Some(checkpoint) => Finetuner::resume(model, &declared, &device, &checkpoint, frozen)?,
        None => {
            let kept = job.kept.as_ref().map(|kept| durable::read(kept)).transpose()?;
            let network = Finetuner::new(model, &declared, &device, base.clone(), frozen)?;
            network.going_on(job.first_step, kept.as_deref())?
        }
    };
    network = network.held_to(&base, job.plan.training.proximal).in_precision(job.precision)?;
    let steps = job.plan.training.steps_per_round as u64;
    let done = network.step_count().saturating_sub(job.first_step).min(steps);
    let mut progress = Progress::from_step(folder, done)?;
    let batches: Vec<Batches<'_>> = tasks
        .iter()
        .map(|SiteTask { task, examples, cohort }| {
            let side = model.image_size * task.input.scale;
            Batches::new(task, &cache, examples, cohort.training(), side, model.in_channels)
        })
        .collect();
    let turn = |clock: u64| (clock % tasks.len() as u64) as usize;
    let seed =
        |clock: u64, purpose: &str| seeds(job).seed(clock, &format!("{purpose} of {}", tasks[turn(clock)].task.name));
    let drawn = |place: usize| -> BTreeSet<SubjectKey> {
        let clocks = (0..steps).map(|step| job.first_step + step).filter(|clock| turn(*clock) == place);
        clocks.flat_map(|clock| batches[place].subjects_at(seed(clock, "batch"))).collect()
    };
    let subjects: Vec<(TaskName, BTreeSet<SubjectKey>)> =
        tasks.iter().enumerate().map(|(place, own)| (own.task.name.clone(), drawn(place))).collect();
    for (task, own) in &subjects {
        enough_subjects(own.len(), job, &format!("the head of {task}"))?;
    }
    let (began, mut kept) = (Instant::now(), done);
    for step in done..steps {
        stop.after(step, kept, folder, &mut progress, || network.checkpoint())?;
        let clock = job.first_step + step;
        let (images, answers) = batches[turn(clock)].at(seed(clock, "batch"));
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
        subjects: count(&subjects.iter().flat_map(|(_, own)| own).collect::<BTreeSet<_>>()),
        heads: subjects.iter().map(|(task, own)| (task.clone(), count(own))).collect(),
        images: shown as u64,
        // Of a run that finetunes, subjects count, head by head.
        examples: 0,
        seconds: progress.seconds(),
        meters: progress.meters(),
    })
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
            Err(CohortError::TooFew { what, found, subjects, .. }) => {
                let why = format!(
                    "{found} of {subjects} labelled subjects {what}, but at least {least} must (`policy.min_subjects`, never below \
                     {SUBJECTS_ROUNDED_TO}): label or index more"
                );
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
