//! In what numbers a training step multiplies, chosen at run time.
//!
//! With [`Precision::Bf16`] the operands and results of matrix products are bfloat16, as with PyTorch's autocast: linear
//! layers, attention and convolutions, forward and backward, each rounded once a product (scores of attention and gradients
//! of weights as well). All else stays in single precision: the residual stream, norms, softmax, the last layer of DINO's head
//! and losses, sums of biases' gradients; and the weights that a step starts from, what gradients are added up in, AdamW's moments,
//! teacher and center. A
//! change too small for bfloat16 adds up in the weights nevertheless. There is no loss scaling: bfloat16 has the range of
//! single precision (Kalamkar et al. 2019).
//!
//! What is measured of a model (features, logits, attention) is always computed in single precision.

use std::fmt;
use std::str::FromStr;

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How a training step multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision throughout: what the published numbers are held to. A GPU with tensor cores multiplies such operands in
    /// TF32, with 11 bits that count, and adds up in single precision.
    #[default]
    F32,
    /// Products in bfloat16 with sums and weights in single precision.
    Bf16,
}

impl FromStr for Precision {
    type Err = ModelError;
    fn from_str(written: &str) -> Result<Self, ModelError> {
        match written {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(ModelError::Precision(written.to_owned())),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl Precision {
    /// The type of what is multiplied.
    pub(crate) fn of_products(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

/// The type of a tensor's values.
pub(crate) fn type_of<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> FloatDType {
    tensor.dtype().into()
}

/// A tensor in single precision: itself, where it is not in less.
pub(crate) fn single<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    match type_of(&tensor) {
        FloatDType::BF16 => tensor.cast(FloatDType::F32),
        _ => tensor,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::compute::one_graph;
    use crate::device::as_on_a_device;
    use crate::fused::{Fused, Heads, Pixels};
    use crate::schedule::Schedule;
    use crate::trainer::tests::{crops, plan};
    use crate::training::StepOutput;
    use crate::{DeviceChoice, Trainer, init};

    type Graph = Autodiff<Flex>;

    /// Half of the distance between a number and the next, at most: 8 bits count.
    const ROUNDING: f64 = 1.0 / 256.0;

    /// Values from -1 to 1, times `size`.
    fn leaf(seed: u64, rows: usize, columns: usize, size: f32) -> Tensor<Graph, 2> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..rows * columns).map(|_| size * (rng.random::<f32>() * 2.0 - 1.0)).collect();
        Tensor::<Graph, 2>::from_data(TensorData::new(values, [rows, columns]), &Default::default()).require_grad()
    }

    /// How far values are from others, as a part of their length.
    fn apart(found: &[f32], expected: &[f32]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let of = |place: usize| f64::from(found[place]) - f64::from(expected[place]);
        length(&mut (0..found.len()).map(of)) / length(&mut expected.iter().map(|value| f64::from(*value)))
    }

    /// A result and the gradients of its leaves, the second of which is an operand of products in this precision.
    fn computed(
        precision: Precision,
        leaves: &[Tensor<Graph, 2>],
        of: &dyn Fn(Vec<Tensor<Graph, 2>>) -> Tensor<Graph, 2>,
    ) -> Vec<Vec<f32>> {
        let _alone = one_graph();
        let host = |tensor: Tensor<Flex, 2>| tensor.into_data().into_vec::<f32>().expect("single precision");
        let mut inputs = leaves.to_vec();
        inputs[1] = inputs[1].clone().cast(precision.of_products());
        let y = of(inputs);
        assert_eq!(type_of(&y), precision.of_products(), "a result is as products give it");
        let y = single(y);
        let toward = leaf(9, y.dims()[0], y.dims()[1], 1.0).detach();
        let gradients = (y.clone() * toward).sum().backward();
        let of_leaves = leaves.iter().map(|leaf| host(leaf.grad(&gradients).expect("every leaf is asked")));
        [host(y.inner())].into_iter().chain(of_leaves).collect()
    }

    #[test]
    fn products_in_bfloat16_are_those_in_single_precision_to_its_rounding() {
        let (rows, dim, outputs) = (120, 24, 72);
        let (x, weight, bias) = (leaf(1, rows, dim, 1.0), leaf(2, outputs, dim, 0.3), leaf(3, 1, outputs, 0.5));
        let (of_norm, bias_of_norm) = (leaf(4, 1, dim, 1.0), leaf(5, 1, dim, 0.5));
        let pixels = Pixels { count: 2, height: 10, width: 6 };
        let kernel = leaf(6, 5, 9 * dim, 0.1);
        let heads = Heads { count: 4, heads: 3 };
        type Of = Box<dyn Fn(Vec<Tensor<Graph, 2>>) -> Tensor<Graph, 2>>;
        let all: [(&str, Vec<Tensor<Graph, 2>>, Of); 5] = [
            (
                "linear",
                vec![x.clone(), weight.clone(), bias.clone()],
                Box::new(|of| Graph::affine(of[0].clone(), of[1].clone(), of[2].clone())),
            ),
            (
                "linear of norm",
                vec![x.clone(), weight.clone(), bias.clone(), of_norm, bias_of_norm],
                Box::new(|of| {
                    let (norm, layer) = ([of[3].clone(), of[4].clone()], [of[1].clone(), of[2].clone()]);
                    Graph::affine_of_norm(of[0].clone(), norm, layer)
                }),
            ),
            (
                "linear of GELU",
                vec![x.clone(), weight.clone(), bias.clone()],
                Box::new(|of| Graph::affine_of_gelu(of[0].clone(), [of[1].clone(), of[2].clone()])),
            ),
            (
                "convolution",
                vec![x.clone(), kernel, leaf(7, 1, 5, 0.5)],
                Box::new(move |of| Graph::convolve(of[0].clone(), of[1].clone(), of[2].clone(), pixels)),
            ),
            (
                "attention of linear",
                vec![x, weight, bias],
                Box::new(move |of| Graph::attend(Graph::affine(of[0].clone(), of[1].clone(), of[2].clone()), heads)),
            ),
        ];
        for (what, leaves, of) in &all {
            let [expected, found] = [Precision::F32, Precision::Bf16].map(|precision| computed(precision, leaves, of));
            for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let apart = apart(found, expected);
                assert!(apart < 2.0 * ROUNDING, "{what}, {place}: {apart:e} apart");
                assert!(apart > 0.0 || place > 0, "{what} was not rounded at all");
            }
        }
    }

    fn trainer(precision: Precision) -> Trainer {
        let first = init::initial_weights(&plan().model, 1);
        Trainer::new(&plan(), &DeviceChoice::Cpu, &first).unwrap().in_precision(precision).unwrap()
    }

    #[test]
    fn a_step_in_bfloat16_has_the_gradients_of_one_in_single_precision_as_far_as_temperatures_let_it() {
        // What rounding does to a logit is divided by a temperature: nearly nothing is left of it at 1.
        for (temperature, bound) in [(1.0, 0.015), (0.04, 0.1)] {
            let now = Schedule { teacher_temperature: temperature, ..Schedule::at(&plan(), 5) };
            let step = |precision| trainer(precision).compute(&crops(1), &now, 3).unwrap();
            let [expected, found] = [Precision::F32, Precision::Bf16].map(step);
            assert_eq!(found.gradients.len(), expected.gradients.len());
            let all = |output: &StepOutput| output.gradients.values().flatten().copied().collect::<Vec<_>>();
            let apart = apart(&all(&found), &all(&expected));
            assert!(0.0 < apart && apart < bound, "at {temperature}: {apart:e} apart");
            let loss = (found.loss - expected.loss).abs() / expected.loss;
            assert!(0.0 < loss && loss < bound, "at {temperature}: {loss:e} apart");
        }
    }

    #[test]
    fn a_device_without_kernels_of_ours_has_the_same_gradients_in_either_precision() {
        let now = Schedule { teacher_temperature: 1.0, ..Schedule::at(&plan(), 5) };
        let all = |output: StepOutput| output.gradients.into_values().flatten().collect::<Vec<_>>();
        for (precision, bound) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.015)] {
            let on_cpu = trainer(precision).compute(&crops(1), &now, 3).unwrap();
            let on_device = as_on_a_device(|device| {
                Trainer::new(&plan(), &DeviceChoice::Cpu, &init::initial_weights(&plan().model, 1))
                    .unwrap()
                    .on(device)
                    .in_precision(precision)
                    .unwrap()
                    .compute(&crops(1), &now, 3)
                    .unwrap()
            });
            let apart = apart(&all(on_device), &all(on_cpu));
            assert!(apart < bound, "{precision}: {apart:e} apart");
        }
    }

    #[test]
    fn a_hundred_steps_in_bfloat16_go_down_with_those_in_single_precision() {
        let losses = |precision| {
            let mut trainer = trainer(precision);
            (0..100).map(|step| trainer.step(&crops(step % 5), step, step).unwrap().loss).collect::<Vec<_>>()
        };
        let (expected, found) = (losses(Precision::F32), losses(Precision::Bf16));
        let apart = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).sum::<f64>() / 100.0;
        assert!(0.0 < apart && apart < 0.05, "{apart} nats apart in the mean");
        let gone = |losses: &[f64]| losses[0] - losses[99];
        assert!(gone(&expected) > 1.0 && gone(&found) > 1.0, "{} {}", gone(&found), gone(&expected));
    }

    #[test]
    fn changes_too_small_for_bfloat16_add_up_in_the_weights() {
        // A step changes a weight by its learning rate at most: a hundredth of what bfloat16 can tell from nothing here.
        let name = "backbone.norm.weight";
        let weights = |trainer: &Trainer| trainer.weights().get(&format!("student.{name}")).unwrap().values.clone();
        let moved = |precision| {
            let mut trainer = trainer(precision);
            let small = Schedule { learning_rate: ROUNDING / 100.0, weight_decay: 0.0, ..Schedule::at(&plan(), 5) };
            let before = weights(&trainer);
            for step in 0..40 {
                let output = trainer.compute(&crops(1), &small, step).unwrap();
                trainer.apply(&output, &small);
            }
            weights(&trainer).iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>()
        };
        let [expected, found] = [Precision::F32, Precision::Bf16].map(moved);
        assert!(apart(&found, &expected) < 0.1, "{found:?} {expected:?}");
        assert!(
            found.iter().any(|moved| moved.abs() > 0.0) && found.iter().all(|moved| f64::from(*moved).abs() < ROUNDING)
        );
    }

    #[test]
    fn a_trainer_killed_in_bfloat16_goes_on_to_the_same_bits() {
        let trained = |mut trainer: Trainer, steps: std::ops::Range<u64>| {
            for step in steps {
                trainer.step(&crops(step), step, step).unwrap();
            }
            trainer
        };
        let unbroken = trained(trainer(Precision::Bf16), 0..6).checkpoint();
        let file = trained(trainer(Precision::Bf16), 0..3).checkpoint();
        let resumed =
            Trainer::resume(&plan(), &DeviceChoice::Cpu, &file).unwrap().in_precision(Precision::Bf16).unwrap();
        assert_eq!(trained(resumed, 3..6).checkpoint(), unbroken);
    }

    #[test]
    fn a_precision_is_read_as_it_is_written() {
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        let error = "fp16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("\"fp16\"") && error.contains("use f32 or bf16"), "{error}");
    }
}
