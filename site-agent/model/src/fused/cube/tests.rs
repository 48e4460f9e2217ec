//! Each kernel on a GPU against the decomposed form on the CPU in double precision, and a training there against the CPU's. Whoever
//! asks for the feature `cuda` in a test asks for an NVIDIA GPU, and whoever asks for `software-gpu` for a Vulkan device that is
//! software (Mesa's lavapipe): without it these tests fail, and say what is missing.
//!
//! ```text
//! cargo test --features model/cuda --package model --lib -- gpu
//! cargo test --features model/software-gpu --package model --lib -- gpu
//! ```

use burn::tensor::TensorData;
use burn_flex::Flex;

use super::*;
use crate::compute::Compute;
use crate::fused::Fused;
use crate::schedule::Schedule;
use crate::trainer::tests::{crops, plan};
use crate::training::StepOutput;
use crate::{DeviceChoice, Precision, Trainer, init};

/// What single precision rounds, over sums of a few hundred values.
const SINGLE: f64 = 5e-6;

/// A GPU under test.
trait Gpu: Fused + Kernels {
    /// The types that it multiplies in, and by how much of a product's length the product is off.
    const PRODUCTS: &'static [(FloatDType, f64)];
    /// The precisions that it trains in, and how far a step's gradients may be from the CPU's.
    const TRAINED: &'static [(Precision, f64)];
    /// The one there is, or a panic that says why there is none.
    fn open() -> Box<dyn Compute>;
    /// The same, for tensors.
    fn device() -> Self::Device;
}

#[cfg(feature = "cuda")]
impl Gpu for burn_cuda::Cuda {
    /// 11 bits count in TF32, 8 in bfloat16.
    const PRODUCTS: &'static [(FloatDType, f64)] = &[(FloatDType::F32, 1e-3), (FloatDType::BF16, 8e-3)];
    const TRAINED: &'static [(Precision, f64)] = &[(Precision::F32, 5e-3), (Precision::Bf16, 0.02)];

    fn open() -> Box<dyn Compute> {
        DeviceChoice::Cuda(0).open().unwrap_or_else(|error| panic!("{error}"))
    }

    fn device() -> Self::Device {
        static WHY_NOT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let why_not = WHY_NOT.get_or_init(|| DeviceChoice::Cuda(0).open().err().map(|error| error.to_string()));
        assert_eq!(*why_not, None);
        Self::Device::new(0)
    }
}

#[cfg(feature = "software-gpu")]
impl Gpu for burn_wgpu::Wgpu {
    const PRODUCTS: &'static [(FloatDType, f64)] = &[(FloatDType::F32, SINGLE)];
    const TRAINED: &'static [(Precision, f64)] = &[(Precision::F32, 1e-4)];

    fn open() -> Box<dyn Compute> {
        use crate::compute::{Host, On};
        Box::new(On::<burn_autodiff::Autodiff<Self>>::new(Self::device(), Host::Caller))
    }

    fn device() -> Self::Device {
        burn_wgpu::WgpuDevice::Cpu
    }
}

/// Values from -1 to 1, on the GPU in a type, and the same in double precision on the CPU.
fn both<G: Gpu>(seed: usize, [rows, columns]: [usize; 2], of: FloatDType) -> (Tensor<G, 2>, Tensor<Flex, 2>) {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0;
    let data = TensorData::new((0..rows * columns).map(value).collect::<Vec<_>>(), [rows, columns]);
    let there = Tensor::<G, 2>::from_data(data.clone(), &G::device()).cast(of);
    let here = Tensor::<Flex, 2>::from_data(data, &Default::default()).cast(of).cast(FloatDType::F64);
    (there, here)
}

fn multiplies_in<G: Gpu>(of: FloatDType) -> bool {
    G::PRODUCTS.iter().any(|(known, _)| *known == of)
}

/// The distance of what was found from what was expected, as a part of its length.
fn apart(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).powi(2));
    (squares.sum::<f64>() / expected.iter().map(|value| value * value).sum::<f64>()).sqrt()
}

fn close<G: Gpu, const D: usize>(what: &str, found: Tensor<G, D>, expected: Tensor<Flex, D>, bound: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let apart = apart(&crate::parameters::host(found), &expected.into_data().into_vec::<f64>().unwrap());
    println!("{what}: {apart:.1e} apart");
    assert!(apart <= bound, "{what}: {apart:e} apart");
}

fn norms<G: Gpu>() {
    for (rows, dim) in [(37, 24), (1300, 384), (70, 18)] {
        let single = FloatDType::F32;
        let [x, weight, bias, gradient] =
            [(1, [rows, dim]), (2, [1, dim]), (3, [1, dim]), (4, [rows, dim])].map(|(seed, of)| both(seed, of, single));
        let [y, moments] = G::norm_forward(x.0.clone(), weight.0.clone(), bias.0.clone());
        let [expected, of_rows] = decomposed::norm(x.1.clone(), weight.1.clone(), bias.1.clone());
        close("norm", y, expected.clone(), SINGLE);
        close("moments", moments.clone(), of_rows.clone(), SINGLE);
        if multiplies_in::<G>(FloatDType::BF16) {
            let [y, _] = G::norm_into(x.0.clone(), [weight.0.clone(), bias.0], FloatDType::BF16);
            close("norm in bfloat16", y, expected, 4e-3);
        }
        let found = G::norm_backward(gradient.0, x.0, weight.0, moments);
        let expected = decomposed::norm_backward(gradient.1, x.1, weight.1, of_rows);
        for ((found, expected), what) in found.into_iter().zip(expected).zip(["input", "weight", "bias"]) {
            close(&format!("gradient of a norm's {what}"), found, expected, SINGLE);
        }
    }
}

fn linear_layers<G: Gpu>() {
    for &(of, bound) in G::PRODUCTS {
        for (rows, inputs, outputs) in [(37, 24, 40), (4096, 384, 1152), (1570, 64, 64)] {
            let (x, weight) = (both(1, [rows, inputs], of), both(2, [outputs, inputs], of));
            let (bias, gradient) = (both(3, [1, outputs], FloatDType::F32), both(4, [rows, outputs], of));
            let y = G::affine_forward(x.0.clone(), weight.0.clone(), bias.0);
            close("linear", y, decomposed::affine(x.1.clone(), weight.1.clone(), bias.1), bound);
            let of_x = G::affine_backward_input(gradient.0.clone(), weight.0);
            close(
                "gradient of its input",
                of_x,
                decomposed::affine_backward_input(gradient.1.clone(), weight.1),
                bound,
            );
            let [of_weight, of_bias] = G::affine_backward_weight(gradient.0, x.0);
            let [expected, expected_bias] = decomposed::affine_backward_weight(gradient.1, x.1);
            close("gradient of its weight", of_weight, expected, bound);
            close("gradient of its bias", of_bias, expected_bias, bound);
        }
    }
}

fn attention<G: Gpu>() {
    for &(of, bound) in G::PRODUCTS {
        for (count, heads, tokens, width) in [(3, 2, 21, 8), (4, 6, 145, 64), (2, 6, 785, 64)] {
            let dim = heads * width;
            let (packed, gradient) = (both(1, [count * tokens, 3 * dim], of), both(2, [count * tokens, dim], of));
            let heads = Heads { count, heads };
            let [mixed, log_sums] = G::attention_forward(packed.0.clone(), heads);
            let [expected, of_rows] = decomposed::attention(packed.1.clone(), heads);
            close("attention", mixed.clone(), expected.clone(), bound);
            close("its log-sums", log_sums.clone(), of_rows.clone(), bound);
            let found = G::attention_backward(gradient.0, packed.0, mixed, log_sums, heads);
            let expected = decomposed::attention_backward(gradient.1, packed.1, expected, of_rows, heads);
            close("gradient of attention", found, expected, 2.0 * bound);
        }
    }
}

fn gelu_and_branches<G: Gpu>() {
    let types = [(FloatDType::F32, SINGLE), (FloatDType::BF16, 4e-3)];
    for (of, bound) in types.into_iter().filter(|(of, _)| multiplies_in::<G>(*of)) {
        let (x, gradient) = (both(1, [130, 48], of), both(2, [130, 48], of));
        close("gelu", G::gelu_into(x.0.clone(), of), decomposed::gelu(x.1.clone()), bound);
        let expected = decomposed::gelu_backward(gradient.1.clone(), x.1);
        close("gradient of gelu", G::gelu_backward_into(gradient.0, x.0), expected, bound);
        let (x, branch, factors) =
            (both(3, [130, 48], FloatDType::F32), both(4, [130, 48], of), both(5, [10, 1], FloatDType::F32));
        let expected = x.1.clone() + by_image(branch.1, factors.1.clone());
        let found = G::add_branch(x.0.clone(), branch.0, Some(factors.0.clone()));
        close("branch", found, expected, bound);
        let found = G::branch_backward(x.0, Some(factors.0), of);
        close("gradient of a branch", found, by_image(x.1, factors.1), bound);
    }
}

/// 13 rows an image.
fn by_image(x: Tensor<Flex, 2>, factors: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    (x.reshape([10, 13, 48]) * factors.reshape([10, 1, 1])).reshape([130, 48])
}

fn losses<G: Gpu>() {
    for (batch, crops, k) in [(4, 5, 96), (3, 10, 65_536), (2, 4, 1001)] {
        let single = FloatDType::F32;
        let (logits, center) = (both(1, [2 * batch, k], single), both(2, [1, k], single));
        let taught = G::sharpen(logits.0, center.0, 0.2);
        let expected = decomposed::sharpen(logits.1, center.1, 0.2);
        close("what a teacher says", taught.clone(), expected.clone(), SINGLE);
        close("its entropy", G::entropy(taught.clone()), decomposed::entropy(expected.clone()), SINGLE);
        close("its sum", G::sum_rows(taught.clone()), expected.clone().sum_dim(0), SINGLE);
        let (learnt, pairs) = (both(3, [crops * batch, k], single), Pairs { batch, temperature: 0.1 });
        let loss = G::cross_entropy_forward(learnt.0.clone(), taught.clone(), pairs);
        close("loss", loss, decomposed::cross_entropy(learnt.1.clone(), expected.clone(), pairs), SINGLE);
        let found = G::cross_entropy_backward(learnt.0, taught, pairs);
        close(
            "gradient of the loss",
            found,
            decomposed::cross_entropy_backward(learnt.1, expected, pairs),
            2.0 * SINGLE,
        );
    }
}

fn adamw<G: Gpu>() {
    let how =
        Factors { clip: 0.5, kept: 0.99, step_size: 0.01, second_scale: 0.3, beta1: 0.9, beta2: 0.999, momentum: 0.9 };
    for (count, clip) in [(37, 0.5), (300_000, 0.5), (1000, 0.0)] {
        let row = |seed: usize| both(seed, [1, count], FloatDType::F32);
        let (there, here): (Vec<_>, Vec<_>) =
            (1..6).map(row).map(|(a, b)| (a.reshape([count]), b.reshape([count]))).unzip();
        let ([a, b, c, d, e], [f, g, h, i, j]): ([Tensor<G, 1>; 5], [Tensor<Flex, 1>; 5]) =
            (there.try_into().unwrap(), here.try_into().unwrap());
        let how = Factors { clip, ..how };
        let found = G::adamw(Held { values: a, first: b, second: c.abs(), teacher: d }, e, &how);
        let expected = decomposed::adamw(Held { values: f, first: g, second: h.abs(), teacher: i }, j, &how);
        close("values", found.values, expected.values, SINGLE);
        close("first moment", found.first, expected.first, SINGLE);
        close("second moment", found.second, expected.second, SINGLE);
        close("teacher", found.teacher, expected.teacher, SINGLE);
    }
}

fn trainer(precision: Precision, on: impl FnOnce(Trainer) -> Trainer) -> Trainer {
    let first = init::initial_weights(&plan().model, 1);
    on(Trainer::new(&plan(), &DeviceChoice::Cpu, &first).unwrap()).in_precision(precision).unwrap()
}

fn step<G: Gpu>() {
    let now = Schedule { teacher_temperature: 1.0, ..Schedule::at(&plan(), 5) };
    let all = |output: &StepOutput| output.gradients.values().flatten().copied().collect::<Vec<_>>();
    let expected = trainer(Precision::F32, |trainer| trainer).compute(&crops(1), &now, 3).unwrap();
    let wide = all(&expected).into_iter().map(f64::from).collect::<Vec<_>>();
    for &(precision, bound) in G::TRAINED {
        let found = trainer(precision, |trainer| trainer.on(G::open())).compute(&crops(1), &now, 3).unwrap();
        assert!((found.loss - expected.loss).abs() < bound, "{precision}: {} {}", found.loss, expected.loss);
        assert!((found.entropy - expected.entropy).abs() < bound, "{} {}", found.entropy, expected.entropy);
        let apart = apart(&all(&found), &wide);
        println!("{precision}: gradients {apart:.1e} apart");
        assert!(apart < bound, "{precision}: {apart:e} apart");
    }
}

fn killed<G: Gpu>() {
    let trained = |mut trainer: Trainer, steps: std::ops::Range<u64>| {
        for step in steps {
            trainer.step(&crops(step), step, step).unwrap();
        }
        trainer
    };
    for &(precision, _) in G::TRAINED {
        let begun = || trainer(precision, |trainer| trainer.on(G::open()));
        let unbroken = trained(begun(), 0..6).checkpoint();
        let file = trained(begun(), 0..3).checkpoint();
        let resumed = Trainer::resume(&plan(), &DeviceChoice::Cpu, &file).unwrap().on(G::open());
        assert_eq!(trained(resumed.in_precision(precision).unwrap(), 3..6).checkpoint(), unbroken, "{precision}");
    }
}

macro_rules! on_a_gpu {
    ($name:ident, $backend:ty, { $($test:ident: $held:ident,)* }) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::$held::<$backend>();
            })*
        }
    };
    ($name:ident, $backend:ty) => {
        on_a_gpu!($name, $backend, {
            norms_of_a_gpu_are_those_of_the_decomposed_form: norms,
            linear_layers_of_a_gpu_are_those_of_the_decomposed_form: linear_layers,
            attention_of_a_gpu_is_that_of_the_decomposed_form: attention,
            gelu_and_branches_of_a_gpu_are_those_of_the_decomposed_form: gelu_and_branches,
            losses_of_a_gpu_are_those_of_the_decomposed_form: losses,
            adamw_of_a_gpu_is_that_of_the_decomposed_form: adamw,
            a_step_on_a_gpu_has_the_loss_and_gradients_of_the_cpus: step,
            a_training_killed_on_a_gpu_goes_on_to_the_same_bits: killed,
        });
    };
}

#[cfg(feature = "cuda")]
on_a_gpu!(nvidia, burn_cuda::Cuda);
#[cfg(feature = "software-gpu")]
on_a_gpu!(software, burn_wgpu::Wgpu);
