//! Landmarks: how far they were missed.

use common::task::Metric;
use data::FrameGrid;

use super::{Sheet, mean};
use crate::metrics::distance::NEAR_MM;
use crate::tasks::{Answer, Example, Said};

impl Sheet<'_> {
    /// Measures the distance in the image's plane of each landmark that is there.
    pub(super) fn places(&mut self, asked: &[&Example], said: &[Said]) {
        let mut missed = Vec::new();
        for (example, said) in asked.iter().zip(said) {
            let (Answer::Places(truth), Said::Places(found), [frame]) = (&example.answer, said, &example.frames[..])
            else {
                continue;
            };
            let record = &self.cache.series()[frame.series as usize];
            let grid = FrameGrid::new(record.matrix, record.spacing_mm, self.cache.images());
            for (landmark, (truth, found)) in truth.iter().zip(found).enumerate() {
                let Some(truth) = truth.map(|place| grid.to_native(place)) else { continue };
                let [down, right] = [0, 1].map(|i| (truth[i] - found[i]) * record.spacing_mm[i]);
                missed.push((example.subject, (landmark, down.hypot(right))));
            }
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
    }
}
