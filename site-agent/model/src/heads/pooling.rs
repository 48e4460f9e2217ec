//! Attention over the frames of a subject (Ilse et al. 2018): each frame's CLS token gets a weight, and the weighted mean is
//! what the answer is read from. Which frames counted can be looked at.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::fused::Fused;
use crate::parameters::Parameters;
use crate::vit::linear;

pub(super) fn signature(dim: usize, outputs: usize) -> Vec<(String, Vec<usize>)> {
    let hidden = (dim / 4).max(8);
    let layers = [("attention.hidden", hidden, dim), ("attention.score", 1, hidden), ("last", outputs, dim)];
    let tensors = layers
        .into_iter()
        .flat_map(|(name, to, from)| [(format!("{name}.weight"), vec![to, from]), (format!("{name}.bias"), vec![to])]);
    tensors.collect()
}

/// `[subjects, outputs]`, of `[subjects * group, dim]`.
pub(super) fn logits<B: Fused>(weights: &Parameters<B>, head: &str, cls: Tensor<B, 2>, group: usize) -> Tensor<B, 2> {
    let [rows, dim] = cls.dims();
    let hidden = linear(weights, &format!("{head}attention.hidden"), cls.clone()).tanh();
    let scores = linear(weights, &format!("{head}attention.score"), hidden).reshape([rows / group, 1, group]);
    let pooled = softmax(scores, 2).matmul(cls.reshape([rows / group, group, dim])).reshape([rows / group, dim]);
    linear(weights, &format!("{head}last"), pooled)
}
