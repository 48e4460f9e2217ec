//! What a model's features know, measured at the site on subjects that no training saw.
//!
//! Weighted k-NN on frozen CLS features, as the DINO paper evaluates: the site's training subjects vote, its held-out
//! subjects are asked. No image and no feature leaves; only accuracies and counts are printed.

use std::collections::BTreeMap;
use std::path::Path;

use common::{NamedTensors, PlanDraft};
use data::{CacheError, FrameCache, LabelledFrame, Split, frames_for_evaluation, whole_frames};
use model::{Backbone, DeviceChoice, knn};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::pictures::{self, Picture};
use crate::trainer::TrainerError;

/// Neighbors that vote.
pub const NEIGHBORS: usize = 20;
/// Temperature of the votes.
pub const TEMPERATURE: f64 = 0.07;
/// Most frames in the bank of voters, and most that are asked.
pub const MOST_FRAMES: usize = 1500;

/// What was measured at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Training subjects, whose frames vote.
    pub training_subjects: usize,
    /// Held-out subjects, whose frames are asked.
    pub held_out_subjects: usize,
    /// Frames that vote.
    pub bank: usize,
    /// Frames that are asked: the number behind each accuracy.
    pub images: usize,
    /// Frames asked, by class.
    pub census: BTreeMap<String, u64>,
    /// RankMe of the features of the frames asked.
    pub rank_me: f64,
    /// One entry a task.
    pub tasks: Vec<TaskAccuracy>,
}

/// Accuracy of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskAccuracy {
    /// What is predicted.
    pub task: String,
    /// Classes among the voters.
    pub classes: usize,
    /// Fraction of frames predicted right.
    pub accuracy: f64,
    /// Mean over classes of the fraction predicted right.
    pub balanced_accuracy: f64,
    /// Accuracy of always saying the voters' most frequent class.
    pub most_frequent: f64,
}

/// The class of a frame in a task.
type Labelling = fn(&LabelledFrame) -> String;

/// What can be predicted of a frame.
const TASKS: [(&str, Labelling); 2] =
    [("sequence + plane", sequence_and_plane), ("… + level of the slice", with_level)];

fn sequence_and_plane(frame: &LabelledFrame) -> String {
    format!("{} {}", frame.sequence, frame.plane)
}

fn with_level(frame: &LabelledFrame) -> String {
    match frame.level {
        Some(level) => format!("{} {} {level}", frame.sequence, frame.plane),
        None => sequence_and_plane(frame),
    }
}

/// Where an evaluation finds what it needs.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The plan, for its network and its grid.
    pub plan: &'a PlanDraft,
    /// The backbone, with published names.
    pub backbone: &'a NamedTensors,
    /// The site's frames.
    pub cache: &'a Path,
    /// Fraction of subjects held out: the same as in training.
    pub held_out: f64,
    /// Where to compute.
    pub device: &'a DeviceChoice,
}

/// Measures a backbone at this site, and draws `pictures` of it if a folder is given.
pub fn evaluate(question: &Question<'_>, pictures: Option<&Path>) -> Result<Evaluation, TrainerError> {
    let cache = FrameCache::open(question.cache, &question.plan.images)?;
    let split = Split::of(&cache, question.held_out);
    let bank = at_most(frames_for_evaluation(&cache, split.training(), 4), MOST_FRAMES);
    let asked = at_most(frames_for_evaluation(&cache, split.held_out(), 4), MOST_FRAMES);
    if asked.is_empty() {
        let subjects = cache.subjects().len();
        return Err(TrainerError::NothingHeldOut { subjects, fraction: question.held_out });
    }
    let backbone = Backbone::load(&question.plan.model, question.device, question.backbone)?;
    let bank_features = features(question, &backbone, &cache, &bank)?;
    let asked_features = features(question, &backbone, &cache, &asked)?;

    let mut tasks = Vec::new();
    for (task, label) in TASKS {
        let names: Vec<String> = distinct(bank.iter().chain(&asked).map(label));
        let index = |frame: &LabelledFrame| names.iter().position(|name| *name == label(frame)).unwrap_or_default();
        let (votes, truth): (Vec<_>, Vec<_>) = (bank.iter().map(index).collect(), asked.iter().map(index).collect());
        let found = knn::predict(&bank_features, &votes, &asked_features, NEIGHBORS, TEMPERATURE, names.len());
        tasks.push(accuracy_of(task, &votes, &truth, &found));
    }
    if let Some(folder) = pictures {
        let told = |source| durable::told("write", folder)(source);
        std::fs::create_dir_all(folder).map_err(told)?;
        samples(&cache, &bank)?.write(&folder.join("samples.png")).map_err(told)?;
        attention(question, &backbone, &cache, &asked)?.write(&folder.join("attention.png")).map_err(told)?;
    }
    let mut census = BTreeMap::new();
    asked.iter().for_each(|frame| *census.entry(with_level(frame)).or_default() += 1);
    Ok(Evaluation {
        training_subjects: split.training().len(),
        held_out_subjects: split.held_out().len(),
        bank: bank.len(),
        images: asked.len(),
        census,
        rank_me: model::meters::rank_me(&asked_features),
        tasks,
    })
}

/// Every n-th frame, so that at most `most` are left.
fn at_most(frames: Vec<LabelledFrame>, most: usize) -> Vec<LabelledFrame> {
    let every = frames.len().div_ceil(most).max(1);
    frames.into_iter().step_by(every).collect()
}

fn distinct(labels: impl Iterator<Item = String>) -> Vec<String> {
    labels.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn features(
    question: &Question<'_>,
    backbone: &Backbone,
    cache: &FrameCache,
    frames: &[LabelledFrame],
) -> Result<Vec<Vec<f32>>, TrainerError> {
    let (side, channels) = (question.plan.model.image_size, question.plan.model.in_channels);
    let mut all = Vec::with_capacity(frames.len());
    for some in frames.chunks(64) {
        let refs: Vec<_> = some.iter().map(|frame| frame.frame).collect();
        all.extend(backbone.features(&whole_frames(cache, &refs, side, channels)?, some.len(), side)?);
    }
    Ok(all)
}

fn accuracy_of(task: &str, votes: &[usize], truth: &[usize], found: &[usize]) -> TaskAccuracy {
    let fraction = |right: usize, of: usize| right as f64 / of.max(1) as f64;
    let right = truth.iter().zip(found).filter(|(truth, found)| truth == found).count();
    let classes: std::collections::BTreeSet<_> = truth.iter().copied().collect();
    let recall = |class: usize| {
        let of_class = || truth.iter().zip(found).filter(|(truth, _)| **truth == class);
        fraction(of_class().filter(|(truth, found)| truth == found).count(), of_class().count())
    };
    let count = |labels: &[usize], class: usize| labels.iter().filter(|label| **label == class).count();
    let voting: std::collections::BTreeSet<_> = votes.iter().copied().collect();
    let most = voting.iter().copied().max_by_key(|class| count(votes, *class));
    TaskAccuracy {
        task: task.to_owned(),
        classes: voting.len(),
        accuracy: fraction(right, truth.len()),
        balanced_accuracy: classes.iter().map(|class| recall(*class)).sum::<f64>() / classes.len().max(1) as f64,
        most_frequent: most.map_or(0.0, |class| fraction(count(truth, class), truth.len())),
    }
}

const SHOWN_SIDE: usize = 96;

/// One column a class, frames of several subjects below each other.
fn samples(cache: &FrameCache, frames: &[LabelledFrame]) -> Result<Picture, CacheError> {
    let classes = distinct(frames.iter().map(with_level));
    let rows = 3;
    let mut picture = Picture::gray(classes.len().max(1), rows, SHOWN_SIDE);
    for (column, class) in classes.iter().enumerate() {
        let of_class: Vec<_> = frames.iter().filter(|frame| with_level(frame) == *class).collect();
        let every = of_class.len().div_ceil(rows).max(1);
        for (row, frame) in of_class.into_iter().step_by(every).take(rows).enumerate() {
            picture.place_gray(column, row, &data::shown_frame(cache, frame.frame, SHOWN_SIDE)?);
        }
    }
    Ok(picture)
}

/// Held-out frames above, the attention of the CLS token in the last block below, one column a class.
fn attention(
    question: &Question<'_>,
    backbone: &Backbone,
    cache: &FrameCache,
    frames: &[LabelledFrame],
) -> Result<Picture, TrainerError> {
    let classes = distinct(frames.iter().map(with_level));
    let mut picture = Picture::gray(classes.len().max(1), 2, SHOWN_SIDE);
    let (side, channels) = (question.plan.model.image_size, question.plan.model.in_channels);
    for (column, class) in classes.iter().enumerate() {
        let of_class: Vec<_> = frames.iter().filter(|frame| with_level(frame) == *class).collect();
        let Some(frame) = of_class.get(of_class.len() / 2) else { continue };
        let heads = backbone.cls_attention(&whole_frames(cache, &[frame.frame], side, channels)?, side)?;
        let shown = data::shown_frame(cache, frame.frame, SHOWN_SIDE)?;
        let grid = side / question.plan.model.patch_size;
        let mean: Vec<f32> = (0..grid * grid)
            .map(|patch| heads.iter().map(|head| head[patch]).sum::<f32>() / heads.len() as f32)
            .collect();
        picture.place_gray(column, 0, &shown);
        picture.place_color(column, 1, &pictures::heat_over(&shown, SHOWN_SIDE, &mean, grid));
    }
    Ok(picture)
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} held-out subjects, {} images asked; {} training subjects, {} images vote (k = {NEIGHBORS})",
            self.held_out_subjects, self.images, self.training_subjects, self.bank
        )?;
        writeln!(f, "RankMe {:.1}", self.rank_me)?;
        for task in &self.tasks {
            writeln!(
                f,
                "  {:<26} accuracy {:5.1} %   balanced {:5.1} %   ({} classes; always the most frequent: {:.1} %)",
                task.task,
                task.accuracy * 100.0,
                task.balanced_accuracy * 100.0,
                task.classes,
                task.most_frequent * 100.0
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_frames_and_balanced_accuracy_counts_classes() {
        let found = accuracy_of("t", &[0, 0, 1], &[0, 0, 0, 1], &[0, 0, 0, 0]);
        assert_eq!((found.accuracy, found.balanced_accuracy), (0.75, 0.5));
        assert_eq!((found.most_frequent, found.classes), (0.75, 2));
    }
}
