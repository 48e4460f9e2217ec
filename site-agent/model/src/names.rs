//! Names and shapes of the published DINO checkpoints (PyTorch layout: `[out, in]`).

use common::plan::{Exchange, ModelPlan};

/// The student's tensors in a run's weights.
pub(crate) const STUDENT: &str = "student.";
/// The teacher's tensors in a run's weights.
pub(crate) const TEACHER: &str = "teacher.";
/// The center, `[1, K]`.
pub(crate) const CENTER: &str = "center";
/// What the names of the backbone's tensors begin with, in a network.
pub const BACKBONE: &str = "backbone.";

/// Whether a tensor of a run's weights leaves its site.
pub(crate) fn travels(exchange: Exchange, name: &str) -> bool {
    match exchange {
        Exchange::All => true,
        Exchange::Student => name.starts_with(STUDENT),
    }
}

/// Names and shapes of one network's tensors: backbone and head.
pub(crate) fn network(plan: &ModelPlan) -> Vec<(String, Vec<usize>)> {
    let backbone = backbone(plan).into_iter().map(|(name, shape)| (format!("{BACKBONE}{name}"), shape));
    let head = &plan.head;
    let (hidden, bottleneck) = (head.hidden, head.bottleneck);
    let layers = [(0, plan.dim, hidden), (2, hidden, hidden), (4, hidden, bottleneck)];
    let perceptron = layers.into_iter().flat_map(|(layer, from, to)| {
        [(format!("head.mlp.{layer}.weight"), vec![to, from]), (format!("head.mlp.{layer}.bias"), vec![to])]
    });
    let last = [
        ("head.last_layer.weight_g".to_owned(), vec![head.prototypes, 1]),
        ("head.last_layer.weight_v".to_owned(), vec![head.prototypes, bottleneck]),
    ];
    backbone.chain(perceptron).chain(last).collect()
}

/// Names and shapes of a backbone's tensors.
pub(crate) fn backbone(plan: &ModelPlan) -> Vec<(String, Vec<usize>)> {
    let (dim, patch) = (plan.dim, plan.patch_size);
    let hidden = mlp_hidden(plan);
    let patches = (plan.image_size / patch).pow(2);
    let mut all = vec![
        ("cls_token".to_owned(), vec![1, 1, dim]),
        ("pos_embed".to_owned(), vec![1, patches + 1, dim]),
        ("patch_embed.proj.weight".to_owned(), vec![dim, plan.in_channels, patch, patch]),
        ("patch_embed.proj.bias".to_owned(), vec![dim]),
        ("norm.weight".to_owned(), vec![dim]),
        ("norm.bias".to_owned(), vec![dim]),
    ];
    for block in 0..plan.depth {
        let shapes = [
            ("norm1.weight", vec![dim]),
            ("norm1.bias", vec![dim]),
            ("attn.qkv.weight", vec![3 * dim, dim]),
            ("attn.qkv.bias", vec![3 * dim]),
            ("attn.proj.weight", vec![dim, dim]),
            ("attn.proj.bias", vec![dim]),
            ("norm2.weight", vec![dim]),
            ("norm2.bias", vec![dim]),
            ("mlp.fc1.weight", vec![hidden, dim]),
            ("mlp.fc1.bias", vec![hidden]),
            ("mlp.fc2.weight", vec![dim, hidden]),
            ("mlp.fc2.bias", vec![dim]),
        ];
        all.extend(shapes.into_iter().map(|(name, shape)| (format!("blocks.{block}.{name}"), shape)));
    }
    all
}

/// Hidden width of a block's perceptron.
pub(crate) fn mlp_hidden(plan: &ModelPlan) -> usize {
    (plan.dim as f64 * plan.mlp_ratio) as usize
}
