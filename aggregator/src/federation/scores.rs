//! What sites measured of a run's models, taken note of.

use std::collections::BTreeSet;

use common::score::Score;
use common::{Digest, Plan, Refusal, RunId, SiteId};

use super::{Federation, refusal};
use crate::status;

impl Federation {
    /// Takes note of what a site measured of a model of a run; the last word counts.
    pub fn report_scores(&self, site: &SiteId, run: &RunId, model: Digest, scores: &[Score]) -> Result<(), Refusal> {
        let plan = {
            let mut live = self.live();
            let found = live.run_of(run, site).ok_or_else(|| Refusal::UnknownRun(run.clone()))?;
            found.record.plan.clone()
        };
        acceptable(&plan, scores).map_err(Refusal::Scores)?;
        let rounds = self.store.rounds(run).map_err(refusal)?;
        // Only of models that are there: a site must not fill the disk with digests that it made up.
        if !status::models(&plan, &rounds).any(|(_, known)| known == model) {
            return Err(Refusal::UnknownBlob(model));
        }
        self.store.note_scores(run, model, site, scores, self.clock.wall()).map_err(refusal)?;
        tracing::info!(%run, %site, %model, scores = scores.len(), "scores noted");
        Ok(())
    }
}

/// Whether these could be scores of the plan's tasks; if not, why.
fn acceptable(plan: &Plan, scores: &[Score]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for score in scores {
        let tasks = plan.draft.finetuning.iter().flat_map(|finetuning| &finetuning.tasks);
        let Some(task) = tasks.into_iter().find(|task| task.name == score.task) else {
            return Err(format!("the run has no task {}", score.task));
        };
        let Score { metric, on, subjects, .. } = score;
        if !task.metrics.contains(metric) && task.best.metric != *metric {
            return Err(format!("{} is no metric of task {}", metric.name(), task.name));
        }
        if !score.is_reportable() {
            return Err(format!(
                "{} of task {} over {subjects} subjects: a number, over 5, 10, ...",
                metric.name(),
                task.name
            ));
        }
        if !seen.insert((&score.task, *metric, *on)) {
            return Err(format!("{} of task {}, {on}, is there twice", metric.name(), task.name));
        }
    }
    Ok(())
}
