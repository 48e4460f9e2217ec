//! DINO (Caron et al. 2021, Algorithm 1, with multi-crop): head, cross-crop loss, and what the teacher says.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::fused::{Fused, Kernels, Pairs};
use crate::parameters::{Parameters, host, tensor};
use crate::vit::linear;

/// The projection head: `[rows, dim]` to prototypes, `[rows, K]`.
pub(crate) fn project<B: Fused>(weights: &Parameters<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
    let x = B::exact_gelu(linear(weights, "head.mlp.0", x));
    let x = B::exact_gelu(linear(weights, "head.mlp.2", x));
    let x = unit(linear(weights, "head.mlp.4", x), 1e-12);
    // Weight normalization (Salimans and Kingma 2016): direction v, length g.
    let v = weights.matrix("head.last_layer.weight_v");
    let length = (v.clone() * v.clone()).sum_dim(1).sqrt();
    // Operands in single precision whatever the others are in: a low temperature multiplies what rounding does to a logit.
    x.matmul((v / length * weights.matrix("head.last_layer.weight_g")).transpose())
}

/// Rows divided by their L2 norm, at least `eps`.
fn unit<B: Backend>(x: Tensor<B, 2>, eps: f64) -> Tensor<B, 2> {
    let norm = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(eps);
    x / norm
}

/// What the teacher says of the two global crops: centered and sharpened, `[2 * batch, K]`.
pub(crate) fn sharpen<B: Kernels>(logits: Tensor<B, 2>, center: &[f32], temperature: f64) -> Tensor<B, 2> {
    let center = tensor::<B, 2>(center.to_vec(), [1, center.len()], &logits.device());
    B::sharpen(logits, center, temperature)
}

/// What the teacher says, balanced over the batch instead: after three iterations every prototype is taught about as often
/// as every other (Sinkhorn and Knopp 1967, as SwAV and DINOv2 use it), `[2 * batch, K]`, rows summing to 1.
pub(crate) fn balance<B: Backend>(logits: Tensor<B, 2>, temperature: f64) -> Tensor<B, 2> {
    const ITERATIONS: usize = 3;
    let [rows, prototypes] = logits.dims();
    // A factor common to all changes nothing: it keeps the exponential in range.
    let largest = logits.clone().max().reshape([1, 1]);
    let mut share = ((logits - largest) / temperature).exp();
    for _ in 0..ITERATIONS {
        let of_prototype = share.clone().sum_dim(0).clamp_min(f64::from(f32::MIN_POSITIVE));
        share = share / of_prototype / prototypes as f64;
        let of_row = share.clone().sum_dim(1).clamp_min(f64::from(f32::MIN_POSITIVE));
        share = share / of_row / rows as f64;
    }
    share * rows as f64
}

/// The cross-crop loss: the mean over pairs of a global teacher crop and another student crop of their cross-entropy.
///
/// `targets` is `[2 * batch, K]`, `learnt` is `[crops * batch, K]`, both with crops outermost; no crop is asked to predict
/// itself.
pub(crate) fn cross_crop_loss<B: Fused>(
    targets: Tensor<B, 2>,
    learnt: Tensor<B, 2>,
    batch: usize,
    temperature: f64,
) -> Tensor<B, 1> {
    B::cross_entropy(learnt, targets, Pairs { batch, temperature })
}

/// KoLeo (Sablayrolles et al. 2019): minus the mean log distance of a unit feature to its nearest neighbor in the batch.
pub(crate) fn koleo<B: Backend>(features: Tensor<B, 2>) -> Tensor<B, 1> {
    let [count, _] = features.dims();
    let x = unit(features, 1e-8);
    let dots = host(x.clone().detach().matmul(x.clone().detach().transpose()));
    let mut nearest = vec![0.0; count * count];
    for row in 0..count {
        let others = (0..count).filter(|other| *other != row);
        if let Some(other) = others.max_by(|a, b| dots[row * count + a].total_cmp(&dots[row * count + b])) {
            nearest[row * count + other] = 1.0;
        }
    }
    let neighbors = tensor::<B, 2>(nearest, [count, count], &x.device()).matmul(x.clone());
    let apart = x - neighbors;
    let distance = ((apart.clone() * apart).sum_dim(1) + 1e-12).sqrt();
    (distance + 1e-8).log().mean().neg()
}

#[cfg(test)]
mod tests {
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;

    use super::*;

    const ROWS: usize = 6;
    const K: usize = 4;

    fn logits() -> Vec<f32> {
        (0..ROWS * K).map(|i| ((i * 37) % 19) as f32 / 19.0 - 0.5).collect()
    }

    /// DINOv2's `sinkhorn_knopp_teacher`, in double precision: `q` is `[K][rows]`.
    fn reference(temperature: f64) -> Vec<f64> {
        let logits = logits();
        let mut q = [[0.0; ROWS]; K];
        for (k, of_prototype) in q.iter_mut().enumerate() {
            of_prototype
                .iter_mut()
                .enumerate()
                .for_each(|(row, q)| *q = (f64::from(logits[row * K + k]) / temperature).exp());
        }
        let total: f64 = q.iter().flatten().sum();
        q.iter_mut().flatten().for_each(|q| *q /= total);
        for _ in 0..3 {
            for of_prototype in &mut q {
                let sum: f64 = of_prototype.iter().sum();
                of_prototype.iter_mut().for_each(|q| *q /= sum * K as f64);
            }
            for row in 0..ROWS {
                let sum: f64 = q.iter().map(|of_prototype| of_prototype[row]).sum();
                q.iter_mut().for_each(|of_prototype| of_prototype[row] /= sum * ROWS as f64);
            }
        }
        (0..ROWS).flat_map(|row| q.map(|of_prototype| of_prototype[row] * ROWS as f64)).collect()
    }

    #[test]
    fn the_balanced_teacher_is_that_of_dinov2_and_every_row_adds_up_to_one() {
        for temperature in [0.04, 0.1, 1.0] {
            let found = host(balance(tensor::<Flex, 2>(logits(), [ROWS, K], &Default::default()), temperature));
            for (found, expected) in found.iter().zip(reference(temperature)) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "{temperature}: {found} {expected}");
            }
            for row in found.chunks_exact(K) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
            }
        }
    }

    #[test]
    fn a_prototype_that_all_rows_prefer_is_taught_no_more_often_than_others() {
        let logits: Vec<f32> =
            logits().iter().enumerate().map(|(i, value)| value + if i % K == 0 { 2.0 } else { 0.0 }).collect();
        let found = host(balance(tensor::<Flex, 2>(logits, [ROWS, K], &Default::default()), 0.5));
        for k in 0..K {
            let taught: f32 = found.chunks_exact(K).map(|row| row[k]).sum();
            assert!((taught - ROWS as f32 / K as f32).abs() < 0.1, "prototype {k}: {taught}");
        }
    }
    /// KoLeo by its definition, in double precision: `-1/n sum log(min distance + 1e-8)` of unit rows (DINOv2's `KoLeoLoss`).
    fn spread(features: &[f32], dim: usize) -> f64 {
        let unit = |row: &[f32]| {
            let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|value| f64::from(*value) / norm).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<f64>> = features.chunks_exact(dim).map(unit).collect();
        let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let nearest = |row: usize| {
            let others = (0..rows.len()).filter(|other| *other != row);
            others.map(|other| apart(&rows[row], &rows[other])).fold(f64::INFINITY, f64::min)
        };
        -(0..rows.len()).map(|row| (nearest(row) + 1e-8).ln()).sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn koleo_is_that_of_its_definition_and_its_gradient_the_slope() {
        const DIM: usize = 5;
        let features: Vec<f32> = (0..7 * DIM).map(|i| ((i * 7919) % 97) as f32 / 48.0 - 1.0).collect();
        let _alone = crate::compute::one_graph();
        let leaf = tensor::<Autodiff<Flex>, 2>(features.clone(), [7, DIM], &Default::default()).require_grad();
        let loss = koleo(leaf.clone());
        let found = f64::from(host(loss.clone().inner())[0]);
        assert!((found - spread(&features, DIM)).abs() < 1e-5, "{found} {}", spread(&features, DIM));
        let gradients = host(leaf.grad(&loss.backward()).unwrap());
        for place in 0..features.len() {
            // A half of a thousandth each way: no row gets another nearest neighbor.
            let moved = |by: f32| {
                let mut features = features.clone();
                features[place] += by;
                spread(&features, DIM)
            };
            let slope = (moved(5e-4) - moved(-5e-4)) / 1e-3;
            let found = f64::from(gradients[place]);
            assert!((found - slope).abs() < 1e-3 * (1.0 + slope.abs()), "at {place}: {found} {slope}");
        }
    }
}
