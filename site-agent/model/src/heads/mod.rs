//! Heads of clinical tasks on the tokens of a backbone: what they are made of, and what they make of the tokens.

mod classifier;
mod decoder;
mod pooling;

use burn::tensor::Tensor;
use common::NamedTensors;
use common::plan::ModelPlan;
use common::task::{Task, TaskKind};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::ModelError;
use crate::fused::Fused;
use crate::init::normal;
use crate::names::BACKBONE;
use crate::parameters::{Parameters, tensor};
use crate::vit::{self, DropPath, Images};

/// What a task's network is shown: images, as many for each answer as a subject has.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) images: Images<'a>,
    /// Images of a subject, side by side (detection); 1 otherwise.
    pub(crate) group: usize,
}

/// Values that the head gives an image, a subject or a pixel.
pub(crate) fn outputs(task: &Task) -> usize {
    match task.kind {
        // A background beside the structures.
        TaskKind::Segmentation => task.classes.len() + 1,
        _ => task.classes.len(),
    }
}

/// Names and shapes of a head's tensors.
pub(crate) fn signature(task: &Task, plan: &ModelPlan) -> Result<Vec<(String, Vec<usize>)>, ModelError> {
    let own = match task.kind {
        TaskKind::Classification => classifier::signature(plan.dim, outputs(task)),
        TaskKind::Detection => pooling::signature(plan.dim, outputs(task)),
        TaskKind::Segmentation | TaskKind::Localisation => decoder::signature(plan, outputs(task))?,
    };
    let prefix = task.name.head_prefix();
    Ok(own.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect())
}

/// A head's first weights: of matrices normal with `sqrt(2 / fan_in)` (He et al. 2015), 0.01 for the last layer, so that no
/// answer is preferred; biases 0; norms 1.
pub(crate) fn initial(task: &Task, plan: &ModelPlan, seed: u64) -> Result<NamedTensors, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut head = NamedTensors::new();
    for (name, shape) in signature(task, plan)? {
        let count: usize = shape.iter().product();
        let values = if shape.len() < 2 {
            vec![if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 }; count]
        } else if name.ends_with("last.weight") {
            normal(&mut rng, count, 0.01)
        } else {
            normal(&mut rng, count, (2.0 / shape[1..].iter().product::<usize>() as f32).sqrt())
        };
        head.insert(name, shape, values);
    }
    Ok(head)
}

/// What the network says: logits, `[images or subjects, classes]`, or of every pixel, `[images * side * side, outputs]`.
pub(crate) fn logits<B: Fused>(
    plan: &ModelPlan,
    task: &Task,
    weights: &Parameters<B>,
    shown: Shown<'_>,
    drop_path: &DropPath,
) -> Tensor<B, 2> {
    let (images, head) = (shown.images, task.name.head_prefix());
    let wanted = match task.kind {
        TaskKind::Segmentation | TaskKind::Localisation => decoder::blocks(plan),
        _ => Vec::new(),
    };
    let (between, last) = vit::states(plan, weights, BACKBONE, images, drop_path, &wanted);
    match task.kind {
        TaskKind::Classification => classifier::logits(weights, &head, vit::cls_of(last, images.count)),
        TaskKind::Detection => pooling::logits(weights, &head, vit::cls_of(last, images.count), shown.group),
        TaskKind::Segmentation | TaskKind::Localisation => {
            decoder::logits(plan, weights, &head, images, &between, last)
        }
    }
}

/// What the head of a detection says of the CLS features of its subjects' images, `group` of each: `[subjects,
/// classes]`.
pub(crate) fn pooled<B: Fused>(head: &Parameters<B>, features: &[f32], group: usize) -> Tensor<B, 2> {
    let [_, dim] = head.matrix("last.weight").dims();
    let cls = tensor(features.to_vec(), [features.len() / dim, dim], head.device());
    pooling::logits(head, "", cls, group)
}
