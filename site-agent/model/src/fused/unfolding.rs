//! Pixels as squares of pixels, and back: values are moved and nothing else.

use rayon::prelude::*;

use super::Unfolding;

/// `[fold * fold * pixels, channels]`, of `[pixels, fold * fold * channels]`.
pub(super) fn forward(x: &[f32], how: Unfolding) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let (line, group) = lines(x.len(), how);
    y.par_chunks_mut(line).zip(x.par_chunks(line)).for_each(|(y, x)| {
        moved(how, group, |of_x, of_y| y[of_y..of_y + group].copy_from_slice(&x[of_x..of_x + group]));
    });
    y
}

/// The gradient of `x`, of that of the result.
pub(super) fn backward(gradient: &[f32], how: Unfolding) -> Vec<f32> {
    let mut of_x = vec![0.0; gradient.len()];
    let (line, group) = lines(gradient.len(), how);
    of_x.par_chunks_mut(line).zip(gradient.par_chunks(line)).for_each(|(of_x, gradient)| {
        moved(how, group, |at_x, at_y| of_x[at_x..at_x + group].copy_from_slice(&gradient[at_y..at_y + group]));
    });
    of_x
}

/// Values of a row of pixels, and of a row of one pixel's square: both lie side by side before and after.
fn lines(values: usize, Unfolding { pixels, fold }: Unfolding) -> (usize, usize) {
    let line = values / (pixels.count * pixels.height);
    (line, line / pixels.width / fold)
}

/// Calls `each` with the places of every row of a square, before and after, within a row of pixels.
fn moved(Unfolding { pixels, fold }: Unfolding, group: usize, mut each: impl FnMut(usize, usize)) {
    for row in 0..fold {
        for pixel in 0..pixels.width {
            each((pixel * fold + row) * group, (row * pixels.width + pixel) * group);
        }
    }
}
