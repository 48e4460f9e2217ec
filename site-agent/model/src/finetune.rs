//! Finetuning of tasks: a backbone, a head for each task, AdamW with layer-wise learning rates, and the step that moves them.

use common::plan::ModelPlan;
use common::task::{Task, TaskKind};
use common::{NamedTensors, Signature};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::compute::{Compute, TaskInput};
use crate::device::DeviceChoice;
use crate::drop_path::drop_path;
use crate::heads::{self, Shown};
use crate::names::{self, BACKBONE};
use crate::optimizer::{self, AdamW, Moments};
use crate::vit::Images;
use crate::{ModelError, Precision, checkpoint, losses};

/// Images of a step or of a question, normalized, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskImages {
    /// `[count, channels, side, side]`, row-major.
    pub values: Vec<f32>,
    /// Images.
    pub count: usize,
    /// Rows, and columns.
    pub side: usize,
    /// Images of a subject, side by side; 1 but for detection.
    pub group: usize,
}

/// The right answers of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// A class an image, or a subject.
    Classes(Vec<usize>),
    /// A class a pixel, 0 for the background: `[count, side, side]`.
    Masks(Vec<u8>),
    /// The (row, column) of each landmark that is there, in pixels with centers at integers: `[count, landmarks]`.
    Places(Vec<Option<[f64; 2]>>),
}

/// A network for one task or more, with published names under `backbone.` and a head's under `heads.<task>.`.
pub struct Finetuner {
    plan: ModelPlan,
    device: Box<dyn Compute>,
    precision: Precision,
    weights: NamedTensors,
    moments: Moments,
    steps: u64,
    frozen: bool,
    /// What the weights are held to, and how much.
    held: Option<(NamedTensors, f64)>,
}

impl Finetuner {
    /// The first weights: a backbone with published names, and for each task a new head drawn from `seed`.
    pub fn first_weights(
        plan: &ModelPlan,
        tasks: &[Task],
        backbone: &NamedTensors,
        seed: u64,
    ) -> Result<NamedTensors, ModelError> {
        Signature::new(names::backbone(plan))?.require(&backbone.signature())?;
        let first = backbone.clone().prefixed(BACKBONE);
        tasks.iter().try_fold(first, |weights, task| Ok(weights.joined(heads::initial(task, plan, seed)?)))
    }

    /// Names and shapes of a network's tensors for these tasks.
    pub fn signature(plan: &ModelPlan, tasks: &[Task]) -> Result<Signature, ModelError> {
        let backbone = names::backbone(plan).into_iter().map(|(name, shape)| (format!("{BACKBONE}{name}"), shape));
        let mut tensors: Vec<_> = backbone.collect();
        for task in tasks {
            tensors.extend(heads::signature(task, plan)?);
        }
        Ok(Signature::new(tensors)?)
    }

    /// A network for these tasks with these weights. `frozen`: the heads alone are trained.
    pub fn new(
        plan: &ModelPlan,
        tasks: &[Task],
        device: &DeviceChoice,
        weights: NamedTensors,
        frozen: bool,
    ) -> Result<Self, ModelError> {
        Self::signature(plan, tasks)?.require(&weights.signature())?;
        let device = device.open()?;
        Ok(Self {
            plan: plan.clone(),
            device,
            precision: Precision::F32,
            weights,
            moments: Moments::new(),
            steps: 0,
            frozen,
            held: None,
        })
    }

    /// The same, which multiplies in this precision while it trains. What it answers is in single precision.
    pub fn in_precision(mut self, precision: Precision) -> Result<Self, ModelError> {
        self.device.knows(precision)?;
        self.precision = precision;
        Ok(self)
    }

    /// The same, held to where a round started by a proximal term of this weight (FedProx, Li et al. 2020); 0 holds nothing.
    pub fn held_to(mut self, start: &NamedTensors, proximal: f64) -> Self {
        self.held = (proximal > 0.0).then(|| (start.clone(), proximal));
        self
    }

    /// The same, with the clock at a step of a longer training, and the moments that an earlier part of it left.
    pub fn going_on(mut self, step: u64, kept: Option<&[u8]>) -> Result<Self, ModelError> {
        self.steps = step;
        if let Some(kept) = kept {
            let (_, mut moments) = checkpoint::read_kept(kept)?;
            // Of a head that is no longer trained here.
            moments.retain(|name, _| self.weights.get(name).is_some());
            self.moments = checkpoint::checked(moments, &self.weights)?;
        }
        Ok(self)
    }

    /// A network from a checkpoint.
    pub fn resume(
        plan: &ModelPlan,
        tasks: &[Task],
        device: &DeviceChoice,
        file: &[u8],
        frozen: bool,
    ) -> Result<Self, ModelError> {
        let (weights, moments, steps) = checkpoint::read(file)?;
        let mut resumed = Self::new(plan, tasks, device, weights, frozen)?;
        resumed.moments = checkpoint::checked(moments, &resumed.weights)?;
        resumed.steps = steps;
        Ok(resumed)
    }

    /// Everything a killed training needs to go on to the same bits.
    pub fn checkpoint(&self) -> Vec<u8> {
        checkpoint::write(&self.weights, &self.moments, self.steps)
    }

    /// What stays at a site between two parts of a training: AdamW's moments.
    pub fn kept(&self) -> Vec<u8> {
        checkpoint::write_kept(NamedTensors::new(), &self.moments)
    }

    /// Backbone and heads.
    pub fn weights(&self) -> &NamedTensors {
        &self.weights
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.steps
    }

    /// Takes one step of one of its tasks, and returns its loss in nats. `seed` draws what stochastic depth drops.
    pub fn step(&mut self, task: &Task, images: &TaskImages, answers: &Answers, seed: u64) -> Result<f64, ModelError> {
        let shown = self.checked(images)?;
        require(task, images, answers)?;
        let training = &task.training;
        let (outputs, side) = (heads::outputs(task), images.side);
        let (frozen, head) = (self.frozen, task.name.head_prefix());
        let mut output = self.device.finetune(
            &TaskInput {
                plan: &self.plan,
                task,
                precision: self.precision,
                weights: &self.weights,
                shown,
                drop_path: drop_path(&mut ChaCha8Rng::seed_from_u64(seed), &self.plan, images.count),
                trained: &move |name| name.starts_with(&head) || (!frozen && name.starts_with(BACKBONE)),
            },
            &|logits| match answers {
                Answers::Classes(classes) => losses::classes(logits, classes, outputs, training.label_smoothing),
                Answers::Masks(masks) => losses::pixels(logits, masks, outputs),
                Answers::Places(places) => losses::places(logits, places, outputs, side, training.heatmap_sigma),
            },
        );
        if !output.loss.is_finite() {
            return Err(ModelError::Diverged { step: self.steps, loss: output.loss });
        }
        if let Some((start, proximal)) = &self.held {
            optimizer::pull(&mut output.gradients, &self.weights, start, *proximal);
        }
        let rate = training.learning_rate * training.rate_at(self.steps);
        let factor = optimizer::global_clip_factor(&output.gradients, training.clip_gradient);
        let (decay, weight_decay, depth) = (training.layer_decay, training.weight_decay, self.plan.depth);
        optimizer::step_with(&mut self.weights, &mut self.moments, &output.gradients, |name, _| AdamW {
            rate: rate * decay.powi(i32::try_from(layers_below(name, depth)).unwrap_or(i32::MAX)),
            weight_decay,
            beta2: 0.95,
            factor,
        });
        self.steps += 1;
        Ok(output.loss)
    }

    /// What one of its heads says of images: logits, `[images or subjects, classes]`, or of every pixel,
    /// `[count * side * side, outputs]`, class 0 being the background of a segmentation.
    pub fn logits(&self, task: &Task, images: &TaskImages) -> Result<Vec<f32>, ModelError> {
        Ok(self.device.logits(&self.plan, task, &self.weights, self.checked(images)?))
    }

    /// CLS features of its backbone, `[count, dim]`. A detection pools them with [`Self::pooled`]: of a subject with
    /// more images than fit into memory at a time they are asked for in parts.
    pub fn features(&self, images: &TaskImages) -> Result<Vec<f32>, ModelError> {
        let shown = self.checked(images)?;
        Ok(self.device.features(&self.plan, &self.weights.under(BACKBONE), shown.images))
    }

    /// What the head of a detection says of subjects with `group` images each, from [`Self::features`] of all of them:
    /// the same as [`Self::logits`] of the images, to rounding.
    pub fn pooled(&self, task: &Task, features: &[f32], group: usize) -> Result<Vec<f32>, ModelError> {
        let subject = group * self.plan.dim;
        if task.kind != TaskKind::Detection || subject == 0 || !features.len().is_multiple_of(subject) {
            return Err(ModelError::Crops { what: "features to pool", expected: subject, found: features.len() });
        }
        Ok(self.device.pooled(&self.weights.under(&task.name.head_prefix()), features, group))
    }

    fn checked<'a>(&self, images: &'a TaskImages) -> Result<Shown<'a>, ModelError> {
        let TaskImages { values, count, side, group } = images;
        let expected = count * self.plan.in_channels * side * side;
        let whole = side.is_multiple_of(self.plan.patch_size) && *group > 0 && count.is_multiple_of(*group);
        if values.len() == expected && whole && *count > 0 {
            Ok(Shown { images: Images { values, count: *count, side: *side }, group: *group })
        } else {
            Err(ModelError::Crops { what: "a batch of images", expected, found: values.len() })
        }
    }
}

/// Values that a task's network gives an image, a subject or a pixel.
pub fn outputs(task: &Task) -> usize {
    heads::outputs(task)
}

/// Refuses answers that are not those of the images.
fn require(task: &Task, images: &TaskImages, answers: &Answers) -> Result<(), ModelError> {
    let outputs = heads::outputs(task);
    let (expected, found, sound) = match (task.kind, answers) {
        (TaskKind::Classification | TaskKind::Detection, Answers::Classes(all)) => {
            (images.count / images.group, all.len(), all.iter().all(|class| *class < outputs))
        }
        (TaskKind::Segmentation, Answers::Masks(all)) => {
            (images.count * images.side.pow(2), all.len(), all.iter().all(|class| usize::from(*class) < outputs))
        }
        (TaskKind::Localisation, Answers::Places(all)) => (images.count * outputs, all.len(), true),
        _ => (0, 1, false),
    };
    if expected == found && sound {
        return Ok(());
    }
    Err(ModelError::Crops { what: "a batch of answers", expected, found })
}

/// How many steps towards the images a tensor lies from the head, as BEiT counts layers (Bao et al. 2022): the head and the
/// final norm 0, the last block 1, the embedding one more than there are blocks.
fn layers_below(name: &str, depth: usize) -> usize {
    let Some(name) = name.strip_prefix(BACKBONE) else { return 0 };
    if name.starts_with("norm.") {
        return 0;
    }
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    block.map_or(depth + 1, |block| depth - block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init;

    fn plan() -> ModelPlan {
        ModelPlan { image_size: 16, dim: 16, depth: 2, heads: 2, drop_path: 0.1, ..ModelPlan::default() }
    }

    fn task(kind: &str, labels: &str, classes: &[&str], metric: &str) -> Task {
        let labels: serde_json::Value = serde_json::from_str(labels).unwrap();
        let task: Task = serde_json::from_value(serde_json::json!({
            "name": "task", "about": "", "kind": kind, "labels": labels, "classes": classes, "input": {},
            "training": { "steps": 60, "learning_rate": 3e-3, "heatmap_sigma": 1.0, "label_smoothing": 0.0 },
            "metrics": [metric], "best": { "metric": metric, "direction": "higher" },
        }))
        .unwrap();
        task.check().unwrap();
        task
    }

    fn finetuner(task: &Task, frozen: bool) -> Finetuner {
        let backbone = init::initial_weights(&plan(), 1).under("teacher.backbone.");
        let tasks = std::slice::from_ref(task);
        let weights = Finetuner::first_weights(&plan(), tasks, &backbone, 2).unwrap();
        Finetuner::new(&plan(), tasks, &DeviceChoice::Cpu, weights, frozen).unwrap()
    }

    /// Images with a bright square of four pixels, where it is, and which half of the image it is in.
    fn squares(count: usize, group: usize) -> (TaskImages, Vec<u8>, Vec<[f64; 2]>, Vec<usize>) {
        let (mut values, mut masks) = (vec![0.0; count * 256], vec![0; count * 256]);
        let (mut places, mut halves) = (Vec::new(), Vec::new());
        for image in 0..count {
            let (row, column) = (2 + image * 5 % 11, [2, 10][image / group % 2]);
            for (down, across) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                values[image * 256 + (row + down) * 16 + column + across] = 2.0;
                masks[image * 256 + (row + down) * 16 + column + across] = 1;
            }
            places.push([row as f64 + 0.5, column as f64 + 0.5]);
            halves.push(image / group % 2);
        }
        (TaskImages { values, count, side: 16, group }, masks, places, halves)
    }

    #[test]
    fn each_kind_of_task_learns_what_it_is_shown_in_either_precision() {
        for precision in [Precision::F32, Precision::Bf16] {
            each_kind_learns(precision);
        }
    }

    fn each_kind_learns(precision: Precision) {
        let finetuner = |task: &Task| finetuner(task, false).in_precision(precision).unwrap();
        let (images, masks, places, halves) = squares(8, 1);
        let segmentation = task("segmentation", "\"masks\"", &["square"], "dice");
        let mut network = finetuner(&segmentation);
        (0..60).for_each(|seed| {
            network.step(&segmentation, &images, &Answers::Masks(masks.clone()), seed).unwrap();
        });
        let said = network.logits(&segmentation, &images).unwrap();
        let found: Vec<u8> = said.chunks_exact(2).map(|row| u8::from(row[1] > row[0])).collect();
        let wrong = found.iter().zip(&masks).filter(|(found, mask)| found != mask).count();
        assert!(wrong < 8, "{wrong} pixels");

        let localisation = task("localisation", "\"landmarks\"", &["middle", "nowhere"], "distance");
        let mut network = finetuner(&localisation);
        let answers = Answers::Places(places.iter().flat_map(|place| [Some(*place), None]).collect());
        (0..60).for_each(|seed| {
            network.step(&localisation, &images, &answers, seed).unwrap();
        });
        let said = network.logits(&localisation, &images).unwrap();
        for (said, place) in said.chunks_exact(512).zip(&places) {
            let found = losses::place_of(said, 0, 2, 16);
            assert!((found[0] - place[0]).hypot(found[1] - place[1]) < 1.5, "{found:?} {place:?}");
        }

        let classification = task("classification", "\"view\"", &["left", "right"], "accuracy");
        let mut network = finetuner(&classification);
        (0..60).for_each(|seed| {
            network.step(&classification, &images, &Answers::Classes(halves.clone()), seed).unwrap();
        });
        let said = network.logits(&classification, &images).unwrap();
        assert!(said.chunks_exact(2).zip(&halves).all(|(row, half)| usize::from(row[1] > row[0]) == *half));

        let (images, _, _, halves) = squares(12, 3);
        let detection = task("detection", r#"{ "column": "side" }"#, &["left", "right"], "auc");
        let mut network = finetuner(&detection);
        let halves: Vec<usize> = halves.into_iter().step_by(3).collect();
        (0..60).for_each(|seed| {
            network.step(&detection, &images, &Answers::Classes(halves.clone()), seed).unwrap();
        });
        let said = network.logits(&detection, &images).unwrap();
        assert!(said.chunks_exact(2).zip(&halves).all(|(row, half)| usize::from(row[1] > row[0]) == *half));
    }

    #[test]
    fn a_detection_says_of_features_in_parts_what_it_says_of_all_images_at_once() {
        let (images, _, _, halves) = squares(14, 7);
        let detection = task("detection", r#"{ "column": "side" }"#, &["left", "right"], "auc");
        let mut network = finetuner(&detection, false);
        let halves: Vec<usize> = halves.into_iter().step_by(7).collect();
        (0..20).for_each(|seed| {
            network.step(&detection, &images, &Answers::Classes(halves.clone()), seed).unwrap();
        });
        let parts = images.values.chunks(3 * 256).map(|values| {
            let part = TaskImages { values: values.to_vec(), count: values.len() / 256, side: 16, group: 1 };
            network.features(&part).unwrap()
        });
        let features: Vec<f32> = parts.flatten().collect();
        let (pooled, whole) =
            (network.pooled(&detection, &features, 7).unwrap(), network.logits(&detection, &images).unwrap());
        assert_eq!((pooled.len(), whole.len()), (4, 4));
        assert!(pooled.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-4), "{pooled:?} {whole:?}");
        assert!((whole[0] - whole[2]).abs() > 0.1, "the two subjects are told apart");
        assert!(network.pooled(&detection, &features, 4).is_err() && network.pooled(&detection, &features, 0).is_err());
        let other = task("classification", "\"view\"", &["left", "right"], "accuracy");
        assert!(network.pooled(&other, &features, 7).is_err());
    }

    #[test]
    fn a_training_that_goes_on_from_its_checkpoint_ends_with_the_same_bits() {
        let (images, masks, ..) = squares(4, 1);
        let task = task("segmentation", "\"masks\"", &["square"], "dice");
        let trained = |mut network: Finetuner, steps: std::ops::Range<u64>| {
            steps.for_each(|seed| {
                network.step(&task, &images, &Answers::Masks(masks.clone()), seed).unwrap();
            });
            network
        };
        let unbroken = trained(finetuner(&task, false), 0..6).checkpoint();
        let file = trained(finetuner(&task, false), 0..3).checkpoint();
        let resumed =
            Finetuner::resume(&plan(), std::slice::from_ref(&task), &DeviceChoice::Cpu, &file, false).unwrap();
        assert_eq!(resumed.step_count(), 3);
        assert_eq!(trained(resumed, 3..6).checkpoint(), unbroken);
    }

    #[test]
    fn a_frozen_backbone_does_not_move_and_its_head_does() {
        let (images, _, _, halves) = squares(4, 1);
        let task = task("classification", "\"view\"", &["left", "right"], "accuracy");
        let mut network = finetuner(&task, true);
        let before = network.weights().clone();
        network.step(&task, &images, &Answers::Classes(halves), 1).unwrap();
        assert_eq!(network.weights().under(BACKBONE), before.under(BACKBONE));
        assert_ne!(network.weights().under("heads."), before.under("heads."));
    }

    #[test]
    fn a_step_of_one_task_moves_the_backbone_and_its_own_head_alone() {
        let (images, masks, _, halves) = squares(4, 1);
        let classification = task("classification", "\"view\"", &["left", "right"], "accuracy");
        let mut segmentation = task("segmentation", "\"masks\"", &["square"], "dice");
        segmentation.name = String::from("masks").try_into().unwrap();
        let tasks = [classification.clone(), segmentation.clone()];
        let backbone = init::initial_weights(&plan(), 1).under("teacher.backbone.");
        let first = Finetuner::first_weights(&plan(), &tasks, &backbone, 2).unwrap();
        let mut network = Finetuner::new(&plan(), &tasks, &DeviceChoice::Cpu, first.clone(), false).unwrap();
        network.step(&classification, &images, &Answers::Classes(halves), 1).unwrap();
        let moved = |network: &Finetuner, prefix: &str| network.weights().under(prefix) != first.under(prefix);
        assert!(moved(&network, BACKBONE) && moved(&network, "heads.task."));
        assert!(!moved(&network, "heads.masks."));
        network.step(&segmentation, &images, &Answers::Masks(masks), 2).unwrap();
        assert!(moved(&network, "heads.masks."));
    }

    #[test]
    fn learning_rates_fall_from_the_head_to_the_embedding() {
        let names = ["heads.task.last.weight", "backbone.norm.bias", "backbone.blocks.11.mlp.fc1.weight"];
        assert_eq!(names.map(|name| layers_below(name, 12)), [0, 0, 1]);
        let names = ["backbone.blocks.0.norm1.bias", "backbone.pos_embed", "backbone.patch_embed.proj.weight"];
        assert_eq!(names.map(|name| layers_below(name, 12)), [12, 13, 13]);
    }

    #[test]
    fn answers_of_other_images_are_refused() {
        let (images, masks, _, halves) = squares(4, 1);
        let task = task("segmentation", "\"masks\"", &["square"], "dice");
        let mut network = finetuner(&task, false);
        assert!(network.step(&task, &images, &Answers::Masks(masks[1..].to_vec()), 0).is_err());
        assert!(network.step(&task, &images, &Answers::Masks(vec![2; masks.len()]), 0).is_err());
        assert!(network.step(&task, &images, &Answers::Classes(halves), 0).is_err());
    }
}
