//! Landmarks: how far they were missed.

use common::task::Metric;
use data::FrameGrid;

use super::{Sheet, mean};
use crate::metrics::Unusable;
use crate::metrics::distance::{Distances, NEAR_MM};
use crate::tasks::{Answer, Example, Said};

impl Sheet<'_> {
    /// Measures the distance in the image's plane of each landmark that is there.
    pub(super) fn places(&mut self, asked: &[&Example], said: &[Said]) -> Result<(), Unusable> {
        let mut missed = Vec::new();
        for (example, said) in asked.iter().zip(said) {
            let (Answer::Places(truth), Said::Places(found), [frame]) = (&example.answer, said, &example.frames[..])
            else {
                continue;
            };
            let record = &self.cache.series()[frame.series as usize];
            let grid = FrameGrid::new(record.matrix, record.spacing_mm, self.cache.images());
            let there = truth.iter().zip(found).enumerate().filter_map(|(landmark, (truth, found))| {
                let in_slice = |[row, column]: [f64; 2]| [0.0, row, column];
                Some((landmark, in_slice(grid.to_native((*truth)?)), in_slice(*found)))
            });
            let (landmarks, truth, found): (Vec<_>, Vec<_>, Vec<_>) = there.collect();
            let [down, right] = record.spacing_mm;
            // In an image of one slice no step to the next one counts.
            let distances = Distances::new(&truth, &found, [1.0, down, right])?;
            let rows = landmarks.into_iter().zip(distances.mm().iter().copied());
            missed.extend(rows.map(|row| (example.subject, row)));
        }
        let distances: Vec<Vec<(usize, f64)>> = self.by_subject(missed);
        self.measured.each = distances.iter().map(|own| mean(own.iter().map(|(_, mm)| *mm))).collect();
        type Told = fn(f64) -> f64;
        let metrics: [(Metric, Told); 2] =
            [(Metric::Distance, |mm| mm), (Metric::Within5Mm, |mm| f64::from(u8::from(mm <= NEAR_MM)))];
        for (metric, told) in metrics.into_iter().filter(|(metric, _)| self.has(*metric)).collect::<Vec<_>>() {
            self.add_parts(
                metric,
                &distances,
                |_| 0,
                |own, landmark| {
                    let meant = own.iter().filter(|(held, _)| landmark.is_none_or(|landmark| landmark == *held));
                    mean(meant.map(|(_, mm)| told(*mm)))
                },
            );
        }
        Ok(())
    }
}
