//! The state of a training between its steps, student, teacher and AdamW's moments, and how a step moves them: on the host for
//! the CPU, in its own memory for a GPU.

mod on_device;
mod on_host;

use std::collections::BTreeMap;

use common::NamedTensors;
use common::plan::TrainingPlan;

use crate::compute::StepInput;
use crate::optimizer::Moments;
use crate::schedule::Schedule;
use crate::{ModelError, Precision};

pub(crate) use on_device::OnDevice;
pub(crate) use on_host::OnHost;

/// What a training starts from.
pub(crate) struct State {
    pub(crate) student: NamedTensors,
    pub(crate) teacher: NamedTensors,
    pub(crate) moments: Moments,
}

/// What one step gives.
#[derive(Default)]
pub(crate) struct StepOutput {
    /// The DINO loss, without regularisers.
    pub(crate) loss: f64,
    /// Gradients by name of the student's tensor, where the host moves them; a test is told of all.
    pub(crate) gradients: BTreeMap<String, Vec<f32>>,
    /// The mean of the teacher's raw logits, `[K]`: what the center follows.
    pub(crate) mean_logits: Vec<f64>,
    /// The mean of what the teacher taught, `[K]`.
    pub(crate) mean_taught: Vec<f64>,
    /// The mean entropy of what it taught, in nats.
    pub(crate) entropy: f64,
    /// The teacher's raw logits, `[2 * batch, K]`.
    #[cfg(test)]
    pub(crate) teacher_logits: Vec<f32>,
    /// The student's raw logits, `[crops * batch, K]`.
    #[cfg(test)]
    pub(crate) student_logits: Vec<f32>,
}

/// A training where its device keeps it.
pub(crate) trait Training: Send {
    /// Refuses a precision that the device does not know.
    fn knows(&self, precision: Precision) -> Result<(), ModelError>;
    /// Holds the student to the model that it has now, by a proximal term of this strength.
    fn hold(&mut self, start: &NamedTensors, strength: f64);
    /// The loss and gradients of a batch, or of a part that is this fraction of one: the parts of a batch follow each other,
    /// `first` is the first of them.
    fn learn(&mut self, input: &StepInput<'_>, fraction: f64, first: bool) -> StepOutput;
    /// Moves the student by the gradients of the batch that was learnt from, and the teacher after it.
    fn apply(&mut self, output: &StepOutput, training: &TrainingPlan, now: &Schedule);
    /// Student and teacher.
    fn networks(&self) -> [NamedTensors; 2];
    /// AdamW's moments.
    fn moments(&self) -> Moments;
    /// Puts other networks in their place.
    fn put(&mut self, networks: [NamedTensors; 2]);
}
