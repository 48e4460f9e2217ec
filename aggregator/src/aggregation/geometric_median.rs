//! The geometric median by Weiszfeld's smoothed iteration (Pillutla et al. 2022): ten times
//! `w_i <- share_i / max(1e-6, |x_i - z|)`, where `z` is the mean by these weights.
//!
//! `z` is never made: its distances follow from those between the deltas. The last weights become shares, so that the merge
//! is the exact mean.

use common::share::{Share, WHOLE};

use super::distances::Distances;

const ITERATIONS: usize = 10;
const SMOOTHING: f64 = 1e-6;

/// Shares of the deltas, of at most [`WHOLE`] in all but rounding.
pub(super) fn shares(distances: &Distances, own: &[Share]) -> Vec<Share> {
    let parts: Vec<f64> = own.iter().map(|share| f64::from(share.0)).collect();
    let mut weights = normalized(parts.clone());
    for _ in 0..ITERATIONS {
        let squares = distances.to_mean(&weights);
        let weight = |(part, square): (&f64, f64)| part / square.sqrt().max(SMOOTHING);
        weights = normalized(parts.iter().zip(squares).map(weight).collect());
    }
    weights.into_iter().map(|weight| Share(((weight * f64::from(WHOLE)).round() as u32).max(1))).collect()
}

fn normalized(weights: Vec<f64>) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}
