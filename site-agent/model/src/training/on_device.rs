//! A training in a GPU's memory: crops go there, and what the meters and the center need comes back. Weights are on the host
//! only where they are asked for.

use std::collections::BTreeMap;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use common::NamedTensors;
use common::plan::{Optimizer, TrainingPlan};

use super::{State, StepOutput, Training};
use crate::compute::{Compute, Computed, Named, On, StepInput};
use crate::fused::{Fused, Held, Kernels, clipped};
use crate::optimizer::{self, AdamW, Moment, Moments};
use crate::parameters::{Parameters, host};
use crate::schedule::Schedule;
use crate::{ModelError, Precision};

/// AdamW's state of one tensor.
struct HeldMoment<B: Backend> {
    steps: u64,
    first: Tensor<B, 1>,
    second: Tensor<B, 1>,
}

/// A training in the device's memory.
pub(crate) struct OnDevice<B: AutodiffBackend> {
    on: On<B>,
    student: Parameters<B::InnerBackend>,
    teacher: Parameters<B::InnerBackend>,
    moments: BTreeMap<String, HeldMoment<B::InnerBackend>>,
    /// Of the batch that was learnt from last.
    gradients: Named<B::InnerBackend>,
    /// What the student is held to, and how strongly.
    start: Option<(Parameters<B::InnerBackend>, f64)>,
}

impl<B: AutodiffBackend> OnDevice<B>
where
    B::InnerBackend: Kernels,
{
    pub(crate) fn new(on: On<B>, state: State) -> Self {
        let put = |network: &NamedTensors| Parameters::new(network, &on.device);
        let (student, teacher) = (put(&state.student), put(&state.teacher));
        let values = |values: Vec<f32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), &on.device)
        };
        let held = |(name, Moment { steps, first, second }): (String, Moment)| {
            (name, HeldMoment { steps, first: values(first), second: values(second) })
        };
        let moments = state.moments.into_iter().map(held).collect();
        Self { on, student, teacher, moments, gradients: Named::new(), start: None }
    }

    /// Adds a part's gradients to those of the parts before it.
    fn accumulate(&mut self, gradients: Named<B::InnerBackend>, fraction: f64) {
        for (name, gradient) in gradients {
            let part = if fraction == 1.0 { gradient } else { gradient * fraction };
            let sum = match self.gradients.remove(&name) {
                Some(before) => before + part,
                None => part,
            };
            self.gradients.insert(name, sum);
        }
    }

    /// The gradient of a tensor, with that of what holds it to the round's start.
    fn gradient(&mut self, name: &str) -> Option<Tensor<B::InnerBackend, 1>> {
        let gradient = self.gradients.remove(name)?;
        let Some((start, strength)) = &self.start else { return Some(gradient) };
        let moved = self.student.flat(name)? - start.flat(name)?;
        Some(gradient + moved * *strength)
    }

    /// One step of AdamW on a tensor, and of its teacher.
    fn moved(&mut self, name: &str, gradient: Tensor<B::InnerBackend, 1>, how: AdamW, clip: f64, momentum: f64) {
        let Some(((values, shape), (teacher, _))) = self.student.take(name).zip(self.teacher.take(name)) else {
            return;
        };
        let nothing = || values.zeros_like();
        let HeldMoment { steps, first, second } =
            self.moments.remove(name).unwrap_or_else(|| HeldMoment { steps: 0, first: nothing(), second: nothing() });
        let steps = steps + 1;
        let factors = optimizer::factors(how, steps, clip, momentum);
        let held = B::InnerBackend::adamw(Held { values, first, second, teacher }, gradient, &factors);
        self.student.put(name, held.values, shape.clone());
        self.teacher.put(name, held.teacher, shape);
        self.moments.insert(name.to_owned(), HeldMoment { steps, first: held.first, second: held.second });
    }

    /// One step of plain gradient descent on a tensor.
    fn descended(&mut self, name: &str, gradient: Tensor<B::InnerBackend, 1>, now: &Schedule, decay: f64, clip: f64) {
        let Some((values, shape)) = self.student.take(name) else { return };
        let moved = values * (1.0 - now.learning_rate * decay) - clipped(gradient, clip) * now.learning_rate;
        self.student.put(name, moved, shape);
    }

    /// The teacher of a tensor follows it.
    fn followed(&mut self, name: &str, momentum: f64) {
        if let Some(((teacher, shape), student)) = self.teacher.take(name).zip(self.student.flat(name)) {
            self.teacher.put(name, teacher * momentum + student * (1.0 - momentum), shape);
        }
    }
}

impl<B: AutodiffBackend + Fused + 'static> Training for OnDevice<B>
where
    B::InnerBackend: Fused + Kernels,
    B::Device: Send + Sync,
{
    fn knows(&self, precision: Precision) -> Result<(), ModelError> {
        self.on.knows(precision)
    }

    fn hold(&mut self, start: &NamedTensors, strength: f64) {
        self.start = Some((Parameters::new(start, &self.on.device), strength));
    }

    fn learn(&mut self, input: &StepInput<'_>, fraction: f64, first: bool) -> StepOutput {
        let computed = self.on.alone(|| {
            let logits = On::<B>::teach(&self.teacher.clone().in_precision(input.precision), input);
            let student = self.student.tracked::<B>().in_precision(input.precision).trained(input.trained);
            On::learn(&student, logits, input)
        });
        #[cfg(test)]
        let told = computed.gradients.iter().map(|(name, gradient)| (name.clone(), host(gradient.clone()))).collect();
        if first {
            self.gradients.clear();
        }
        self.accumulate(computed.gradients, fraction);
        let Computed { loss, teacher_logits, taught, .. } = computed;
        let [rows, _] = taught.dims();
        let mean = |sum: Tensor<B::InnerBackend, 2>| {
            host(sum).into_iter().map(|value| f64::from(value) / rows as f64).collect::<Vec<_>>()
        };
        StepOutput {
            loss,
            #[cfg(test)]
            gradients: told,
            #[cfg(not(test))]
            gradients: BTreeMap::new(),
            mean_logits: mean(B::InnerBackend::sum_rows(teacher_logits.clone())),
            mean_taught: mean(B::InnerBackend::sum_rows(taught.clone())),
            entropy: mean(B::InnerBackend::entropy(taught)).into_iter().sum(),
            #[cfg(test)]
            teacher_logits: host(teacher_logits),
            #[cfg(test)]
            student_logits: host(computed.student_logits),
        }
    }

    fn apply(&mut self, _: &StepOutput, training: &TrainingPlan, now: &Schedule) {
        let (clip, momentum) = (training.clip_gradient, now.teacher_momentum);
        for (name, shape) in self.student.shapes() {
            let decay = if optimizer::is_decayed(&name, &shape) { now.weight_decay } else { 0.0 };
            match (self.gradient(&name), training.optimizer) {
                (Some(gradient), Optimizer::AdamW) => {
                    let how =
                        AdamW { rate: now.learning_rate, weight_decay: decay, beta2: optimizer::BETA2, factor: 1.0 };
                    self.moved(&name, gradient, how, clip, momentum);
                }
                (Some(gradient), Optimizer::Sgd) => {
                    self.descended(&name, gradient, now, decay, clip);
                    self.followed(&name, momentum);
                }
                (None, _) => self.followed(&name, momentum),
            }
        }
    }

    fn networks(&self) -> [NamedTensors; 2] {
        [&self.student, &self.teacher].map(|network| network.clone().back())
    }

    fn moments(&self) -> Moments {
        let told = |(name, held): (&String, &HeldMoment<B::InnerBackend>)| {
            let (first, second) = (host(held.first.clone()), host(held.second.clone()));
            (name.clone(), Moment { steps: held.steps, first, second })
        };
        self.moments.iter().map(told).collect()
    }

    fn put(&mut self, networks: [NamedTensors; 2]) {
        let [student, teacher] = networks.map(|network| Parameters::new(&network, &self.on.device));
        (self.student, self.teacher) = (student, teacher);
    }
}
