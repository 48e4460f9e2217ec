//! What a network says of examples: scores, the pixels of a slice as it was acquired, places in a frame.

use common::Task;
use common::task::TaskKind;
use data::{CacheError, FrameCache, FrameGrid, FrameRef, ViewMaker, Warp};
use model::{Finetuner, TaskImages, losses, outputs};

use super::{Example, TasksError};

/// Frames that are asked at a time.
const BATCH: usize = 32;

/// Asks a network, with whole frames.
pub struct Asked<'a> {
    cache: &'a FrameCache,
    task: &'a Task,
    views: ViewMaker,
    side: usize,
    channels: usize,
}

/// What a network says of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A probability a class.
    Scores(Vec<f64>),
    /// The class of each pixel of the slice as acquired, 0 for the background. [rows x columns]
    Pixels(Vec<u8>),
    /// The (row, column) of each landmark, in pixels of the slice as acquired.
    Places(Vec<[f64; 2]>),
}

impl<'a> Asked<'a> {
    /// Of frames of `cache`, shown at `side` pixels with `channels` channels.
    pub fn new(cache: &'a FrameCache, task: &'a Task, side: usize, channels: usize) -> Self {
        Self { cache, task, views: ViewMaker::new(&task.augmentation, cache, side, channels), side, channels }
    }

    /// What the network says of each example.
    pub fn all(&self, network: &Finetuner, examples: &[&Example]) -> Result<Vec<Said>, TasksError> {
        Ok(self.all_scored(network, examples)?.into_iter().map(|(said, _)| said).collect())
    }

    /// The same, and how sure the network is of each landmark ([`near_peak`]); nothing beside other answers.
    pub(super) fn all_scored(
        &self,
        network: &Finetuner,
        examples: &[&Example],
    ) -> Result<Vec<(Said, Vec<f64>)>, TasksError> {
        match self.task.kind {
            TaskKind::Detection => {
                let said = |example: &&Example| Ok((self.of_subject(network, &example.frames)?, Vec::new()));
                examples.iter().map(said).collect()
            }
            _ => {
                let frames: Vec<FrameRef> =
                    examples.iter().filter_map(|example| example.frames.first().copied()).collect();
                in_batches(&frames, |some| self.of_frames(network, some))
            }
        }
    }

    /// What it says of a subject, from all its frames.
    fn of_subject(&self, network: &Finetuner, frames: &[FrameRef]) -> Result<Said, TasksError> {
        let features = in_batches(frames, |some| {
            let (values, _) = self.shown(some)?;
            Ok(network.features(&TaskImages { values, count: some.len(), side: self.side, group: 1 })?)
        })?;
        let logits = network.pooled(self.task, &features, frames.len())?;
        Ok(Said::Scores(probabilities(&logits, outputs(self.task))))
    }

    fn of_frames(&self, network: &Finetuner, frames: &[FrameRef]) -> Result<Vec<(Said, Vec<f64>)>, TasksError> {
        let (values, warps) = self.shown(frames)?;
        let (side, outputs) = (self.side, outputs(self.task));
        let logits = network.logits(self.task, &TaskImages { values, count: frames.len(), side, group: 1 })?;
        let each = logits.chunks_exact(logits.len() / frames.len().max(1)).zip(frames.iter().zip(&warps));
        let said = each.map(|(logits, (frame, warp))| match self.task.kind {
            TaskKind::Classification | TaskKind::Detection => {
                (Said::Scores(probabilities(logits, outputs)), Vec::new())
            }
            TaskKind::Segmentation => {
                (Said::Pixels(self.pixels(*frame, warp, &losses::softmax(logits, outputs), outputs)), Vec::new())
            }
            TaskKind::Localisation => {
                let (grid, reach) = (self.grid(*frame), 2.0 * self.task.training.heatmap_sigma);
                let place = |landmark| warp.to_frame(losses::place_of(logits, landmark, outputs, side));
                let places = (0..outputs).map(|landmark| grid.to_native(place(landmark))).collect();
                let heatmap = |landmark| logits.iter().copied().skip(landmark).step_by(outputs).collect::<Vec<f32>>();
                (
                    Said::Places(places),
                    (0..outputs).map(|landmark| near_peak(&heatmap(landmark), side, reach)).collect(),
                )
            }
        });
        Ok(said.collect())
    }

    /// The likeliest class of each pixel of a slice as acquired, between the pixels of what the network saw.
    fn pixels(&self, frame: FrameRef, warp: &Warp, said: &[f32], outputs: usize) -> Vec<u8> {
        let grid = self.grid(frame);
        let [rows, columns] = self.cache.series()[frame.series as usize].matrix;
        let class = |row: u32, column: u32| {
            let place = warp.to_view(grid.to_frame([f64::from(row), f64::from(column)]));
            // What the network did not see is background. A task has at most 32 classes.
            between(said, outputs, self.side, place).map_or(0, |scores| likeliest(&scores) as u8)
        };
        (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| class(r, c)).collect()
    }

    fn grid(&self, frame: FrameRef) -> FrameGrid {
        let record = &self.cache.series()[frame.series as usize];
        FrameGrid::new(record.matrix, record.spacing_mm, self.cache.images())
    }

    fn shown(&self, frames: &[FrameRef]) -> Result<(Vec<f32>, Vec<Warp>), CacheError> {
        let size = self.channels * self.side * self.side;
        let mut values = vec![0.0; frames.len() * size];
        let each = values.chunks_exact_mut(size.max(1)).zip(frames);
        let warps =
            each.map(|(values, frame)| self.views.whole(self.cache, *frame, values)).collect::<Result<_, _>>()?;
        Ok((values, warps))
    }
}

/// What is said of frames, so few at a time that no subject has too many for the memory: a stack of cine slices and the
/// long axes are hundreds.
fn in_batches<T>(
    frames: &[FrameRef],
    said: impl FnMut(&[FrameRef]) -> Result<Vec<T>, TasksError>,
) -> Result<Vec<T>, TasksError> {
    let parts: Result<Vec<_>, _> = frames.chunks(BATCH).map(said).collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// How much of a heatmap's probability lies within `reach` pixels of its peak: 1 if all does. A heatmap that is as sharp as it
/// was taught to be has 0.86 of it within two of its standard deviations; one that knows nothing has the area's share of the
/// image. `logits` is `[side * side]`.
fn near_peak(logits: &[f32], side: usize, reach: f64) -> f64 {
    let peak = likeliest(logits);
    let (row, column) = (peak / side, peak % side);
    let (mut near, mut all) = (0.0, 0.0);
    for (pixel, logit) in logits.iter().enumerate() {
        let probability = f64::from(logit - logits[peak]).exp();
        let (down, across) = ((pixel / side).abs_diff(row) as f64, (pixel % side).abs_diff(column) as f64);
        all += probability;
        near += if down.hypot(across) <= reach { probability } else { 0.0 };
    }
    near / all
}

/// The place of the largest score; of equal ones, the first.
pub(crate) fn likeliest<T: PartialOrd>(scores: &[T]) -> usize {
    (1..scores.len()).fold(0, |best, place| if scores[place] > scores[best] { place } else { best })
}

/// The values between the pixels around a (row, column), of `[side, side, outputs]`; up to half a pixel beyond the edge those
/// of the edge, farther out none.
fn between(values: &[f32], outputs: usize, side: usize, place: [f64; 2]) -> Option<Vec<f32>> {
    let last = side as f64 - 1.0;
    if !place.iter().all(|value| (-0.5..=last + 0.5).contains(value)) {
        return None;
    }
    let [down, across] = place.map(|value| value.clamp(0.0, last));
    let (top, left) = (down as usize, across as usize);
    let (bottom, right) = ((top + 1).min(side - 1), (left + 1).min(side - 1));
    let (below, beside) = (down.fract() as f32, across.fract() as f32);
    let at = |row: usize, column: usize, output: usize| values[(row * side + column) * outputs + output];
    let line = |row, output| at(row, left, output) * (1.0 - beside) + at(row, right, output) * beside;
    Some((0..outputs).map(|output| line(top, output) * (1.0 - below) + line(bottom, output) * below).collect())
}

fn probabilities(logits: &[f32], outputs: usize) -> Vec<f64> {
    losses::softmax(logits, outputs).into_iter().map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_nine_hundred_frames_is_asked_few_frames_at_a_time_and_in_their_order() {
        let frames: Vec<FrameRef> = (0..900).map(|phase| FrameRef { series: 0, slice: 0, phase }).collect();
        let mut most = 0;
        let said = in_batches(&frames, |some| {
            most = most.max(some.len());
            Ok(some.to_vec())
        });
        assert_eq!((most, said.unwrap()), (BATCH, frames));
    }

    #[test]
    fn between_pixels_a_plane_is_a_plane_and_beyond_the_edge_is_nothing() {
        let plane = |row: f64, column: f64| [2.0 * row - column, 0.5 * column + 1.0];
        let values: Vec<f32> =
            (0..36).flat_map(|i| plane((i / 6) as f64, (i % 6) as f64).map(|value| value as f32)).collect();
        for place in [[0.0, 0.0], [1.25, 3.5], [4.9, 0.1], [5.0, 5.0]] {
            let found = between(&values, 2, 6, place).unwrap();
            assert!(found.iter().zip(plane(place[0], place[1])).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
        }
        assert_eq!(between(&values, 2, 6, [-0.4, 5.4]), between(&values, 2, 6, [0.0, 5.0]));
        assert_eq!(between(&values, 2, 6, [2.0, 5.6]), None);
    }

    #[test]
    fn a_sharp_heatmap_scores_high_and_one_that_knows_nothing_scores_the_areas_share() {
        const SIDE: usize = 64;
        let from = |pixel: usize| ((pixel / SIDE) as f32 - 30.0).hypot((pixel % SIDE) as f32 - 20.0);
        let as_taught: Vec<f32> = (0..SIDE * SIDE).map(|pixel| -(from(pixel) / 3.0).powi(2) / 2.0 + 7.0).collect();
        let score = near_peak(&as_taught, SIDE, 6.0);
        assert!((score - (1.0 - (-2.0_f64).exp())).abs() < 0.01, "{score}");
        let needle: Vec<f32> = (0..SIDE * SIDE).map(|pixel| if pixel == 700 { 50.0 } else { 0.0 }).collect();
        assert!(near_peak(&needle, SIDE, 6.0) > 0.999);
        // Two peaks that are as likely share what there is; a flat heatmap's peak is the first pixel, in a corner.
        let two: Vec<f32> =
            (0..SIDE * SIDE).map(|pixel| if [700, 3000].contains(&pixel) { 50.0 } else { 0.0 }).collect();
        assert!((near_peak(&two, SIDE, 6.0) - 0.5).abs() < 1e-6);
        assert!(near_peak(&[0.0; SIDE * SIDE], SIDE, 6.0) < 0.02);
    }

    #[test]
    fn of_equal_scores_the_first_is_the_likeliest() {
        assert_eq!((likeliest(&[0.2, 0.4, 0.4]), likeliest(&[0.5, 0.5]), likeliest(&[1.0])), (1, 0, 0));
    }
}
