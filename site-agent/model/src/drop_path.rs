//! Stochastic depth (Huang et al. 2016): which branches of which samples a step leaves out.

use common::plan::ModelPlan;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What stochastic depth keeps: the rate rises linearly over the blocks, and a kept sample is divided by its probability.
pub(crate) fn drop_path(rng: &mut ChaCha8Rng, model: &ModelPlan, samples: usize) -> Vec<[Vec<f32>; 2]> {
    if model.drop_path == 0.0 {
        return Vec::new();
    }
    let rate = |block: usize| model.drop_path * block as f64 / (model.depth - 1).max(1) as f64;
    let mut branch = |rate: f64| -> Vec<f32> {
        let keep = 1.0 - rate;
        (0..samples).map(|_| if rng.random::<f64>() < keep { (1.0 / keep) as f32 } else { 0.0 }).collect()
    };
    (0..model.depth).map(|block| [branch(rate(block)), branch(rate(block))]).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn stochastic_depth_keeps_the_mean_and_never_drops_in_the_first_block() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let model = ModelPlan { depth: 5, drop_path: 0.4, ..ModelPlan::default() };
        let kept = drop_path(&mut rng, &model, 20_000);
        let of = |values: &[f32], what: &dyn Fn(f64) -> f64| {
            values.iter().map(|value| what(f64::from(*value))).sum::<f64>() / values.len() as f64
        };
        for (block, branches) in kept.iter().enumerate() {
            // From 0 in the first block to all of it in the last one, as far apart everywhere.
            let rate = 0.1 * block as f64;
            for factors in branches {
                let dropped = of(factors, &|factor| f64::from(u8::from(factor == 0.0)));
                assert!((dropped - rate).abs() < 0.015, "block {block} dropped {dropped}");
                assert!((of(factors, &|factor| factor) - 1.0).abs() < 0.03, "block {block} changes the mean");
                assert!(
                    factors
                        .iter()
                        .all(|factor| *factor == 0.0 || (f64::from(*factor) - 1.0 / (1.0 - rate)).abs() < 1e-6)
                );
            }
            // The two branches of a sample are dropped each by its own draw.
            let [attention, perceptron] = branches;
            let both =
                attention.iter().zip(perceptron).filter(|(a, b)| **a == 0.0 && **b == 0.0).count() as f64 / 20_000.0;
            assert!((both - rate * rate).abs() < 0.015, "block {block} dropped both of {both}");
        }
    }
}
