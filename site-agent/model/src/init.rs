//! How a network starts: the published distributions, drawn on the host from a seed.

use common::plan::{Init, ModelPlan};
use common::{NamedTensors, Signature};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ModelError;
use crate::names::{self, CENTER, STUDENT, TEACHER};

/// Names and shapes of all that travels: student, teacher, center.
pub fn signature(plan: &ModelPlan) -> Result<Signature, ModelError> {
    let network = names::network(plan);
    let of = |prefix: &'static str| network.iter().map(move |(name, shape)| (format!("{prefix}{name}"), shape.clone()));
    let center = (CENTER.to_owned(), vec![1, plan.head.prototypes]);
    Ok(Signature::new(of(STUDENT).chain(of(TEACHER)).chain([center]))?)
}

/// Names and shapes of a backbone, as published.
pub fn backbone_signature(plan: &ModelPlan) -> Result<Signature, ModelError> {
    Ok(Signature::new(names::backbone(plan))?)
}

/// The first weights of a run: the student drawn from `seed`, the teacher its copy, the center at 0.
pub fn initial_weights(plan: &ModelPlan, seed: u64) -> NamedTensors {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut network = NamedTensors::new();
    for (name, shape) in names::network(plan) {
        let values = first_values(plan, &name, &shape, &mut rng);
        network.insert(name, shape, values);
    }
    let mut center = NamedTensors::new();
    center.insert(CENTER, vec![1, plan.head.prototypes], vec![0.0; plan.head.prototypes]);
    network.clone().prefixed(STUDENT).joined(network.prefixed(TEACHER)).joined(center)
}

fn first_values(plan: &ModelPlan, name: &str, shape: &[usize], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let fan_in: usize = shape[1..].iter().product();
    let uniform = |rng: &mut ChaCha8Rng| {
        // PyTorch's default of Linear and Conv2d: Kaiming-uniform with a = sqrt(5), which is U(-1, 1) / sqrt(fan_in).
        let bound = 1.0 / (fan_in as f32).sqrt();
        (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
    };
    match name {
        "head.last_layer.weight_g" => vec![1.0; count],
        "head.last_layer.weight_v" | "backbone.patch_embed.proj.weight" => uniform(rng),
        "backbone.patch_embed.proj.bias" => {
            let bound = 1.0 / ((plan.in_channels * plan.patch_size * plan.patch_size) as f32).sqrt();
            (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
        }
        "backbone.cls_token" | "backbone.pos_embed" => normal(rng, count, 0.02),
        _ if name.contains("norm") => vec![if name.ends_with("weight") { 1.0 } else { 0.0 }; count],
        _ if name.ends_with("bias") => vec![0.0; count],
        _ => match (plan.init, name.starts_with(names::BACKBONE)) {
            (Init::FanIn, true) => normal(rng, count, 1.0 / (fan_in as f32).sqrt()),
            _ => normal(rng, count, 0.02),
        },
    }
}

/// Truncated normal at ±2 absolute, as published: at these deviations, all but never cut.
fn normal(rng: &mut impl Rng, count: usize, std: f32) -> Vec<f32> {
    let mut draw = || loop {
        // Box and Muller, 1958.
        let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        let value = std * ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32;
        if value.abs() <= 2.0 {
            return value;
        }
    };
    (0..count).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(values: &[f32]) -> (f64, f64) {
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, square.sqrt())
    }

    #[test]
    fn a_network_starts_from_the_published_distributions() {
        let plan = ModelPlan { dim: 64, depth: 2, heads: 2, image_size: 32, ..ModelPlan::default() };
        let weights = initial_weights(&plan, 3);
        let values = |name: &str| &weights.get(name).unwrap().values;
        let (mean, std) = deviation(values("student.backbone.blocks.1.mlp.fc1.weight"));
        assert!(mean.abs() < 1e-3 && (std - 0.02).abs() < 1e-3, "{mean} {std}");
        let bound = 1.0 / 8.0;
        let patch = values("student.backbone.patch_embed.proj.weight");
        assert!(patch.iter().all(|value| value.abs() <= bound));
        assert!((deviation(patch).1 - f64::from(bound) / 3.0_f64.sqrt()).abs() < 2e-3);
        assert!(values("student.head.last_layer.weight_g").iter().all(|&value| value == 1.0));
        assert!(values("student.backbone.norm.weight").iter().all(|&value| value == 1.0));
        assert!(values("student.backbone.blocks.0.attn.qkv.bias").iter().all(|&value| value == 0.0));
        let fan_in = initial_weights(&ModelPlan { init: Init::FanIn, ..plan }, 3);
        let (_, std) = deviation(&fan_in.get("student.backbone.blocks.0.attn.qkv.weight").unwrap().values);
        assert!((std - 0.125).abs() < 5e-3, "{std}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_the_teacher_is_the_student() {
        let plan = ModelPlan { dim: 16, depth: 1, heads: 2, image_size: 16, ..ModelPlan::default() };
        let weights = initial_weights(&plan, 9);
        assert_eq!(weights.to_safetensors(), initial_weights(&plan, 9).to_safetensors());
        assert_ne!(weights.digest(), initial_weights(&plan, 10).digest());
        assert_eq!(weights.under("student."), weights.under("teacher."));
        assert_eq!(weights.signature(), signature(&plan).unwrap());
    }

    #[test]
    fn a_vit_small_with_patch_8_has_the_published_size() {
        let plan = ModelPlan { in_channels: 3, ..ModelPlan::default() };
        let backbone = Signature::new(names::backbone(&plan)).unwrap();
        assert_eq!((backbone.len(), backbone.value_count()), (150, 21_670_272));
        let grayscale = Signature::new(names::backbone(&ModelPlan::default())).unwrap();
        assert_eq!(grayscale.value_count(), 21_621_120);
    }
}
