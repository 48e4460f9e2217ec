//! What a network says of examples: scores, the pixels of a slice as it was acquired, places in a frame.

use common::Task;
use common::task::TaskKind;
use data::{FrameCache, FrameGrid, FrameRef, ViewMaker, Warp};
use model::{Finetuner, ModelError, TaskImages, losses, outputs};

use super::Example;

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
    pub fn all(&self, network: &Finetuner, examples: &[&Example]) -> Result<Vec<Said>, ModelError> {
        match self.task.kind {
            TaskKind::Detection => examples.iter().map(|example| self.of_subject(network, &example.frames)).collect(),
            _ => {
                let frames: Vec<FrameRef> =
                    examples.iter().filter_map(|example| example.frames.first().copied()).collect();
                let parts: Result<Vec<_>, _> = frames.chunks(BATCH).map(|some| self.of_frames(network, some)).collect();
                Ok(parts?.into_iter().flatten().collect())
            }
        }
    }

    /// What it says of a subject, from all its frames.
    fn of_subject(&self, network: &Finetuner, frames: &[FrameRef]) -> Result<Said, ModelError> {
        let (values, _) = self.shown(frames);
        let (count, side) = (frames.len(), self.side);
        let logits = network.logits(self.task, &TaskImages { values, count, side, group: count })?;
        Ok(Said::Scores(probabilities(&logits, outputs(self.task))))
    }

    fn of_frames(&self, network: &Finetuner, frames: &[FrameRef]) -> Result<Vec<Said>, ModelError> {
        let (values, warps) = self.shown(frames);
        let (side, outputs) = (self.side, outputs(self.task));
        let logits = network.logits(self.task, &TaskImages { values, count: frames.len(), side, group: 1 })?;
        let each = logits.chunks_exact(logits.len() / frames.len().max(1)).zip(frames.iter().zip(&warps));
        let said = each.map(|(logits, (frame, warp))| match self.task.kind {
            TaskKind::Classification | TaskKind::Detection => Said::Scores(probabilities(logits, outputs)),
            TaskKind::Segmentation => {
                Said::Pixels(self.pixels(*frame, warp, &losses::softmax(logits, outputs), outputs))
            }
            TaskKind::Localisation => {
                let grid = self.grid(*frame);
                let place = |landmark| warp.to_frame(losses::place_of(logits, landmark, outputs, side));
                Said::Places((0..outputs).map(|landmark| grid.to_native(place(landmark))).collect())
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

    fn shown(&self, frames: &[FrameRef]) -> (Vec<f32>, Vec<Warp>) {
        let size = self.channels * self.side * self.side;
        let mut values = vec![0.0; frames.len() * size];
        let each = values.chunks_exact_mut(size.max(1)).zip(frames);
        let warps = each.map(|(values, frame)| self.views.whole(self.cache, *frame, values)).collect();
        (values, warps)
    }
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
    fn of_equal_scores_the_first_is_the_likeliest() {
        assert_eq!((likeliest(&[0.2, 0.4, 0.4]), likeliest(&[0.5, 0.5]), likeliest(&[1.0])), (1, 0, 0));
    }
}
