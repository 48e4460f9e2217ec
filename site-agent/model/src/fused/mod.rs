//! The operations that an automatic derivative would take apart: LayerNorm, linear layer, GELU, attention, DINO's
//! cross-entropy, and the convolution, norm and unfolding of
//! task heads.
//!
//! Each has its own backward. On the CPU they are loops over slices, written so that the compiler makes vector
//! instructions of them (`norm`, `linear`, `gelu`, `attention`, `cross_entropy`, `convolution`, `spatial`,
//! `unfolding`); any other device gets the same mathematics from
//! burn's own operations (`decomposed`).
//!
//! ```text
//! Fused                  what the network calls: with a graph or without
//!   Autodiff<B>          keeps what the backward needs, and calls
//!     Kernels for B      forward and backward without a graph
//! ```

mod attention;
mod convolution;
mod cross_entropy;
mod decomposed;
mod flex;
mod gelu;
mod linear;
mod norm;
mod product;
mod spatial;
mod unfolding;
mod vector;

pub(crate) use vector::wide;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorPrimitive};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_autodiff::{Autodiff, NodeId};

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
    /// A linear layer of rows `[rows, inputs]`; `weight` is `[outputs, inputs]`, `bias` `[1, outputs]`.
    fn affine(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2>;
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
        gradient.matmul(weight)
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

/// Hands a gradient to a parent that asked for one.
fn give<B: Backend, const D: usize>(grads: &mut Gradients, parent: Option<NodeId>, gradient: Tensor<B, D>) {
    if let Some(parent) = parent {
        grads.register::<B>(parent, bare(gradient));
    }
}

impl<B: Kernels, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Norm;
        impl<B: Kernels> Backward<B, 3> for Norm {
            type State = [Primitive<B>; 3];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [x, weight, moments] = ops.state;
                let gradient = wrap(grads.consume::<B>(&ops.node));
                let of_inputs = B::norm_backward(gradient, wrap(x), wrap(weight), wrap(moments));
                for (parent, gradient) in ops.parents.iter().zip(of_inputs) {
                    give(grads, parent.as_ref().map(|node| node.id), gradient);
                }
            }
        }
        let [x, weight, bias] = [bare(x), bare(weight), bare(bias)];
        let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
        let [result, moments] =
            B::norm_forward(wrap(x.primitive.clone()), wrap(weight.primitive.clone()), wrap(bias.primitive)).map(bare);
        wrap(match Norm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([x.primitive, weight.primitive, moments], result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn affine(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Linear;
        impl<B: Kernels> Backward<B, 3> for Linear {
            type State = [Primitive<B>; 2];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [x, weight] = ops.state.map(wrap);
                let gradient: Tensor<B, 2> = wrap(grads.consume::<B>(&ops.node));
                let [of_x, of_weight, of_bias] = ops.parents.map(|node| node.map(|node| node.id));
                if of_x.is_some() {
                    give(grads, of_x, B::affine_backward_input(gradient.clone(), weight));
                }
                if of_weight.is_some() || of_bias.is_some() {
                    let [weight, bias] = B::affine_backward_weight(gradient, x);
                    give(grads, of_weight, weight);
                    give(grads, of_bias, bias);
                }
            }
        }
        let [x, weight, bias] = [bare(x), bare(weight), bare(bias)];
        let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
        let result =
            bare(B::affine_forward(wrap(x.primitive.clone()), wrap(weight.primitive.clone()), wrap(bias.primitive)));
        wrap(match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([x.primitive, weight.primitive], result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn convolve(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>, pixels: Pixels) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Convolution;
        impl<B: Kernels> Backward<B, 3> for Convolution {
            type State = ([Primitive<B>; 2], Pixels);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (kept, pixels) = ops.state;
                let [x, weight] = kept.map(wrap);
                let gradient: Tensor<B, 2> = wrap(grads.consume::<B>(&ops.node));
                let [of_x, of_weight, of_bias] = ops.parents.map(|node| node.map(|node| node.id));
                if of_x.is_some() {
                    give(grads, of_x, B::convolve_backward_input(gradient.clone(), weight, pixels));
                }
                if of_weight.is_some() || of_bias.is_some() {
                    let [weight, bias] = B::convolve_backward_weight(gradient, x, pixels);
                    give(grads, of_weight, weight);
                    give(grads, of_bias, bias);
                }
            }
        }
        let [x, weight, bias] = [bare(x), bare(weight), bare(bias)];
        let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
        let inputs = [wrap(x.primitive.clone()), wrap(weight.primitive.clone()), wrap(bias.primitive)];
        let [of_x, of_weight, of_bias] = inputs;
        let result = bare(B::convolve_forward(of_x, of_weight, of_bias, pixels));
        wrap(match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x.primitive, weight.primitive], pixels), result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn instance_norm(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Instance;
        impl<B: Kernels> Backward<B, 3> for Instance {
            type State = ([Primitive<B>; 3], Pixels);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (kept, pixels) = ops.state;
                let [x, weight, moments] = kept.map(wrap);
                let gradient = wrap(grads.consume::<B>(&ops.node));
                let of_inputs = B::instance_norm_backward(gradient, x, weight, moments, pixels);
                for (parent, gradient) in ops.parents.iter().zip(of_inputs) {
                    give(grads, parent.as_ref().map(|node| node.id), gradient);
                }
            }
        }
        let [x, weight, bias] = [bare(x), bare(weight), bare(bias)];
        let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
        let (of_x, of_weight) = (wrap(x.primitive.clone()), wrap(weight.primitive.clone()));
        let [result, moments] = B::instance_norm_forward(of_x, of_weight, wrap(bias.primitive), pixels).map(bare);
        wrap(match Instance.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x.primitive, weight.primitive, moments], pixels), result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn unfold(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Unfold;
        impl<B: Kernels> Backward<B, 1> for Unfold {
            type State = Unfolding;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let gradient = wrap(grads.consume::<B>(&ops.node));
                let [parent] = &ops.parents;
                give(grads, parent.as_ref().map(|node| node.id), B::unfold_backward(gradient, ops.state));
            }
        }
        let x = bare(x);
        let result = bare(B::unfold_forward(wrap(x.primitive), how));
        wrap(match Unfold.prepare::<C>([x.node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(how, result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Gelu;
        impl<B: Kernels> Backward<B, 1> for Gelu {
            type State = Primitive<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let gradient = wrap(grads.consume::<B>(&ops.node));
                let [parent] = &ops.parents;
                give(grads, parent.as_ref().map(|node| node.id), B::exact_gelu_backward(gradient, wrap(ops.state)));
            }
        }
        let x = bare(x);
        let result = bare(B::exact_gelu_forward(wrap(x.primitive.clone())));
        wrap(match Gelu.prepare::<C>([x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x.primitive, result),
            OpsKind::UnTracked(prep) => prep.finish(result),
        })
    }

    fn attend(packed: Tensor<Self, 2>, heads: Heads) -> Tensor<Self, 2> {
        #[derive(Debug)]
        struct Attention;
        impl<B: Kernels> Backward<B, 1> for Attention {
            type State = ([Primitive<B>; 3], Heads);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([packed, mixed, log_sums], heads) = ops.state;
                let gradient = wrap(grads.consume::<B>(&ops.node));
                let [parent] = &ops.parents;
                let gradient = B::attention_backward(gradient, wrap(packed), wrap(mixed), wrap(log_sums), heads);
                give(grads, parent.as_ref().map(|node| node.id), gradient);
            }
        }
        let packed = bare(packed);
        let [mixed, log_sums] = B::attention_forward(wrap(packed.primitive.clone()), heads).map(bare);
        wrap(match Attention.prepare::<C>([packed.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([packed.primitive, mixed.clone(), log_sums], heads), mixed),
            OpsKind::UnTracked(prep) => prep.finish(mixed),
        })
    }

    fn cross_entropy(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
        #[derive(Debug)]
        struct CrossEntropy;
        impl<B: Kernels> Backward<B, 1> for CrossEntropy {
            type State = ([Primitive<B>; 2], Pairs);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([learnt, taught], pairs) = ops.state;
                let of_loss: Tensor<B, 1> = wrap(grads.consume::<B>(&ops.node));
                let [parent] = &ops.parents;
                let gradient = B::cross_entropy_backward(wrap(learnt), wrap(taught), pairs);
                give(grads, parent.as_ref().map(|node| node.id), gradient * of_loss.reshape([1, 1]));
            }
        }
        let (learnt, taught) = (bare(learnt), bare(taught).primitive);
        let loss = bare(B::cross_entropy_forward(wrap(learnt.primitive.clone()), wrap(taught.clone()), pairs));
        wrap(match CrossEntropy.prepare::<C>([learnt.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([learnt.primitive, taught], pairs), loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        })
    }
}
