//! How much is spent on each training: what two cores do in a quarter of an hour, or more.
//!
//! The settings are of a kind of answer, never of one task, and were chosen on the validation subjects of other patients than
//! the table's (`docs/results/tasks.md` says how).

use common::task::TaskKind;
use common::{PlanDraft, Task};
use serde::{Deserialize, Serialize};

/// How much is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// All tasks, pretraining included, in a quarter of an hour of two cores.
    Quick,
    /// The laboratory's whole pretraining, larger batches, more steps: hours.
    Thorough,
}

impl Effort {
    /// How a backbone is pretrained.
    pub fn pretraining(self, plan: &PlanDraft) -> PlanDraft {
        let mut plan = plan.clone();
        if self == Self::Quick {
            plan.rounds.count = plan.rounds.count.min(10);
        }
        plan
    }

    /// The task as it is trained, with so many steps if they are given and it answers for every pixel.
    pub fn declare(self, mut task: Task, dense_steps: Option<usize>) -> Task {
        let dense = matches!(task.kind, TaskKind::Segmentation | TaskKind::Localisation);
        let training = &mut task.training;
        // A small network and few steps: faster, and with fewer frames, than the tasks' own settings are.
        (training.steps, training.batch_size, training.learning_rate) = match (self, task.kind) {
            (Self::Quick, TaskKind::Segmentation | TaskKind::Localisation) => (400, 2, 1e-2),
            (Self::Quick, TaskKind::Detection) => (100, 4, 5e-3),
            (Self::Thorough, TaskKind::Segmentation | TaskKind::Localisation) => (200, 8, 1e-2),
            (Self::Thorough, TaskKind::Detection) => (200, 8, 5e-3),
            (_, TaskKind::Classification) => (200, 16, 5e-3),
        };
        if let Some(steps) = dense_steps.filter(|_| dense) {
            training.steps = steps;
        }
        if self == Self::Quick {
            // A quarter of the pixels, and many small steps on them: of what a decoder learns in ten seconds, that is the most.
            task.input.scale = 1;
            // Steps of this size would soon have overwritten what the lower blocks bring along.
            training.layer_decay = 0.5;
            // A look at the validation subjects costs what several steps do.
            training.validate_every = training.steps.div_ceil(2);
        }
        task
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_declared_soundly_for_any_effort_and_only_dense_ones_take_other_steps() {
        for task in site_agent::tasks::built_in() {
            for effort in [Effort::Quick, Effort::Thorough] {
                let declared = effort.declare(task.clone(), Some(30));
                declared.check().unwrap();
                let dense = matches!(task.kind, TaskKind::Segmentation | TaskKind::Localisation);
                assert_eq!(declared.training.steps == 30, dense, "{}", task.name);
                // What is asked and how it is judged is the task's own.
                assert_eq!((&declared.classes, &declared.metrics), (&task.classes, &task.metrics));
            }
            assert_eq!(Effort::Quick.declare(task, None).input.scale, 1);
        }
    }
}
