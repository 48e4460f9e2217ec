//! What a network says of examples: scores, the pixels of a slice as it was acquired, places in a frame.

use common::Task;
use common::task::TaskKind;
use data::{FrameCache, FrameGrid, FrameRef, ViewMaker, Warp};
use model::{Finetuner, ModelError, TaskImages, losses};

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
        let logits = network.logits(&TaskImages { values, count, side, group: count })?;
        Ok(Said::Scores(probabilities(&logits, network.outputs())))
    }

    fn of_frames(&self, network: &Finetuner, frames: &[FrameRef]) -> Result<Vec<Said>, ModelError> {
        let (values, warps) = self.shown(frames);
        let (side, outputs) = (self.side, network.outputs());
        let logits = network.logits(&TaskImages { values, count: frames.len(), side, group: 1 })?;
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
        let (grid, side) = (self.grid(frame), self.side);
        let [rows, columns] = self.cache.series()[frame.series as usize].matrix;
        let at = |row: usize, column: usize| &said[(row * side + column) * outputs..][..outputs];
        let mut scores = vec![0.0; outputs];
        let mut class = |row: u32, column: u32| {
            let place = warp.to_view(grid.to_frame([f64::from(row), f64::from(column)]));
            if !place.iter().all(|value| (-0.5..=side as f64 - 0.5).contains(value)) {
                return 0;
            }
            let [down, across] = place.map(|value| value.clamp(0.0, (side - 1) as f64));
            let (top, left) = (down as usize, across as usize);
            let (bottom, right) = ((top + 1).min(side - 1), (left + 1).min(side - 1));
            let (down, across) = (down.fract() as f32, across.fract() as f32);
            for (class, score) in scores.iter_mut().enumerate() {
                let line = |row| at(row, left)[class] * (1.0 - across) + at(row, right)[class] * across;
                *score = line(top) * (1.0 - down) + line(bottom) * down;
            }
            let likeliest = (0..outputs).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
            likeliest.and_then(|class| u8::try_from(class).ok()).unwrap_or(0)
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

fn probabilities(logits: &[f32], outputs: usize) -> Vec<f64> {
    losses::softmax(logits, outputs).into_iter().map(f64::from).collect()
}
