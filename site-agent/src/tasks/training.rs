//! The loop: batches drawn by subject, a look at the validation subjects now and then, the best weights kept, a checkpoint
//! from which a killed training goes on to the same bits.

use std::collections::BTreeMap;
use std::time::Instant;

use common::Task;
use common::ids::DigestBuilder;
use common::task::TaskKind;
use data::{FrameCache, FrameRef, SubjectKey, ViewMaker};
use model::{Answers, DeviceChoice, Finetuner, TaskImages};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::folder::{Finetuned, FinetunedFolder, Look};
use super::{Answer, Asked, Cohort, Example, Examples, TasksError, measure};
use crate::durable;

/// What a finetuning needs.
pub struct Finetuning<'a> {
    /// What is trained, as the folder tells it.
    pub told: &'a Finetuned,
    /// The site's frames.
    pub cache: &'a FrameCache,
    /// Their answers.
    pub examples: &'a Examples,
    /// Who trains, and who picks.
    pub cohort: &'a Cohort,
    /// Where to compute.
    pub device: &'a DeviceChoice,
}

/// How a finetuning went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Steps taken.
    pub steps: u64,
    /// The step of the best weights.
    pub best_step: u64,
    /// The best metric's value on the validation subjects; none if it could never be told.
    pub best: Option<f64>,
}

/// Trains in `folder` to the end, from its checkpoint if there is one. `backbone` is what a new training begins from;
/// `progress` hears every look.
pub fn finetune(
    folder: &FinetunedFolder,
    finetuning: &Finetuning<'_>,
    backbone: &common::NamedTensors,
    progress: &mut dyn FnMut(&Look),
) -> Result<Course, TasksError> {
    let Finetuning { told, cache, examples, cohort, device } = *finetuning;
    folder.begin(told)?;
    let (task, plan) = (&told.task, &told.model);
    let mut looks = folder.looks()?;
    if folder.finetuned()?.is_some() {
        return Ok(course_of(&looks));
    }
    let resumed = durable::read_if_there(&folder.checkpoint())?;
    let mut network = match &resumed {
        Some(file) => Finetuner::resume(plan, task, device, file, told.frozen)?,
        None => {
            looks.clear();
            let weights = Finetuner::first_weights(plan, task, backbone, told.seed)?;
            Finetuner::new(plan, task, device, weights, told.frozen)?
        }
    };
    // A look is written before its checkpoint: after a crash between them it is looked at again, with the same bits.
    looks.retain(|look| look.step <= network.step_count());
    let (began, first) = (Instant::now(), network.step_count());
    let side = plan.image_size * task.input.scale;
    let batches = Batches::new(told, cache, examples, cohort.training(), side);
    let asked = Asked::new(cache, task, side, plan.in_channels);
    let picking = thinned(cohort.validation(), task, cache, examples);
    let training = &task.training;
    let mut losses = Vec::new();
    while !is_over(task, &looks) {
        let step = network.step_count();
        let (images, answers) = batches.at(step);
        losses.push(network.step(&images, &answers, seed_of(told, step, "drop-path"))?);
        let taken = network.step_count();
        if taken.is_multiple_of(training.validate_every as u64) || taken == training.steps as u64 {
            let said = asked.all(&network, &picking)?;
            let measured = measure(task, cache, examples, &picking, &said, None)?;
            // What cannot be measured at all (no structure found, one class alone) is no better than anything.
            let value = measured.value(task.best.metric);
            let best = best_of(&looks).and_then(|look| look.value);
            let better = match (value, best) {
                (Some(value), Some(best)) => task.best.direction.is_better(value, best),
                (value, None) => value.is_some() || taken == training.steps as u64,
                (None, Some(_)) => false,
            };
            let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            losses.clear();
            let seconds_per_step = began.elapsed().as_secs_f64() / (taken - first) as f64;
            let look = Look { step: taken, loss, value, better, seconds_per_step };
            if better {
                durable::write(&folder.model(), &network.weights().to_safetensors())?;
            }
            looks.push(look);
            folder.write_looks(&looks)?;
            durable::write(&folder.checkpoint(), &network.checkpoint())?;
            progress(&look);
        }
    }
    folder.end(told)?;
    durable::remove(&folder.checkpoint())?;
    Ok(course_of(&looks))
}

fn course_of(looks: &[Look]) -> Course {
    let best = best_of(looks);
    let steps = looks.last().map_or(0, |look| look.step);
    Course { steps, best_step: best.map_or(0, |look| look.step), best: best.and_then(|look| look.value) }
}

/// The last look that was better than all before.
fn best_of(looks: &[Look]) -> Option<&Look> {
    looks.iter().rfind(|look| look.better)
}

/// Whether all steps are taken, or too many looks were no better.
fn is_over(task: &Task, looks: &[Look]) -> bool {
    let worse = looks.iter().rev().take_while(|look| !look.better).count();
    let done = looks.last().is_some_and(|look| look.step >= task.training.steps as u64);
    done || worse >= task.training.patience && looks.len() > worse
}

/// The examples of some subjects that a look or a measurement asks: of a classification, four frames a slice are enough,
/// since those of a cine are near-duplicates.
pub(super) fn thinned<'a>(
    subjects: &[SubjectKey],
    task: &Task,
    cache: &FrameCache,
    examples: &'a Examples,
) -> Vec<&'a Example> {
    let own = examples.all.iter().filter(|example| subjects.binary_search(&example.subject).is_ok());
    let kept = |example: &&Example| {
        let Some(frame) = example.frames.first() else { return false };
        let phases = cache.series()[frame.series as usize].slices[frame.slice as usize].phases;
        task.kind != TaskKind::Classification || frame.phase.is_multiple_of(phases.div_ceil(4).max(1))
    };
    own.filter(kept).collect()
}

fn seed_of(told: &Finetuned, step: u64, purpose: &str) -> u64 {
    let mut digest = DigestBuilder::default();
    digest.update(format!("{} {} {step} {purpose}", told.seed, told.task.name).as_bytes());
    let full = digest.finish().0;
    u64::from_le_bytes(std::array::from_fn(|i| full[i]))
}

/// Draws batches: a subject, then one of its answers, then an example of it, each uniformly.
struct Batches<'a> {
    told: &'a Finetuned,
    cache: &'a FrameCache,
    views: ViewMaker,
    side: usize,
    /// For each subject, its examples by answer.
    subjects: Vec<Vec<Vec<&'a Example>>>,
}

impl<'a> Batches<'a> {
    fn new(
        told: &'a Finetuned,
        cache: &'a FrameCache,
        examples: &'a Examples,
        subjects: &[SubjectKey],
        side: usize,
    ) -> Self {
        let mut by_subject: BTreeMap<SubjectKey, BTreeMap<usize, Vec<&Example>>> = BTreeMap::new();
        for example in examples.all.iter().filter(|example| subjects.binary_search(&example.subject).is_ok()) {
            let answer = if let Answer::Class(class) = example.answer { class } else { 0 };
            by_subject.entry(example.subject).or_default().entry(answer).or_default().push(example);
        }
        let subjects = by_subject.into_values().map(|answers| answers.into_values().collect()).collect();
        let views = ViewMaker::new(&told.task.augmentation, cache, side, told.model.in_channels);
        Self { told, cache, views, side, subjects }
    }

    /// The batch of a step: a function of the seed and the step alone.
    fn at(&self, step: u64) -> (TaskImages, Answers) {
        let seed = seed_of(self.told, step, "batch");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let task = &self.told.task;
        let group = if task.kind == TaskKind::Detection { task.input.frames } else { 1 };
        let drawn: Vec<&Example> = (0..task.training.batch_size).map(|_| self.draw(&mut rng)).collect();
        let frames: Vec<FrameRef> =
            drawn.iter().flat_map(|example| some_frames(&example.frames, group, &mut rng)).collect();
        let (side, size) = (self.side, self.told.model.in_channels * self.side * self.side);
        let mut values = vec![0.0; frames.len() * size];
        let each = values.par_chunks_exact_mut(size).zip(&frames).enumerate();
        let warps: Vec<_> = each
            .map(|(place, (values, frame))| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(place as u64 + 1);
                self.views.varied(self.cache, *frame, &mut rng, values)
            })
            .collect();
        let (mut classes, mut masks, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (example, warp) in drawn.iter().zip(warps.iter().step_by(group)) {
            match &example.answer {
                Answer::Class(class) => classes.push(*class),
                Answer::Mask(mask) => masks.extend(self.views.mask(warp, mask)),
                Answer::Places(all) => places.extend(all.iter().map(|place| place.map(|place| warp.to_view(place)))),
            }
        }
        let answers = match task.kind {
            TaskKind::Classification | TaskKind::Detection => Answers::Classes(classes),
            TaskKind::Segmentation => Answers::Masks(masks),
            TaskKind::Localisation => Answers::Places(places),
        };
        (TaskImages { values, count: frames.len(), side, group }, answers)
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> &'a Example {
        let subject = &self.subjects[rng.random_range(0..self.subjects.len())];
        let answers = &subject[rng.random_range(0..subject.len())];
        answers[rng.random_range(0..answers.len())]
    }
}

/// So many of a subject's frames, in their order; some twice if there are fewer.
fn some_frames(frames: &[FrameRef], count: usize, rng: &mut ChaCha8Rng) -> Vec<FrameRef> {
    let mut places: Vec<usize> = (0..frames.len()).collect();
    places.shuffle(rng);
    let mut some: Vec<usize> = places.iter().copied().cycle().take(count).collect();
    some.sort_unstable();
    some.into_iter().map(|place| frames[place]).collect()
}
