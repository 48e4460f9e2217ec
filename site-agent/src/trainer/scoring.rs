//! What a model is worth at this site: each task's metrics, on subjects that train nothing.

use common::Score;
use common::plan::ModelPlan;
use common::score::MeasuredOn;
use data::FrameCache;
use model::Finetuner;

use super::TrainerError;
use super::finetuning::SiteTask;
use super::stopping::Stop;
use crate::tasks::{Asked, Value, measure, thinned};

/// The scores that may leave. Nothing of a metric that only a bootstrap or much time would tell.
pub(super) fn scores(
    model: &ModelPlan,
    cache: &FrameCache,
    tasks: &[SiteTask],
    network: &Finetuner,
    stop: &Stop,
) -> Result<Vec<Score>, TrainerError> {
    let mut scores = Vec::new();
    for SiteTask { task, examples, cohort } in tasks {
        let asked = Asked::new(cache, task, model.image_size * task.input.scale, model.in_channels);
        for (on, subjects) in [(MeasuredOn::Validation, cohort.validation()), (MeasuredOn::HeldOut, cohort.held_out())]
        {
            // Before the round's first step: there is nothing that a checkpoint would keep.
            if stop.is_wished() {
                return Err(TrainerError::Stopped { step: 0 });
            }
            let some = thinned(subjects, task, cache, examples);
            let said = asked.all(network, &some)?;
            let measured = measure(task, cache, examples, &some, &said, None)?;
            let whole = measured.values.iter().filter(|value| value.of.is_none());
            let picks = |value: &&Value| value.metric == task.best.metric;
            if on == MeasuredOn::Validation
                && whole.clone().find(picks).is_some_and(|best| !measured.may_leave(task, best.metric, best.subjects))
            {
                tracing::warn!(task = %task.name, "too few subjects: what the best model is picked by stays here");
            }
            let leaving = whole.filter(|value| measured.may_leave(task, value.metric, value.subjects));
            scores.extend(
                leaving
                    .filter_map(|value| Score::reportable(&task.name, value.metric, on, value.value, value.subjects)),
            );
        }
    }
    Ok(scores)
}
