//! LayerNorm (Ba et al. 2016) of rows, and its gradient.

use common::wide;
use rayon::prelude::*;

use super::fresh::made;
use super::vector::{added, sum};
use crate::vit::NORM_EPS;

/// Rows that one task takes: fixed, so that sums over rows do not depend on the number of threads.
const ROWS: usize = 128;

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` of each row, and mean and inverse deviation, `[rows, 2]`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let dim = weight.len();
    let mut moments = vec![0.0; x.len() / dim * 2];
    let tasks = moments.par_chunks_mut(ROWS * 2).zip(x.par_chunks(ROWS * dim));
    let y = made(x.len(), ROWS * dim, tasks, |y, (moments, x)| {
        wide(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(dim).zip(moments.as_chunks_mut::<2>().0).zip(x.chunks_exact(dim));
                for ((y, moments), x) in rows {
                    let mean = sum(dim, |i| x[i]) / dim as f32;
                    let variance = sum(dim, |i| (x[i] - mean) * (x[i] - mean)) / dim as f32;
                    let inverse = 1.0 / (variance + NORM_EPS as f32).sqrt();
                    *moments = [mean, inverse];
                    for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                        *y = (x - mean) * inverse * weight + bias;
                    }
                }
            },
        );
    });
    (y, moments)
}

/// The gradients of `x`, `weight` and `bias`.
pub(super) fn backward(gradient: &[f32], x: &[f32], weight: &[f32], moments: &[f32]) -> [Vec<f32>; 3] {
    let dim = weight.len();
    let mut parts: Vec<[Vec<f32>; 2]> = vec![Default::default(); x.len().div_ceil(ROWS * dim)];
    let tasks = parts
        .par_iter_mut()
        .zip(gradient.par_chunks(ROWS * dim))
        .zip(x.par_chunks(ROWS * dim))
        .zip(moments.par_chunks(ROWS * 2));
    let of_x = made(x.len(), ROWS * dim, tasks, |of_x, (((part, gradient), x), moments)| {
        *part = wide(
            #[inline(always)]
            || of_rows(of_x, gradient, x, weight, moments),
        );
    });
    let [of_weight, of_bias] = added(&parts, dim);
    [of_x, of_weight, of_bias]
}

/// Writes the gradient of some rows, and returns their part of the weight's and the bias's.
#[inline(always)]
fn of_rows(of_x: &mut [f32], gradient: &[f32], x: &[f32], weight: &[f32], moments: &[f32]) -> [Vec<f32>; 2] {
    let dim = weight.len();
    let (mut of_weight, mut of_bias) = (vec![0.0; dim], vec![0.0; dim]);
    let rows = of_x
        .chunks_exact_mut(dim)
        .zip(gradient.chunks_exact(dim))
        .zip(x.chunks_exact(dim))
        .zip(moments.as_chunks::<2>().0);
    for (((of_x, gradient), x), &[mean, inverse]) in rows {
        let (of_weight, of_bias) = (&mut of_weight[..dim], &mut of_bias[..dim]);
        let straight = sum(dim, |i| gradient[i] * weight[i]) / dim as f32;
        let along = sum(dim, |i| gradient[i] * weight[i] * (x[i] - mean) * inverse) / dim as f32;
        for i in 0..dim {
            let normed = (x[i] - mean) * inverse;
            of_x[i] = (gradient[i] * weight[i] - straight - normed * along) * inverse;
            of_weight[i] += gradient[i] * normed;
            of_bias[i] += gradient[i];
        }
    }
    [of_weight, of_bias]
}
