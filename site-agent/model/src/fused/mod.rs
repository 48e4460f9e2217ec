//! The operations that an automatic derivative would take apart: LayerNorm, linear layer, GELU, attention, DINO's
//! cross-entropy, and the convolution, norm and unfolding of
//! task heads.
//!
//! Each has its own backward. On the CPU they are loops over slices, written so that the compiler makes vector
//! instructions of them (`norm`, `linear`, `gelu`, `attention`, `cross_entropy`, `convolution`, `spatial`,
//! `unfolding`); any other device gets the same mathematics from
//! burn's own operations (`decomposed`), which also know products in bfloat16, on the CPU as well.
//!
//! ```text
//! Fused                  what the network calls: with a graph or without
//!   Autodiff<B>          keeps what the backward needs (`graph`), and calls
//!     Kernels for B      forward and backward without a graph
//! ```

mod attention;
mod convolution;
mod cross_entropy;
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
use burn::tensor::{Tensor, TensorPrimitive};

use crate::precision::single;

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
    fn norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 3] {
        decomposed::norm_backward(gradient, x, weight, moments)
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
                let ([weight, bias], [of_norm, bias_of_norm]) = (layer, norm);
                Self::affine_forward(Self::norm(x, of_norm, bias_of_norm), weight, bias)
            }
            fn affine_of_gelu(x: Tensor<Self, 2>, [weight, bias]: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2> {
                Self::affine_forward(Self::exact_gelu_forward(single(x)), weight, bias)
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
#[cfg(feature = "cuda")]
impl Kernels for burn_cuda::Cuda {}

type Primitive<B> = burn::tensor::ops::FloatTensor<B>;

fn wrap<B: Backend, const D: usize>(primitive: Primitive<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn bare<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Primitive<B> {
    tensor.into_primitive().tensor()
}
