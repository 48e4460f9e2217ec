//! The trainer: one job folder in, one delta out. It runs as a child process and knows no network and no key.
//!
//! Every draw is seeded by (run, round, site, step), so a trainer that was killed and goes on from its checkpoint ends with
//! the same bits.
//!
//! ```text
//! pretraining   DINO on the site's frames            finetuning   the heads that the site has labels for
//! progress      a line a step, and their means       scoring      what the round's model is worth here
//! stopping      the wish that it end early, with a checkpoint
//! ```

mod finetuning;
mod pretraining;
mod progress;
mod scoring;
pub mod stopping;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use common::plan::FinetuningPlan;
use common::seed::SeedScope;
use common::{Digest, NamedTensors, PlanDraft};
use model::{DeviceChoice, Finetuner, Precision, import};

use crate::durable::{self, DiskError};
use crate::job::{Job, JobError, JobFolder};
use crate::tasks::TasksError;
use stopping::Stop;

/// Takes one step of a tiny network on a device: whether a trainer would start there at all.
pub fn try_device(device: &DeviceChoice, precision: Precision) -> Result<(), TrainerError> {
    const TINY: &str = include_str!("tiny.toml");
    // Ours, and held to by a test.
    let plan: PlanDraft = toml::from_str(TINY).expect("the tiny plan is one");
    let (batch, channels, global_side, local_side) =
        (plan.training.batch_size, plan.model.in_channels, plan.model.image_size, plan.crops.local_size);
    let crop =
        |side: usize| (0..batch * channels * side * side).map(|place| (place % 7) as f32 / 7.0).collect::<Vec<f32>>();
    let global = [crop(global_side), crop(global_side)];
    let local = (0..plan.crops.local_count).map(|_| crop(local_side)).collect();
    let crops = model::CropBatch { batch, channels, global_side, local_side, global, local };
    let first = model::initial_weights(&plan.model, 1);
    model::Trainer::new(&plan, device, &first)?.in_precision(precision)?.step(&crops, 0, 0)?;
    Ok(())
}

/// Why a round was not trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A job's file cannot be used.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The frame cache cannot be used.
    #[error(transparent)]
    Cache(#[from] data::CacheError),
    /// Nothing to train on.
    #[error(transparent)]
    Nothing(#[from] data::NothingToSample),
    /// The network or the device failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A file of weights cannot be used.
    #[error("{what}: {source}")]
    Weights {
        /// Which file.
        what: &'static str,
        /// What is wrong.
        source: common::weights::WeightsError,
    },
    /// The model is not the one the round starts from.
    #[error(
        "the model on disk has digest {found}, but the round starts from {expected}: remove the file, and it is fetched again"
    )]
    OtherModel {
        /// What the round starts from.
        expected: Digest,
        /// What is on disk.
        found: Digest,
    },
    /// Nothing to ask.
    #[error(
        "none of the {subjects} subjects here is held out with an image, at held_out = {fraction}: index more subjects, or raise `held_out` in site-agent.toml"
    )]
    NothingHeldOut {
        /// Subjects in the cache.
        subjects: usize,
        /// The fraction to hold out.
        fraction: f64,
    },
    /// A clinical task cannot be trained or measured.
    #[error(transparent)]
    Tasks(#[from] TasksError),
    /// Fewer subjects than the site's policy asks for would shape the delta, or a head of it.
    #[error(
        "the round's batches hold images of {found} subjects for {of}, but `policy.min_subjects` is {minimum}: index more, ask \
         for longer rounds, or lower it"
    )]
    TooFewSubjects {
        /// Subjects that would.
        found: usize,
        /// The site's minimum.
        minimum: u32,
        /// What they would shape: the backbone, or a task's head.
        of: String,
    },
    /// Asked to end before the round's last step. Nothing is lost: the checkpoint is of this very step.
    #[error("stopped after step {step} of the round, with a checkpoint")]
    Stopped {
        /// Steps taken.
        step: u64,
    },
    /// No task of the run can be trained here, or the labels of one cannot be used.
    #[error("the run's tasks cannot be trained here: {0}")]
    NoLabels(String),
    /// The thread that makes crops ended early.
    #[error("the thread that makes crops ended before the last step")]
    Crops,
}

/// Trains the job in `folder` to its end, from its checkpoint if there is one, or until `stop` is wished for: then to a
/// checkpoint.
pub fn train(folder: &JobFolder, stop: &Stop) -> Result<(), TrainerError> {
    let _lock = lock(folder)?;
    if folder.result()?.is_some() {
        return Ok(());
    }
    let job = folder.job()?;
    let result = match &job.plan.finetuning {
        None => pretraining::train(folder, &job, stop)?,
        Some(plan) => finetuning::train(folder, &job, plan, stop)?,
    };
    Ok(folder.write_result(&result)?)
}

/// Refuses to train what would not leave: the policy is held to before the hours of training, not after them.
fn enough_subjects(found: usize, job: &Job, of: &str) -> Result<(), TrainerError> {
    let minimum = job.min_subjects;
    match u32::try_from(found).is_ok_and(|found| found < minimum) {
        true => Err(TrainerError::TooFewSubjects { found, minimum, of: of.to_owned() }),
        false => Ok(()),
    }
}

/// The model that the round starts from, with what the plan keeps at the site as its last round left it.
fn base(job: &Job) -> Result<NamedTensors, TrainerError> {
    let file = durable::read(&job.base)?;
    let found = Digest::of(&file);
    if found != job.base_digest {
        return Err(TrainerError::OtherModel { expected: job.base_digest, found });
    }
    let base = NamedTensors::from_safetensors(&file).map_err(told("the round's model"))?;
    Ok(base.replaced_by(local(job)?))
}

/// What the plan keeps at the site, as its last round left it; nothing before the first one.
fn local(job: &Job) -> Result<NamedTensors, TrainerError> {
    let Some(local) = &job.local else { return Ok(NamedTensors::new()) };
    NamedTensors::from_safetensors(&durable::read(local)?).map_err(told("the tensors that stay here"))
}

/// Writes the round's delta, without what the plan keeps at the site: that is written beside.
fn write_delta(
    folder: &JobFolder,
    job: &Job,
    trained: NamedTensors,
    base: &NamedTensors,
    travels: impl Fn(&str) -> bool,
) -> Result<(), TrainerError> {
    let kept = &job.plan.aggregation.keep_local;
    if !kept.is_empty() {
        // With the head of a task that is left out of this round: nobody else has it.
        let own = local(job)?.joined(trained.clone().filtered(|name| kept.match_name(name)));
        durable::write(&folder.local(), &own.to_safetensors())?;
    }
    let delta = trained.minus(base).map_err(told("the trained model"))?;
    let delta = delta.filtered(|name| travels(name) && !kept.match_name(name));
    Ok(durable::write(&folder.delta(), &delta.to_safetensors())?)
}

fn told(what: &'static str) -> impl Fn(common::weights::WeightsError) -> TrainerError {
    move |source| TrainerError::Weights { what, source }
}

fn seeds(job: &Job) -> SeedScope<'_> {
    SeedScope { plan_seed: job.plan.seed, run: &job.plan.run, round: job.round, site: &job.site }
}

/// One trainer a folder: an orphan of a killed agent is waited for.
fn lock(folder: &JobFolder) -> Result<File, DiskError> {
    let path = folder.path().join("lock");
    let told = |error| durable::told("lock", &path)(error);
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(told)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => file.lock().map_err(told)?,
        Err(TryLockError::Error(error)) => return Err(told(error)),
    }
    Ok(file)
}

/// The first model of a run: from a backbone with published names, or as the plan's network starts.
pub fn first_model(plan: &PlanDraft, backbone: Option<&NamedTensors>, path: &Path) -> Result<Digest, TrainerError> {
    let file = first_weights(plan, backbone)?.to_safetensors();
    durable::write(path, &file)?;
    Ok(Digest::of(&file))
}

fn first_weights(plan: &PlanDraft, backbone: Option<&NamedTensors>) -> Result<NamedTensors, TrainerError> {
    let random = || model::initial_weights(&plan.model, plan.seed);
    if let Some(FinetuningPlan { tasks, .. }) = &plan.finetuning {
        let random = || random().under("teacher.backbone.");
        let backbone = backbone.cloned().unwrap_or_else(random);
        return Ok(Finetuner::first_weights(&plan.model, tasks, &backbone, plan.seed)?);
    }
    let all = match backbone {
        None => random(),
        Some(backbone) => import::first_weights(&plan.model, plan.seed, backbone)?,
    };
    Ok(model::travelling(all, plan.aggregation.exchange))
}
