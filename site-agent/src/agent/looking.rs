//! What is here, as far as a directive asks: what [`decide::next`] decides by.

use common::{Decline, Digest, Directive, Plan, RoundNumber, RunId};

use super::saying::Said;
use super::{Agent, AgentError, DECLINED_FOR, Work};
use crate::approvals;
use crate::decide::{self, Here, Kills, Reading, Trainer};
use crate::images;
use crate::job::JobFolder;
use crate::training::State;

impl Agent {
    /// What is here, as far as the directive asks.
    pub(super) fn look(&mut self, directive: &Directive) -> Result<Here, AgentError> {
        let wanted = decide::work(directive);
        self.indexing.take_if(|indexing| indexing.is_stopped() && indexing.task.is_finished());
        let (trainer, reading) = (self.trainer(wanted.as_ref()), self.reading(directive)?);
        let mut here = Here { trainer, reading, still: self.still(), ..Here::default() };
        self.declined = self.declined.take().filter(|declined| declined.since.elapsed() < DECLINED_FOR);
        match directive {
            Directive::Wait { .. } | Directive::Failed { .. } => {}
            Directive::Finished { run, model, .. } => {
                here.model = self.home.model(*model).exists();
                here.done = self.has_ended(run, *model)?;
                if here.done && self.is_anothers(run)? {
                    self.say(Said::NotFetched { run: run.clone() });
                }
                here.measured = here.done || self.plan_to_measure_by(run, *model)?.is_none();
                self.look_for_result(&mut here, run, decide::AFTER_THE_LAST, *model);
            }
            Directive::Train(assignment) => {
                let (run, round, base) = (&assignment.run, assignment.round, assignment.base);
                here.plan = self.home.plan(assignment.plan).exists();
                here.approved = here.plan && approvals::approved(&self.home)?.contains(&assignment.plan);
                here.model = self.home.model(base).exists();
                here.sealed = self.journal.sealed(run, round, base).is_some();
                here.done = self.is_done(assignment);
                if let Some(declined) = &self.declined {
                    here.declined = (Some(&declined.work) == wanted.as_ref()).then_some(declined.reason);
                }
                if here.plan && !here.done {
                    let plan = self.read_plan(assignment.plan)?;
                    here.plan = here.declined.is_some() || !self.misses_signatures(&plan, assignment.plan);
                    here.objection = self.objection(&plan, assignment).map(|(reason, _)| reason);
                    here.images = self.cache_for(&plan)?.is_some() && self.indexing.is_none();
                }
                self.look_for_result(&mut here, run, round, base);
            }
        }
        Ok(here)
    }

    /// Which images are being read, seen from the directive.
    fn reading(&self, directive: &Directive) -> Result<Reading, AgentError> {
        let Some(indexing) = self.indexing.as_ref().filter(|indexing| !indexing.is_stopped()) else {
            return Ok(Reading::Nothing);
        };
        let grid = match directive {
            Directive::Train(work) if self.home.plan(work.plan).exists() => {
                Some(images::grid_digest(&self.read_plan(work.plan)?.draft.images))
            }
            _ => None,
        };
        Ok(if grid == Some(indexing.grid) { Reading::Wanted } else { Reading::Unwanted })
    }

    /// A trainer of an earlier life of this agent may have ended.
    fn look_for_result(&self, here: &mut Here, run: &RunId, round: RoundNumber, base: Digest) {
        let result = || JobFolder::at(self.home.job(run, round, base)).result();
        if here.trainer == Trainer::Absent && matches!(result(), Ok(Some(_))) {
            here.trainer = Trainer::Finished;
        }
    }

    /// The plan to measure a run's last model by: of a run that finetuned, in which this site took part, and whose last model
    /// the aggregator has no scores of.
    pub(super) fn plan_to_measure_by(&self, run: &RunId, model: Digest) -> Result<Option<Plan>, AgentError> {
        let record = self.journal.run(run);
        let scored = record.is_some_and(|record| record.scored == Some(model));
        let plan = record.and_then(|record| Some(record.sealed.as_ref()?.plan));
        let Some(plan) = plan.filter(|plan| !scored && self.config.policy.scores && self.approves(*plan)) else {
            return Ok(None);
        };
        // A plan that cannot be read any more measures nothing, and keeps no other run from going on.
        let Ok(plan) = self.read_plan(plan).inspect_err(|error| {
            tracing::warn!(%run, %error, "the last model is not measured: its plan cannot be read");
        }) else {
            return Ok(None);
        };
        let has_images = self.cache_for(&plan)?.is_some();
        Ok((plan.draft.finetuning.is_some() && has_images).then_some(plan))
    }

    /// What the trainer is doing, seen from the round `wanted`. One that has ended without being of use is let go.
    fn trainer(&mut self, wanted: Option<&Work>) -> Trainer {
        let Some(training) = &mut self.training else { return Trainer::Absent };
        let of_this_round = wanted == Some(&training.work);
        match training.state() {
            State::Running if of_this_round => Trainer::Running,
            State::Running => Trainer::RunningAnother,
            State::Finished if of_this_round => Trainer::Finished,
            State::Failed(why) if of_this_round => Trainer::Failed(why),
            State::Killed if of_this_round => {
                let (work, step) = (training.work.clone(), training.steps_taken());
                let before = self.kills.take().filter(|(killed, _)| *killed == work);
                let kills = before.map_or(Kills::default(), |(_, kills)| kills).after(step);
                tracing::warn!(step, "the trainer was killed; it goes on from its checkpoint");
                self.kills = Some((work, kills));
                self.training = None;
                if kills.too_many() { Trainer::Failed(Decline::TrainingFailed) } else { Trainer::Absent }
            }
            State::Stopped if of_this_round => {
                tracing::info!(step = training.steps_taken(), "the trainer has ended with a checkpoint");
                self.training = None;
                Trainer::Absent
            }
            State::Finished | State::Failed(_) | State::Killed | State::Stopped => {
                self.training = None;
                Trainer::Absent
            }
        }
    }
}
