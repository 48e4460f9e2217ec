//! A linear layer on the CLS token.

use burn::tensor::Tensor;

use crate::fused::Fused;
use crate::parameters::Parameters;
use crate::vit::linear;

pub(super) fn signature(dim: usize, outputs: usize) -> Vec<(String, Vec<usize>)> {
    vec![("last.weight".to_owned(), vec![outputs, dim]), ("last.bias".to_owned(), vec![outputs])]
}

/// `[images, outputs]`, of `[images, dim]`.
pub(super) fn logits<B: Fused>(weights: &Parameters<B>, head: &str, cls: Tensor<B, 2>) -> Tensor<B, 2> {
    linear(weights, &format!("{head}last"), cls)
}
