//! The loop: batches drawn by subject, a look at the validation subjects now and then, the best weights kept, a checkpoint
//! from which a killed training goes on to the same bits.

use std::time::{Duration, Instant};

use common::Task;
use common::ids::DigestBuilder;
use common::task::TaskKind;
use data::{FrameCache, SubjectKey};
use model::{DeviceChoice, Finetuner, Precision};

use super::folder::{Finetuned, FinetunedFolder, Look};
use super::{Asked, Batches, Cohort, Example, Examples, TasksError, measure};
use crate::durable;
use crate::trainer::stopping::Stop;

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
    /// In what a step multiplies.
    pub precision: Precision,
}

/// Longest time that a kill takes with it: looks may be many minutes apart.
const KEPT_EVERY: Duration = Duration::from_secs(60);
/// Longest time without a word.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// What is heard of a finetuning as it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Heard<'a> {
    /// A look at the validation subjects.
    Look(&'a Look),
    /// Between two looks: steps taken, and how long one takes.
    Step {
        /// Taken so far.
        step: u64,
        /// Each, in the mean.
        seconds_per_step: f64,
    },
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

/// Trains in `folder` to the end, from its checkpoint if there is one, or until `stop` is wished for. `backbone` is what a new
/// training begins from; `progress` hears every look, and a word in between.
pub fn finetune(
    folder: &FinetunedFolder,
    finetuning: &Finetuning<'_>,
    backbone: &common::NamedTensors,
    stop: &Stop,
    progress: &mut dyn FnMut(Heard<'_>),
) -> Result<Course, TasksError> {
    let Finetuning { told, cache, examples, cohort, device, precision } = *finetuning;
    folder.begin(told)?;
    let (task, plan) = (&told.task, &told.model);
    let tasks = std::slice::from_ref(task);
    let mut looks = folder.looks()?;
    if folder.finetuned()?.is_some() {
        return Ok(course_of(&looks));
    }
    let resumed = durable::read_if_there(&folder.checkpoint())?;
    let mut network = match &resumed {
        Some(file) => Finetuner::resume(plan, tasks, device, file, told.frozen)?,
        None => {
            looks.clear();
            let weights = Finetuner::first_weights(plan, tasks, backbone, told.seed)?;
            Finetuner::new(plan, tasks, device, weights, told.frozen)?
        }
    }
    .in_precision(precision)?;
    // A look is written before its checkpoint: after a crash between them it is looked at again, with the same bits.
    looks.retain(|look| look.step <= network.step_count());
    let (began, first) = (Instant::now(), network.step_count());
    let side = plan.image_size * task.input.scale;
    let batches = Batches::new(task, cache, examples, cohort.training(), side, plan.in_channels);
    let asked = Asked::new(cache, task, side, plan.in_channels);
    let picking = thinned(cohort.validation(), task, cache, examples);
    let training = &task.training;
    let (mut losses, mut kept, mut told_at) = (Vec::new(), Instant::now(), Instant::now());
    while !is_over(task, &looks) {
        let step = network.step_count();
        let (images, answers) = batches.at(seed_of(told, step, "batch"))?;
        losses.push(network.step(task, &images, &answers, seed_of(told, step, "drop-path"))?);
        let taken = network.step_count();
        let seconds_per_step = began.elapsed().as_secs_f64() / (taken - first) as f64;
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
            let look = Look { step: taken, loss, value, better, seconds_per_step };
            if better {
                durable::write(&folder.model(), &network.weights().to_safetensors())?;
            }
            looks.push(look);
            folder.write_looks(&looks)?;
            durable::write(&folder.checkpoint(), &network.checkpoint())?;
            (kept, told_at) = (Instant::now(), Instant::now());
            progress(Heard::Look(&look));
        } else if stop.is_wished() || kept.elapsed() >= KEPT_EVERY {
            durable::write(&folder.checkpoint(), &network.checkpoint())?;
            kept = Instant::now();
        }
        if stop.is_wished() && !is_over(task, &looks) {
            return Err(TasksError::Stopped { step: taken });
        }
        if told_at.elapsed() >= TOLD_EVERY {
            told_at = Instant::now();
            progress(Heard::Step { step: taken, seconds_per_step });
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

/// The examples of some subjects that a look or a measurement asks.
pub fn thinned<'a>(
    subjects: &[SubjectKey],
    task: &Task,
    cache: &FrameCache,
    examples: &'a Examples,
) -> Vec<&'a Example> {
    let own = examples.all.iter().filter(|example| subjects.binary_search(&example.subject).is_ok());
    let kept = |example: &&Example| {
        let Some(frame) = example.frames.first() else { return false };
        let phases = cache.series()[frame.series as usize].slices[frame.slice as usize].phases;
        is_asked(task, frame.phase, phases)
    };
    own.filter(kept).collect()
}

/// Whether a look or a measurement asks a frame that the task is shown: of a classification, four frames a slice are enough,
/// since those of a cine are near-duplicates. Where the task names its moments, these are asked: there may be one alone.
fn is_asked(task: &Task, phase: u32, phases: u32) -> bool {
    let thins = task.kind == TaskKind::Classification && task.input.phases.is_empty();
    !thins || phase.is_multiple_of(phases.div_ceil(4).max(1))
}

fn seed_of(told: &Finetuned, step: u64, purpose: &str) -> u64 {
    let mut digest = DigestBuilder::default();
    digest.update(format!("{} {} {step} {purpose}", told.seed, told.task.name).as_bytes());
    let full = digest.finish().0;
    u64::from_le_bytes(std::array::from_fn(|i| full[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classification_is_asked_of_four_frames_a_slice_and_of_every_moment_that_it_names() {
        let mut task = crate::tasks::built_in().into_iter().find(|task| task.name.as_str() == "cine-view").unwrap();
        let asked = |task: &Task| (0..25).filter(|phase| is_asked(task, *phase, 25)).collect::<Vec<u32>>();
        assert_eq!(asked(&task), [0, 7, 14, 21]);
        // Of 25 frames the one nearest to this moment is the tenth.
        task.input.phases = vec![0.37];
        assert!(asked(&task).contains(&9));
    }

    #[test]
    fn a_training_ends_with_its_steps_or_after_as_many_looks_without_a_better_value_as_its_patience() {
        let mut task = crate::tasks::built_in().remove(0);
        (task.training.steps, task.training.patience) = (100, 3);
        let over = |looks: &str| {
            let look = |(place, mark): (usize, char)| Look {
                step: 10 * (place as u64 + 1),
                loss: 1.0,
                value: Some(0.5),
                better: mark == '+',
                seconds_per_step: 0.1,
            };
            is_over(&task, &looks.chars().enumerate().map(look).collect::<Vec<_>>())
        };
        for going_on in ["", "+", "+--", "+--+", "+--+--", "+++++++++"] {
            assert!(!over(going_on), "{going_on}");
        }
        for ended in ["+---", "+--+---", "++++++++++", "+-+-+-+-+-"] {
            assert!(over(ended), "{ended}");
        }
        // Nothing could be told yet: there is no best model to end with.
        assert!(!over("---") && over("----------"));
    }
}
