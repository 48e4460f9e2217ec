//! The operations that an automatic derivative would take apart: LayerNorm, linear layer, GELU, the residual branch,
//! attention, DINO's cross-entropy, and the convolution, norm and unfolding of task heads.
//!
//! Each has its own backward. On the CPU they are loops over slices, written so that the compiler makes vector
//! instructions of them (`norm`, `linear`, `gelu`, `attention`, `cross_entropy`, `convolution`, `spatial`,
//! `unfolding`), on a GPU kernels (`cube`). Whatever has none of ours, and products in bfloat16 on the CPU, are the same
//! mathematics from burn's own operations (`decomposed`), which all kernels are held to.
//!
//! ```text
//! Fused                  what the network calls: with a graph or without
//!   Autodiff<B>          keeps what the backward needs (`graph`), and calls
//!     Kernels for B      forward and backward without a graph
//! ```

mod attention;
mod convolution;
mod cross_entropy;
#[cfg(feature = "kernels")]
mod cube;
mod decomposed;
mod flex;
mod fresh;
mod gelu;
mod graph;
mod linear;
mod norm;
mod product;
mod spatial;
mod unfolding;
mod vector;

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor, TensorPrimitive};

use crate::precision::{single, type_of};

pub(crate) use decomposed::clipped;
#[cfg(test)]
pub(crate) use flex::BURNS;

/// How the heads of an attention lie in its packed input, `[count * tokens, 3 * dim]`: rows of query, key and value, each of
/// `heads` parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Images.
    pub(crate) count: usize,
    /// Attention heads.
    pub(crate) heads: usize,
}

/// How pixels lie in the rows of a convolution, `[count * height * width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pixels {
    /// Images.
    pub(crate) count: usize,
    /// Rows of pixels.
    pub(crate) height: usize,
    /// Columns of pixels.
    pub(crate) width: usize,
}

/// How a pixel's values become a square of `fold * fold` pixels: `[pixels, fold * fold * channels]` to
/// `[fold * fold * pixels, channels]`, the square's rows outermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfolding {
    /// Before it.
    pub(crate) pixels: Pixels,
    /// Rows, and columns, of the square.
    pub(crate) fold: usize,
}

/// Which rows a cross-entropy compares: crops outermost, `batch` rows each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pairs {
    /// Images in a batch.
    pub(crate) batch: usize,
    /// The student's temperature.
    pub(crate) temperature: f64,
}

/// The operations as the network calls them.
pub(crate) trait Fused: Backend {
    /// LayerNorm of rows `[rows, dim]`; `weight` and `bias` are `[1, dim]`.
    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2>;
    /// A linear layer of rows `[rows, inputs]`; `weight` is `[outputs, inputs]`, `bias` `[1, outputs]`. The product is in the
    /// type of `weight`, and so is the result.
    fn affine(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2>;
    /// A linear layer of normalized rows, `affine(norm(x))`: what lies between is not kept for the backward, but made again.
    fn affine_of_norm(x: Tensor<Self, 2>, norm: [Tensor<Self, 2>; 2], layer: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2>;
    /// A linear layer behind the exact GELU, `affine(exact_gelu(x))`: what lies between is not kept for the backward, but made
    /// again.
    fn affine_of_gelu(x: Tensor<Self, 2>, layer: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2>;
    /// A convolution of 3 x 3 pixels, zeros around: `[pixels, inputs]` to `[pixels, outputs]`. `weight` is
    /// `[outputs, 9 * inputs]` with the kernel's rows and columns outside of the inputs, `bias` `[1, outputs]`.
    fn convolve(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>, pixels: Pixels) -> Tensor<Self, 2>;
    /// Each channel of an image normalized over its pixels, `[pixels, channels]`; `weight` and `bias` are `[1, channels]`.
    fn instance_norm(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> Tensor<Self, 2>;
    /// Pixels as squares of pixels.
    fn unfold(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2>;
    /// The exact GELU.
    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2>;
    /// `x + factor * branch`, with a factor for each of the images that the rows are of; none: 1. The branch may be in any type.
    fn add_branch(x: Tensor<Self, 2>, branch: Tensor<Self, 2>, factors: Option<Tensor<Self, 2>>) -> Tensor<Self, 2>;
    /// Scaled dot-product attention of a packed `[count * tokens, 3 * dim]`: `[count * tokens, dim]`.
    fn attend(packed: Tensor<Self, 2>, heads: Heads) -> Tensor<Self, 2>;
    /// The cross-crop loss of the student's logits `[crops * batch, K]` under the teacher's `[2 * batch, K]`.
    fn cross_entropy(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1>;
}

/// Forward and backward on a backend without a graph. A forward returns its result and what its backward wants to be given
/// again; a backward returns the gradients of the inputs, in order.
pub(crate) trait Kernels: Backend {
    /// The result, and mean and inverse deviation of each row, `[rows, 2]`.
    fn norm_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        decomposed::norm(x, weight, bias)
    }
    /// The same with the result in another type.
    fn norm_into(x: Tensor<Self, 2>, [weight, bias]: [Tensor<Self, 2>; 2], into: FloatDType) -> [Tensor<Self, 2>; 2] {
        let [result, moments] = Self::norm_forward(x, weight, bias);
        [result.cast(into), moments]
    }
    /// The gradients, in single precision whatever that of the result is in.
    fn norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 3] {
        decomposed::norm_backward(single(gradient), x, weight, moments)
    }
    fn affine_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        decomposed::affine(x, weight, bias)
    }
    /// The gradient of the input.
    fn affine_backward_input(gradient: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        decomposed::affine_backward_input(gradient, weight)
    }
    /// The gradients of weight and bias.
    fn affine_backward_weight(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        decomposed::affine_backward_weight(gradient, x)
    }
    fn convolve_forward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> Tensor<Self, 2> {
        decomposed::convolve(x, weight, bias, pixels)
    }
    /// The gradient of the input.
    fn convolve_backward_input(gradient: Tensor<Self, 2>, weight: Tensor<Self, 2>, pixels: Pixels) -> Tensor<Self, 2> {
        decomposed::convolve_backward_input(gradient, weight, pixels)
    }
    /// The gradients of weight and bias.
    fn convolve_backward_weight(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>, pixels: Pixels) -> [Tensor<Self, 2>; 2] {
        decomposed::convolve_backward_weight(gradient, x, pixels)
    }
    /// The result, and mean and inverse deviation of each image and channel, `[count, 2 * channels]`.
    fn instance_norm_forward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> [Tensor<Self, 2>; 2] {
        decomposed::instance_norm(x, weight, bias, pixels)
    }
    fn instance_norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> [Tensor<Self, 2>; 3] {
        decomposed::instance_norm_backward(gradient, x, weight, moments, pixels)
    }
    fn unfold_forward(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        decomposed::unfold(x, how)
    }
    /// The way back.
    fn unfold_backward(gradient: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        decomposed::unfold_backward(gradient, how)
    }
    fn exact_gelu_forward(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        decomposed::gelu(x)
    }
    fn exact_gelu_backward(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        decomposed::gelu_backward(gradient, x)
    }
    /// GELU of values in any type, its result in another, computed in single precision.
    fn gelu_into(x: Tensor<Self, 2>, into: FloatDType) -> Tensor<Self, 2> {
        Self::exact_gelu_forward(single(x)).cast(into)
    }
    /// Its gradient for values in any type, in theirs.
    fn gelu_backward_into(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let into = type_of(&x);
        Self::exact_gelu_backward(single(gradient), single(x)).cast(into)
    }
    /// `x + factor * branch` in single precision, with a factor `[images, 1]` for the rows of each image; none: 1.
    fn branch_forward(
        x: Tensor<Self, 2>,
        branch: Tensor<Self, 2>,
        factors: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 2> {
        decomposed::branch(x, branch, factors)
    }
    /// The gradient of the branch, in the type `into`.
    fn branch_backward(
        gradient: Tensor<Self, 2>,
        factors: Option<Tensor<Self, 2>>,
        into: FloatDType,
    ) -> Tensor<Self, 2> {
        decomposed::branch_backward(gradient, factors, into)
    }
    /// The result, and the log-sum-exp of each row of scores, `[count * heads, tokens]`. The scores are not kept.
    fn attention_forward(packed: Tensor<Self, 2>, heads: Heads) -> [Tensor<Self, 2>; 2] {
        decomposed::attention(packed, heads)
    }
    fn attention_backward(
        gradient: Tensor<Self, 2>,
        packed: Tensor<Self, 2>,
        mixed: Tensor<Self, 2>,
        log_sums: Tensor<Self, 2>,
        heads: Heads,
    ) -> Tensor<Self, 2> {
        decomposed::attention_backward(gradient, packed, mixed, log_sums, heads)
    }
    fn cross_entropy_forward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
        decomposed::cross_entropy(learnt, taught, pairs)
    }
    /// The gradient of the logits for a loss whose own gradient is 1.
    fn cross_entropy_backward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 2> {
        decomposed::cross_entropy_backward(learnt, taught, pairs)
    }
    /// What a teacher says: its logits `[rows, K]` without the center `[1, K]`, over a temperature, as probabilities.
    fn sharpen(logits: Tensor<Self, 2>, center: Tensor<Self, 2>, temperature: f64) -> Tensor<Self, 2> {
        decomposed::sharpen(logits, center, temperature)
    }
    /// The entropy of each row of probabilities, `[rows, 1]`, in nats.
    fn entropy(probabilities: Tensor<Self, 2>) -> Tensor<Self, 2> {
        decomposed::entropy(probabilities)
    }
    /// The sum of each column, `[1, columns]`.
    fn sum_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        single(x).sum_dim(0)
    }
    /// A step of AdamW, and the teacher's after it. Where there are kernels of ours, in the place of the values given: nothing
    /// else may hold them.
    fn adamw(held: Held<Self>, gradient: Tensor<Self, 1>, how: &Factors) -> Held<Self> {
        decomposed::adamw(held, gradient, how)
    }
}

/// A tensor, AdamW's moments of it, and the teacher's.
#[derive(Clone, Debug)]
pub(crate) struct Held<B: Backend> {
    pub(crate) values: Tensor<B, 1>,
    pub(crate) first: Tensor<B, 1>,
    pub(crate) second: Tensor<B, 1>,
    pub(crate) teacher: Tensor<B, 1>,
}

/// What a step of AdamW does to a tensor, and how its teacher follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factors {
    /// The longest that the gradient may be; 0: any.
    pub(crate) clip: f64,
    /// What is left of a value by decay.
    pub(crate) kept: f64,
    /// The rate, corrected by the first moment's.
    pub(crate) step_size: f64,
    /// What the second moment's root is divided by.
    pub(crate) second_scale: f64,
    /// Decay of the first moment.
    pub(crate) beta1: f64,
    /// Decay of the second.
    pub(crate) beta2: f64,
    /// What is left of the teacher's value.
    pub(crate) momentum: f64,
}

/// Without a graph nothing is kept.
macro_rules! without_a_graph {
    ($backend:ty) => {
        impl Fused for $backend {
            fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
                let [result, _] = Self::norm_forward(x, weight, bias);
                result
            }
            fn affine(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
                Self::affine_forward(x, weight, bias)
            }
            fn affine_of_norm(
                x: Tensor<Self, 2>,
                norm: [Tensor<Self, 2>; 2],
                layer: [Tensor<Self, 2>; 2],
            ) -> Tensor<Self, 2> {
                let [weight, bias] = layer;
                let [normed, _] = Self::norm_into(x, norm, type_of(&weight));
                Self::affine_forward(normed, weight, bias)
            }
            fn affine_of_gelu(x: Tensor<Self, 2>, [weight, bias]: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2> {
                let active = Self::gelu_into(x, type_of(&weight));
                Self::affine_forward(active, weight, bias)
            }
            fn convolve(
                x: Tensor<Self, 2>,
                weight: Tensor<Self, 2>,
                bias: Tensor<Self, 2>,
                pixels: Pixels,
            ) -> Tensor<Self, 2> {
                Self::convolve_forward(x, weight, bias, pixels)
            }
            fn instance_norm(
                x: Tensor<Self, 2>,
                weight: Tensor<Self, 2>,
                bias: Tensor<Self, 2>,
                pixels: Pixels,
            ) -> Tensor<Self, 2> {
                let [result, _] = Self::instance_norm_forward(x, weight, bias, pixels);
                result
            }
            fn unfold(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
                Self::unfold_forward(x, how)
            }
            fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
                Self::exact_gelu_forward(x)
            }
            fn add_branch(
                x: Tensor<Self, 2>,
                branch: Tensor<Self, 2>,
                factors: Option<Tensor<Self, 2>>,
            ) -> Tensor<Self, 2> {
                Self::branch_forward(x, branch, factors)
            }
            fn attend(packed: Tensor<Self, 2>, heads: Heads) -> Tensor<Self, 2> {
                let [mixed, _] = Self::attention_forward(packed, heads);
                mixed
            }
            fn cross_entropy(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
                Self::cross_entropy_forward(learnt, taught, pairs)
            }
        }
    };
}

without_a_graph!(burn_flex::Flex);
#[cfg(feature = "cuda")]
without_a_graph!(burn_cuda::Cuda);
#[cfg(all(test, feature = "software-gpu"))]
without_a_graph!(burn_wgpu::Wgpu);

type Primitive<B> = burn::tensor::ops::FloatTensor<B>;

fn wrap<B: Backend, const D: usize>(primitive: Primitive<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn bare<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Primitive<B> {
    tensor.into_primitive().tensor()
}
