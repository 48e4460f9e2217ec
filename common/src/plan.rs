//! The plan of a run: what all parties agree on before anything trains, and its digest.
//!
//! Data only, never code. Two levels: [`PlanDraft`] is what a coordinator writes (TOML, unknown keys refused), [`Plan`]
//! is what it means once the first model is known: its tensor signature and digest are part of the plan. The plan's
//! SHA-256 is what sites approve and every message carries.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RunId};
use crate::weights::{MAX_VALUES, Signature};

/// What a coordinator writes. Every section but `run`, `rounds` and `training` has the published DINO ViT-S/8 values
/// as defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDraft {
    /// The run's name, unique in the federation.
    pub run: RunId,
    /// Mixed into every seed of the run.
    #[serde(default)]
    pub seed: u64,
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
    /// How updates are merged.
    #[serde(default)]
    pub aggregation: AggregationPlan,
    /// What is done to an update before it leaves a site.
    #[serde(default)]
    pub privacy: PrivacyPlan,
}

/// A run, agreed: the draft plus the first model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the coordinator wrote.
    pub draft: PlanDraft,
    /// Names and shapes of every tensor that travels.
    pub signature: Signature,
    /// SHA-256 of the first model's file.
    pub first_model: Digest,
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

/// AdamW and DINO's schedules on the run's global step clock. An epoch is `epoch_steps` steps of that clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// Optimizer steps of every site in every round (H).
    pub steps_per_round: usize,
    /// Steps that count as one epoch for schedules stated in epochs.
    pub epoch_steps: usize,
    /// Images in a batch, before cropping.
    pub batch_size: usize,
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
    /// Momentum of the center.
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
    /// Steps between two checkpoints of a training site.
    #[serde(default = "default::checkpoint_every_steps")]
    pub checkpoint_every_steps: usize,
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
    /// Times a round that failed its quorum is tried again before the run stops.
    #[serde(default = "default::attempts")]
    pub attempts: u32,
}

/// How updates are merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AggregationPlan {
    /// The rule.
    pub strategy: Strategy,
    /// A site's share is proportional to its subjects to this power; 0 is uniform.
    pub share_alpha: f64,
    /// No site's share exceeds this, unless there are too few sites to honour it.
    pub share_cap: f64,
}

/// A merging rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The mean of the deltas, by share (McMahan et al. 2017).
    FedAvg,
}

/// What is done to an update before it leaves a site. A site's own policy may be stricter, never looser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyPlan {
    /// Bound on the L2 norm of a round's delta over all tensors together: a site scales larger ones down to it, and the
    /// aggregator refuses an update above it.
    pub max_delta_norm: f64,
}

/// Why a plan cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A value outside its bounds.
    #[error("plan: {key} is {value}, but must be {bound}")]
    OutOfBounds {
        /// The key as written, with its section.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What is permitted.
        bound: String,
    },
    /// Not a plan's canonical bytes.
    #[error("these bytes are not a plan: {0}")]
    NotAPlan(#[from] serde_json::Error),
    /// The bytes of a plan do not have the digest that was agreed.
    #[error("the plan's digest is {found}, but {expected} was agreed: ask the coordinator which plan is meant")]
    DigestDiffers {
        /// The digest that was agreed.
        expected: Digest,
        /// The digest of the bytes at hand.
        found: Digest,
    },
}

impl Plan {
    /// The bytes whose SHA-256 is the plan's digest: JSON with the fields in the order of this file.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        // A plan holds strings, numbers and lists only, and `check` refuses numbers that JSON cannot write.
        serde_json::to_vec(self).expect("a plan is writable as JSON")
    }

    /// What sites approve and every message carries.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical_bytes())
    }

    /// Reads a plan received from elsewhere, and holds it to the digest that was agreed.
    pub fn from_agreed_bytes(bytes: &[u8], agreed: Digest) -> Result<Self, PlanError> {
        let found = Digest::of(bytes);
        if found != agreed {
            return Err(PlanError::DigestDiffers { expected: agreed, found });
        }
        let plan: Self = serde_json::from_slice(bytes)?;
        plan.draft.check()?;
        Ok(plan)
    }

    /// The run's id.
    pub fn run(&self) -> &RunId {
        &self.draft.run
    }
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

    /// Holds every value to its bounds.
    pub fn check(&self) -> Result<(), PlanError> {
        let Self { model, images, crops, training, rounds, aggregation, privacy, .. } = self;
        let at_least_one = [
            ("model.depth", model.depth),
            ("model.dim", model.dim),
            ("model.head.hidden", model.head.hidden),
            ("model.head.bottleneck", model.head.bottleneck),
            ("images.frame_size", images.frame_size),
            ("training.steps_per_round", training.steps_per_round),
            ("training.epoch_steps", training.epoch_steps),
            ("training.checkpoint_every_steps", training.checkpoint_every_steps),
            ("rounds.count", rounds.count as usize),
            ("rounds.quorum", rounds.quorum),
            ("rounds.attempts", rounds.attempts as usize),
        ];
        for (key, value) in at_least_one {
            within(key, value, (1..=1 << 20).contains(&value), "between 1 and 1048576")?;
        }
        for (key, value) in [
            ("training.warmup_epochs", training.warmup_epochs),
            ("training.teacher_temperature_warmup_epochs", training.teacher_temperature_warmup_epochs),
            ("training.freeze_last_layer_epochs", training.freeze_last_layer_epochs),
        ] {
            within(key, value, value <= 1 << 20, "at most 1048576")?;
        }
        within("images.frame_size", images.frame_size, images.frame_size <= 4096, "at most 4096")?;
        within("training.batch_size", training.batch_size, (2..=4096).contains(&training.batch_size), "2 to 4096")?;
        let k = model.head.prototypes;
        within("model.head.prototypes", k, (2..=1 << 18).contains(&k), "2 to 262144")?;
        let channels = model.in_channels;
        within("model.in_channels", channels, channels == 1 || channels == 3, "1 or 3")?;
        let patch = model.patch_size;
        within("model.patch_size", patch, (1..=64).contains(&patch), "1 to 64")?;
        for (key, side) in [("model.image_size", model.image_size), ("crops.local_size", crops.local_size)] {
            let fits = (patch..=1024).contains(&side) && side % patch == 0;
            within(key, side, fits, &format!("a multiple of model.patch_size ({patch}), at most 1024"))?;
        }
        let values = model.values();
        let bound = format!("at most {MAX_VALUES}: make model.dim, model.depth, model.mlp_ratio or model.head smaller");
        within("model, in values,", format!("{values:.0}"), values <= MAX_VALUES as f64, &bound)?;
        let heads = model.heads;
        within("model.heads", heads, heads >= 1 && model.dim % heads == 0, &format!("a divisor of {}", model.dim))?;
        within("crops.local_count", crops.local_count, crops.local_count <= 32, "at most 32")?;
        for (key, value) in [
            ("model.mlp_ratio", model.mlp_ratio),
            ("images.spacing_mm", images.spacing_mm),
            ("images.std", images.std),
            ("training.learning_rate", training.learning_rate),
            ("training.student_temperature", training.student_temperature),
            ("training.teacher_temperature[0]", training.teacher_temperature[0]),
            ("training.teacher_temperature[1]", training.teacher_temperature[1]),
            ("privacy.max_delta_norm", privacy.max_delta_norm),
        ] {
            within(key, value, value.is_finite() && value > 0.0, "a finite number above 0")?;
        }
        for (key, value) in [
            ("images.mean", images.mean),
            ("crops.brightness", crops.brightness),
            ("crops.contrast", crops.contrast),
            ("crops.gamma", crops.gamma),
            ("crops.noise", crops.noise),
            ("crops.blur_sigma[0]", crops.blur_sigma[0]),
            ("crops.blur_sigma[1]", crops.blur_sigma[1]),
            ("training.min_learning_rate", training.min_learning_rate),
            ("training.weight_decay[0]", training.weight_decay[0]),
            ("training.weight_decay[1]", training.weight_decay[1]),
            ("training.clip_gradient", training.clip_gradient),
            ("training.koleo", training.koleo),
        ] {
            within(key, value, value.is_finite() && value >= 0.0, "a finite number, 0 or more")?;
        }
        for (key, value) in [
            ("model.drop_path", model.drop_path),
            ("crops.flip", crops.flip),
            ("crops.jitter", crops.jitter),
            ("crops.blur[0]", crops.blur[0]),
            ("crops.blur[1]", crops.blur[1]),
            ("crops.blur[2]", crops.blur[2]),
            ("training.teacher_momentum[0]", training.teacher_momentum[0]),
            ("training.teacher_momentum[1]", training.teacher_momentum[1]),
            ("training.center_momentum", training.center_momentum),
            ("aggregation.share_alpha", aggregation.share_alpha),
        ] {
            within(key, value, (0.0..=1.0).contains(&value), "0 to 1")?;
        }
        let cap = aggregation.share_cap;
        within("aggregation.share_cap", cap, cap > 0.0 && cap <= 1.0, "above 0 and at most 1")?;
        for (key, [low, high]) in [("crops.global_scale", crops.global_scale), ("crops.local_scale", crops.local_scale)]
        {
            within(key, format!("[{low}, {high}]"), 0.0 < low && low <= high && high <= 1.0, "0 < low <= high <= 1")?;
        }
        let [low, high] = crops.blur_sigma;
        within("crops.blur_sigma", format!("[{low}, {high}]"), low <= high, "low <= high")?;
        let (low, high) = (images.low_percentile, images.high_percentile);
        let ordered = 0.0 <= low && low < high && high <= 100.0;
        within("images.low_percentile", low, ordered, &format!("0 or more, and below high_percentile {high}"))?;
        let mut sites = rounds.sites.clone();
        sites.sort();
        sites.dedup();
        let count = rounds.sites.len();
        within("rounds.sites", count, (1..=32).contains(&count) && sites.len() == count, "1 to 32 distinct sites")?;
        within("rounds.quorum", rounds.quorum, rounds.quorum <= count, &format!("at most the {count} sites"))?;
        let deadline = rounds.deadline_s;
        within("rounds.deadline_s", deadline, (1..=MAX_DEADLINE_S).contains(&deadline), "1 to 2592000 (30 days)")
    }
}

/// Longest deadline of a round, in seconds: 30 days.
const MAX_DEADLINE_S: u64 = 30 * 24 * 60 * 60;

impl ModelPlan {
    /// About how many values a network has: its matrices, which are nearly all of it. In floats, which do not overflow.
    fn values(&self) -> f64 {
        let [dim, depth, patch, side] =
            [self.dim, self.depth, self.patch_size, self.image_size].map(|size| size as f64);
        let [hidden, bottleneck, prototypes] =
            [self.head.hidden, self.head.bottleneck, self.head.prototypes].map(|size| size as f64);
        let patches = self.in_channels as f64 * patch * patch * dim;
        let positions = (side / patch).powi(2) * dim;
        let blocks = depth * dim * dim * (4.0 + 2.0 * self.mlp_ratio);
        let head = hidden * (dim + hidden + bottleneck) + bottleneck * prototypes;
        patches + positions + blocks + head
    }
}

fn within(key: &'static str, value: impl ToString, holds: bool, bound: &str) -> Result<(), PlanError> {
    if holds { Ok(()) } else { Err(PlanError::OutOfBounds { key, value: value.to_string(), bound: bound.to_owned() }) }
}

impl Default for ModelPlan {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 8,
            in_channels: 1,
            dim: 384,
            depth: 12,
            heads: 6,
            mlp_ratio: 4.0,
            drop_path: 0.1,
            init: Init::Published,
            head: HeadPlan::default(),
        }
    }
}

impl Default for HeadPlan {
    fn default() -> Self {
        Self { hidden: 2048, bottleneck: 256, prototypes: 8192, norm_last_layer: true }
    }
}

impl Default for ImagePlan {
    fn default() -> Self {
        Self { frame_size: 256, spacing_mm: 1.0, low_percentile: 0.95, high_percentile: 99.5, mean: 0.449, std: 0.226 }
    }
}

impl Default for CropPlan {
    fn default() -> Self {
        Self {
            global_scale: [0.4, 1.0],
            local_count: 8,
            local_size: 96,
            local_scale: [0.05, 0.4],
            flip: 0.5,
            jitter: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            gamma: 0.2,
            blur: [1.0, 0.1, 0.5],
            blur_sigma: [0.1, 2.0],
            noise: 0.02,
        }
    }
}

impl Default for AggregationPlan {
    fn default() -> Self {
        Self { strategy: Strategy::FedAvg, share_alpha: 0.5, share_cap: 0.5 }
    }
}

impl Default for PrivacyPlan {
    fn default() -> Self {
        Self { max_delta_norm: 1000.0 }
    }
}

mod default {
    //! The published values of DINO (Caron et al. 2021, `main_dino.py`).
    pub(super) fn learning_rate() -> f64 {
        5e-4
    }
    pub(super) fn min_learning_rate() -> f64 {
        1e-6
    }
    pub(super) fn warmup_epochs() -> usize {
        10
    }
    pub(super) fn weight_decay() -> [f64; 2] {
        [0.04, 0.4]
    }
    pub(super) fn teacher_momentum() -> [f64; 2] {
        [0.996, 1.0]
    }
    pub(super) fn student_temperature() -> f64 {
        0.1
    }
    pub(super) fn teacher_temperature() -> [f64; 2] {
        [0.04, 0.04]
    }
    pub(super) fn center_momentum() -> f64 {
        0.9
    }
    pub(super) fn clip_gradient() -> f64 {
        3.0
    }
    pub(super) fn freeze_last_layer_epochs() -> usize {
        1
    }
    pub(super) fn checkpoint_every_steps() -> usize {
        50
    }
    pub(super) fn attempts() -> u32 {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> PlanDraft {
        toml::from_str(
            r#"
            run = "pretrain"
            [training]
            steps_per_round = 100
            epoch_steps = 100
            batch_size = 64
            [rounds]
            count = 10
            sites = ["a", "b"]
            quorum = 2
            deadline_s = 60
            "#,
        )
        .unwrap()
    }

    #[test]
    fn the_shortest_plan_is_the_published_vit_small_with_patch_8() {
        let draft = draft();
        draft.check().unwrap();
        assert_eq!((draft.model.dim, draft.model.depth, draft.model.patch_size), (384, 12, 8));
        assert_eq!(draft.training.teacher_momentum, [0.996, 1.0]);
        assert_eq!(draft.total_steps(), 1000);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let written = "run = \"a\"\ntypo = 1\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n[rounds]\ncount = 1\nsites = [\"a\"]\nquorum = 1\ndeadline_s = 1";
        let error = toml::from_str::<PlanDraft>(written).unwrap_err();
        assert!(error.to_string().contains("typo"), "{error}");
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_value_and_bound() {
        let mut draft = draft();
        draft.rounds.quorum = 3;
        assert_eq!(draft.check().unwrap_err().to_string(), "plan: rounds.quorum is 3, but must be at most the 2 sites");
        draft.rounds.quorum = 2;
        draft.crops.local_size = 97;
        assert!(draft.check().unwrap_err().to_string().contains("crops.local_size is 97"));
        draft.crops.local_size = 96;
        draft.training.learning_rate = f64::NAN;
        assert!(draft.check().unwrap_err().to_string().contains("NaN"));
    }

    #[test]
    fn what_would_overflow_wait_for_ever_or_draw_from_nothing_is_refused_by_name() {
        type Change = fn(&mut PlanDraft);
        let cases: [(Change, &str); 9] = [
            (|plan| plan.rounds.deadline_s = u64::MAX, "rounds.deadline_s is 18446744073709551615, but must be 1 to"),
            (|plan| plan.rounds.deadline_s = 0, "rounds.deadline_s is 0"),
            (|plan| plan.training.warmup_epochs = usize::MAX, "training.warmup_epochs"),
            (|plan| plan.training.teacher_temperature_warmup_epochs = 1 << 21, "teacher_temperature_warmup_epochs"),
            (|plan| plan.training.freeze_last_layer_epochs = 1 << 21, "training.freeze_last_layer_epochs"),
            (|plan| plan.crops.blur_sigma = [2.0, 0.1], "crops.blur_sigma is [2, 0.1]"),
            (|plan| plan.model.dim = 6 << 17, "make model.dim, model.depth"),
            (|plan| plan.model.mlp_ratio = 1e300, "make model.dim, model.depth"),
            (|plan| plan.images.frame_size = 1 << 20, "images.frame_size is 1048576"),
        ];
        for (change, told) in cases {
            let mut plan = draft();
            change(&mut plan);
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let mut longest = draft();
        longest.rounds.deadline_s = MAX_DEADLINE_S;
        longest.check().unwrap();
    }

    #[test]
    fn one_changed_byte_is_another_plan() {
        let signature = Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
        let plan = draft().with_first_model(signature, Digest::of(b"model"));
        let mut bytes = plan.canonical_bytes();
        assert_eq!(Plan::from_agreed_bytes(&bytes, plan.digest()).unwrap(), plan);
        *bytes.last_mut().unwrap() = b' ';
        assert!(matches!(Plan::from_agreed_bytes(&bytes, plan.digest()), Err(PlanError::DigestDiffers { .. })));
    }
}
