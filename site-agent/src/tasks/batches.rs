//! What a step is shown: examples drawn by subject, varied as the task says, with their answers.

use std::collections::{BTreeMap, BTreeSet};

use common::Task;
use common::task::TaskKind;
use data::{CacheError, FrameCache, FrameRef, SubjectKey, ViewMaker};
use model::{Answers, TaskImages};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Answer, Example, Examples};

/// Draws batches of a task: a subject, then one of its answers, then an example of it, each uniformly.
pub struct Batches<'a> {
    task: &'a Task,
    cache: &'a FrameCache,
    views: ViewMaker,
    side: usize,
    channels: usize,
    /// For each subject, its examples by answer.
    subjects: Vec<Vec<Vec<&'a Example>>>,
}

impl<'a> Batches<'a> {
    /// Batches of the examples of some subjects, one or more, shown at `side` pixels with `channels` channels.
    pub fn new(
        task: &'a Task,
        cache: &'a FrameCache,
        examples: &'a Examples,
        subjects: &[SubjectKey],
        side: usize,
        channels: usize,
    ) -> Self {
        let mut by_subject: BTreeMap<SubjectKey, BTreeMap<usize, Vec<&Example>>> = BTreeMap::new();
        for example in examples.all.iter().filter(|example| subjects.binary_search(&example.subject).is_ok()) {
            let answer = if let Answer::Class(class) = example.answer { class } else { 0 };
            by_subject.entry(example.subject).or_default().entry(answer).or_default().push(example);
        }
        let subjects = by_subject.into_values().map(|answers| answers.into_values().collect()).collect();
        let views = ViewMaker::new(&task.augmentation, cache, side, channels);
        Self { task, cache, views, side, channels, subjects }
    }

    /// The subjects of a seed's batch.
    pub fn subjects_at(&self, seed: u64) -> BTreeSet<SubjectKey> {
        self.drawn(&mut ChaCha8Rng::seed_from_u64(seed)).iter().map(|example| example.subject).collect()
    }

    fn drawn(&self, rng: &mut ChaCha8Rng) -> Vec<&'a Example> {
        (0..self.task.training.batch_size).map(|_| self.draw(rng)).collect()
    }

    /// The batch of a seed, and of nothing else.
    pub fn at(&self, seed: u64) -> Result<(TaskImages, Answers), CacheError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let task = self.task;
        let group = if task.kind == TaskKind::Detection { task.input.frames } else { 1 };
        let drawn = self.drawn(&mut rng);
        let frames: Vec<FrameRef> =
            drawn.iter().flat_map(|example| some_frames(&example.frames, group, &mut rng)).collect();
        let (side, size) = (self.side, self.channels * self.side * self.side);
        let mut values = vec![0.0; frames.len() * size];
        let each = values.par_chunks_exact_mut(size).zip(&frames).enumerate();
        let warps: Vec<_> = each
            .map(|(place, (values, frame))| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(place as u64 + 1);
                self.views.varied(self.cache, *frame, &mut rng, values)
            })
            .collect::<Result<_, _>>()?;
        let (mut classes, mut masks, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (example, warp) in drawn.iter().zip(warps.iter().step_by(group)) {
            match &example.answer {
                Answer::Class(class) => classes.push(*class),
                Answer::Mask(mask) => masks.extend(self.views.mask(warp, mask)),
                Answer::Places(all) => {
                    places.extend(all.iter().map(|place| in_view(warp.to_view((*place)?), self.side)));
                }
            }
        }
        let answers = match task.kind {
            TaskKind::Classification | TaskKind::Detection => Answers::Classes(classes),
            TaskKind::Segmentation => Answers::Masks(masks),
            TaskKind::Localisation => Answers::Places(places),
        };
        Ok((TaskImages { values, count: frames.len(), side, group }, answers))
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> &'a Example {
        let subject = &self.subjects[rng.random_range(0..self.subjects.len())];
        let answers = &subject[rng.random_range(0..subject.len())];
        answers[rng.random_range(0..answers.len())]
    }
}

/// A (row, column) that is on one of a view's pixels. Of a landmark that was turned or moved out of the view nothing
/// can be learnt: a heatmap of what is left of it would stand at the edge, where the landmark is not.
fn in_view(place: [f64; 2], side: usize) -> Option<[f64; 2]> {
    let pixels = -0.5..side as f64 - 0.5;
    place.iter().all(|value| pixels.contains(value)).then_some(place)
}

/// So many of a subject's frames, in their order; some twice if there are fewer.
fn some_frames(frames: &[FrameRef], count: usize, rng: &mut ChaCha8Rng) -> Vec<FrameRef> {
    let mut places: Vec<usize> = (0..frames.len()).collect();
    places.shuffle(rng);
    let mut some: Vec<usize> = places.iter().copied().cycle().take(count).collect();
    some.sort_unstable();
    some.into_iter().map(|place| frames[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landmark_is_there_while_a_pixel_of_the_view_shows_it_and_absent_once_it_was_moved_out() {
        for inside in [[0.0, 0.0], [-0.4, 63.4], [31.5, 12.25]] {
            assert_eq!(in_view(inside, 64), Some(inside));
        }
        for outside in [[-0.6, 12.0], [12.0, 63.6], [70.0, 70.0], [f64::NAN, 1.0]] {
            assert_eq!(in_view(outside, 64), None);
        }
    }
}
