//! What a coordinator writes, section by section.

use serde::{Deserialize, Serialize};

use super::Plan;
use super::defaults as default;
use crate::encoding::Encoding;
use crate::ids::{Digest, RunId};
use crate::pattern::Patterns;
use crate::task::Task;
use crate::weights::Signature;

/// What a coordinator writes. Every section but `run`, `rounds` and `training` has defaults: the published DINO ViT-S/8, but for
/// fewer prototypes, gray images, and what augments gray images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDraft {
    /// The run's name, unique in the federation.
    pub run: RunId,
    /// Mixed into every seed of the run.
    #[serde(default)]
    pub seed: u64,
    /// Coordinators whose signatures the plan needs: below that no round of it is opened, and no site trains under it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub signatures: u32,
    /// The network.
    #[serde(default)]
    pub model: ModelPlan,
    /// How images become frames.
    #[serde(default)]
    pub images: ImagePlan,
    /// How frames become crops.
    #[serde(default)]
    pub crops: CropPlan,
    /// The optimizer and its schedules.
    pub training: TrainingPlan,
    /// How many rounds, and when one closes.
    pub rounds: RoundPlan,
    /// Which clinical tasks are finetuned; without it, the run pretrains by DINO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetuning: Option<FinetuningPlan>,
    /// How updates are merged.
    #[serde(default)]
    pub aggregation: AggregationPlan,
    /// What is done to an update before it leaves a site.
    #[serde(default)]
    pub privacy: PrivacyPlan,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

impl PlanDraft {
    /// The agreed plan, once the first model is known.
    pub fn with_first_model(self, signature: Signature, first_model: Digest) -> Plan {
        Plan { draft: self, signature, first_model }
    }

    /// Optimizer steps of a site over the whole run.
    pub fn total_steps(&self) -> usize {
        self.training.steps_per_round * self.rounds.count as usize
    }
}

/// A Vision Transformer (Dosovitskiy et al. 2021) with a DINO head (Caron et al. 2021). Defaults: ViT-S/8, one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelPlan {
    /// Side of a global crop, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels; divides every crop's side.
    pub patch_size: usize,
    /// 1 for grayscale, or 3 with the frame replicated.
    pub in_channels: usize,
    /// Embedding dimension.
    pub dim: usize,
    /// Transformer blocks.
    pub depth: usize,
    /// Attention heads; divides `dim`.
    pub heads: usize,
    /// Hidden width of a block's perceptron, in multiples of `dim`.
    pub mlp_ratio: f64,
    /// Stochastic depth of the last block (student only); rises linearly from 0 at the first.
    pub drop_path: f64,
    /// How linear layers start.
    pub init: Init,
    /// The projection head.
    pub head: HeadPlan,
}

/// How linear layers of the backbone start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Truncated normal with standard deviation 0.02, as published.
    Published,
    /// Truncated normal with standard deviation `1/sqrt(fan_in)`: better conditioned for small dimensions.
    FanIn,
}

/// The DINO projection head: a perceptron, an L2-normalised bottleneck, a weight-normalised last layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadPlan {
    /// Hidden width of the perceptron.
    pub hidden: usize,
    /// Width of the normalised bottleneck.
    pub bottleneck: usize,
    /// Prototypes (`out_dim`, K).
    pub prototypes: usize,
    /// Keeps `weight_g` of the last layer at 1.
    pub norm_last_layer: bool,
}

/// How a DICOM series becomes normalised 2-D frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagePlan {
    /// Side of a cached frame, in pixels.
    pub frame_size: usize,
    /// In-plane spacing of a cached frame, in millimetres; the frame is cropped or padded around its middle.
    pub spacing_mm: f64,
    /// Percentile of a series that becomes 0.
    pub low_percentile: f64,
    /// Percentile of a series that becomes 1.
    pub high_percentile: f64,
    /// Mean subtracted from a crop's values, after normalisation to 0..1.
    pub mean: f64,
    /// Standard deviation a crop's values are divided by.
    pub std: f64,
}

/// Multi-crop augmentation (DINO's, for grayscale MR: no hue, saturation or solarisation).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CropPlan {
    /// Area of a global crop, as a fraction of the frame: lowest and highest.
    pub global_scale: [f64; 2],
    /// Local crops beside the two global ones.
    pub local_count: usize,
    /// Side of a local crop, in pixels.
    pub local_size: usize,
    /// Area of a local crop, as a fraction of the frame.
    pub local_scale: [f64; 2],
    /// Probability of a left-right flip.
    pub flip: f64,
    /// Probability of the brightness, contrast and gamma jitter.
    pub jitter: f64,
    /// Brightness factor is drawn from 1 ± this.
    pub brightness: f64,
    /// Contrast factor is drawn from 1 ± this.
    pub contrast: f64,
    /// Gamma is drawn log-uniformly from 1/(1+this) to 1+this.
    pub gamma: f64,
    /// Probability of a Gaussian blur of the first global crop, the second, and each local one.
    pub blur: [f64; 3],
    /// Standard deviation of the blur in pixels of a 224-pixel crop, lowest and highest; scaled with the crop's side.
    pub blur_sigma: [f64; 2],
    /// Standard deviation of added Gaussian noise is drawn from 0 to this (values in 0..1).
    pub noise: f64,
}

/// The optimizer and DINO's schedules on the run's global step clock. An epoch is `epoch_steps` steps of that clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// Optimizer steps of every site in every round (H).
    pub steps_per_round: usize,
    /// Steps that count as one epoch for schedules stated in epochs.
    pub epoch_steps: usize,
    /// Images in a batch, before cropping.
    pub batch_size: usize,
    /// What turns gradients into steps.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Peak learning rate for a batch of 256; the rate used is this times `batch_size / 256`.
    #[serde(default = "default::learning_rate")]
    pub learning_rate: f64,
    /// Learning rate at the end of the cosine.
    #[serde(default = "default::min_learning_rate")]
    pub min_learning_rate: f64,
    /// Linear warm-up, in epochs.
    #[serde(default = "default::warmup_epochs")]
    pub warmup_epochs: usize,
    /// Weight decay at the start and the end of its cosine.
    #[serde(default = "default::weight_decay")]
    pub weight_decay: [f64; 2],
    /// Teacher momentum at the start and the end of its cosine.
    #[serde(default = "default::teacher_momentum")]
    pub teacher_momentum: [f64; 2],
    /// Student temperature.
    #[serde(default = "default::student_temperature")]
    pub student_temperature: f64,
    /// Teacher temperature at the start and after its warm-up.
    #[serde(default = "default::teacher_temperature")]
    pub teacher_temperature: [f64; 2],
    /// Linear warm-up of the teacher temperature, in epochs.
    #[serde(default)]
    pub teacher_temperature_warmup_epochs: usize,
    /// How the teacher's output is kept from collapsing onto few prototypes.
    #[serde(default)]
    pub centering: Centering,
    /// Momentum of the center; it is followed, though not used, with Sinkhorn-Knopp too.
    #[serde(default = "default::center_momentum")]
    pub center_momentum: f64,
    /// Bound on the L2 norm of each parameter tensor's gradient; 0 for none.
    #[serde(default = "default::clip_gradient")]
    pub clip_gradient: f64,
    /// Epochs during which the head's last layer is frozen.
    #[serde(default = "default::freeze_last_layer_epochs")]
    pub freeze_last_layer_epochs: usize,
    /// Weight of the KoLeo regulariser on the student's global CLS features (Sablayrolles et al. 2019); 0 is DINO.
    #[serde(default)]
    pub koleo: f64,
    /// Weight of the proximal term, half of this times the squared distance to the model that the round started from (FedProx,
    /// Li et al. 2020): it keeps sites that are unlike the others from drifting away; 0 is FedAvg.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub proximal: f64,
    /// Steps between two checkpoints of a training site.
    #[serde(default = "default::checkpoint_every_steps")]
    pub checkpoint_every_steps: usize,
}

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// AdamW (Loshchilov and Hutter 2019), as published.
    #[default]
    AdamW,
    /// Plain gradient descent with decoupled weight decay: with one step a round, no clipping and equal batches, a federation
    /// of it is the pooled training, to float error.
    Sgd,
}

/// What balances the teacher's output over the prototypes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Centering {
    /// A moving average of the logits is subtracted (Caron et al. 2021).
    #[default]
    Center,
    /// Three iterations of Sinkhorn and Knopp over the batch (Caron et al. 2020; DINOv2, Oquab et al. 2023).
    SinkhornKnopp,
}

/// A run that finetunes clinical tasks: the backbone is merged over all sites, each task's head over the sites that have its
/// labels. Of `training`, `steps_per_round`, `checkpoint_every_steps` and `proximal` count: a site's tasks take turns, a step each, and
/// a task's own `training.steps` gives way to the steps of the whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuningPlan {
    /// Holds the backbone as the first model has it: it is neither trained nor sent.
    #[serde(default)]
    pub frozen_backbone: bool,
    /// The tasks, as declared: `site-agent tasks --declare <name>...` prints those that are built in.
    pub tasks: Vec<Task>,
}

/// How many rounds, and when one closes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundPlan {
    /// Rounds of the run.
    pub count: u32,
    /// Sites invited to every round; each must be enrolled.
    pub sites: Vec<crate::SiteId>,
    /// Updates without which a round is abandoned.
    pub quorum: usize,
    /// Time a round may take, in seconds. Who has not reported by then is left out, by name.
    pub deadline_s: u64,
    /// Time past the deadline, in seconds, in which a site is waited for that is no later than it usually is.
    #[serde(default, skip_serializing_if = "is_no_time")]
    pub grace_s: u64,
    /// Times a round is tried before the run fails for want of a quorum.
    #[serde(default = "default::attempts")]
    pub attempts: u32,
}

/// How updates are merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AggregationPlan {
    /// The rule.
    pub strategy: Strategy,
    /// What a site's share is counted by.
    #[serde(skip_serializing_if = "is_by_subjects")]
    pub share_by: ShareBy,
    /// A site's share is proportional to that count to this power; 0 is uniform.
    pub share_alpha: f64,
    /// No site's share exceeds this, unless there are too few sites to honour it.
    pub share_cap: f64,
    /// What travels.
    pub exchange: Exchange,
    /// Names of tensors that each site keeps for itself from round to round, `*` for any characters: normalisation layers
    /// (FedBN, Li et al. 2021), or heads of its own (FedPer, Arivazhagan et al. 2019). In the merged model they stay as in the
    /// first.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub keep_local: Patterns,
    /// How the values of an update are written.
    #[serde(skip_serializing_if = "is_f32")]
    pub encoding: Encoding,
}

/// What a site's share is counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareBy {
    /// Patients: cine frames are near-duplicates.
    #[default]
    Subjects,
    /// Images that a site trains on, as McMahan et al. 2017 have it. The count leaves the site, in fives.
    Examples,
}

fn is_by_subjects(by: &ShareBy) -> bool {
    *by == ShareBy::Subjects
}

fn is_no_time(seconds: &u64) -> bool {
    *seconds == 0
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_f32(encoding: &Encoding) -> bool {
    *encoding == Encoding::F32
}

/// What sites send and the aggregator merges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exchange {
    /// Student, teacher and center: the merged teacher is then the moving average of the merged student's path.
    #[default]
    All,
    /// The student alone. Teacher and center stay at their site from round to round; half the bytes.
    Student,
}

/// A merging rule. FedAvg and those after it up to FedAdagrad act on the mean delta of a round, by share; all but FedAvg keep
/// a state of the model's size from round to round, for the student's tensors: teacher and center follow the mean. The
/// others put something in the place of the mean that a few wrong sites cannot move far. With three to five hospitals only
/// one wrong site can be borne, and honest sites that are unlike the others look wrong to them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// The mean of the deltas (McMahan et al. 2017).
    FedAvg {},
    /// Momentum on the mean delta (Hsu, Qi and Brown 2019).
    FedAvgM {
        /// What a step is multiplied with.
        learning_rate: f64,
        /// What is kept of the last step.
        momentum: f64,
    },
    /// Nesterov's momentum on the mean delta (DiLoCo, Douillard et al. 2023: learning rate 0.7, momentum 0.9).
    Nesterov {
        /// What a step is multiplied with.
        learning_rate: f64,
        /// What is kept of the last step.
        momentum: f64,
    },
    /// Adam on the mean delta, without bias correction (Reddi et al. 2021, Algorithm 2).
    FedAdam(Adaptive),
    /// Yogi on the mean delta (Reddi et al. 2021, Algorithm 2).
    FedYogi(Adaptive),
    /// Adagrad on the mean delta (Reddi et al. 2021, Algorithm 2; beta2 has no part in it).
    FedAdagrad(Adaptive),
    /// The median of each coordinate (Yin et al. 2018); shares do not count.
    CoordinateMedian {},
    /// The mean of each coordinate without its extremes (Yin et al. 2018); shares do not count.
    TrimmedMean {
        /// Fraction of the sites left out at either end, rounded down to whole sites: of the quorum one or more.
        fraction: f64,
    },
    /// The one delta that is nearest to its neighbors (Blanchard et al. 2017); shares do not count.
    Krum {
        /// Wrong sites to be borne.
        faulty: usize,
    },
    /// The mean of the deltas that are nearest to their neighbors (Blanchard et al. 2017); shares do not count.
    MultiKrum {
        /// Wrong sites to be borne.
        faulty: usize,
        /// Deltas to keep.
        keep: usize,
    },
    /// The delta whose distances to all add up to the least, by share (Weiszfeld's iteration; Pillutla et al. 2022).
    GeometricMedian {},
}

impl Strategy {
    /// Its name, as a plan has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FedAvg {} => "fed-avg",
            Self::FedAvgM { .. } => "fed-avg-m",
            Self::Nesterov { .. } => "nesterov",
            Self::FedAdam(_) => "fed-adam",
            Self::FedYogi(_) => "fed-yogi",
            Self::FedAdagrad(_) => "fed-adagrad",
            Self::CoordinateMedian {} => "coordinate-median",
            Self::TrimmedMean { .. } => "trimmed-mean",
            Self::Krum { .. } => "krum",
            Self::MultiKrum { .. } => "multi-krum",
            Self::GeometricMedian {} => "geometric-median",
        }
    }
}

/// An adaptive server optimizer's settings, with their names in Reddi et al. 2021.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// Server learning rate (eta).
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Adaptivity: added to the root of the second moment, whose first value is its square.
    pub tau: f64,
}

/// What is done to an update before it leaves a site. A site's own policy may be stricter, never looser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyPlan {
    /// Bound on the L2 norm of a round's delta over all tensors together: a site scales larger ones down to it, and the
    /// aggregator refuses an update above it.
    pub max_delta_norm: f64,
    /// Standard deviation of the Gaussian noise that a site adds to every value of its delta, in multiples of
    /// `max_delta_norm` (z of McMahan et al. 2018); 0 for none. Each site adds its own, so that what leaves it is noisy already.
    #[serde(skip_serializing_if = "is_zero")]
    pub noise_multiplier: f64,
}

impl PrivacyPlan {
    /// Standard deviation of the noise on every value.
    pub fn noise_deviation(&self) -> f64 {
        self.noise_multiplier * self.max_delta_norm
    }

    /// Most that the L2 norm of an update of so many values may be once noise is on it. The norm of n normal values is above
    /// sqrt(n) + 10 once in 10^21 updates.
    pub fn max_sent_norm(&self, values: usize) -> f64 {
        let noise = self.noise_deviation();
        if noise == 0.0 { self.max_delta_norm } else { self.max_delta_norm + noise * ((values as f64).sqrt() + 10.0) }
    }
}
