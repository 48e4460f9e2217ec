//! The operations as kernels in burn's own kernel language, which its runtime compiles for the GPU at hand when one is first
//! launched.
//!
//! Between products, of which most time is, a GPU waits for its memory: so what lies between two of them is one pass here,
//! where burn's own operations are one each. Values are read in whatever type the products are in, and computed with in single
//! precision. What no DINO step needs (convolutions, instance norms) is burn's.

mod attention;
mod columns;
mod elementwise;
mod launch;
mod loss;
mod norm;
mod optimizer;
mod product;
#[cfg(test)]
mod tests;

use burn::tensor::{FloatDType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};

use super::decomposed::{self, terms};
use super::{Factors, Heads, Held, Kernels, Pairs, bare, wrap};
use crate::precision::type_of;
use crate::vit::NORM_EPS;

/// Booleans are what the runtime has for them.
type Cube<R, B> = CubeBackend<R, f32, i32, B>;

fn bares<R: CubeRuntime, B: BoolElement, const N: usize>(tensors: [Tensor<Cube<R, B>, 2>; N]) -> [CubeTensor<R>; N] {
    tensors.map(bare)
}

fn split<R: CubeRuntime, B: BoolElement>(
    packed: &Tensor<Cube<R, B>, 2>,
    Heads { count, heads }: Heads,
) -> attention::Split {
    let [rows, columns] = packed.dims();
    attention::Split { count, heads, tokens: rows / count, width: columns / 3 / heads }
}

fn loss_of<R: CubeRuntime, B: BoolElement>(
    learnt: &Tensor<Cube<R, B>, 2>,
    Pairs { batch, temperature }: Pairs,
) -> loss::Terms {
    loss::Terms { batch, temperature, terms: terms(learnt.dims()[0], batch) }
}

impl<R: CubeRuntime, B: BoolElement> Kernels for Cube<R, B> {
    fn norm_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        Self::norm_into(x, [weight, bias], FloatDType::F32)
    }

    fn norm_into(x: Tensor<Self, 2>, [weight, bias]: [Tensor<Self, 2>; 2], into: FloatDType) -> [Tensor<Self, 2>; 2] {
        norm::forward(bares([x, weight, bias]), NORM_EPS, into.into()).map(wrap)
    }

    fn norm_backward(
        gradient: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        moments: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 3] {
        norm::backward(bares([gradient, x, weight, moments])).map(wrap)
    }

    fn affine_forward(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let operands = type_of(&weight);
        let [x, weight, bias] = bares([x.cast(operands), weight, bias]);
        let result = product::by_rows(x, weight);
        elementwise::add_row(&result, bias);
        wrap(result)
    }

    fn affine_backward_input(gradient: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let operands = type_of(&weight);
        let [gradient, weight] = bares([gradient.cast(operands), weight]);
        wrap(product::product(gradient, weight, operands.into()))
    }

    fn affine_backward_weight(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> [Tensor<Self, 2>; 2] {
        let operands = type_of(&gradient);
        let [gradient, x] = bares([gradient, x.cast(operands)]);
        [product::outer(gradient.clone(), x), columns::sum(gradient)].map(wrap)
    }

    fn exact_gelu_forward(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        Self::gelu_into(x, FloatDType::F32)
    }

    fn exact_gelu_backward(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        Self::gelu_backward_into(gradient, x)
    }

    fn gelu_into(x: Tensor<Self, 2>, into: FloatDType) -> Tensor<Self, 2> {
        wrap(elementwise::gelu(bare(x), into.into()))
    }

    fn gelu_backward_into(gradient: Tensor<Self, 2>, x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(elementwise::gelu_backward(bare(gradient), bare(x)))
    }

    fn branch_forward(
        x: Tensor<Self, 2>,
        branch: Tensor<Self, 2>,
        factors: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 2> {
        match factors {
            Some(factors) => wrap(elementwise::add_branch(bares([x, branch, factors]))),
            None => decomposed::branch(x, branch, None),
        }
    }

    fn branch_backward(
        gradient: Tensor<Self, 2>,
        factors: Option<Tensor<Self, 2>>,
        into: FloatDType,
    ) -> Tensor<Self, 2> {
        match factors {
            Some(factors) => wrap(elementwise::scale_rows(bares([gradient, factors]), into.into())),
            None => gradient.cast(into),
        }
    }

    fn attention_forward(packed: Tensor<Self, 2>, heads: Heads) -> [Tensor<Self, 2>; 2] {
        let split = split(&packed, heads);
        attention::forward(bare(packed), split).map(wrap)
    }

    fn attention_backward(
        gradient: Tensor<Self, 2>,
        packed: Tensor<Self, 2>,
        _: Tensor<Self, 2>,
        log_sums: Tensor<Self, 2>,
        heads: Heads,
    ) -> Tensor<Self, 2> {
        let (split, operands) = (split(&packed, heads), type_of(&packed));
        wrap(attention::backward(bares([gradient.cast(operands), packed, log_sums]), split))
    }

    fn cross_entropy_forward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 1> {
        let of = loss_of(&learnt, pairs);
        let rows: Tensor<Self, 2> = wrap(loss::forward(bares([learnt, taught]), of));
        Self::sum_rows(rows).reshape([1])
    }

    fn cross_entropy_backward(learnt: Tensor<Self, 2>, taught: Tensor<Self, 2>, pairs: Pairs) -> Tensor<Self, 2> {
        let of = loss_of(&learnt, pairs);
        wrap(loss::backward(bares([learnt, taught]), of))
    }

    fn sharpen(logits: Tensor<Self, 2>, center: Tensor<Self, 2>, temperature: f64) -> Tensor<Self, 2> {
        wrap(loss::sharpen(bares([logits, center]), temperature))
    }

    fn entropy(probabilities: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(loss::entropy(bare(probabilities)))
    }

    fn sum_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(columns::sum(bare(x)))
    }

    fn adamw(held: Held<Self>, gradient: Tensor<Self, 1>, how: &Factors) -> Held<Self> {
        let Held { values, first, second, teacher } = held;
        let state: [CubeTensor<R>; 4] = [values, first, second, teacher].map(bare);
        optimizer::step(state.each_ref(), bare(gradient), how);
        let [values, first, second, teacher] = state.map(wrap);
        Held { values, first, second, teacher }
    }
}
