//! A training on the CPU: its state is lent to each step without a copy, and moved on all threads.

use std::mem;

use burn::tensor::backend::AutodiffBackend;
use common::NamedTensors;
use common::plan::{Optimizer, TrainingPlan};

use super::{State, StepOutput, Training};
use crate::compute::{Compute, On, StepInput};
use crate::fused::{Fused, Kernels};
use crate::optimizer::{self, Moments};
use crate::parameters::{Parameters, host};
use crate::schedule::Schedule;
use crate::{ModelError, Precision, meters};

/// A training in the host's memory.
pub(crate) struct OnHost<B: AutodiffBackend> {
    on: On<B>,
    state: State,
    /// What the student is held to, and how strongly.
    start: Option<(NamedTensors, f64)>,
}

impl<B: AutodiffBackend> OnHost<B> {
    pub(crate) fn new(on: On<B>, state: State) -> Self {
        Self { on, state, start: None }
    }
}

impl<B: AutodiffBackend + Fused + 'static> Training for OnHost<B>
where
    B::InnerBackend: Fused + Kernels,
    B::Device: Send + Sync,
{
    fn knows(&self, precision: Precision) -> Result<(), ModelError> {
        self.on.knows(precision)
    }

    fn hold(&mut self, start: &NamedTensors, strength: f64) {
        self.start = Some((start.clone(), strength));
    }

    fn learn(&mut self, input: &StepInput<'_>, _: f64, _: bool) -> StepOutput {
        let (student, teacher) = (&mut self.state.student, &mut self.state.teacher);
        let on = &self.on;
        let mut output = on.alone(|| {
            let lent = Parameters::<B::InnerBackend>::of(mem::take(teacher), &on.device).in_precision(input.precision);
            let logits = On::<B>::teach(&lent, input);
            *teacher = lent.back();
            let lent = Parameters::<B>::of(mem::take(student), &on.device).in_precision(input.precision);
            let lent = lent.trained(input.trained);
            let computed = On::learn(&lent, logits, input);
            let gradients = computed.gradients.into_iter().map(|(name, gradient)| (name, host(gradient))).collect();
            #[cfg(test)]
            let student_logits = host(computed.student_logits);
            *student = lent.back();
            let k = input.center.len();
            let (logits, taught) = (host(computed.teacher_logits), host(computed.taught));
            StepOutput {
                loss: computed.loss,
                gradients,
                mean_logits: meters::mean_row(&logits, k),
                mean_taught: meters::mean_row(&taught, k),
                entropy: meters::mean_entropy(&taught, k),
                #[cfg(test)]
                teacher_logits: logits,
                #[cfg(test)]
                student_logits,
            }
        });
        if let Some((start, strength)) = &self.start {
            optimizer::pull(&mut output.gradients, &self.state.student, start, *strength);
        }
        output
    }

    fn apply(&mut self, output: &StepOutput, training: &TrainingPlan, now: &Schedule) {
        let State { student, teacher, moments } = &mut self.state;
        let (gradients, clip) = (&output.gradients, training.clip_gradient);
        match training.optimizer {
            Optimizer::AdamW => optimizer::step(student, teacher, moments, gradients, now, clip),
            Optimizer::Sgd => {
                optimizer::descend(student, gradients, now, clip);
                optimizer::follow(teacher, student, now.teacher_momentum);
            }
        }
    }

    fn networks(&self) -> [NamedTensors; 2] {
        [self.state.student.clone(), self.state.teacher.clone()]
    }

    fn moments(&self) -> Moments {
        self.state.moments.clone()
    }

    fn put(&mut self, [student, teacher]: [NamedTensors; 2]) {
        (self.state.student, self.state.teacher) = (student, teacher);
    }
}
