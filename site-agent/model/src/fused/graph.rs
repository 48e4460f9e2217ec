//! The operations with a graph: each says what it keeps, and what its backward makes of it; one place ties them to burn's
//! automatic derivative.

use std::fmt::Debug;

use burn::tensor::{FloatDType, Tensor, TensorMetadata};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use crate::precision::type_of;

use super::{Fused, Heads, Kernels, Pairs, Pixels, Primitive, Unfolding, bare, wrap};

/// An operation of `N` inputs with a backward of its own.
trait Operation<B: Kernels, const N: usize>: Debug + Send + 'static {
    /// What the backward is given again.
    type Kept: Clone + Debug + Send + 'static;

    /// The result, and what is kept.
    fn forward(&self, inputs: [Primitive<B>; N]) -> (Primitive<B>, Self::Kept);

    /// The gradients of the inputs; those that are not `wanted` may be none.
    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, wanted: [bool; N]) -> [Option<Primitive<B>>; N];
}

/// An operation as burn's graph holds it, and of what type its inputs were: their gradients are of the same.
#[derive(Debug)]
struct Node<O, const N: usize> {
    operation: O,
    types: [FloatDType; N],
}

impl<B: Kernels, O: Operation<B, N>, const N: usize> Backward<B, N> for Node<O, N> {
    type State = O::Kept;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = self.operation.backward(gradient, ops.state, wanted);
        for ((parent, gradient), input) in ops.parents.iter().zip(gradients).zip(self.types) {
            if let Some((parent, gradient)) = parent.as_ref().zip(gradient) {
                let gradient = wrap::<B, 2>(gradient).cast(input);
                grads.register::<B>(parent.id, bare(gradient));
            }
        }
    }
}

/// Runs an operation, and remembers it where a gradient may be asked of an input.
fn tracked<B: Kernels, C: CheckpointStrategy, O: Operation<B, N>, const N: usize, const D: usize>(
    operation: O,
    inputs: [Primitive<Autodiff<B, C>>; N],
) -> Tensor<Autodiff<B, C>, D> {
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    let types = inputs.each_ref().map(|input| input.primitive.dtype().into());
    let (result, kept) = operation.forward(inputs.map(|input| input.primitive));
    wrap(match (Node { operation, types }).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(kept, result),
        OpsKind::UnTracked(prep) => prep.finish(result),
    })
}

#[derive(Debug)]
struct Norm;

impl<B: Kernels> Operation<B, 3> for Norm {
    type Kept = [Primitive<B>; 3];

    fn forward(&self, [x, weight, bias]: [Primitive<B>; 3]) -> (Primitive<B>, Self::Kept) {
        let [result, moments] = B::norm_forward(wrap(x.clone()), wrap(weight.clone()), wrap(bias)).map(bare);
        (result, [x, weight, moments])
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, _: [bool; 3]) -> [Option<Primitive<B>>; 3] {
        let [x, weight, moments] = kept.map(wrap);
        B::norm_backward(wrap(gradient), x, weight, moments).map(|gradient| Some(bare(gradient)))
    }
}

#[derive(Debug)]
struct InstanceNorm(Pixels);

impl<B: Kernels> Operation<B, 3> for InstanceNorm {
    type Kept = [Primitive<B>; 3];

    fn forward(&self, [x, weight, bias]: [Primitive<B>; 3]) -> (Primitive<B>, Self::Kept) {
        let of_inputs = B::instance_norm_forward(wrap(x.clone()), wrap(weight.clone()), wrap(bias), self.0);
        let [result, moments] = of_inputs.map(bare);
        (result, [x, weight, moments])
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, _: [bool; 3]) -> [Option<Primitive<B>>; 3] {
        let [x, weight, moments] = kept.map(wrap);
        B::instance_norm_backward(wrap(gradient), x, weight, moments, self.0).map(|gradient| Some(bare(gradient)))
    }
}

/// A product with a weight, plus a bias: of rows, or of neighborhoods of pixels.
#[derive(Debug)]
enum Product {
    Rows,
    Neighborhoods(Pixels),
}

impl<B: Kernels> Operation<B, 3> for Product {
    type Kept = [Primitive<B>; 2];

    fn forward(&self, [x, weight, bias]: [Primitive<B>; 3]) -> (Primitive<B>, Self::Kept) {
        let [of_x, of_weight, of_bias] = [wrap(x.clone()), wrap(weight.clone()), wrap(bias)];
        let result = match self {
            Self::Rows => B::affine_forward(of_x, of_weight, of_bias),
            Self::Neighborhoods(pixels) => B::convolve_forward(of_x, of_weight, of_bias, *pixels),
        };
        (bare(result), [x, weight])
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, wanted: [bool; 3]) -> [Option<Primitive<B>>; 3] {
        let ([x, weight], gradient) = (kept.map(wrap), wrap::<B, 2>(gradient));
        // Images are given, and frozen weights stay: their gradients would cost a product each.
        let of_x = wanted[0].then(|| match self {
            Self::Rows => B::affine_backward_input(gradient.clone(), weight),
            Self::Neighborhoods(pixels) => B::convolve_backward_input(gradient.clone(), weight, pixels),
        });
        let of_weight = (wanted[1] || wanted[2]).then(|| match self {
            Self::Rows => B::affine_backward_weight(gradient, x),
            Self::Neighborhoods(pixels) => B::convolve_backward_weight(gradient, x, pixels),
        });
        let [of_weight, of_bias] = of_weight.map_or([None, None], |both| both.map(Some));
        [of_x, of_weight, of_bias].map(|gradient| gradient.map(bare))
    }
}

/// What is at hand of a norm and of the linear layer behind it.
#[derive(Clone, Debug)]
struct AroundNorm<T> {
    x: T,
    norm: [T; 2],
    moments: T,
    weight: T,
}

#[derive(Debug)]
struct AffineOfNorm;

impl<B: Kernels> Operation<B, 5> for AffineOfNorm {
    type Kept = AroundNorm<Primitive<B>>;

    fn forward(&self, inputs: [Primitive<B>; 5]) -> (Primitive<B>, Self::Kept) {
        let [x, of_norm, bias_of_norm, weight, bias] = inputs;
        let norm = [of_norm, bias_of_norm];
        let [normed, moments] = normed::<B>(&x, &norm, weight.dtype().into());
        let result = B::affine_forward(normed, wrap(weight.clone()), wrap(bias));
        (bare(result), AroundNorm { x, norm, moments: bare(moments), weight })
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, wanted: [bool; 5]) -> [Option<Primitive<B>>; 5] {
        let AroundNorm { x, norm, moments, weight } = kept;
        let of_layer = (wanted[3] || wanted[4]).then(|| {
            let [normed, _] = normed::<B>(&x, &norm, weight.dtype().into());
            B::affine_backward_weight(wrap(gradient.clone()), normed)
        });
        let [of_weight, of_bias] = of_layer.map_or([None, None], |both| both.map(Some));
        let of_inner = wanted[..3].contains(&true).then(|| {
            let of_normed = B::affine_backward_input(wrap(gradient), wrap(weight));
            let [of_norm, _] = norm;
            B::norm_backward(of_normed, wrap(x), wrap(of_norm), wrap(moments))
        });
        let [of_x, of_norm, of_norm_bias] = of_inner.map_or([None, None, None], |all| all.map(Some));
        [of_x, of_norm, of_norm_bias, of_weight, of_bias].map(|gradient| gradient.map(bare))
    }
}

fn normed<B: Kernels>(x: &Primitive<B>, norm: &[Primitive<B>; 2], into: FloatDType) -> [Tensor<B, 2>; 2] {
    B::norm_into(wrap(x.clone()), norm.clone().map(wrap), into)
}

#[derive(Debug)]
struct AffineOfGelu;

impl<B: Kernels> Operation<B, 3> for AffineOfGelu {
    type Kept = [Primitive<B>; 2];

    fn forward(&self, [x, weight, bias]: [Primitive<B>; 3]) -> (Primitive<B>, Self::Kept) {
        let active = B::gelu_into(wrap(x.clone()), weight.dtype().into());
        (bare(B::affine_forward(active, wrap(weight.clone()), wrap(bias))), [x, weight])
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, wanted: [bool; 3]) -> [Option<Primitive<B>>; 3] {
        let ([x, weight], gradient) = (kept.map(wrap), wrap::<B, 2>(gradient));
        let of_layer = (wanted[1] || wanted[2])
            .then(|| B::affine_backward_weight(gradient.clone(), B::gelu_into(x.clone(), type_of(&weight))));
        let [of_weight, of_bias] = of_layer.map_or([None, None], |both| both.map(Some));
        let of_x = wanted[0].then(|| B::gelu_backward_into(B::affine_backward_input(gradient, weight), x));
        [of_x, of_weight, of_bias].map(|gradient| gradient.map(bare))
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: Kernels> Operation<B, 1> for Gelu {
    type Kept = Primitive<B>;

    fn forward(&self, [x]: [Primitive<B>; 1]) -> (Primitive<B>, Self::Kept) {
        (bare(B::exact_gelu_forward(wrap(x.clone()))), x)
    }

    fn backward(self, gradient: Primitive<B>, x: Self::Kept, _: [bool; 1]) -> [Option<Primitive<B>>; 1] {
        [Some(bare(B::exact_gelu_backward(wrap(gradient), wrap(x))))]
    }
}

/// The factors ask for no gradient: they are part of the operation.
#[derive(Debug)]
struct Branch<B: Kernels> {
    factors: Option<Primitive<B>>,
}

impl<B: Kernels> Operation<B, 2> for Branch<B> {
    type Kept = FloatDType;

    fn forward(&self, [x, branch]: [Primitive<B>; 2]) -> (Primitive<B>, Self::Kept) {
        let of_branch = branch.dtype().into();
        (bare(B::branch_forward(wrap(x), wrap(branch), self.factors.clone().map(wrap))), of_branch)
    }

    fn backward(self, gradient: Primitive<B>, of_branch: Self::Kept, wanted: [bool; 2]) -> [Option<Primitive<B>>; 2] {
        let back = || bare(B::branch_backward(wrap(gradient.clone()), self.factors.map(wrap), of_branch));
        let of_branch = wanted[1].then(back);
        [Some(gradient), of_branch]
    }
}

impl<B: Kernels> Operation<B, 1> for Unfolding {
    type Kept = ();

    fn forward(&self, [x]: [Primitive<B>; 1]) -> (Primitive<B>, Self::Kept) {
        (bare(B::unfold_forward(wrap(x), *self)), ())
    }

    fn backward(self, gradient: Primitive<B>, (): Self::Kept, _: [bool; 1]) -> [Option<Primitive<B>>; 1] {
        [Some(bare(B::unfold_backward(wrap(gradient), self)))]
    }
}

impl<B: Kernels> Operation<B, 1> for Heads {
    type Kept = [Primitive<B>; 3];

    fn forward(&self, [packed]: [Primitive<B>; 1]) -> (Primitive<B>, Self::Kept) {
        let [mixed, log_sums] = B::attention_forward(wrap(packed.clone()), *self).map(bare);
        (mixed.clone(), [packed, mixed, log_sums])
    }

    fn backward(self, gradient: Primitive<B>, kept: Self::Kept, _: [bool; 1]) -> [Option<Primitive<B>>; 1] {
        let [packed, mixed, log_sums] = kept.map(wrap);
        [Some(bare(B::attention_backward(wrap(gradient), packed, mixed, log_sums, self)))]
    }
}

/// The teacher's output asks for no gradient: it is part of the operation.
#[derive(Debug)]
struct CrossEntropy<B: Kernels> {
    taught: Primitive<B>,
    pairs: Pairs,
}

impl<B: Kernels> Operation<B, 1> for CrossEntropy<B> {
    type Kept = Primitive<B>;

    fn forward(&self, [learnt]: [Primitive<B>; 1]) -> (Primitive<B>, Self::Kept) {
        (bare(B::cross_entropy_forward(wrap(learnt.clone()), wrap(self.taught.clone()), self.pairs)), learnt)
    }

    fn backward(self, gradient: Primitive<B>, learnt: Self::Kept, _: [bool; 1]) -> [Option<Primitive<B>>; 1] {
        let of_loss: Tensor<B, 1> = wrap(gradient);
        let of_logits = B::cross_entropy_backward(wrap(learnt), wrap(self.taught), self.pairs);
        [Some(bare(of_logits * of_loss.reshape([1, 1])))]
    }
}

impl<B: Kernels, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        tracked(Norm, [x, weight, bias].map(bare))
    }

    fn affine(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        tracked(Product::Rows, [x, weight, bias].map(bare))
    }

    fn affine_of_norm(x: Tensor<Self, 2>, norm: [Tensor<Self, 2>; 2], layer: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2> {
        let ([weight, bias], [of_norm, bias_of_norm]) = (layer, norm);
        tracked(AffineOfNorm, [x, of_norm, bias_of_norm, weight, bias].map(bare))
    }

    fn affine_of_gelu(x: Tensor<Self, 2>, [weight, bias]: [Tensor<Self, 2>; 2]) -> Tensor<Self, 2> {
        tracked(AffineOfGelu, [x, weight, bias].map(bare))
    }

    fn convolve(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>, pixels: Pixels) -> Tensor<Self, 2> {
        tracked(Product::Neighborhoods(pixels), [x, weight, bias].map(bare))
    }

    fn instance_norm(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Tensor<Self, 2>,
        pixels: Pixels,
    ) -> Tensor<Self, 2> {
        tracked(InstanceNorm(pixels), [x, weight, bias].map(bare))
    }

    fn unfold(x: Tensor<Self, 2>, how: Unfolding) -> Tensor<Self, 2> {
        tracked(how, [bare(x)])
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        tracked(Gelu, [bare(x)])
    }

    fn add_branch(x: Tensor<Self, 2>, branch: Tensor<Self, 2>, factors: Option<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        let factors = factors.map(|factors| bare(factors).primitive);
        tracked(Branch::<B> { factors }, [bare(x), bare(branch)])
    }

    fn attend(packed: Tensor<Self, 2>, heads: Heads) -> Tensor<Self, 2> {
        tracked(heads, [bare(packed)])
    }

    fn cross_entropy(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
        tracked(CrossEntropy::<B> { taught: bare(taught).primitive, pairs }, [bare(learnt)])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    use super::*;

    type Graph = Autodiff<Flex>;

    fn leaf(seed: usize, rows: usize, columns: usize) -> Tensor<Graph, 2> {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), &Default::default())
    }

    /// The bits of a result, and of the gradients of all leaves of which one is asked.
    fn bits(
        leaves: &[Tensor<Graph, 2>],
        wanted: &[bool],
        of: &dyn Fn(&[Tensor<Graph, 2>]) -> Tensor<Graph, 2>,
    ) -> Vec<Option<Vec<u32>>> {
        let _alone = crate::compute::one_graph();
        let ask = |(leaf, wanted): (&Tensor<Graph, 2>, &bool)| match wanted {
            true => leaf.clone().require_grad(),
            false => leaf.clone(),
        };
        let leaves: Vec<_> = leaves.iter().zip(wanted).map(ask).collect();
        let host = |tensor: Tensor<Flex, 2>| {
            tensor.into_data().into_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let y = of(&leaves);
        let toward = leaf(9, y.dims()[0], y.dims()[1]);
        let gradients = (y.clone() * toward).sum().backward();
        let of_leaves = leaves.iter().map(|leaf| Some(host(leaf.grad(&gradients)?)));
        [Some(host(y.inner()))].into_iter().chain(of_leaves).collect()
    }

    #[test]
    fn what_is_made_again_for_the_backward_gives_the_bits_of_what_is_kept() {
        let (rows, dim, outputs) = (150, 24, 70);
        let leaves = [leaf(1, rows, dim), leaf(2, 1, dim), leaf(3, 1, dim), leaf(4, outputs, dim), leaf(5, 1, outputs)];
        let apart = |all: &[Tensor<Graph, 2>]| {
            let [x, of_norm, bias_of_norm, weight, bias] = all.to_vec().try_into().unwrap();
            Graph::affine(Graph::norm(x, of_norm, bias_of_norm), weight, bias)
        };
        let together = |all: &[Tensor<Graph, 2>]| {
            let [x, of_norm, bias_of_norm, weight, bias] = all.to_vec().try_into().unwrap();
            Graph::affine_of_norm(x, [of_norm, bias_of_norm], [weight, bias])
        };
        // All trained, a frozen layer, a frozen norm before given rows.
        for wanted in [[true; 5], [true, true, true, false, false], [false, false, false, true, true]] {
            assert!(bits(&leaves, &wanted, &apart) == bits(&leaves, &wanted, &together), "{wanted:?}");
        }
        let leaves = [leaves[0].clone(), leaves[3].clone(), leaves[4].clone()];
        let apart = |all: &[Tensor<Graph, 2>]| {
            let [x, weight, bias] = all.to_vec().try_into().unwrap();
            Graph::affine(Graph::exact_gelu(x), weight, bias)
        };
        let together = |all: &[Tensor<Graph, 2>]| {
            let [x, weight, bias] = all.to_vec().try_into().unwrap();
            Graph::affine_of_gelu(x, [weight, bias])
        };
        for wanted in [[true; 3], [true, false, false], [false, true, true]] {
            assert!(bits(&leaves, &wanted, &apart) == bits(&leaves, &wanted, &together), "{wanted:?}");
        }
    }
}
