//! A round of DINO. Crops are made one step ahead by a thread of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::{Meters, NamedTensors};
use data::{CacheError, CropMaker, FrameCache, FrameRef, Sampler, Split};
use model::{Backbone, CropBatch, DeviceChoice, Trainer};

use super::progress::Progress;
use super::stopping::Stop;
use super::{TrainerError, base, enough_subjects, seeds, write_delta};
use crate::durable;
use crate::job::{Job, JobFolder, JobResult, StepLine};

/// Frames behind the RankMe meter, at most.
const RANK_ME_FRAMES: usize = 256;
/// Frames of them at a time; fewer where the site's memory holds fewer.
const RANK_ME_AT_ONCE: usize = 64;

/// Trains a round of DINO.
pub(super) fn train(folder: &JobFolder, job: &Job, stop: &Stop) -> Result<JobResult, TrainerError> {
    let cache = FrameCache::open(&job.cache, &job.plan.images)?;
    let split = Split::of(&cache, job.held_out);
    if split.training().len() + split.held_out().len() < cache.subjects().len() {
        tracing::warn!("subjects who show the same images as somebody held out are not trained on");
    }
    let sampler = Sampler::new(&cache, split.training())?;
    let subjects = subjects_drawn(job, &cache, &sampler);
    enough_subjects(subjects, job, "the backbone")?;
    let base = base(job)?;
    let device: DeviceChoice = job.device.parse()?;

    let steps = job.plan.training.steps_per_round as u64;
    let mut trainer = match durable::read_if_there(&folder.checkpoint())? {
        Some(checkpoint) => Trainer::resume(&job.plan, &device, &checkpoint)?,
        None => match &job.kept {
            Some(kept) => Trainer::with_kept(&job.plan, &device, &base, &durable::read(kept)?)?,
            None => Trainer::new(&job.plan, &device, &base)?,
        },
    }
    .in_micro_batches(job.micro_batch)?
    .in_precision(job.precision)?
    .held_to(&base);
    let done = trainer.step_count().saturating_sub(job.first_step).min(steps);
    if done > 0 {
        tracing::info!(step = done, "going on from the checkpoint");
    }
    let mut progress = Progress::from_step(folder, done)?;

    let maker =
        CropMaker::new(&job.plan.crops, &job.plan.images, job.plan.model.image_size, job.plan.model.in_channels);
    let kept = thread::scope(|scope| {
        let (used, again) = mpsc::channel();
        let crops = crops_ahead(scope, job, &cache, &sampler, &maker, done..steps, again);
        let (began, mut kept) = (Instant::now(), done);
        let mut waited = Duration::ZERO;
        for step in done..steps {
            stop.after(step, kept, folder, &mut progress, || trainer.checkpoint())?;
            let asked = Instant::now();
            let batch = crops.recv().map_err(|_| TrainerError::Crops)??;
            // The first one is waited for: nothing has been computed meanwhile.
            waited += if step > done { asked.elapsed() } else { Duration::ZERO };
            let clock = job.first_step + step;
            let report = trainer.step(&batch, clock, seeds(job).seed(clock, "drop-path"))?;
            // After the last batch there is nobody who would use its memory again.
            let _ = used.send(batch.into_values());
            let taken = step + 1;
            progress.append(StepLine {
                step: taken,
                loss: report.loss,
                teacher_entropy: report.teacher_entropy,
                batch_entropy: report.batch_entropy,
                seconds_per_step: began.elapsed().as_secs_f64() / (taken - done) as f64,
            })?;
            if taken < steps && taken % job.plan.training.checkpoint_every_steps as u64 == 0 {
                progress.sync()?;
                durable::write(&folder.checkpoint(), &trainer.checkpoint())?;
                kept = taken;
            }
        }
        let (trained_s, waited_s) = (began.elapsed().as_secs_f64(), waited.as_secs_f64());
        tracing::info!(trained_s, waited_s, "trained; after the first step it waited for crops this long");
        Ok::<_, TrainerError>(kept)
    })?;

    let trained = trainer.weights();
    let teacher = trained.under("teacher.backbone.");
    let rank_me = rank_me(job, &device, &teacher, &cache, &sampler, &mut || {
        stop.after(steps, kept, folder, &mut progress, || trainer.checkpoint())
    })?;
    write_delta(folder, job, model::travelling(trained, job.plan.aggregation.exchange), &base, |_| true)?;
    durable::write(&folder.kept(), &trainer.kept())?;
    let images = steps * job.plan.training.batch_size as u64;
    Ok(JobResult {
        steps: steps as u32,
        heads: BTreeMap::new(),
        subjects: u32::try_from(subjects).unwrap_or(u32::MAX),
        images,
        examples: u32::try_from(sampler.frame_count()).unwrap_or(u32::MAX),
        seconds: progress.seconds(),
        meters: Meters { rank_me, ..progress.meters() },
    })
}

/// Subjects whose images the round's batches hold: those who shape the delta, which may be fewer than are here.
fn subjects_drawn(job: &Job, cache: &FrameCache, sampler: &Sampler) -> usize {
    let training = &job.plan.training;
    let clocks = (0..training.steps_per_round as u64).map(|step| job.first_step + step);
    let frames = clocks.flat_map(|clock| sampler.batch(seeds(job).seed(clock, "sampler"), training.batch_size));
    frames.map(|frame| cache.series()[frame.series as usize].subject).collect::<BTreeSet<_>>().len()
}

/// Crops of each step, made by a thread that stays at most two steps ahead, in the memory of those that were `used`; it ends with the first
/// that cannot be made.
fn crops_ahead<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    job: &'scope Job,
    cache: &'scope FrameCache,
    sampler: &'scope Sampler,
    maker: &'scope CropMaker,
    steps: std::ops::Range<u64>,
    used: Receiver<Vec<Vec<f32>>>,
) -> Receiver<Result<CropBatch, CacheError>> {
    let (send, receive) = mpsc::sync_channel(2);
    scope.spawn(move || {
        for step in steps {
            let clock = job.first_step + step;
            let frames = sampler.batch(seeds(job).seed(clock, "sampler"), job.plan.training.batch_size);
            // None has come back yet, or none will any more: then the memory is new.
            let used = used.try_recv().unwrap_or_default();
            let crops = maker.batch_in(used, cache, &frames, seeds(job).seed(clock, "crops"));
            let failed = crops.is_err();
            // The other end is dropped when training has failed; there is nobody left to make crops for.
            if send.send(crops.map(|crops| stacked(crops, job))).is_err() || failed {
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

/// RankMe of whole frames, which takes as long as some steps: `may_go_on` is asked between parts of them.
fn rank_me(
    job: &Job,
    device: &DeviceChoice,
    teacher: &NamedTensors,
    cache: &FrameCache,
    sampler: &Sampler,
    may_go_on: &mut dyn FnMut() -> Result<(), TrainerError>,
) -> Result<f64, TrainerError> {
    let backbone = Backbone::load(&job.plan.model, device, teacher)?;
    let mut drawn = BTreeSet::new();
    let mut frames: Vec<FrameRef> = sampler.batch(seeds(job).seed(0, "rank-me"), RANK_ME_FRAMES);
    // Each once, and in the order in which they were drawn: one after the other is of another subject.
    frames.retain(|frame| drawn.insert(*frame));
    let (side, channels) = (job.plan.model.image_size, job.plan.model.in_channels);
    let mut features = Vec::with_capacity(frames.len());
    let at_once = if job.micro_batch == 0 { RANK_ME_AT_ONCE } else { RANK_ME_AT_ONCE.min(job.micro_batch) };
    for some in frames.chunks(at_once) {
        may_go_on()?;
        let pixels = data::whole_frames(cache, some, side, channels)?;
        features.extend(backbone.features(&pixels, some.len(), side)?);
    }
    Ok(model::meters::comparable_rank_me(&features))
}
