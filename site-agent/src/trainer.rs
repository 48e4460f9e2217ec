//! The trainer: one job folder in, one delta out. It runs as a child process and knows no network and no key.
//!
//! Crops are made one step ahead by a thread of their own. Every draw is seeded by (run, round, site, step), so a
//! trainer that was killed and goes on from its checkpoint ends with the same bits.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use common::seed::SeedScope;
use common::{Digest, Meters, NamedTensors};
use data::{CropMaker, FrameCache, FrameRef, Sampler, Split};
use model::{Backbone, CropBatch, DeviceChoice, Trainer};

use crate::durable::{self, DiskError};
use crate::job::{Job, JobError, JobFolder, JobResult, StepLine};

/// Frames behind the RankMe meter.
const RANK_ME_FRAMES: usize = 256;

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
    /// The thread that makes crops ended early.
    #[error("the thread that makes crops ended before the last step")]
    Crops,
}

/// Trains the job in `folder` to its end, from its checkpoint if there is one.
pub fn train(folder: &JobFolder) -> Result<(), TrainerError> {
    let _lock = lock(folder)?;
    if folder.result()?.is_some() {
        return Ok(());
    }
    let job = folder.job()?;
    let cache = FrameCache::open(&job.cache, &job.plan.images)?;
    let split = Split::new(&cache.subjects(), job.held_out);
    let sampler = Sampler::new(&cache, split.training())?;
    let base_file = durable::read(&job.base)?;
    let found = Digest::of(&base_file);
    if found != job.base_digest {
        return Err(TrainerError::OtherModel { expected: job.base_digest, found });
    }
    let told = |what| move |source| TrainerError::Weights { what, source };
    let base = NamedTensors::from_safetensors(&base_file).map_err(told("the round's model"))?;
    let device: DeviceChoice = job.device.parse()?;

    let steps = job.plan.training.steps_per_round as u64;
    let mut trainer = match durable::read_if_there(&folder.checkpoint())? {
        Some(checkpoint) => Trainer::resume(&job.plan, &device, &checkpoint)?,
        None => match &job.kept {
            Some(kept) => Trainer::with_kept(&job.plan, &device, &base, &durable::read(kept)?)?,
            None => Trainer::new(&job.plan, &device, &base)?,
        },
    }
    .in_micro_batches(job.micro_batch)?;
    let done = trainer.step_count().saturating_sub(job.first_step).min(steps);
    if done > 0 {
        tracing::info!(step = done, "going on from the checkpoint");
    }
    let mut progress = Progress::from_step(folder, done)?;

    let maker =
        CropMaker::new(&job.plan.crops, &job.plan.images, job.plan.model.image_size, job.plan.model.in_channels);
    let subjects = subjects_drawn(&job, &cache, &sampler);
    thread::scope(|scope| {
        let crops = crops_ahead(scope, &job, &cache, &sampler, &maker, done..steps);
        let began = Instant::now();
        for step in done..steps {
            let batch = crops.recv().map_err(|_| TrainerError::Crops)?;
            let clock = job.first_step + step;
            let report = trainer.step(&batch, clock, seeds(&job).seed(clock, "drop-path"))?;
            let taken = step + 1;
            progress.append(StepLine {
                step: taken,
                loss: report.loss,
                teacher_entropy: report.teacher_entropy,
                batch_entropy: report.batch_entropy,
                seconds_per_step: began.elapsed().as_secs_f64() / (taken - done) as f64,
            })?;
            if taken < steps && taken % job.plan.training.checkpoint_every_steps as u64 == 0 {
                durable::write(&folder.checkpoint(), &trainer.checkpoint())?;
            }
        }
        Ok::<_, TrainerError>(())
    })?;

    let trained = trainer.weights();
    let teacher = trained.under("teacher.backbone.");
    let rank_me = rank_me(&job, &device, &teacher, &cache, &sampler)?;
    let delta =
        model::travelling(trained, job.plan.aggregation.exchange).minus(&base).map_err(told("the trained model"))?;
    durable::write(&folder.delta(), &delta.to_safetensors())?;
    durable::write(&folder.kept(), &trainer.kept())?;
    let images = steps * job.plan.training.batch_size as u64;
    let result = JobResult {
        steps: steps as u32,
        subjects: u32::try_from(subjects).unwrap_or(u32::MAX),
        images,
        seconds: progress.seconds(),
        meters: Meters { rank_me, ..progress.meters() },
    };
    Ok(folder.write_result(&result)?)
}

/// Ends this process when its parent has: the parent holds the other end of standard input for as long as it lives.
pub fn stop_with_parent() {
    thread::spawn(|| {
        let mut byte = [0];
        let ended = io::stdin().read(&mut byte);
        drop(ended);
        std::process::exit(143);
    });
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

/// Subjects whose images the round's batches hold: those who shape the delta, which may be fewer than are here.
fn subjects_drawn(job: &Job, cache: &FrameCache, sampler: &Sampler) -> usize {
    let training = &job.plan.training;
    let clocks = (0..training.steps_per_round as u64).map(|step| job.first_step + step);
    let frames = clocks.flat_map(|clock| sampler.batch(seeds(job).seed(clock, "sampler"), training.batch_size));
    frames.map(|frame| cache.series()[frame.series as usize].subject).collect::<BTreeSet<_>>().len()
}

fn seeds(job: &Job) -> SeedScope<'_> {
    SeedScope { plan_seed: job.plan.seed, run: &job.plan.run, round: job.round, site: &job.site }
}

/// Crops of each step, made by a thread that stays at most two steps ahead.
fn crops_ahead<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    job: &'scope Job,
    cache: &'scope FrameCache,
    sampler: &'scope Sampler,
    maker: &'scope CropMaker,
    steps: std::ops::Range<u64>,
) -> Receiver<CropBatch> {
    let (send, receive) = mpsc::sync_channel(2);
    scope.spawn(move || {
        for step in steps {
            let clock = job.first_step + step;
            let frames = sampler.batch(seeds(job).seed(clock, "sampler"), job.plan.training.batch_size);
            let crops = maker.batch(cache, &frames, seeds(job).seed(clock, "crops"));
            // The other end is dropped when training has failed; there is nobody left to make crops for.
            if send.send(stacked(crops, job)).is_err() {
                return;
            }
        }
    });
    receive
}

fn stacked(crops: data::CropBatch, job: &Job) -> CropBatch {
    let mut crops = crops.crops.into_iter().map(|crops| crops.values);
    let mut next = || crops.next().unwrap_or_default();
    let global = [next(), next()];
    CropBatch {
        batch: job.plan.training.batch_size,
        channels: job.plan.model.in_channels,
        global_side: job.plan.model.image_size,
        local_side: job.plan.crops.local_size,
        global,
        local: crops.collect(),
    }
}

fn rank_me(
    job: &Job,
    device: &DeviceChoice,
    teacher: &NamedTensors,
    cache: &FrameCache,
    sampler: &Sampler,
) -> Result<f64, TrainerError> {
    let backbone = Backbone::load(&job.plan.model, device, teacher)?;
    let mut frames: Vec<FrameRef> = sampler.batch(seeds(job).seed(0, "rank-me"), RANK_ME_FRAMES);
    let distinct: BTreeSet<_> = frames.iter().copied().collect();
    frames = distinct.into_iter().collect();
    let (side, channels) = (job.plan.model.image_size, job.plan.model.in_channels);
    let mut features = Vec::with_capacity(frames.len());
    for some in frames.chunks(64) {
        let pixels = data::whole_frames(cache, some, side, channels);
        features.extend(backbone.features(&pixels, some.len(), side)?);
    }
    Ok(model::meters::rank_me(&features))
}

/// The progress file, and the means of what it holds.
struct Progress {
    file: File,
    path: std::path::PathBuf,
    lines: Vec<StepLine>,
}

impl Progress {
    /// Keeps the lines up to `step`, the checkpoint's: later ones will be trained again.
    fn from_step(folder: &JobFolder, step: u64) -> Result<Self, DiskError> {
        let path = folder.progress();
        let text = durable::read_if_there(&path)?.unwrap_or_default();
        let parsed = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let lines: Vec<StepLine> = parsed.filter(|line: &StepLine| line.step <= step).collect();
        let kept: String = lines.iter().map(line_text).collect();
        durable::write(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(durable::told("open", &path))?;
        Ok(Self { file, path, lines })
    }

    fn append(&mut self, line: StepLine) -> Result<(), DiskError> {
        self.lines.push(line);
        self.file.write_all(line_text(&line).as_bytes()).map_err(durable::told("write", &self.path))
    }

    fn meters(&self) -> Meters {
        let mean = |of: fn(&StepLine) -> f64| self.lines.iter().map(of).sum::<f64>() / self.lines.len().max(1) as f64;
        Meters {
            loss: mean(|line| line.loss),
            teacher_entropy: mean(|line| line.teacher_entropy),
            batch_entropy: mean(|line| line.batch_entropy),
            rank_me: 0.0,
        }
    }

    fn seconds(&self) -> f64 {
        self.lines.last().map_or(0.0, |line| line.seconds_per_step * line.step as f64)
    }
}

fn line_text(line: &StepLine) -> String {
    serde_json::to_string(line).map(|text| text + "\n").unwrap_or_default()
}

/// The first model of a run, as the plan's network starts.
pub fn first_model(plan: &common::PlanDraft, path: &Path) -> Result<Digest, TrainerError> {
    write_first_model(plan, model::initial_weights(&plan.model, plan.seed), path)
}

/// Writes what travels of a run's first weights.
pub fn write_first_model(plan: &common::PlanDraft, weights: NamedTensors, path: &Path) -> Result<Digest, TrainerError> {
    let file = model::travelling(weights, plan.aggregation.exchange).to_safetensors();
    durable::write(path, &file)?;
    Ok(Digest::of(&file))
}
