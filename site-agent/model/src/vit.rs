//! The Vision Transformer of DINO (Dosovitskiy et al. 2021; Caron et al. 2021): pre-norm, CLS token, LayerNorm eps 1e-6,
//! exact GELU, attention scale `1/sqrt(head dim)`.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use common::plan::ModelPlan;
use rayon::prelude::*;

use crate::fused::{Fused, Heads};
use crate::parameters::{Parameters, tensor};
use crate::position;
use crate::precision::single;

/// Added to a variance in LayerNorm.
pub(crate) const NORM_EPS: f64 = 1e-6;

/// Images on the host: `[count, channels, side, side]`, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) count: usize,
    pub(crate) side: usize,
}

/// What stochastic depth keeps: for each block, a factor a sample for the attention and for the perceptron.
/// Empty: everything is kept.
pub(crate) type DropPath = [[Vec<f32>; 2]];

/// CLS features after the final norm: `[count, dim]`.
pub(crate) fn cls_features<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    prefix: &str,
    images: Images<'_>,
    drop_path: &DropPath,
) -> Tensor<B, 2> {
    let (_, last) = states(plan, weights, prefix, images, drop_path, &[]);
    cls_of(last, images.count)
}

/// The CLS token of each image: `[count, dim]`, of `[count * tokens, dim]`.
pub(crate) fn cls_of<B: Backend>(tokens: Tensor<B, 2>, count: usize) -> Tensor<B, 2> {
    let [rows, dim] = tokens.dims();
    tokens.reshape([count, rows / count, dim]).slice([0..count, 0..1]).reshape([count, dim])
}

/// The patch tokens of each image: `[count * patches, dim]`, of `[count * tokens, dim]`.
pub(crate) fn patches_of<B: Backend>(tokens: Tensor<B, 2>, count: usize) -> Tensor<B, 2> {
    let [rows, dim] = tokens.dims();
    let tokens_each = rows / count;
    let patches = tokens.reshape([count, tokens_each, dim]).slice([0..count, 1..tokens_each]);
    patches.reshape([count * (tokens_each - 1), dim])
}

/// All tokens, `[count * tokens, dim]`: after as many blocks as each of `wanted` says, and after the last one and the final
/// norm.
pub(crate) fn states<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    prefix: &str,
    images: Images<'_>,
    drop_path: &DropPath,
    wanted: &[usize],
) -> (Vec<Tensor<B, 2>>, Tensor<B, 2>) {
    let (mut x, _) = embed(plan, weights, prefix, images);
    let mut between = Vec::with_capacity(wanted.len());
    for block in 0..plan.depth {
        x = transform(plan, weights, &format!("{prefix}blocks.{block}."), x, images.count, drop_path.get(block));
        between.extend(wanted.iter().filter(|after| **after == block + 1).map(|_| x.clone()));
    }
    let [weight, bias] = of_norm(weights, &format!("{prefix}norm"));
    (between, B::norm(x, weight, bias))
}

/// Attention of the CLS token to the patches in the last block: `[count, heads, patches]`.
pub(crate) fn cls_attention<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    prefix: &str,
    images: Images<'_>,
) -> Tensor<B, 3> {
    let (mut x, tokens) = embed(plan, weights, prefix, images);
    // A plan has at least one block.
    let last = plan.depth.saturating_sub(1);
    for block in 0..last {
        x = transform(plan, weights, &format!("{prefix}blocks.{block}."), x, images.count, None);
    }
    let prefix = format!("{prefix}blocks.{last}.");
    let (count, heads, width) = (images.count, plan.heads, plan.dim / plan.heads);
    let packed = single(normed_linear(weights, &prefix, ["norm1", "attn.qkv"], x))
        .reshape([count, tokens, 3, heads, width])
        .permute([2, 0, 3, 1, 4]); // [3, count, heads, tokens, width]
    let part = |index: usize| packed.clone().narrow(0, index, 1).reshape([count, heads, tokens, width]);
    let of_cls = part(0).narrow(2, 0, 1) * (1.0 / (width as f64).sqrt());
    softmax(of_cls.matmul(part(1).transpose()), 3).narrow(3, 1, tokens - 1).reshape([count, heads, tokens - 1])
}

/// Tokens of images, as rows: `[count * tokens, dim]`, and how many tokens an image has.
fn embed<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    prefix: &str,
    images: Images<'_>,
) -> (Tensor<B, 2>, usize) {
    let Images { values, count, side } = images;
    let (patch, channels, dim) = (plan.patch_size, plan.in_channels, plan.dim);
    let grid = side / patch;
    // A convolution whose stride is its kernel is a matrix product over patches.
    let patches = cut(values, [channels, side, patch]);
    let patches = tensor::<B, 2>(patches, [count * grid * grid, channels * patch * patch], weights.device());
    let embedded = linear(weights, &format!("{prefix}patch_embed.proj"), patches);

    let learned = plan.image_size / patch;
    let positions = weights.row(&format!("{prefix}pos_embed")).reshape([learned * learned + 1, dim]);
    let of_cls = positions.clone().slice([0..1, 0..dim]);
    let mut of_patches = positions.slice([1..learned * learned + 1, 0..dim]);
    if let Some(matrix) = position::resampling(learned, grid) {
        of_patches = tensor::<B, 2>(matrix, [grid * grid, learned * learned], weights.device()).matmul(of_patches);
    }
    // As rows of one image each: burn adds one row to all of them fastest.
    let of_image = grid * grid * dim;
    let embedded = embedded.reshape([count, of_image]) + of_patches.reshape([1, of_image]);
    let embedded = embedded.reshape([count, grid * grid, dim]);
    let cls = (weights.row(&format!("{prefix}cls_token")) + of_cls).reshape([1, 1, dim]).expand([count, 1, dim]);
    let tokens = grid * grid + 1;
    (Tensor::cat(vec![cls, embedded], 1).reshape([count * tokens, dim]), tokens)
}

/// The patches of images `[count, channels, side, side]`: `[count * patches, channels * patch * patch]`, patches and their
/// values row by row.
fn cut(images: &[f32], [channels, side, patch]: [usize; 3]) -> Vec<f32> {
    let (grid, area) = (side / patch, side * side);
    let mut patches = vec![0.0; images.len() / area * (grid * patch).pow(2)];
    let image = channels * (grid * patch).pow(2);
    patches.par_chunks_mut(image).zip(images.par_chunks(channels * area)).for_each(|(patches, image)| {
        for (place, line) in patches.chunks_exact_mut(patch).enumerate() {
            let (of_patch, row) = (place / patch, place % patch);
            let (of_patch, channel) = (of_patch / channels, of_patch % channels);
            let (top, left) = (of_patch / grid * patch, of_patch % grid * patch);
            let start = channel * area + (top + row) * side + left;
            line.copy_from_slice(&image[start..start + patch]);
        }
    });
    patches
}

/// One block: `[count * tokens, dim]` to the same, in single precision. What lies between two products is as they give it.
fn transform<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    prefix: &str,
    x: Tensor<B, 2>,
    count: usize,
    drop_path: Option<&[Vec<f32>; 2]>,
) -> Tensor<B, 2> {
    let packed = normed_linear(weights, prefix, ["norm1", "attn.qkv"], x.clone());
    let mixed = B::attend(packed, Heads { count, heads: plan.heads });
    let [weight, bias] = layer(weights, &format!("{prefix}attn.proj"));
    // Stochastic depth (Huang et al. 2016): a branch is dropped for a sample, or divided by the probability to keep it.
    let factors =
        |branch: usize| drop_path.map(|kept| tensor::<B, 2>(kept[branch].clone(), [count, 1], weights.device()));
    let x = B::add_branch(x, B::affine(mixed, weight, bias), factors(0));
    let hidden = normed_linear(weights, prefix, ["norm2", "mlp.fc1"], x.clone());
    let out = B::affine_of_gelu(hidden, layer(weights, &format!("{prefix}mlp.fc2")));
    B::add_branch(x, out, factors(1))
}

/// A linear layer, its result in single precision.
pub(crate) fn linear<B: Fused>(weights: &Parameters<B>, name: &str, x: Tensor<B, 2>) -> Tensor<B, 2> {
    let [weight, bias] = layer(weights, name);
    single(B::affine(x, weight, bias))
}

/// Weight and bias of a linear layer.
fn layer<B: Fused>(weights: &Parameters<B>, name: &str) -> [Tensor<B, 2>; 2] {
    [weights.operand(&format!("{name}.weight")), weights.row(&format!("{name}.bias"))]
}

/// Weight and bias of a norm.
fn of_norm<B: Fused>(weights: &Parameters<B>, name: &str) -> [Tensor<B, 2>; 2] {
    ["weight", "bias"].map(|part| weights.row(&format!("{name}.{part}")))
}

/// A block's linear layer behind its norm, its result as products give it.
fn normed_linear<B: Fused>(
    weights: &Parameters<B>,
    prefix: &str,
    [norm, linear]: [&str; 2],
    x: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let norm = of_norm(weights, &format!("{prefix}{norm}"));
    B::affine_of_norm(x, norm, layer(weights, &format!("{prefix}{linear}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_its_pixels_of_all_channels_row_by_row() {
        // A value says where it is: image, channel, row, column.
        let (count, channels, side, patch) = (2, 3, 6, 2);
        let place = |image: usize, channel: usize, row: usize, column: usize| {
            (((image * channels + channel) * side + row) * side + column) as f32
        };
        let images: Vec<f32> = (0..count * channels * side * side).map(|value| value as f32).collect();
        let mut expected = Vec::new();
        for image in 0..count {
            for (top, left) in (0..9).map(|at| (at / 3 * patch, at % 3 * patch)) {
                for channel in 0..channels {
                    for (row, column) in (0..4).map(|at| (at / 2, at % 2)) {
                        expected.push(place(image, channel, top + row, left + column));
                    }
                }
            }
        }
        assert_eq!(cut(&images, [channels, side, patch]), expected);
    }
}
