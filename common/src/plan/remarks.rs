//! What a plan says that is permitted, and is seldom meant. Remarks refuse nothing.

use super::PlanDraft;

impl PlanDraft {
    /// Each setting that is probably not meant, with what it would come to. Schedules that are stated in epochs are those of
    /// the published training, which has a hundred of them; a run of a few leaves them no room.
    pub fn remarks(&self) -> Vec<String> {
        if self.finetuning.is_some() {
            return Vec::new();
        }
        let training = &self.training;
        let epochs = self.total_steps() as f64 / training.epoch_steps as f64;
        let [first, last] = training.teacher_temperature;
        let all = [
            (
                "training.warmup_epochs",
                training.warmup_epochs,
                "the learning rate does not come to its peak; a tenth of the run is usual",
            ),
            (
                "training.teacher_temperature_warmup_epochs",
                if first == last { 0 } else { training.teacher_temperature_warmup_epochs },
                "the teacher's temperature does not come to its second value",
            ),
            (
                "training.freeze_last_layer_epochs",
                training.freeze_last_layer_epochs,
                "the head's last layer is never trained; one epoch, or none, is usual",
            ),
        ];
        let too_long = |(_, of, _): &(&str, usize, &str)| *of > 0 && *of as f64 >= epochs;
        let told = |(setting, of, comes_to)| {
            format!(
                "{setting} is {of}, and the whole run is {epochs:.1} epochs of {} steps: {comes_to}",
                training.epoch_steps
            )
        };
        all.into_iter().filter(too_long).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_are_as_long_as_the_run_are_remarked_on_by_name_and_a_finetuning_has_none() {
        let mut draft: PlanDraft = toml::from_str(include_str!("../../../tests/plans/story.toml")).unwrap();
        draft.training.epoch_steps = draft.total_steps() / 4;
        let training = &mut draft.training;
        (training.warmup_epochs, training.freeze_last_layer_epochs) = (3, 0);
        (training.teacher_temperature, training.teacher_temperature_warmup_epochs) = ([0.04, 0.04], 30);
        assert_eq!(draft.remarks(), Vec::<String>::new());
        draft.training.warmup_epochs = 4;
        draft.training.freeze_last_layer_epochs = 5;
        draft.training.teacher_temperature = [0.04, 0.07];
        let remarks = draft.remarks();
        assert_eq!(remarks.len(), 3);
        assert!(remarks[0].starts_with("training.warmup_epochs is 4, and the whole run is 4.0 epochs"), "{remarks:?}");
        draft.finetuning = Some(super::super::FinetuningPlan { frozen_backbone: false, tasks: Vec::new() });
        assert_eq!(draft.remarks(), Vec::<String>::new());
    }
}
