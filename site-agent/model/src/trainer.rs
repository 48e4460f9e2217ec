//! The training engine: one site's student, teacher, center and AdamW moments, and the step that moves them.
//!
//! The order is the published code's: teacher on the global crops, student on all, loss with the old center, clip, AdamW,
//! the teacher's moving average, then the center from the raw logits.

use common::plan::{Centering, Exchange};
use common::{NamedTensors, PlanDraft};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::batch::{CropBatch, accumulated, of_part};
use crate::compute::StepInput;
use crate::device::DeviceChoice;
use crate::drop_path::drop_path;
use crate::meters;
use crate::names::{self, CENTER, STUDENT, TEACHER};
use crate::optimizer::{self, Moments};
use crate::schedule::Schedule;
use crate::training::{State, StepOutput, Training};
use crate::{ModelError, Precision, checkpoint, init};

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// DINO loss, in nats.
    pub loss: f64,
    /// Mean entropy of the teacher's output, in nats.
    pub teacher_entropy: f64,
    /// Entropy of its mean over the batch, in nats.
    pub batch_entropy: f64,
    /// The schedules' values.
    pub schedule: Schedule,
}

/// One site's training.
pub struct Trainer {
    plan: PlanDraft,
    training: Box<dyn Training>,
    center: Vec<f32>,
    steps: u64,
    micro_batch: usize,
    precision: Precision,
}

impl Trainer {
    /// Training from a round's model, with nothing kept from a round before.
    pub fn new(plan: &PlanDraft, device: &DeviceChoice, weights: &NamedTensors) -> Result<Self, ModelError> {
        init::signature(&plan.model, plan.aggregation.exchange)?.require(&weights.signature())?;
        Self::from_all(plan, device, &init::completed(weights, &plan.model, NamedTensors::new()), Moments::new())
    }

    fn from_all(
        plan: &PlanDraft,
        device: &DeviceChoice,
        weights: &NamedTensors,
        moments: Moments,
    ) -> Result<Self, ModelError> {
        init::signature(&plan.model, Exchange::All)?.require(&weights.signature())?;
        let [student, teacher] = [STUDENT, TEACHER].map(|network| weights.under(network));
        let moments = checkpoint::checked(moments, &student)?;
        Ok(Self {
            plan: plan.clone(),
            training: device.open()?.training(State { student, teacher, moments }),
            center: center_of(weights),
            steps: 0,
            micro_batch: 0,
            precision: Precision::F32,
        })
    }

    /// The same on another device.
    #[cfg(test)]
    pub(crate) fn on(mut self, device: Box<dyn crate::compute::Compute>) -> Self {
        let ([student, teacher], moments) = (self.training.networks(), self.training.moments());
        self.training = device.training(State { student, teacher, moments });
        self
    }

    /// Training from a round's model, with what [`Trainer::kept`] gave after the site's last round.
    pub fn with_kept(
        plan: &PlanDraft,
        device: &DeviceChoice,
        weights: &NamedTensors,
        kept: &[u8],
    ) -> Result<Self, ModelError> {
        let exchange = plan.aggregation.exchange;
        init::signature(&plan.model, exchange)?.require(&weights.signature())?;
        let (stayed, moments) = checkpoint::read_kept(kept)?;
        Self::from_all(plan, device, &init::completed(weights, &plan.model, stayed), moments)
    }

    /// Training from a checkpoint.
    pub fn resume(plan: &PlanDraft, device: &DeviceChoice, file: &[u8]) -> Result<Self, ModelError> {
        let (weights, moments, steps) = checkpoint::read(file)?;
        let mut trainer = Self::from_all(plan, device, &weights, moments)?;
        trainer.steps = steps;
        Ok(trainer)
    }

    /// Computes at most so many images at a time, and adds up their gradients: the same step to float error, in less memory.
    /// 0: the whole batch at once.
    ///
    /// Refused where a step is more than a mean over images: with Sinkhorn and Knopp's balance, and with KoLeo.
    pub fn in_micro_batches(mut self, images: usize) -> Result<Self, ModelError> {
        let training = &self.plan.training;
        let splits = images > 0 && images < training.batch_size;
        if splits && (training.centering != Centering::Center || training.koleo > 0.0) {
            return Err(ModelError::MicroBatch { images, batch: training.batch_size });
        }
        self.micro_batch = images;
        Ok(self)
    }

    /// Multiplies in this precision. Weights, gradients, moments, teacher and center stay in single precision.
    pub fn in_precision(mut self, precision: Precision) -> Result<Self, ModelError> {
        self.training.knows(precision)?;
        self.precision = precision;
        Ok(self)
    }

    /// Holds the student to the model that the round started from, by the plan's proximal term.
    pub fn held_to(mut self, start: &NamedTensors) -> Self {
        if self.plan.training.proximal > 0.0 {
            self.training.hold(&start.under(STUDENT), self.plan.training.proximal);
        }
        self
    }

    /// Steps of the global clock taken so far: the step after the last one, or 0 before the first.
    pub fn step_count(&self) -> u64 {
        self.steps
    }

    /// Takes the step `step` of the global clock. `seed` draws what stochastic depth drops.
    pub fn step(&mut self, crops: &CropBatch, step: u64, seed: u64) -> Result<StepReport, ModelError> {
        let now = Schedule::at(&self.plan, step);
        let output = self.compute(crops, &now, seed)?;
        let loss = output.loss;
        if !loss.is_finite() {
            return Err(ModelError::Diverged { step, loss });
        }
        self.apply(&output, &now);
        self.steps = step + 1;
        let batch_entropy = meters::entropy(output.mean_taught.iter().copied());
        Ok(StepReport { loss, teacher_entropy: output.entropy, batch_entropy, schedule: now })
    }

    /// Moves the student, then the teacher, then the center.
    pub(crate) fn apply(&mut self, output: &StepOutput, now: &Schedule) {
        self.training.apply(output, &self.plan.training, now);
        optimizer::follow_center(&mut self.center, &output.mean_logits, self.plan.training.center_momentum);
    }

    pub(crate) fn compute(&mut self, crops: &CropBatch, now: &Schedule, seed: u64) -> Result<StepOutput, ModelError> {
        let CropBatch { batch, channels, global_side, local_side, global, local } = crops;
        crops.checked()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drop_path = [2, local.len()].map(|crops| drop_path(&mut rng, &self.plan.model, crops * batch));
        let training = &self.plan.training;
        let frozen = now.last_layer_frozen;
        let fixed_length = self.plan.model.head.norm_last_layer;
        let trained = move |name: &str| {
            !(frozen && name.contains("last_layer") || fixed_length && name == "head.last_layer.weight_g")
        };
        let at_once = if self.micro_batch == 0 { *batch } else { self.micro_batch };
        let parts = (0..*batch).step_by(at_once).map(|from| from..batch.min(&(from + at_once)).to_owned());
        let state = &mut self.training;
        let outputs = parts.map(|part| {
            let count = part.len();
            let pixels = |crops: &[Vec<f32>], side: usize| -> Vec<f32> {
                crops
                    .iter()
                    .map(|crop| of_part(crop, *batch, channels * side * side, &part))
                    .collect::<Vec<_>>()
                    .concat()
            };
            let kept = |crops: usize, blocks: &[[Vec<f32>; 2]]| -> Vec<[Vec<f32>; 2]> {
                let of_crops = |kept: &Vec<f32>| {
                    let crops = kept.chunks_exact((kept.len() / crops.max(1)).max(1));
                    crops.flat_map(|crop| of_part(crop, *batch, 1, &part)).copied().collect()
                };
                blocks.iter().map(|block| block.each_ref().map(of_crops)).collect()
            };
            let input = StepInput {
                plan: &self.plan.model,
                precision: self.precision,
                centering: training.centering,
                center: &self.center,
                batch: count,
                global: &pixels(global, *global_side),
                global_side: *global_side,
                local: &pixels(local, *local_side),
                local_side: *local_side,
                locals: local.len(),
                teacher_temperature: now.teacher_temperature,
                student_temperature: training.student_temperature,
                koleo: training.koleo,
                drop_path: [kept(2, &drop_path[0]), kept(local.len(), &drop_path[1])],
                trained: &trained,
            };
            let fraction = count as f64 / *batch as f64;
            (fraction, state.learn(&input, fraction, part.start == 0))
        });
        Ok(accumulated(outputs))
    }

    /// Puts weights that travelled in the place of this trainer's own.
    pub fn replace(&mut self, travelled: &NamedTensors) -> Result<(), ModelError> {
        init::signature(&self.plan.model, self.plan.aggregation.exchange)?.require(&travelled.signature())?;
        let all = self.weights().joined(travelled.clone());
        self.training.put([STUDENT, TEACHER].map(|network| all.under(network)));
        self.center = center_of(&all);
        Ok(())
    }

    /// Student, teacher and center.
    pub fn weights(&self) -> NamedTensors {
        let mut center = NamedTensors::new();
        center.insert(CENTER, vec![1, self.center.len()], self.center.clone());
        let [student, teacher] = self.training.networks();
        student.prefixed(STUDENT).joined(teacher.prefixed(TEACHER)).joined(center)
    }

    /// Everything a killed trainer needs to go on to the same bits.
    pub fn checkpoint(&self) -> Vec<u8> {
        checkpoint::write(&self.weights(), &self.training.moments(), self.steps)
    }

    /// What the site's next round starts with beside the merged model: AdamW's moments, and the weights that the plan does
    /// not exchange. It never leaves the site.
    pub fn kept(&self) -> Vec<u8> {
        let exchange = self.plan.aggregation.exchange;
        let stayed = self.weights().filtered(|name| !names::travels(exchange, name));
        checkpoint::write_kept(stayed, &self.training.moments())
    }
}

/// The center among all of a run's weights.
///
/// # Panics
/// If there is none: signatures are checked where weights come in.
fn center_of(weights: &NamedTensors) -> Vec<f32> {
    weights.get(CENTER).expect("a run's weights have a center").values.clone()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use common::plan::{CropPlan, HeadPlan, Init, ModelPlan, Optimizer};
    use rand::RngExt;
    use rand::seq::SliceRandom;

    use super::*;
    use crate::device::as_on_a_device;

    pub(crate) fn plan() -> PlanDraft {
        let mut plan: PlanDraft = serde_json::from_value(serde_json::json!({
            "run": "test",
            "training": { "steps_per_round": 8, "epoch_steps": 4, "batch_size": 4 },
            "rounds": { "count": 1, "sites": ["a"], "quorum": 1, "deadline_s": 1 }
        }))
        .unwrap();
        plan.model = ModelPlan {
            image_size: 16,
            dim: 16,
            depth: 2,
            heads: 2,
            drop_path: 0.2,
            init: Init::FanIn,
            head: HeadPlan { hidden: 16, bottleneck: 8, prototypes: 24, norm_last_layer: true },
            ..ModelPlan::default()
        };
        plan.crops = CropPlan { local_count: 2, local_size: 8, ..CropPlan::default() };
        plan
    }

    pub(crate) fn crops(seed: u64) -> CropBatch {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut crop = |side: usize| (0..4 * side * side).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect::<Vec<_>>();
        let global = [crop(16), crop(16)];
        CropBatch { batch: 4, channels: 1, global_side: 16, local_side: 8, global, local: vec![crop(8), crop(8)] }
    }

    fn trained(from: u64, mut trainer: Trainer, to: u64) -> Trainer {
        for step in from..to {
            trainer.step(&crops(step), step, step).unwrap();
        }
        trainer
    }

    fn new() -> Trainer {
        Trainer::new(&plan(), &DeviceChoice::Cpu, &init::initial_weights(&plan().model, 1)).unwrap()
    }

    #[test]
    fn a_trainer_that_goes_on_from_its_checkpoint_ends_with_the_same_bits() {
        let unbroken = trained(0, new(), 8);
        for killed_at in 1..8 {
            let file = trained(0, new(), killed_at).checkpoint();
            let resumed = Trainer::resume(&plan(), &DeviceChoice::Cpu, &file).unwrap();
            assert_eq!(resumed.step_count(), killed_at);
            let resumed = trained(killed_at, resumed, 8);
            assert_eq!(resumed.checkpoint(), unbroken.checkpoint(), "killed at {killed_at}");
        }
    }

    #[test]
    fn a_training_kept_on_a_device_goes_on_from_its_checkpoint_to_the_same_bits() {
        let resumed = |file: &[u8]| Trainer::resume(&plan(), &DeviceChoice::Cpu, file).unwrap();
        let start = new().checkpoint();
        let unbroken = as_on_a_device(|device| trained(0, resumed(&start).on(device), 8).checkpoint());
        let killed = as_on_a_device(|device| trained(0, resumed(&start).on(device), 3).checkpoint());
        assert_eq!(as_on_a_device(|device| trained(3, resumed(&killed).on(device), 8).checkpoint()), unbroken);
    }

    #[test]
    fn a_training_kept_on_a_device_moves_as_the_hosts_does() {
        let held = |optimizer: Optimizer| {
            let mut plan = plan();
            // A proximal term, the last layer frozen for the first steps, and images three at a time.
            plan.training.proximal = 0.1;
            plan.training.optimizer = optimizer;
            let first = init::initial_weights(&plan.model, 1);
            let held = Trainer::new(&plan, &DeviceChoice::Cpu, &first).unwrap().in_micro_batches(3).unwrap();
            (held, first)
        };
        for optimizer in [Optimizer::AdamW, Optimizer::Sgd] {
            let (on_host, first) = held(optimizer);
            let expected = trained(0, on_host.held_to(&first), 6).weights();
            let found = as_on_a_device(|device| trained(0, held(optimizer).0.on(device).held_to(&first), 6).weights());
            assert_eq!(found.signature(), expected.signature());
            for (name, expected) in expected.iter() {
                let before: Vec<f64> = first.get(name).unwrap().values.iter().map(|x| f64::from(*x)).collect();
                let went =
                    |values: &[f32]| values.iter().zip(&before).map(|(a, b)| f64::from(*a) - b).collect::<Vec<_>>();
                let (found, expected) = (went(&found.get(name).unwrap().values), went(&expected.values));
                let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
                let apart: Vec<f64> = found.iter().zip(&expected).map(|(found, expected)| found - expected).collect();
                // AdamW's first steps turn what rounding leaves of a gradient that is 0 into whole steps: those of keys' biases.
                let bound = if name.ends_with("qkv.bias") { 2.0 } else { 2e-2 };
                assert!(length(&apart) <= bound * length(&expected) + 1e-9, "{optimizer:?}, {name}");
            }
        }
    }

    #[test]
    fn a_trainer_killed_at_fifty_random_steps_ends_with_the_same_bits() {
        let steps = 64;
        let mut kills: Vec<u64> = (1..steps).collect();
        kills.shuffle(&mut ChaCha8Rng::seed_from_u64(50));
        kills.truncate(50);
        let mut living = new();
        for step in 0..steps {
            living.step(&crops(step), step, step).unwrap();
            if kills.contains(&(step + 1)) {
                living = Trainer::resume(&plan(), &DeviceChoice::Cpu, &living.checkpoint()).unwrap();
            }
        }
        assert_eq!(living.checkpoint(), trained(0, new(), steps).checkpoint());
    }

    #[test]
    fn trainers_on_four_threads_lose_no_part_of_a_gradient() {
        let gradients = || new().compute(&crops(2), &Schedule::at(&plan(), 2), 2).unwrap().gradients;
        let alone = gradients();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..60).for_each(|_| assert!(gradients() == alone, "a gradient differs")));
            }
        });
    }

    #[test]
    fn one_thread_and_three_train_to_the_same_bits() {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| trained(0, new(), 4).checkpoint())
        };
        assert_eq!(with(1), with(3));
    }

    /// The crops of two sites in one batch.
    fn pooled(one: &CropBatch, other: &CropBatch) -> CropBatch {
        let both = |one: &Vec<f32>, other: &Vec<f32>| [one.as_slice(), other].concat();
        CropBatch {
            batch: one.batch + other.batch,
            global: [0, 1].map(|crop| both(&one.global[crop], &other.global[crop])),
            local: one.local.iter().zip(&other.local).map(|(one, other)| both(one, other)).collect(),
            ..one.clone()
        }
    }

    fn mean([one, other]: [&[f32]; 2]) -> Vec<f64> {
        one.iter().zip(other).map(|(a, b)| (f64::from(*a) + f64::from(*b)) / 2.0).collect()
    }

    /// Equal to float error: as a whole, since a low temperature magnifies what rounding does to one value.
    fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let error = norm(&mut found.iter().zip(expected).map(|(found, expected)| f64::from(*found) - expected));
        let size = norm(&mut expected.iter().copied());
        assert!(found.len() == expected.len() && error <= 1e-4 * size.max(1e-4), "{what}: {error:e} of {size:e}");
    }

    #[test]
    fn the_mean_gradient_of_two_sites_is_that_of_their_pooled_batch() {
        // So one step of plain SGD a round is the pooled step. Stochastic depth would draw other samples.
        let mut plan = plan();
        plan.model.drop_path = 0.0;
        let mut trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &init::initial_weights(&plan.model, 1)).unwrap();
        let now = Schedule::at(&plan, 5);
        let (one, other) = (crops(1), crops(2));
        let [of_one, of_other, of_both] =
            [&one, &other, &pooled(&one, &other)].map(|crops| trainer.compute(crops, &now, 0).unwrap());
        assert!((of_both.loss - (of_one.loss + of_other.loss) / 2.0).abs() < 1e-5);
        for (name, found) in &of_both.gradients {
            assert_close(name, found, &mean([&of_one.gradients[name], &of_other.gradients[name]]));
        }
    }

    #[test]
    fn the_mean_teacher_and_center_are_the_averages_of_the_mean_students_path() {
        // Both are linear in what they follow, so that to average them each round is exact. Steps are large, and the teacher quick:
        // what is compared is how far it went.
        let plan = plan();
        let now = |step: u64| Schedule { learning_rate: 5e-3, teacher_momentum: 0.8, ..Schedule::at(&plan, step) };
        let mut sites = [new(), new()];
        let [_, start] = sites[0].training.networks();
        let widened = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
        let mut teacher: BTreeMap<String, Vec<f64>> =
            start.iter().map(|(name, tensor)| (name.to_owned(), widened(&tensor.values))).collect();
        let mut center = vec![0.0; sites[0].center.len()];
        for step in 0..6 {
            let now = now(step);
            let mut logits = Vec::new();
            for (place, site) in sites.iter_mut().enumerate() {
                let output = site.compute(&crops(step * 2 + place as u64), &now, step).unwrap();
                site.apply(&output, &now);
                logits.push(output.teacher_logits);
            }
            let kept = now.teacher_momentum;
            let [one, other] = sites.each_ref().map(|site| site.training.networks());
            for (name, teacher) in &mut teacher {
                let student = mean([&one, &other].map(|[student, _]| student.get(name).unwrap().values.as_slice()));
                teacher
                    .iter_mut()
                    .zip(student)
                    .for_each(|(teacher, to)| *teacher = *teacher * kept + to * (1.0 - kept));
            }
            let (both, kept) = (mean([&logits[0], &logits[1]]), plan.training.center_momentum);
            let rows = both.len() / center.len();
            for (class, center) in center.iter_mut().enumerate() {
                let mean = both.iter().skip(class).step_by(both.len() / rows).sum::<f64>() / rows as f64;
                *center = *center * kept + mean * (1.0 - kept);
            }
        }
        let [[_, one], [_, other]] = sites.each_ref().map(|site| site.training.networks());
        for (name, expected) in &teacher {
            let of = |weights: &NamedTensors| weights.get(name).unwrap().values.clone();
            let found = mean([&of(&one), &of(&other)]);
            let from = widened(&of(&start));
            let went = |to: &[f64]| to.iter().zip(&from).map(|(to, from)| to - from).collect::<Vec<_>>();
            let (found, expected) = (went(&found), went(expected));
            let most = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            let apart = found.iter().zip(&expected).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
            // A last layer's length stays 1.
            assert!(most > 1e-3 || name.ends_with("weight_g"), "{name} went nowhere: {most:e}");
            assert!(apart <= 1e-6 + 1e-4 * most, "{name}: {apart:e} of {most:e}");
        }
        let found: Vec<f32> = mean([&sites[0].center, &sites[1].center]).iter().map(|x| *x as f32).collect();
        assert_close("center", &found, &center);
    }

    #[test]
    fn a_batch_in_parts_gives_the_step_of_the_whole_batch() {
        let now = Schedule::at(&plan(), 5);
        let whole = new().compute(&crops(1), &now, 3).unwrap();
        for images in [1, 3] {
            let parts = new().in_micro_batches(images).unwrap().compute(&crops(1), &now, 3).unwrap();
            assert!((parts.loss - whole.loss).abs() < 1e-5, "{} {}", parts.loss, whole.loss);
            assert_eq!(parts.gradients.len(), whole.gradients.len());
            for (name, found) in &parts.gradients {
                let expected: Vec<f64> = whole.gradients[name].iter().map(|&value| f64::from(value)).collect();
                assert_close(name, found, &expected);
            }
            assert_eq!(parts.teacher_logits.len(), whole.teacher_logits.len());
        }
    }

    #[test]
    fn a_batch_that_is_more_than_its_images_is_not_cut_into_parts() {
        let mut plan = plan();
        plan.training.koleo = 0.1;
        let trainer = Trainer::new(&plan, &DeviceChoice::Cpu, &init::initial_weights(&plan.model, 1)).unwrap();
        let error = trainer.in_micro_batches(2).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("micro_batch is 2") && error.contains("at least 4"), "{error}");
    }

    #[test]
    fn moments_go_from_round_to_round_without_the_weights() {
        let before = trained(0, new(), 5);
        let with = Trainer::with_kept(&plan(), &DeviceChoice::Cpu, &before.weights(), &before.kept()).unwrap();
        assert_eq!(trained(5, with, 8).weights().digest(), trained(5, before, 8).weights().digest());
    }

    #[test]
    fn the_loss_of_a_uniform_teacher_and_student_is_ln_k() {
        let mut weights = init::initial_weights(&plan().model, 1);
        let silent = |name: &str| name.ends_with("last_layer.weight_v");
        weights.iter_mut().filter(|(name, _)| silent(name)).for_each(|(_, values)| {
            // All prototypes alike: every output is uniform.
            let first = values[..8].to_vec();
            values.chunks_mut(8).for_each(|row| row.copy_from_slice(&first));
        });
        let mut trainer = Trainer::new(&plan(), &DeviceChoice::Cpu, &weights).unwrap();
        let report = trainer.step(&crops(0), 0, 0).unwrap();
        let ln_k = 24.0_f64.ln();
        assert!((report.loss - ln_k).abs() < 1e-5 && (report.teacher_entropy - ln_k).abs() < 1e-5, "{report:?}");
    }

    #[test]
    fn weights_of_another_network_are_refused_by_name() {
        let other = init::initial_weights(&ModelPlan { dim: 32, ..plan().model }, 1);
        let error = Trainer::new(&plan(), &DeviceChoice::Cpu, &other).err().map(|error| error.to_string());
        assert!(error.unwrap_or_default().contains("expected shape"));
    }

    #[test]
    fn koleo_changes_the_gradients_and_not_the_reported_loss() {
        let mut with = plan();
        with.training.koleo = 0.5;
        let weights = init::initial_weights(&plan().model, 1);
        let now = Schedule::at(&with, 0);
        let compute = |plan: &PlanDraft| {
            Trainer::new(plan, &DeviceChoice::Cpu, &weights).unwrap().compute(&crops(0), &now, 0).unwrap()
        };
        let (plain, spread) = (compute(&plan()), compute(&with));
        assert_eq!(plain.loss, spread.loss);
        assert_ne!(plain.gradients["backbone.norm.weight"], spread.gradients["backbone.norm.weight"]);
    }
}
