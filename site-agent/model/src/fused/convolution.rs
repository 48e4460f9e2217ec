//! A convolution of 3 x 3 pixels with zeros around, `[pixels, inputs]` to `[pixels, outputs]`: the neighborhoods of a few
//! image rows at a time, times the kernel. No bit depends on how many threads there are.

use rayon::prelude::*;

use super::Pixels;
use super::product::{Place, product};
use super::vector::{added, column_sums};

/// Pixels whose neighborhoods one task gathers, about: some image rows.
const PIXELS: usize = 1024;

/// Image rows of a task.
fn strip(pixels: Pixels) -> usize {
    (PIXELS / pixels.width).clamp(1, pixels.height)
}

/// `[pixels, outputs]`, of `x` `[pixels, inputs]`, `weight` `[outputs, 9 * inputs]` and `bias` `[outputs]`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32], pixels: Pixels) -> Vec<f32> {
    let (outputs, columns) = (bias.len(), weight.len() / bias.len());
    let image = pixels.height * pixels.width;
    let of_weight = Place::new(0, outputs, columns, columns).transposed();
    let (mut y, inputs, rows) = (vec![0.0; x.len() / (columns / 9) * outputs], columns / 9, strip(pixels));
    y.par_chunks_mut(image * outputs).zip(x.par_chunks(image * inputs)).for_each(|(y, x)| {
        y.par_chunks_mut(rows * pixels.width * outputs).enumerate().for_each_init(Vec::new, |around, (part, y)| {
            let count = y.len() / outputs;
            gather(around, x, inputs, pixels, part * rows, count);
            y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
            let into = Place::new(0, count, outputs, outputs);
            product((y, into), true, 1.0, (around, Place::new(0, count, columns, columns)), (weight, of_weight));
        });
    });
    y
}

/// The gradient of `x`, of that of the result: a convolution with the kernel turned by half a circle.
pub(super) fn backward_input(gradient: &[f32], weight: &[f32], outputs: usize, pixels: Pixels) -> Vec<f32> {
    let inputs = weight.len() / outputs / 9;
    let mut turned = vec![0.0; weight.len()];
    for (place, value) in weight.iter().enumerate() {
        let (output, tap, input) = (place / (9 * inputs), place / inputs % 9, place % inputs);
        turned[(input * 9 + 8 - tap) * outputs + output] = *value;
    }
    forward(gradient, &turned, &vec![0.0; inputs], pixels)
}

/// The gradients of weight and bias.
pub(super) fn backward_weight(gradient: &[f32], x: &[f32], outputs: usize, pixels: Pixels) -> [Vec<f32>; 2] {
    let image = pixels.height * pixels.width;
    let (inputs, rows) = (x.len() / (pixels.count * image), strip(pixels));
    let columns = 9 * inputs;
    // A sum an image, then over images in their order.
    let of_images: Vec<[Vec<f32>; 1]> = gradient
        .par_chunks(image * outputs)
        .zip(x.par_chunks(image * inputs))
        .map_init(Vec::new, |around, (gradient, x)| {
            let mut of_weight = vec![0.0; outputs * columns];
            for (part, gradient) in gradient.chunks(rows * pixels.width * outputs).enumerate() {
                let count = gradient.len() / outputs;
                gather(around, x, inputs, pixels, part * rows, count);
                let of_gradient = Place::new(0, count, outputs, outputs).transposed();
                let into = Place::new(0, outputs, columns, columns);
                let of_around = Place::new(0, count, columns, columns);
                product((&mut of_weight, into), true, 1.0, (gradient, of_gradient), (around, of_around));
            }
            [of_weight]
        })
        .collect();
    let [of_weight] = added(&of_images, outputs * columns);
    [of_weight, column_sums(gradient.chunks_exact(outputs), outputs)]
}

/// The neighborhoods of `count` pixels of an image, from row `top` on: `[count, 9 * inputs]`.
fn gather(around: &mut Vec<f32>, x: &[f32], inputs: usize, pixels: Pixels, top: usize, count: usize) {
    let (height, width, columns) = (pixels.height, pixels.width, 9 * inputs);
    around.clear();
    around.resize(count * columns, 0.0);
    for (place, around) in around.chunks_exact_mut(columns).enumerate() {
        let (y, x_place) = (top + place / width, place % width);
        for (row, around) in around.chunks_exact_mut(3 * inputs).enumerate() {
            let Some(y) = (y + row).checked_sub(1).filter(|y| *y < height) else { continue };
            // The columns that are inside the image lie side by side.
            let (first, last) = (x_place.saturating_sub(1), (x_place + 2).min(width));
            let skipped = usize::from(x_place == 0) * inputs;
            let from = &x[(y * width + first) * inputs..(y * width + last) * inputs];
            around[skipped..skipped + from.len()].copy_from_slice(from);
        }
    }
}
