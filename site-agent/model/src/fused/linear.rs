//! A linear layer, `x * weight^T + bias`: the product lands on the bias, and its gradients need no transposed copy.
//!
//! Rows are cut into parts of a fixed size, so that no bit depends on how many threads there are.

use rayon::prelude::*;

use super::product::{Place, product};
use super::vector::column_sums;

/// Rows of a part: enough that reading the weight again for each costs little, few enough for all threads.
const ROWS: usize = 192;
/// Rows of a part of the weight's gradient.
const OUTPUTS: usize = 64;

/// `[rows, outputs]`, of `x` `[rows, inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let mut y = vec![0.0; x.len() / inputs * outputs];
    let of_weight = Place::new(0, outputs, inputs, inputs).transposed();
    y.par_chunks_mut(ROWS * outputs).zip(x.par_chunks(ROWS * inputs)).for_each(|(y, x)| {
        y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
        let rows = y.len() / outputs;
        let into = Place::new(0, rows, outputs, outputs);
        product((y, into), true, 1.0, (x, Place::new(0, rows, inputs, inputs)), (weight, of_weight));
    });
    y
}

/// The gradient of `x`, of that of the result.
pub(super) fn backward_input(gradient: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let mut of_x = vec![0.0; gradient.len() / outputs * inputs];
    let of_weight = Place::new(0, outputs, inputs, inputs);
    of_x.par_chunks_mut(ROWS * inputs).zip(gradient.par_chunks(ROWS * outputs)).for_each(|(of_x, gradient)| {
        let rows = of_x.len() / inputs;
        let into = Place::new(0, rows, inputs, inputs);
        product((of_x, into), false, 1.0, (gradient, Place::new(0, rows, outputs, outputs)), (weight, of_weight));
    });
    of_x
}

/// The gradients of weight and bias.
pub(super) fn backward_weight(gradient: &[f32], x: &[f32], outputs: usize) -> [Vec<f32>; 2] {
    let rows = gradient.len() / outputs;
    let inputs = x.len() / rows;
    let mut of_weight = vec![0.0; outputs * inputs];
    let of_x = Place::new(0, rows, inputs, inputs);
    of_weight.par_chunks_mut(OUTPUTS * inputs).enumerate().for_each(|(part, of_weight)| {
        let some = of_weight.len() / inputs;
        let of_gradient = Place::new(part * OUTPUTS, rows, some, outputs).transposed();
        let into = Place::new(0, some, inputs, inputs);
        product((of_weight, into), false, 1.0, (gradient, of_gradient), (x, of_x));
    });
    [of_weight, column_sums(gradient, outputs)]
}
