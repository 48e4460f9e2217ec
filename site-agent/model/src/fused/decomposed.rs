//! The same mathematics from burn's own operations: what a device without kernels of ours computes, and what ours are
//! held to.
//!
//! Weights say in what a product is: its other operand is brought to their type, and the result has it. Sums over rows, and
//! all that is no product, are in single precision.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::{Factors, Heads, Held, Pairs, Pixels, Unfolding};
use crate::optimizer::EPS;
use crate::precision::{single, type_of};
use crate::vit::NORM_EPS;

pub(super) fn norm<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>, bias: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    let mean = x.clone().mean_dim(1);
    let centered = x - mean.clone();
    let inverse = ((centered.clone() * centered.clone()).mean_dim(1) + NORM_EPS).sqrt().recip();
    [centered * inverse.clone() * weight + bias, Tensor::cat(vec![mean, inverse], 1)]
}

pub(super) fn norm_backward<B: Backend>(
    gradient: Tensor<B, 2>,
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    moments: Tensor<B, 2>,
) -> [Tensor<B, 2>; 3] {
    let (mean, inverse) = (moments.clone().narrow(1, 0, 1), moments.narrow(1, 1, 1));
    let normed = (x - mean) * inverse.clone();
    let of_weight = (gradient.clone() * normed.clone()).sum_dim(0);
    let of_bias = gradient.clone().sum_dim(0);
    let scaled = gradient * weight;
    let along = (scaled.clone() * normed.clone()).mean_dim(1);
    let of_x = (scaled.clone() - scaled.mean_dim(1) - normed * along) * inverse;
    [of_x, of_weight, of_bias]
}

pub(super) fn affine<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>, bias: Tensor<B, 2>) -> Tensor<B, 2> {
    product(x, weight, bias)
}

fn product<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>, bias: Tensor<B, 2>) -> Tensor<B, 2> {
    let operands = type_of(&weight);
    x.cast(operands).matmul(weight.transpose()) + bias.cast(operands)
}

pub(super) fn affine_backward_input<B: Backend>(gradient: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    gradient.cast(type_of(&weight)).matmul(weight)
}

pub(super) fn affine_backward_weight<B: Backend>(gradient: Tensor<B, 2>, x: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    let x = x.cast(type_of(&gradient));
    [gradient.clone().transpose().matmul(x), single(gradient).sum_dim(0)]
}

/// The 3 x 3 pixels around each, zeros outside of the image: `[pixels, 9 * channels]`.
fn around<B: Backend>(x: Tensor<B, 2>, Pixels { count, height, width }: Pixels) -> Tensor<B, 2> {
    let [rows, channels] = x.dims();
    let (device, values) = (x.device(), x.dtype());
    let zeros =
        |height: usize, width: usize| Tensor::<B, 4>::zeros([count, height, width, channels], (&device, values));
    let x = Tensor::cat(vec![zeros(1, width), x.reshape([count, height, width, channels]), zeros(1, width)], 1);
    let x = Tensor::cat(vec![zeros(height + 2, 1), x, zeros(height + 2, 1)], 2);
    let tap = |tap: usize| x.clone().slice([0..count, tap / 3..tap / 3 + height, tap % 3..tap % 3 + width]);
    Tensor::cat((0..9).map(tap).collect(), 3).reshape([rows, 9 * channels])
}

pub(super) fn convolve<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    pixels: Pixels,
) -> Tensor<B, 2> {
    product(around(x, pixels), weight, bias)
}

pub(super) fn convolve_backward_input<B: Backend>(
    gradient: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    pixels: Pixels,
) -> Tensor<B, 2> {
    // What a pixel gave to its neighbors comes back from them: the kernel turned by half a circle.
    let [outputs, columns] = weight.dims();
    let turned = weight.reshape([outputs, 9, columns / 9]).flip([1]).permute([2, 1, 0]);
    around(gradient.cast(type_of(&turned)), pixels).matmul(turned.reshape([columns / 9, 9 * outputs]).transpose())
}

pub(super) fn convolve_backward_weight<B: Backend>(
    gradient: Tensor<B, 2>,
    x: Tensor<B, 2>,
    pixels: Pixels,
) -> [Tensor<B, 2>; 2] {
    affine_backward_weight(gradient, around(x, pixels))
}

/// Images outermost, pixels in the middle: `[count, pixels of one, channels]`.
fn by_image<B: Backend>(x: Tensor<B, 2>, pixels: Pixels) -> Tensor<B, 3> {
    let [_, channels] = x.dims();
    x.reshape([pixels.count, pixels.height * pixels.width, channels])
}

pub(super) fn instance_norm<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    pixels: Pixels,
) -> [Tensor<B, 2>; 2] {
    let shape @ [_, channels] = x.dims();
    let x = by_image(x, pixels);
    let mean = x.clone().mean_dim(1);
    let centered = x - mean.clone();
    let inverse = ((centered.clone() * centered.clone()).mean_dim(1) + NORM_EPS).sqrt().recip();
    let moments = Tensor::cat(vec![mean, inverse.clone()], 2).reshape([pixels.count, 2 * channels]);
    [(centered * inverse).reshape(shape) * weight + bias, moments]
}

pub(super) fn instance_norm_backward<B: Backend>(
    gradient: Tensor<B, 2>,
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    moments: Tensor<B, 2>,
    pixels: Pixels,
) -> [Tensor<B, 2>; 3] {
    let shape @ [_, channels] = x.dims();
    let part = |from: usize| moments.clone().narrow(1, from, channels).reshape([pixels.count, 1, channels]);
    let (mean, inverse) = (part(0), part(channels));
    let normed = (by_image(x, pixels) - mean) * inverse.clone();
    let of_weight = (gradient.clone() * normed.clone().reshape(shape)).sum_dim(0);
    let of_bias = gradient.clone().sum_dim(0);
    let scaled = by_image(gradient * weight, pixels);
    let along = (scaled.clone() * normed.clone()).mean_dim(1);
    let of_x = (scaled.clone() - scaled.mean_dim(1) - normed * along) * inverse;
    [of_x.reshape(shape), of_weight, of_bias]
}

pub(super) fn unfold<B: Backend>(x: Tensor<B, 2>, Unfolding { pixels, fold }: Unfolding) -> Tensor<B, 2> {
    let ([rows, values], Pixels { count, height, width }) = (x.dims(), pixels);
    let channels = values / (fold * fold);
    let squares = x.reshape([count * height, width, fold, fold, channels]).permute([0, 2, 1, 3, 4]);
    squares.reshape([rows * fold * fold, channels])
}

pub(super) fn unfold_backward<B: Backend>(
    gradient: Tensor<B, 2>,
    Unfolding { pixels, fold }: Unfolding,
) -> Tensor<B, 2> {
    let ([_, channels], Pixels { count, height, width }) = (gradient.dims(), pixels);
    let squares = gradient.reshape([count * height, fold, width, fold, channels]).permute([0, 2, 1, 3, 4]);
    squares.reshape([count * height * width, fold * fold * channels])
}

pub(super) fn gelu<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    burn::tensor::activation::gelu(x)
}

pub(super) fn gelu_backward<B: Backend>(gradient: Tensor<B, 2>, x: Tensor<B, 2>) -> Tensor<B, 2> {
    let below = ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    let density = (x.clone() * x.clone() * -0.5).exp() * (1.0 / std::f64::consts::TAU.sqrt());
    gradient * (below + x * density)
}

/// `[rows, dim]` by image: `[images, tokens, dim]`, to be multiplied with `[images, 1, 1]`.
fn by_factor<B: Backend>(x: Tensor<B, 2>, factors: Tensor<B, 2>) -> Tensor<B, 2> {
    let ([rows, dim], [count, _]) = (x.dims(), factors.dims());
    (x.reshape([count, rows / count, dim]) * factors.reshape([count, 1, 1])).reshape([rows, dim])
}

pub(super) fn branch<B: Backend>(x: Tensor<B, 2>, branch: Tensor<B, 2>, factors: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
    let branch = single(branch);
    x + match factors {
        Some(factors) => by_factor(branch, factors),
        None => branch,
    }
}

pub(super) fn branch_backward<B: Backend>(
    gradient: Tensor<B, 2>,
    factors: Option<Tensor<B, 2>>,
    into: FloatDType,
) -> Tensor<B, 2> {
    let of_branch = match factors {
        Some(factors) => by_factor(gradient, factors),
        None => gradient,
    };
    of_branch.cast(into)
}

/// Query, key and value, each `[count, heads, tokens, width]`.
fn parts<B: Backend>(packed: Tensor<B, 2>, Heads { count, heads }: Heads) -> [Tensor<B, 4>; 3] {
    let [rows, columns] = packed.dims();
    let (tokens, width) = (rows / count, columns / 3 / heads);
    let packed = packed.reshape([count, tokens, 3, heads, width]).permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|part| packed.clone().narrow(0, part, 1).reshape([count, heads, tokens, width]))
}

fn scale(width: usize) -> f64 {
    1.0 / (width as f64).sqrt()
}

pub(super) fn attention<B: Backend>(packed: Tensor<B, 2>, heads: Heads) -> [Tensor<B, 2>; 2] {
    let [rows, columns] = packed.dims();
    let [query, key, value] = parts(packed, heads);
    let [count, of, tokens, width] = query.dims();
    let operands = type_of(&query);
    let scores = single(query.matmul(key.transpose())) * scale(width);
    let most = scores.clone().max_dim(3);
    let log_sums = (scores.clone() - most.clone()).exp().sum_dim(3).log() + most;
    let mixed = (scores - log_sums.clone()).exp().cast(operands).matmul(value);
    let mixed = mixed.permute([0, 2, 1, 3]).reshape([rows, columns / 3]);
    [mixed, log_sums.reshape([count * of, tokens])]
}

pub(super) fn attention_backward<B: Backend>(
    gradient: Tensor<B, 2>,
    packed: Tensor<B, 2>,
    mixed: Tensor<B, 2>,
    log_sums: Tensor<B, 2>,
    heads: Heads,
) -> Tensor<B, 2> {
    let [rows, columns] = packed.dims();
    let [query, key, value] = parts(packed, heads);
    let [count, of, tokens, width] = query.dims();
    let split = |flat: Tensor<B, 2>| flat.reshape([count, tokens, of, width]).permute([0, 2, 1, 3]);
    let (gradient, mixed) = (split(gradient), split(mixed));
    let operands = type_of(&query);
    let scores = single(query.clone().matmul(key.clone().transpose())) * scale(width);
    let weights = (scores - log_sums.reshape([count, of, tokens, 1])).exp();
    let of_value = weights.clone().cast(operands).transpose().matmul(gradient.clone());
    let along = (single(gradient.clone()) * single(mixed)).sum_dim(3);
    let of_scores = weights * (single(gradient.matmul(value.transpose())) - along) * scale(width);
    let of_scores = of_scores.cast(operands);
    let of_query = of_scores.clone().matmul(key);
    let of_key = of_scores.transpose().matmul(query);
    let back = |part: Tensor<B, 4>| part.permute([0, 2, 1, 3]).reshape([count, tokens, 1, columns / 3]);
    Tensor::cat([of_query, of_key, of_value].map(back).to_vec(), 2).reshape([rows, columns])
}

/// What each student row is held to: the targets of the teacher crops that are not itself, added up.
fn wanted<B: Backend>(learnt: &Tensor<B, 2>, taught: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
    let [rows, k] = learnt.dims();
    let first = taught.clone().slice([0..batch, 0..k]);
    let second = taught.slice([batch..2 * batch, 0..k]);
    let both = first.clone() + second.clone();
    let others = (2..rows / batch).map(|_| both.clone());
    Tensor::cat([second, first].into_iter().chain(others).collect(), 0)
}

/// Pairs times images: what the sum is divided by.
pub(super) fn terms(rows: usize, batch: usize) -> f64 {
    ((2 * (rows / batch) - 2) * batch) as f64
}

pub(super) fn cross_entropy<B: Backend>(learnt: Tensor<B, 2>, taught: Tensor<B, 2>, pairs: Pairs) -> Tensor<B, 1> {
    let wanted = wanted(&learnt, taught, pairs.batch);
    let terms = terms(learnt.dims()[0], pairs.batch);
    (wanted * log_softmax(learnt / pairs.temperature, 1)).sum() / -terms
}

pub(super) fn cross_entropy_backward<B: Backend>(
    learnt: Tensor<B, 2>,
    taught: Tensor<B, 2>,
    pairs: Pairs,
) -> Tensor<B, 2> {
    let wanted = wanted(&learnt, taught, pairs.batch);
    let terms = terms(learnt.dims()[0], pairs.batch);
    let mass = wanted.clone().sum_dim(1);
    (softmax(learnt / pairs.temperature, 1) * mass - wanted) / (pairs.temperature * terms)
}

pub(super) fn sharpen<B: Backend>(logits: Tensor<B, 2>, center: Tensor<B, 2>, temperature: f64) -> Tensor<B, 2> {
    softmax((logits - center) / temperature, 1)
}

pub(super) fn entropy<B: Backend>(probabilities: Tensor<B, 2>) -> Tensor<B, 2> {
    // What is nothing adds nothing: its logarithm is taken of the smallest number instead.
    let logs = probabilities.clone().clamp_min(f64::from(f32::MIN_POSITIVE)).log();
    (probabilities * logs).sum_dim(1).neg()
}

pub(super) fn adamw<B: Backend>(held: Held<B>, gradient: Tensor<B, 1>, how: &Factors) -> Held<B> {
    let gradient = clipped(gradient, how.clip);
    let first = held.first.clone() + (gradient.clone() - held.first) * (1.0 - how.beta1);
    let second = held.second * how.beta2 + gradient.clone() * gradient * (1.0 - how.beta2);
    let root = second.clone().sqrt() / how.second_scale + EPS;
    let values = held.values * how.kept - first.clone() / root * how.step_size;
    let teacher = held.teacher * how.momentum + values.clone() * (1.0 - how.momentum);
    Held { values, first, second, teacher }
}

/// A gradient that is held to a length; 0: any.
pub(crate) fn clipped<B: Backend>(gradient: Tensor<B, 1>, clip: f64) -> Tensor<B, 1> {
    if clip == 0.0 {
        return gradient;
    }
    let length = (gradient.clone() * gradient.clone()).sum().sqrt();
    let factor = ((length + 1e-6).recip() * clip).clamp_max(1.0);
    gradient * factor
}
