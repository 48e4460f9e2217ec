//! A linear layer, `x * weight^T + bias`: the product lands on the bias, and its gradients need no transposed copy.
//!
//! Each thread takes a part of the rows, or of the weight's outputs. Every value is one chain of multiplications and
//! additions over what is summed, wherever the parts are cut: no bit depends on how many threads there are.

use rayon::prelude::*;

use super::fresh::{made, made_of};
use super::product::{Place, product, transpose};
use super::vector::{column_sums, sum};

/// Rows of a part at least: so many that reading the weight again for each costs little.
const ROWS: usize = 192;
/// Columns of a weight that are made rows at a time.
const COLUMNS: usize = 64;
/// Outputs of a part of the weight's gradient at least.
const OUTPUTS: usize = 96;

/// `[rows, outputs]`, of `x` `[rows, inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    if let [bias] = *bias {
        return forward_of_one(x, weight, bias);
    }
    let (weight, rows) = (transposed(weight, outputs, inputs), part(x.len() / inputs, ROWS));
    let of_weight = Place::new(0, inputs, outputs, outputs);
    made_of(bias, x.len() / inputs * outputs, rows * outputs, x.par_chunks(rows * inputs), |y, x| {
        let rows = y.len() / outputs;
        let into = Place::new(0, rows, outputs, outputs);
        product((y, into), true, 1.0, (x, Place::new(0, rows, inputs, inputs)), (&weight, of_weight));
    })
}

/// The same of a weight of one output, row by row: a product with a single column is added up in ways that depend on how many rows a part
/// has.
fn forward_of_one(x: &[f32], weight: &[f32], bias: f32) -> Vec<f32> {
    let inputs = weight.len();
    let rows = part(x.len() / inputs, ROWS);
    made(x.len() / inputs, rows, x.par_chunks(rows * inputs), |y, x| {
        for (y, row) in y.iter_mut().zip(x.chunks_exact(inputs)) {
            *y = bias + sum(inputs, |place| row[place] * weight[place]);
        }
    })
}

/// The gradient of `x`, of that of the result.
pub(super) fn backward_input(gradient: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let (of_weight, rows) = (Place::new(0, outputs, inputs, inputs), part(gradient.len() / outputs, ROWS));
    made(gradient.len() / outputs * inputs, rows * inputs, gradient.par_chunks(rows * outputs), |of_x, gradient| {
        let rows = of_x.len() / inputs;
        let into = Place::new(0, rows, inputs, inputs);
        product((of_x, into), false, 1.0, (gradient, Place::new(0, rows, outputs, outputs)), (weight, of_weight));
    })
}

/// The gradients of weight and bias.
pub(super) fn backward_weight(gradient: &[f32], x: &[f32], outputs: usize) -> [Vec<f32>; 2] {
    let rows = gradient.len() / outputs;
    let inputs = x.len() / rows;
    let (mut of_weight, mut of_bias) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
    let (of_x, some) = (Place::new(0, rows, inputs, inputs), part(outputs, OUTPUTS));
    let parts = of_weight.par_chunks_mut(some * inputs).zip(of_bias.par_chunks_mut(some)).enumerate();
    parts.for_each(|(part, (of_weight, of_bias))| {
        let (first, some) = (part * some, of_bias.len());
        let of_gradient = Place::new(first, rows, some, outputs).transposed();
        let into = Place::new(0, some, inputs, inputs);
        product((of_weight, into), false, 1.0, (gradient, of_gradient), (x, of_x));
        of_bias
            .copy_from_slice(&column_sums(gradient.chunks_exact(outputs).map(|row| &row[first..first + some]), some));
    });
    [of_weight, of_bias]
}

/// `[inputs, outputs]`, of a weight `[outputs, inputs]`.
fn transposed(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let parts = (0..inputs.div_ceil(COLUMNS)).into_par_iter();
    made(weight.len(), COLUMNS * outputs, parts, |into, part| {
        transpose(into, (weight, Place::new(part * COLUMNS, outputs, into.len() / outputs, inputs)));
    })
}

/// How many of `all` each thread takes: `least` or more if there are so many, and the last not much less. (Products of single
/// rows are added up in another way.)
fn part(all: usize, least: usize) -> usize {
    let parts = (all / least).clamp(1, rayon::current_num_threads());
    let is_even = |size: usize| all.is_multiple_of(size) || all % size >= least / 2;
    (all.div_ceil(parts)..all).find(|size| is_even(*size)).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;

    use super::*;

    #[test]
    fn no_bit_of_a_layer_or_of_its_gradients_depends_on_the_number_of_threads() {
        let values = |seed: usize, count: usize| -> Vec<f32> {
            (0..count).map(|place| ((place * 7919 + seed * 104_729) % 1000) as f32 / 250.0 - 2.0).collect()
        };
        // Parts that the numbers of threads cut elsewhere, sums longer than what a product takes at a time, few outputs, and one.
        for (rows, inputs, outputs) in [(1601, 31, 401), (773, 1201, 2), (2311, 65, 577), (384, 96, 1)] {
            let (x, weight, bias) = (values(1, rows * inputs), values(2, outputs * inputs), values(3, outputs));
            let gradient = values(4, rows * outputs);
            let bits = |threads| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let [of_weight, of_bias] = pool.install(|| backward_weight(&gradient, &x, outputs));
                let (y, of_x) =
                    pool.install(|| (forward(&x, &weight, &bias), backward_input(&gradient, &weight, inputs)));
                [y, of_x, of_weight, of_bias].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let one = bits(1);
            for threads in [2, 3, 5, 8] {
                assert!(bits(threads) == one, "{rows} x {inputs} x {outputs} on {threads} threads");
            }
        }
    }

    #[test]
    fn no_part_is_small_and_every_thread_has_one_where_that_permits() {
        for threads in [1, 2, 16, 128] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                for all in 1..20_000 {
                    let size = part(all, 96);
                    let last = (all - 1) % size + 1;
                    assert!(last >= all.min(48) && size >= all.min(96), "{all} on {threads}: {size}, {last}");
                    assert!(all.div_ceil(size) <= threads, "{all} on {threads}: {size}");
                }
                assert_eq!((all_parts(96 * threads), all_parts(100 * threads)), (threads, threads));
            });
        }
    }

    fn all_parts(all: usize) -> usize {
        all.div_ceil(part(all, 96))
    }
}
