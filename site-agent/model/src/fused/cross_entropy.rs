//! DINO's cross-crop loss on logits (Caron et al. 2021, Algorithm 1), and its gradient. No softmax is kept.

use common::wide;
use rayon::prelude::*;

use super::Pairs;
use super::decomposed::terms;
use super::vector::{exp, largest, sum};

/// The targets of one student row: of the teacher crops that are not itself.
struct Wanted<'a> {
    first: &'a [f32],
    second: Option<&'a [f32]>,
}

impl<'a> Wanted<'a> {
    fn of(row: usize, taught: &'a [f32], k: usize, batch: usize) -> Self {
        let (crop, image) = (row / batch, row % batch);
        let target = |of: usize| &taught[(of * batch + image) * k..][..k];
        match crop {
            0 => Self { first: target(1), second: None },
            1 => Self { first: target(0), second: None },
            _ => Self { first: target(0), second: Some(target(1)) },
        }
    }

    #[inline(always)]
    fn at(&self, index: usize) -> f32 {
        self.first[index] + self.second.map_or(0.0, |second| second[index])
    }
}

/// The largest logit over the temperature, and the log of the sum of exponentials above it.
#[inline(always)]
fn log_sum(logits: &[f32], inverse: f32) -> (f32, f32) {
    let most = largest(logits) * inverse;
    (most, sum(logits.len(), |i| exp(logits[i] * inverse - most)).ln())
}

pub(super) fn forward(learnt: &[f32], taught: &[f32], k: usize, pairs: Pairs) -> f32 {
    let inverse = (1.0 / pairs.temperature) as f32;
    let of_row = |(row, logits): (usize, &[f32])| {
        wide(
            #[inline(always)]
            || {
                let wanted = Wanted::of(row, taught, k, pairs.batch);
                let (most, log) = log_sum(logits, inverse);
                f64::from(sum(k, |i| wanted.at(i) * (log - (logits[i] * inverse - most))))
            },
        )
    };
    let losses: Vec<f64> = learnt.par_chunks_exact(k).enumerate().map(of_row).collect();
    (losses.iter().sum::<f64>() / terms(learnt.len() / k, pairs.batch)) as f32
}

/// For a loss whose own gradient is 1.
pub(super) fn backward(learnt: &[f32], taught: &[f32], k: usize, pairs: Pairs) -> Vec<f32> {
    let inverse = (1.0 / pairs.temperature) as f32;
    let scale = (1.0 / (pairs.temperature * terms(learnt.len() / k, pairs.batch))) as f32;
    let mut gradient = vec![0.0; learnt.len()];
    gradient.par_chunks_exact_mut(k).zip(learnt.par_chunks_exact(k)).enumerate().for_each(
        |(row, (gradient, logits))| {
            wide(
                #[inline(always)]
                || {
                    let wanted = Wanted::of(row, taught, k, pairs.batch);
                    let (most, log) = log_sum(logits, inverse);
                    let mass = sum(k, |i| wanted.at(i)) * (-log).exp();
                    for (i, (gradient, logit)) in gradient.iter_mut().zip(logits).enumerate() {
                        *gradient = (mass * exp(logit * inverse - most) - wanted.at(i)) * scale;
                    }
                },
            );
        },
    );
    gradient
}
