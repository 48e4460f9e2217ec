//! From patch tokens back to pixels, in the shape of UNETR (Hatamizadeh et al. 2022): the last block's tokens are unfolded to
//! twice the resolution again and again, and joined each time by those of an earlier block, and at the end by the image.
//!
//! Everything lies in rows, `[images * height * width, channels]`: an unfolding is a linear layer whose outputs become
//! pixels, and norms are over the pixels of an image, so that no image of a batch, and of no other site, changes another's.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use common::plan::ModelPlan;

use crate::ModelError;
use crate::fused::{Fused, Pixels, Unfolding};
use crate::parameters::{Parameters, tensor};
use crate::precision::single;
use crate::vit::{self, Images, linear};

/// Doublings from patches to pixels.
fn levels(plan: &ModelPlan) -> usize {
    plan.patch_size.trailing_zeros() as usize
}

/// Channels at a level: 0 has the image's resolution, each next one half of it.
fn width(plan: &ModelPlan, level: usize) -> usize {
    (plan.dim / 12).next_multiple_of(8).max(16) << level
}

/// After how many blocks the tokens for each level are taken: evenly spread, the earliest for the finest.
pub(super) fn blocks(plan: &ModelPlan) -> Vec<usize> {
    let parts = levels(plan) + 1;
    (1..parts).map(|part| (plan.depth * part).div_ceil(parts).max(1)).collect()
}

pub(super) fn signature(plan: &ModelPlan, outputs: usize) -> Result<Vec<(String, Vec<usize>)>, ModelError> {
    if !plan.patch_size.is_power_of_two() || plan.patch_size == 1 {
        return Err(ModelError::Patch(plan.patch_size));
    }
    let levels = levels(plan);
    let mut all = Vec::new();
    let mut layer = |name: String, to: usize, from: usize, norm: usize| {
        all.push((format!("{name}.weight"), vec![to, from]));
        all.push((format!("{name}.bias"), vec![to]));
        if norm > 0 {
            all.extend(["weight", "bias"].map(|part| (format!("{name}.norm.{part}"), vec![norm])));
        }
    };
    layer("tokens".to_owned(), width(plan, levels), plan.dim, width(plan, levels));
    for level in (0..levels).rev() {
        let (own, coarser, fold) = (width(plan, level), width(plan, level + 1), 1_usize << (levels - level));
        layer(format!("levels.{level}.up"), 4 * own, coarser, 0);
        layer(format!("levels.{level}.skip"), fold * fold * own, plan.dim, own);
        let image = if level == 0 { plan.in_channels } else { 0 };
        layer(format!("levels.{level}.convolutions.0"), own, 9 * (2 * own + image), own);
        layer(format!("levels.{level}.convolutions.1"), own, 9 * own, own);
    }
    layer("last".to_owned(), outputs, width(plan, 0), 0);
    Ok(all)
}

/// `[images * side * side, outputs]`. `between` holds the tokens after [`blocks`], `last` those after the final norm.
pub(super) fn logits<B: Fused>(
    plan: &ModelPlan,
    weights: &Parameters<B>,
    head: &str,
    images: Images<'_>,
    between: &[Tensor<B, 2>],
    last: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let (count, levels) = (images.count, levels(plan));
    let mut side = images.side / plan.patch_size;
    let active = |name: &str, x: Tensor<B, 2>, side: usize| {
        let norm = |part: &str| weights.row(&format!("{head}{name}.norm.{part}"));
        let grid = Pixels { count, height: side, width: side };
        B::exact_gelu(B::instance_norm(x, norm("weight"), norm("bias"), grid))
    };
    let mut x = active("tokens", linear(weights, &format!("{head}tokens"), vit::patches_of(last, count)), side);
    for level in (0..levels).rev() {
        let name = |part: &str| format!("levels.{level}.{part}");
        let up = unfolded(linear(weights, &format!("{head}{}", name("up")), x), count, side, 2);
        side *= 2;
        let fold = 1 << (levels - level);
        let tokens = vit::patches_of(between[level].clone(), count);
        let skip = linear(weights, &format!("{head}{}", name("skip")), tokens);
        let skip = active(&name("skip"), unfolded(skip, count, side / fold, fold), side);
        let mut joined = vec![up, skip];
        if level == 0 {
            joined.push(pixels(plan, images, weights.device()));
        }
        let grid = Pixels { count, height: side, width: side };
        let convolved = |part: &str, x: Tensor<B, 2>| {
            let (layer, name) = (format!("{head}{}", name(part)), name(part));
            let (weight, bias) = (weights.operand(&format!("{layer}.weight")), weights.row(&format!("{layer}.bias")));
            active(&name, single(B::convolve(x, weight, bias, grid)), side)
        };
        x = convolved("convolutions.1", convolved("convolutions.0", Tensor::cat(joined, 1)));
    }
    linear(weights, &format!("{head}last"), x)
}

/// Each pixel's `fold * fold * channels` values as a square of pixels.
fn unfolded<B: Fused>(x: Tensor<B, 2>, count: usize, side: usize, fold: usize) -> Tensor<B, 2> {
    B::unfold(x, Unfolding { pixels: Pixels { count, height: side, width: side }, fold })
}

/// The images as rows of pixels.
fn pixels<B: Backend>(plan: &ModelPlan, images: Images<'_>, device: &B::Device) -> Tensor<B, 2> {
    let (channels, area) = (plan.in_channels, images.side * images.side);
    let planes = tensor::<B, 3>(images.values.to_vec(), [images.count, channels, area], device);
    planes.permute([0, 2, 1]).reshape([images.count * area, channels])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoder_reads_the_tokens_of_four_blocks_three_spread_and_the_last() {
        let plan = ModelPlan::default();
        assert_eq!((plan.depth, plan.patch_size), (12, 8));
        assert_eq!(blocks(&plan), [3, 6, 9]);
        // The last block's are what the coarsest level is made of.
        let signature = signature(&plan, 4).unwrap();
        let tokens = signature.iter().find(|(name, _)| name == "tokens.weight").unwrap();
        assert_eq!(tokens.1[1], plan.dim);
        let skips = signature.iter().filter(|(name, _)| name.ends_with("skip.weight")).count();
        assert_eq!(skips, blocks(&plan).len());
    }
}
