//! How a network starts: the published distributions, drawn on the host from a seed.

use common::plan::{Exchange, Init, ModelPlan};
use common::{NamedTensors, Signature};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ModelError;
use crate::names::{self, CENTER, STUDENT, TEACHER};

/// Names and shapes of all that travels: student, teacher and center, as far as the plan exchanges them.
pub fn signature(plan: &ModelPlan, exchange: Exchange) -> Result<Signature, ModelError> {
    let network = names::network(plan);
    let of = |prefix: &'static str| network.iter().map(move |(name, shape)| (format!("{prefix}{name}"), shape.clone()));
    let center = (CENTER.to_owned(), vec![1, plan.head.prototypes]);
    let all = of(STUDENT).chain(of(TEACHER)).chain([center]);
    Ok(Signature::new(all.filter(|(name, _)| names::travels(exchange, name)))?)
}

/// Those of a run's weights that travel.
pub fn travelling(weights: NamedTensors, exchange: Exchange) -> NamedTensors {
    weights.filtered(|name| names::travels(exchange, name))
}

/// All of a run's weights from those that travelled: what stayed at a site, or else the teacher as the student's copy and
/// the center at 0, as at the start of a run.
pub(crate) fn completed(travelled: &NamedTensors, plan: &ModelPlan, stayed: NamedTensors) -> NamedTensors {
    let mut center = NamedTensors::new();
    center.insert(CENTER, vec![1, plan.head.prototypes], vec![0.0; plan.head.prototypes]);
    let copy = travelled.under(STUDENT).prefixed(TEACHER);
    copy.joined(center).joined(stayed).joined(travelled.clone())
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
pub(crate) fn normal(rng: &mut impl Rng, count: usize, std: f32) -> Vec<f32> {
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

    /// Kolmogorov's distance of a sample to a law, times the root of the sample's size: above 1.95 once in a thousand.
    fn distance(mut values: Vec<f32>, law: impl Fn(f64) -> f64) -> f64 {
        values.sort_by(f32::total_cmp);
        let count = values.len() as f64;
        let gap = |(rank, &value): (usize, &f32)| {
            let (below, law) = (rank as f64 / count, law(f64::from(value)));
            (law - below).abs().max((law - below - 1.0 / count).abs())
        };
        values.iter().enumerate().map(gap).fold(0.0, f64::max) * count.sqrt()
    }

    fn normal_law(std: f64) -> impl Fn(f64) -> f64 {
        move |value| {
            // Abramowitz and Stegun, 7.1.26: off by at most 1.5e-7.
            let x = (value / std).abs() / 2.0_f64.sqrt();
            let t = 1.0 / (1.0 + 0.3275911 * x);
            let factors = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
            let upper = 0.5 * (-x * x).exp() * t * factors.iter().fold(0.0, |sum, factor| sum * t + factor);
            if value < 0.0 { upper } else { 1.0 - upper }
        }
    }

    fn uniform_law(bound: f64) -> impl Fn(f64) -> f64 {
        move |value| ((value / bound + 1.0) / 2.0).clamp(0.0, 1.0)
    }

    /// A student's tensor, drawn for many seeds: some have few values in a network.
    fn drawn(plan: &ModelPlan, name: &str) -> Vec<f32> {
        let values = |seed| initial_weights(plan, seed).get(&format!("student.{name}")).unwrap().values.clone();
        (0..64).flat_map(values).collect()
    }

    fn small() -> ModelPlan {
        let mut plan = ModelPlan { dim: 64, depth: 1, heads: 2, image_size: 32, ..ModelPlan::default() };
        (plan.head.hidden, plan.head.bottleneck, plan.head.prototypes) = (48, 24, 40);
        plan
    }

    #[test]
    fn tokens_places_and_the_heads_layers_start_normal_with_the_published_deviation() {
        for plan in [small(), ModelPlan { init: Init::FanIn, ..small() }] {
            let layers = ["head.mlp.0.weight", "head.mlp.2.weight", "head.mlp.4.weight"];
            for name in ["backbone.cls_token", "backbone.pos_embed"].into_iter().chain(layers) {
                let values = drawn(&plan, name);
                let ((mean, std), error) = (deviation(&values), 0.02 / (values.len() as f64).sqrt());
                assert!(mean.abs() < 4.0 * error && (std - 0.02).abs() < 4.0 * error, "{name}: {mean} {std}");
                let distance = distance(values, normal_law(0.02));
                assert!(distance < 1.95, "{name}: {distance}");
            }
        }
    }

    #[test]
    fn the_patch_embedding_and_the_last_layers_directions_start_uniform_within_one_over_the_root_of_their_inputs() {
        for (plan, inputs) in [(small(), 64.0), (ModelPlan { in_channels: 3, ..small() }, 192.0)] {
            let patch =
                ["backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"].map(|name| (name, inputs));
            // weight_norm takes its direction from what Linear had drawn.
            for (name, inputs) in patch.into_iter().chain([("head.last_layer.weight_v", 24.0)]) {
                let (values, bound) = (drawn(&plan, name), 1.0 / f64::sqrt(inputs));
                let largest = values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
                assert!(largest <= bound * 1.000_001 && largest > 0.99 * bound, "{name}: {largest} of {bound}");
                let ((mean, std), error) = (deviation(&values), bound / (values.len() as f64).sqrt());
                assert!(mean.abs() < 4.0 * error && (std - bound / 3.0_f64.sqrt()).abs() < 4.0 * error, "{name}");
                let distance = distance(values, uniform_law(bound));
                assert!(distance < 1.95, "{name}: {distance}");
            }
        }
    }

    #[test]
    fn the_heads_biases_start_at_0_and_the_last_layers_lengths_at_1() {
        let weights = initial_weights(&small(), 4);
        let all = |name: &str, start: f32| weights.get(name).unwrap().values.iter().all(|&value| value == start);
        for network in [STUDENT, TEACHER] {
            assert!([0, 2, 4].iter().all(|layer| all(&format!("{network}head.mlp.{layer}.bias"), 0.0)), "{network}");
            assert!(all(&format!("{network}head.last_layer.weight_g"), 1.0), "{network}");
        }
        assert!(all(CENTER, 0.0));
    }

    #[test]
    fn the_distance_to_a_law_tells_a_tenth_more_deviation() {
        let values = drawn(&small(), "head.mlp.0.weight");
        assert!(distance(values.clone(), normal_law(0.022)) > 3.0);
        assert!(distance(values, uniform_law(0.02 * 3.0_f64.sqrt())) > 3.0);
        let error = (normal_law(1.0)(1.0) - 0.841_344_746).abs();
        assert!(error < 2e-7, "{error}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_the_teacher_is_the_student() {
        let plan = ModelPlan { dim: 16, depth: 1, heads: 2, image_size: 16, ..ModelPlan::default() };
        let weights = initial_weights(&plan, 9);
        assert_eq!(weights.to_safetensors(), initial_weights(&plan, 9).to_safetensors());
        assert_ne!(weights.digest(), initial_weights(&plan, 10).digest());
        assert_eq!(weights.under("student."), weights.under("teacher."));
        assert_eq!(weights.signature(), signature(&plan, Exchange::All).unwrap());
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
