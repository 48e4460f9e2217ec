//! Instance normalization (Ulyanov et al. 2016): each channel of an image is normalized over its pixels. What is brighter than
//! its surroundings stays so, which a norm over a pixel's few channels would not keep.

use common::wide;
use rayon::prelude::*;

use super::Pixels;
use super::vector::added;
use crate::vit::NORM_EPS;

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`, of each image and channel, `[pixels, channels]`; and mean and
/// inverse deviation, `[count, 2 * channels]`.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32], pixels: Pixels) -> (Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let (image, count) = (pixels.height * pixels.width * channels, pixels.count);
    let (mut y, mut moments) = (vec![0.0; x.len()], vec![0.0; count * 2 * channels]);
    let images = y.par_chunks_mut(image).zip(moments.par_chunks_mut(2 * channels)).zip(x.par_chunks(image));
    images.for_each(|((y, moments), x)| {
        wide(
            #[inline(always)]
            || {
                let (mean, inverse) = moments.split_at_mut(channels);
                moments_of(x, mean, inverse);
                for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    for i in 0..channels {
                        y[i] = (x[i] - mean[i]) * inverse[i] * weight[i] + bias[i];
                    }
                }
            },
        );
    });
    (y, moments)
}

#[inline(always)]
fn moments_of(x: &[f32], mean: &mut [f32], inverse: &mut [f32]) {
    let channels = mean.len();
    let rows = (x.len() / channels) as f32;
    for x in x.chunks_exact(channels) {
        (0..channels).for_each(|i| mean[i] += x[i]);
    }
    mean.iter_mut().for_each(|mean| *mean /= rows);
    for x in x.chunks_exact(channels) {
        (0..channels).for_each(|i| inverse[i] += (x[i] - mean[i]) * (x[i] - mean[i]));
    }
    inverse.iter_mut().for_each(|square| *square = 1.0 / (*square / rows + NORM_EPS as f32).sqrt());
}

/// The gradients of `x`, `weight` and `bias`.
pub(super) fn backward(gradient: &[f32], x: &[f32], weight: &[f32], moments: &[f32], pixels: Pixels) -> [Vec<f32>; 3] {
    let channels = weight.len();
    let image = pixels.height * pixels.width * channels;
    let mut of_x = vec![0.0; x.len()];
    let parts: Vec<[Vec<f32>; 2]> = of_x
        .par_chunks_mut(image)
        .zip(gradient.par_chunks(image))
        .zip(x.par_chunks(image))
        .zip(moments.par_chunks(2 * channels))
        .map(|(((of_x, gradient), x), moments)| {
            wide(
                #[inline(always)]
                || of_image(of_x, gradient, x, weight, moments),
            )
        })
        .collect();
    let [of_weight, of_bias] = added(&parts, channels);
    [of_x, of_weight, of_bias]
}

/// Writes the gradient of an image, and returns its part of the weight's and the bias's.
#[inline(always)]
fn of_image(of_x: &mut [f32], gradient: &[f32], x: &[f32], weight: &[f32], moments: &[f32]) -> [Vec<f32>; 2] {
    let channels = weight.len();
    let (mean, inverse) = moments.split_at(channels);
    let rows = (x.len() / channels) as f32;
    let (mut along, mut straight) = (vec![0.0_f32; channels], vec![0.0_f32; channels]);
    for (gradient, x) in gradient.chunks_exact(channels).zip(x.chunks_exact(channels)) {
        for i in 0..channels {
            along[i] += gradient[i] * (x[i] - mean[i]) * inverse[i];
            straight[i] += gradient[i];
        }
    }
    let pixels = of_x.chunks_exact_mut(channels).zip(gradient.chunks_exact(channels)).zip(x.chunks_exact(channels));
    for ((of_x, gradient), x) in pixels {
        for i in 0..channels {
            let normed = (x[i] - mean[i]) * inverse[i];
            of_x[i] = (gradient[i] - straight[i] / rows - normed * along[i] / rows) * inverse[i] * weight[i];
        }
    }
    [along, straight]
}
